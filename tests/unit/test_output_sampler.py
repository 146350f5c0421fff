"""The sampler at a stream: what is found, that nothing is touched, and what is said of it."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio

from milo.core.describe import exit_sentence
from milo.core.java.out_of_memory import Kind, kind_of, sighting_sentence
from milo.core.java.startup_cache import RECORDED
from milo.core.records import ExitRecord
from milo.task.logs.fifo import PIPE_BYTES
from milo.task.logs.output_sampler import OutputSampler
from milo.task.logs.output_search import (
    LINE_BYTES,
    REASON_BYTES,
    UNREAD_BYTES,
    LastLine,
    OomSearch,
)
from milo.task.logs.pacer import LOOK_BYTES, QUICK_S, STREAK, Pacer
from milo.task.logs.pump import Pump
from milo.task.logs.pump_policy import EventKind, PumpPolicy
from tests.support.log_rig import Rig, descriptors, running, settle

NAME = b"java.lang.OutOfMemoryError"
HEAP = NAME + b": Java heap space\n"


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Whatever a test does: no descriptor more or less afterwards."""
    before = descriptors()
    yield
    assert descriptors() == before


def found_in(*pieces: bytes) -> list[str]:
    """The reasons found in a stream that comes in ``pieces`` and ends."""
    found: list[str] = []
    search = OomSearch(found.append)
    for piece in pieces:
        search.feed(piece)
    search.gap()
    return found


def reasons(rig: Rig) -> list[str]:
    """The reasons that a rig's pump has reported."""
    return [event.problem for event in rig.events if event.kind is EventKind.JAVA_OOM]


# ---- the search ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"nothing of the kind\n", []),
        (
            b'Exception in thread "main" ' + HEAP + b"\tat Main.main(Main.java:3)\n",
            ["Java heap space"],
        ),
        (b"Terminating due to " + HEAP, ["Java heap space"]),
        (b"Caused by: " + NAME + b"\n", [""]),
        (NAME + b" at start", [""]),
        (NAME, [""]),
        (NAME + b": Metaspace", ["Metaspace"]),
        (b'{"stack":"' + NAME + b': Direct buffer memory\\n\\tat x"}\n', ["Direct buffer memory"]),
        (b'{"message":"' + NAME + b': Metaspace"}\n', ["Metaspace"]),
        (b"\x1b[31m" + NAME + b": Metaspace\x1b[0m\r\n", ["Metaspace"]),
        (NAME + b": \xc3\xa4\xff\n", [""]),
        (HEAP + NAME + b": Metaspace\n", ["Java heap space", "Metaspace"]),
        (b"\tat " + NAME + b".<init>(Unknown)\n" + NAME + b"Handler\n", []),
        (b"-XX:+ExitOnOutOfMemoryError java.lang.OutOfMemory\n", []),
    ],
)
def test_what_is_found(text: bytes, expected: list[str]) -> None:
    """The error's name with the printable rest of its line, however the text is cut in two."""
    for cut in range(len(text) + 1):
        assert found_in(text[:cut], text[cut:]) == expected
    assert found_in(*(bytes([byte]) for byte in text)) == expected


def test_a_reason_is_bounded() -> None:
    """A line without an end is cut, and told as soon as it is that long."""
    found: list[str] = []
    search = OomSearch(found.append)
    search.feed(NAME + b": " + b"r" * REASON_BYTES)
    assert found == ["r" * (REASON_BYTES - 2)]
    search.feed(b"r" * 100_000)
    search.gap()
    assert len(found) == 1


def test_a_gap_joins_nothing() -> None:
    """What was seen before bytes that were not is no part of what comes after them."""
    found: list[str] = []
    search = OomSearch(found.append)
    search.feed(NAME[:10])
    search.gap()
    search.feed(NAME[10:] + b"\n")
    search.feed(NAME + b": Java heap")
    search.gap()
    search.feed(b" space\n")
    assert found == ["Java heap"]


# ---- the last line ------------------------------------------------------------------------


THREADS: Final = b"""\
2026-11-27 09:03:03
Full thread dump OpenJDK 64-Bit Server VM (25.0.3+9 mixed mode, sharing):

Threads class SMR info:
_java_thread_list=0x00007f71040d7c30, length=2, elements={
0x00007f710401b8e0, 0x00007f71040b6d50
}

"main" #1 prio=5 os_prio=0 tid=0x00007f710401b8e0 nid=3 waiting on condition
   java.lang.Thread.State: TIMED_WAITING (sleeping)
\tat java.lang.Thread.sleep(java.base@25.0.3/Thread.java:540)
\t- locked <0x00000000e9c0> (a java.lang.Object)

"VM Thread" os_prio=0 cpu=0.62ms elapsed=3.68s tid=0x00007f7104090d20 nid=5 runnable

JNI global refs: 95, weak refs: 0

Heap
 DefNew     total 2432K, used 1561K [0x00000000e9c00000, 0x00000000e9ea0000)
  eden space 2176K,  71% used [0x00000000e9c00000, 0x00000000e9d867d8)
 Metaspace       used 7412K, committed 7552K, reserved 1114112K
  class space    used 629K, committed 704K, reserved 1048576K

"""


def test_the_last_line_is_no_empty_word_of_the_jvms() -> None:
    """Of an option that it does not know, two lines follow that say nothing of it."""
    last = LastLine()
    last.feed(
        b"Unrecognized VM option 'Nonsense'\nError: Could not create the Java Virtual Machine.\n"
    )
    last.feed(b"Error: A fatal exception has occurred. Program will exit.\n")
    assert last.text == "Unrecognized VM option 'Nonsense'"


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([], ""),
        ([b"one\n", b"two\n"], "two"),
        ([b"one\ntw", b"o"], "two"),
        ([b"one\n\n  \n"], "one"),
        ([b"E: no database\n\tat a.B.c(B.java:1)\n\t... 3 more\n"], "E: no database"),
        ([b"E: no database\n" + RECORDED], "E: no database"),
        ([b"a" * 300 + b"\n"], "a" * LINE_BYTES),
        ([b"a" * 200, b"a" * 200], "a" * LINE_BYTES),
        ([b"caf\xc3\xa9 \xff\n"], "caf\u00e9 \ufffd"),
    ],
)
def test_last_line(pieces: list[bytes], expected: str) -> None:
    """The last line that says something is kept, bounded, however the stream is cut."""
    last = LastLine()
    for piece in pieces:
        last.feed(piece)
    assert last.text == expected


@pytest.mark.parametrize("seed", range(20))
def test_the_last_line_is_the_same_however_the_stream_is_cut(seed: int) -> None:
    """What is looked through later, many lines at once, is what each piece would have said."""
    chance = random.Random(seed)
    words = [
        b"",
        b"  ",
        b"\tat a.B.c(B.java:1)",
        b"no database",
        b"x" * 100,
        THREADS[:-1],
        RECORDED,
    ]
    lines = [chance.choice(words) + b" %d" % number for number in range(chance.randint(1, 90))]
    text = b"\n".join(lines)
    whole, cut = LastLine(), LastLine()
    whole.feed(text)
    place = 0
    while place < len(text):
        size = chance.choice([1, 30, 120, UNREAD_BYTES])
        cut.feed(text[place : place + size])
        place += size
        if not chance.randrange(40):
            asked = LastLine()
            asked.feed(text[:place])
            assert cut.text == asked.text
    assert cut.text == whole.text


def test_last_line_after_a_gap() -> None:
    """What follows bytes that were not seen is a line of its own."""
    last = LastLine()
    last.feed(b"begin")
    last.gap()
    last.feed(b"the end\n")
    assert last.text == "the end"


@pytest.mark.parametrize("cut", range(0, len(THREADS), 7))
def test_no_thread_dump_is_the_last_line(cut: int) -> None:
    """Milo has a JVM print one before it kills it: the application's own last line is before it."""
    last = LastLine()
    last.feed(b"pool is full\n" + THREADS[:cut])
    last.feed(THREADS[cut:])
    assert last.text == "pool is full"
    last.feed(b"asked to end\n")
    assert last.text == "asked to end"


@pytest.mark.parametrize("seen", [200, 330])
def test_a_part_of_a_thread_dump_is_not_the_last_line(seen: int) -> None:
    """Of fast output the middle is not looked at; what follows is the application's again."""
    last = LastLine()
    last.feed(b"pool is full\n" + THREADS[:seen])
    last.gap()
    last.feed(THREADS[-160:])
    assert last.text == "pool is full"
    last.feed(b"bye\n")
    assert last.text == "bye"
    last.feed(THREADS[:seen])
    last.gap()
    last.feed(b"its end was not seen\nE: no database\n")
    assert last.text == "E: no database"


@pytest.mark.parametrize(
    ("record", "stopped", "expected"),
    [
        (ExitRecord(3, last_stderr_line="no db"), False, "code 3; last line on stderr: no db"),
        (ExitRecord(3), False, "exit code 3"),
        (ExitRecord(143, last_stderr_line="bye"), True, "exit code 143"),
        (ExitRecord(0, last_stderr_line="bye"), False, "successfully"),
        (ExitRecord(1, java_oom="oom: x", last_stderr_line="in y: oom: x"), False, "named oom: x"),
        (ExitRecord(1, last_stderr_line="\x1b[31mred"), False, r"stderr: \x1b[31mred"),
        (ExitRecord(1, last_stderr_line="x" * 200), False, f": {'x' * 159}…"),
    ],
)
def test_failed_task_is_told_of_with_its_last_line(
    record: ExitRecord, stopped: bool, expected: str
) -> None:
    """The exit's sentence of a task that failed ends with its last line on standard error."""
    assert exit_sentence(record, stopped=stopped).endswith(expected)


# ---- the sampler ----------------------------------------------------------------------------


class Side:
    """A source with a sampler at it, and a sink that takes everything."""

    def __init__(self, *, opened: bool = True) -> None:
        self.source, self.write_fd = os.pipe()
        os.set_blocking(self.source, False)
        self.found: list[str] = []
        self.last = LastLine()
        self.sampler = OutputSampler(self.source, OomSearch(self.found.append), self.last)
        if opened:
            self.sampler.open()

    def close(self) -> None:
        self.sampler.close()
        os.close(self.source)
        os.close(self.write_fd)


def test_a_look_takes_nothing() -> None:
    """The source holds the same bytes after a look, which is told of once they have moved."""
    side = Side()
    os.write(side.write_fd, HEAP)
    assert side.sampler.look(draining=False) == len(HEAP)
    assert os.read(side.source, 1000) == HEAP
    side.sampler.moved(len(HEAP))
    assert side.found == ["Java heap space"]
    side.close()


def test_only_what_moved_is_searched() -> None:
    """A look at bytes that did not move, or not all, is repeated and tells of nothing twice."""
    side = Side()
    os.write(side.write_fd, HEAP)
    for moved in (0, 30, len(HEAP) - 30):
        assert side.sampler.look(draining=False) > 0
        os.read(side.source, moved)
        side.sampler.moved(moved)
    assert side.found == ["Java heap space"]
    side.close()


def test_an_empty_or_ended_source() -> None:
    """Empty is told by 0; at the end it is for splice to say so."""
    side = Side()
    assert side.sampler.look(draining=False) == 0
    os.close(side.write_fd)
    assert side.sampler.look(draining=False) == PIPE_BYTES
    side.sampler.moved(0)
    side.write_fd = os.open(os.devnull, os.O_WRONLY)
    side.close()


def test_the_end_of_a_large_chunk_is_held_back() -> None:
    """Of a large chunk the beginning and the end are seen; only the end stays for later."""
    side = Side()
    os.write(side.write_fd, bytes(40_000))
    assert side.sampler.look(draining=False) == 40_000 - LOOK_BYTES
    assert side.sampler.held_back
    os.read(side.source, 40_000 - LOOK_BYTES)
    side.sampler.moved(40_000 - LOOK_BYTES)
    assert side.sampler.look(draining=False) >= LOOK_BYTES
    side.sampler.moved(0)
    assert side.sampler.held_back
    assert side.sampler.look(draining=False, has_time=False) == PIPE_BYTES
    assert not side.sampler.held_back
    side.sampler.moved(0)
    assert side.sampler.look(draining=True) == LOOK_BYTES
    assert not side.sampler.held_back
    side.close()


def test_all_is_seen_while_draining() -> None:
    """At a task's end every byte is looked at, as much at once as the side pipe holds."""
    side = Side()
    text = b"." * 30_000 + HEAP + b"." * 30_000
    os.write(side.write_fd, text)
    left = len(text)
    while left:
        length = side.sampler.look(draining=True)
        left -= len(os.read(side.source, length))
        side.sampler.moved(length)
    assert side.found == ["Java heap space"]
    side.close()


def test_no_side_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a descriptor to spare nothing is seen, and nothing else is different."""

    def refuse(_flags: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, "pipe2", refuse)
    side = Side()
    os.write(side.write_fd, HEAP)
    assert side.sampler.look(draining=False) == PIPE_BYTES
    side.sampler.moved(len(HEAP))
    assert side.found == []
    side.close()


def test_a_failing_tee_is_given_up() -> None:
    """What cannot be looked at is spliced as it is, and not looked at again."""
    side = Side()
    os.close(side.source)
    side.source = os.open(os.devnull, os.O_RDONLY)  # no pipe
    before = descriptors()
    assert side.sampler.look(draining=False) == PIPE_BYTES
    assert len(before - descriptors()) == 2
    assert side.sampler.look(draining=False) == PIPE_BYTES
    side.close()


def test_a_failing_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A side pipe that cannot be read is closed; the bytes have moved all the same."""
    side = Side()
    os.write(side.write_fd, HEAP)
    assert side.sampler.look(draining=False) == len(HEAP)

    def refuse(_fd: int, _count: int) -> bytes:
        raise BlockingIOError

    with monkeypatch.context() as patch:
        patch.setattr(os, "read", refuse)
        side.sampler.moved(len(HEAP))
    assert side.sampler.look(draining=False) == PIPE_BYTES
    assert side.found == []
    side.close()


# ---- when there is time for it --------------------------------------------------------------


def test_time_to_look() -> None:
    """After every rest and in short bursts of small chunks; not in a flood."""
    pacer = Pacer()
    assert pacer.has_time(0)
    now = 1.0
    for _ in range(STREAK):
        pacer.pause_after(120, now, smallest_pipe_bytes=4096)
        assert pacer.has_time(now)
        now += QUICK_S / 10
    pacer.pause_after(120, now, smallest_pipe_bytes=4096)
    assert not pacer.has_time(now)
    assert pacer.has_time(now + 2 * QUICK_S)
    pacer.pause_after(LOOK_BYTES + 1, now + 1, smallest_pipe_bytes=4096)
    assert not pacer.has_time(now + 1)


# ---- in the pump ----------------------------------------------------------------------------


async def test_the_pump_reports_at_once(tmp_path: Path) -> None:
    """A line that names the error is reported as it passes, also if it came in two writes."""
    rig = Rig(tmp_path, name="stderr")
    rig.open_reader()
    async with running(rig):
        rig.write(b'Exception in thread "main" java.lang.OutOf')
        await settle()
        assert reasons(rig) == []
        rig.write(b"MemoryError: Metaspace\n")
        await settle()
        assert reasons(rig) == ["Metaspace"]
        assert rig.events[0].stream == "stderr"
        rig.end_source()
    assert rig.read().endswith(b"Metaspace\n")
    rig.close()


async def test_an_unended_line_is_reported_at_the_end(tmp_path: Path) -> None:
    """A last line without a newline counts as well."""
    rig = Rig(tmp_path)
    rig.open_reader()
    async with running(rig):
        rig.write(HEAP.strip())
        rig.end_source()
    assert reasons(rig) == ["Java heap space"]
    rig.close()


@pytest.mark.parametrize("reader", ["reads", "reads nothing", "never came"])
async def test_last_words_of_much_output(tmp_path: Path, autojump_clock: Any, reader: str) -> None:
    """In the drain everything is seen, whether it can be delivered or is thrown away."""
    rig = Rig(tmp_path)
    if reader != "never came":
        rig.open_reader()
    written = 0
    async with running(rig):
        await settle()
        if reader == "reads nothing":
            rig.fill_fifo()
        for piece in (b"." * 500_000, HEAP, b"." * 500_000):
            written += rig.write(piece)
        rig.pump.begin_drain()
    assert written == 1_000_000 + len(HEAP)
    assert reasons(rig) == ["Java heap space"]
    dropped = rig.pump.counters.bytes_dropped
    assert dropped == (0 if reader == "reads" else written)
    rig.close()


async def test_what_is_dropped_is_not_searched(tmp_path: Path, autojump_clock: Any) -> None:
    """Output that is thrown away while the task runs passes unseen, and joins nothing."""
    rig = Rig(tmp_path, PumpPolicy(drop_when_full=True))
    rig.open_reader()
    async with running(rig):
        await settle()
        rig.fill_fifo()
        rig.write(HEAP + bytes(PIPE_BYTES - len(HEAP)))
        await trio.sleep(1)
        assert rig.pump.counters.bytes_dropped
        rig.read()
        rig.end_source()
    assert reasons(rig) == []
    rig.close()


async def test_a_flood_passes_unseen(tmp_path: Path, autojump_clock: Any) -> None:
    """What follows large chunks at once is not looked at; after half a millisecond all is."""
    rig = Rig(tmp_path)
    rig.open_reader()
    async with running(rig):
        for _ in range(STREAK):
            rig.write(bytes(100_000))
            await settle()
            rig.read()
        rig.write(NAME + b": Metaspace\n")
        await settle()
        assert reasons(rig) == []
        await trio.sleep(QUICK_S)
        rig.write(HEAP)
        await settle()
        assert reasons(rig) == ["Java heap space"]
        rig.end_source()
    rig.close()


async def test_the_stream_stays_as_it_is(tmp_path: Path) -> None:
    """Megabytes in writes of all sizes arrive byte for byte, with the sampler at work."""
    source = random.Random(5)
    sizes = [source.choice((1, 120, 4095, 4096, 8192, 8193, 20_000, 65_536)) for _ in range(600)]
    data = source.randbytes(sum(sizes))
    rig = Rig(tmp_path)
    rig.open_reader()
    got = b""
    async with running(rig):

        async def write() -> None:
            at = 0
            for size in sizes:
                await rig.write_all(data[at : at + size])
                at += size
                if source.random() < 0.3:
                    await trio.sleep(0.001)
            rig.end_source()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            got = await rig.read_exactly(len(data))
    assert got + rig.read() == data
    assert rig.pump.counters.bytes_moved == len(data)
    rig.close()


async def test_two_pumps_on_one_pipe(tmp_path: Path) -> None:
    """A predecessor that still pumps does no harm: all arrives, once and in order."""
    rig = Rig(tmp_path)
    rig.open_reader()
    assert rig.sink.try_open()
    # Trio lets one task wait for a descriptor; a successor has duplicates as well.
    source = os.dup(rig.read_fd)
    other = Pump("stdout", source, rig.sink, PumpPolicy(), rig.events.append)
    lines = b"".join(b"%08d java.lang.OutOfMemoryError: Metaspace\n" % i for i in range(20_000))
    async with running(rig), trio.open_nursery() as nursery:
        nursery.start_soon(other.run)
        nursery.start_soon(rig.write_all, lines)
        got = await rig.read_exactly(len(lines))
        rig.end_source()
    assert got == lines
    assert "Metaspace" in reasons(rig)
    os.close(source)
    rig.close()


# ---- what is said ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("Java heap space", Kind.HEAP),
        ("GC overhead limit exceeded", Kind.HEAP),
        ("Metaspace", Kind.CLASSES),
        ("Compressed class space", Kind.CLASSES),
        (
            "unable to create native thread: possibly out of memory or process/resource limits",
            Kind.THREADS,
        ),
        ("Direct buffer memory", Kind.DIRECT),
        ("Cannot reserve 4096 bytes of direct buffer memory (allocated: 1, limit: 2)", Kind.DIRECT),
        ("Requested array size exceeds VM limit", Kind.ARRAY),
        ("Required array length 2147483639 + 9 is too large", Kind.ARRAY),
        ("Map failed", Kind.NATIVE),
        ("my own words", Kind.OTHER),
        ("", Kind.OTHER),
    ],
)
def test_advice_fits_the_reason(reason: str, kind: Kind) -> None:
    """Each of the JVM's reasons is told with what helps against it."""
    assert kind_of(reason) is kind
    text = sighting_sentence("stderr", reason)
    assert text.startswith("The application's stderr names java.lang.OutOfMemoryError")
    assert reason in text
    assert text.endswith(f"({kind.value})")


@pytest.mark.parametrize(
    ("record", "stopped", "expected"),
    [
        (
            ExitRecord(exit_code=1),
            False,
            "Task failed with exit code 1; its output had named java.lang.OutOfMemoryError",
        ),
        (
            ExitRecord(exit_code=3),
            False,
            "Task failed with exit code 3; its output had named java.lang.OutOfMemoryError,"
            " and 3 is how -XX:+ExitOnOutOfMemoryError ends the JVM",
        ),
        (ExitRecord(exit_code=143), True, "Task was stopped as asked and ended with exit code 143"),
        (
            ExitRecord(exit_code=0, signal=9, oom_killed=True),
            False,
            "Task was killed by the kernel because it reached its memory limit (OOM);"
            " its output had named java.lang.OutOfMemoryError",
        ),
        (
            ExitRecord(exit_code=0, signal=6),
            False,
            "Task was ended unexpectedly by SIGABRT (signal 6);"
            " its output had named java.lang.OutOfMemoryError",
        ),
        (
            ExitRecord(exit_code=0, signal=15),
            True,
            "Task was ended as asked by SIGTERM (signal 15)",
        ),
    ],
)
def test_the_end_tells_both_apart(record: ExitRecord, stopped: bool, expected: str) -> None:
    """The kernel's OOM kill and Java's OutOfMemoryError are each called by their name."""
    record = attrs.evolve(record, java_oom="java.lang.OutOfMemoryError")
    assert exit_sentence(record, stopped=stopped) == expected
