"""What the JVM says of itself, what is computed in its place, and the event made of it."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo import walk
from milo.core.java import hsperf
from milo.core.java.heap import MIB, Tuning
from milo.core.java.jvm_view import Limits, SelfTold, describe, expected_collector, processors
from milo.core.java.option_words import UserWords
from milo.task.java.perf_data import PerfData
from milo.task.java.silent_jvm import past_perf_data
from tests.support.perf_data import SERIAL, perf_data
from tests.support.waiting import wait_for

RUNS = "Runs on Java 17.0.15 (/jdk), the default"
TUNING = Tuning(heap_bytes=361 * MIB, why="by default, for a task of 512 MiB")
SMALL = Limits(memory_bytes=512 * MIB, cpus=4)
LARGE = Limits(memory_bytes=4096 * MIB, cpus=4)


def test_serial_heap_is_the_sum_of_its_generations() -> None:
    """Generations side by side are added up."""
    told = hsperf.self_told(perf_data(SERIAL))
    assert told == SelfTold("17.0.15", "OpenJDK 64-Bit Server VM", "Serial", 300 * MIB, "-Xmx300m")


@pytest.mark.parametrize(
    ("names", "collector"),
    [
        ({"sun.gc.policy.name": "GarbageFirst"}, "G1"),
        ({"sun.gc.collector.2.name": "Z concurrent cycle pauses"}, "ZGC"),
        ({"sun.gc.collector.0.name": "ZGC minor collection pauses"}, "ZGC"),
        ({"sun.gc.collector.0.name": "Shenandoah partial"}, "Shenandoah"),
        ({"sun.gc.collector.0.name": "Something\nnew"}, r"Something\nnew"),
        ({}, ""),
    ],
)
def test_other_collectors_have_one_heap(names: dict[str, int | str], collector: str) -> None:
    """Where each generation may be the whole heap, the largest one counts."""
    entries = {key: value for key, value in SERIAL.items() if key != "sun.gc.policy.name"} | names
    told = hsperf.self_told(perf_data(entries))
    assert told is not None
    assert (told.collector, told.heap_bytes) == (collector, 200 * MIB)


def test_not_told_yet() -> None:
    """A JVM that is still starting, or is none, has told nothing."""
    assert hsperf.self_told(perf_data({**SERIAL, "sun.rt.vmInitDoneTime": 0})) is None
    assert hsperf.self_told(perf_data(SERIAL, accessible=0)) is None
    assert hsperf.self_told(b"") is None
    assert hsperf.self_told(b"\0" * 4096) is None


def test_hostile_texts_are_cut() -> None:
    """What a task writes in a JVM's name is bounded and printable."""
    told = hsperf.self_told(
        perf_data(
            {
                **SERIAL,
                "java.property.java.version": "9\n\x1b[31m" + "x" * 5000,
                "sun.gc.generation.1.maxCapacity": -5,
                "sun.gc.generation.0.maxCapacity": 1 << 62,
            }
        )
    )
    assert told is not None
    assert told.version.startswith(r"9\n\x1b[31mxxx") and len(told.version) <= 100
    assert told.heap_bytes == 0


@given(st.binary(max_size=400), st.integers(0, 400))
def test_damaged_data_is_survived(noise: bytes, at: int) -> None:
    """Whatever the bytes are, parsing them ends without an error."""
    data = perf_data(SERIAL)
    hsperf.self_told(data[:at] + noise + data[at + len(noise) :])
    hsperf.self_told(data[:12] + noise)


@given(
    st.text("0123456789._-+a\x00", max_size=12) | st.text(max_size=90),
    st.text(max_size=40),
    st.integers(0, 2000),
)
def test_texts_that_are_cut_short_are_survived(version: str, arguments: str, shares: int) -> None:
    """Whatever a task writes for its JVM's version and arguments, the event can be made of it."""
    entries: dict[str, int | str] = {
        "java.property.java.version": version,
        "java.rt.vmArgs": arguments,
    }
    told = hsperf.self_told(perf_data(SERIAL | entries))
    text = describe(RUNS, told, TUNING, Limits(cpus=4, shares=shares), 17, UserWords())
    assert text.startswith(RUNS)


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=8, max_size=8))
def test_wild_offsets_are_survived(numbers: list[int]) -> None:
    """Offsets and lengths that point anywhere lead nowhere."""
    head = struct.pack(">IBBBB", hsperf.MAGIC, 1, 2, 0, 1)
    data = head + struct.pack("<iiqiiiii", *numbers) + b"J" * 64
    hsperf.parse(data)


# ---- processors and collectors ----------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "version", "words", "count"),
    [
        (Limits(cpus=4), "17.0.15", (), 4),
        (Limits(cpus=4, quota_us=50_000, period_us=100_000), "17.0.15", (), 1),
        (Limits(cpus=4, quota_us=100_001, period_us=100_000), "17.0.15", (), 2),
        (Limits(cpus=4, quota_us=900_000, period_us=100_000), "17.0.15", (), 4),
        (Limits(cpus=4, shares=500), "17.0.15", (), 4),
        (Limits(cpus=4, shares=500), "17.0.4.1", (), 1),
        (Limits(cpus=4, shares=1500), "11.0.16", (), 2),
        (Limits(cpus=4, shares=1500), "11.0.17", (), 4),
        (Limits(cpus=4, shares=1024), "11.0.16", (), 4),
        (Limits(cpus=4, shares=500), "1.8.0_402", (), 1),
        (Limits(cpus=4, shares=500), "18.0.1", (), 1),
        (Limits(cpus=4, shares=500), "25", (), 4),
        (Limits(cpus=4, shares=500), "", (), 4),
        (Limits(cpus=1), "25", ("-XX:ActiveProcessorCount=6",), 6),
        (Limits(cpus=4), "25", ("-XX:ActiveProcessorCount=0",), 4),
    ],
)
def test_processors(limits: Limits, version: str, words: tuple[str, ...], count: int) -> None:
    """Quota, processors, the user's word, and shares in old releases, as the JVM counts."""
    assert processors(limits, version, words) == count


@pytest.mark.parametrize(
    ("limits", "count", "major", "words", "collector"),
    [
        (LARGE, 2, 17, (), "G1"),
        (LARGE, 2, 8, (), "Parallel"),
        (LARGE, 1, 17, (), "Serial"),
        (SMALL, 4, 17, (), "Serial"),
        (Limits(cpus=4), 4, 17, (), "G1"),
        (SMALL, 4, 17, ("-XX:+UseZGC",), "ZGC"),
        (SMALL, 4, 17, ("-XX:+UseG1GC", "-XX:+UseParallelGC"), "Parallel"),
    ],
)
def test_expected_collector(
    limits: Limits, count: int, major: int, words: tuple[str, ...], collector: str
) -> None:
    """The collector is the user's, else Serial on what is no server, else the release's."""
    assert expected_collector(limits, count, major, words) == collector


# ---- the event --------------------------------------------------------------------------


def test_event_of_a_server() -> None:
    """Where there is nothing to warn of, one sentence tells all."""
    told = SelfTold("17.0.15", "OpenJDK", "G1", 3587 * MIB + 24)
    tuning = Tuning(why="by default, for a task of 4096 MiB")
    assert describe(RUNS, told, tuning, LARGE, 17, UserWords()) == (
        f"{RUNS}; heap up to 3587 MiB, set by default, for a task of 4096 MiB; "
        "collector G1; 4 processors"
    )


def test_event_warns_of_the_serial_collector() -> None:
    """A Serial collector that nobody asked for is named with the remedy, but no second hint."""
    told = SelfTold("17.0.15", "OpenJDK", "Serial", 361 * MIB)
    limits = Limits(memory_bytes=512 * MIB, cpus=4, quota_us=50_000, period_us=100_000)
    text = describe(RUNS, told, TUNING, limits, 17, UserWords())
    assert text == (
        f"{RUNS}; heap up to 361 MiB, set by default, for a task of 512 MiB; collector Serial; "
        "1 processor. The JVM uses Serial with less than 1792 MiB or 2 processors; -XX:+UseG1GC "
        "in jvm_options changes that"
    )
    remarked = describe(RUNS, told, TUNING, limits, 17, UserWords(), remarks=["init does nothing"])
    assert remarked.endswith("1 processor. init does nothing")
    wanted = describe(RUNS, told, TUNING, limits, 17, UserWords(("-XX:+UseSerialGC",)))
    assert "UseG1GC" not in wanted


def test_event_without_the_jvms_word() -> None:
    """What only Milo computed is called that."""
    text = describe(RUNS, None, TUNING, LARGE, 17, UserWords())
    assert "heap up to 361 MiB" in text
    assert "collector G1" in text
    assert "The JVM did not report these figures; Milo computed them" in text


def test_event_of_another_jvm() -> None:
    """A JVM of another version than its files said is named as it names itself."""
    told = SelfTold("21.0.1", "Other VM", "G1", 361 * MIB, "-XX:ActiveProcessorCount=7")
    text = describe(RUNS, told, TUNING, LARGE, 17, UserWords())
    assert "reports that it is Other VM 21.0.1" in text


@pytest.mark.parametrize(
    ("user", "count"),
    [
        (UserWords(), 4),
        (UserWords(("-XX:VMOptionsFile=/local/options",)), 7),
        (UserWords(("-Dx=y",), unread="@/opt/options"), 7),
    ],
)
def test_the_jvms_own_list_of_options(user: UserWords, count: int) -> None:
    """What the JVM lists, blanks in values and all, counts only where Milo has not read it all."""
    told = SelfTold("17", "VM", "G1", 0, "-Dx=a -XX:ActiveProcessorCount=7")
    assert f"{count} processors" in describe(RUNS, told, TUNING, LARGE, 17, user)


# ---- finding the data -------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The directory of a JVM's performance data in a task's /tmp."""
    directory = tmp_path / "hsperfdata_nobody"
    directory.mkdir()
    return directory


def read(tmp: Path, not_before_s: float) -> bytes:
    """Return what is read of a task's /tmp."""
    with contextlib.closing(PerfData(str(tmp))) as perf_data:
        return perf_data.read(not_before_s)


def test_what_was_read_last_outlives_its_name(tmp_path: Path, place: Path) -> None:
    """A JVM that ends removes its file, and what it had counted by then is still there."""
    (place / "2").write_bytes(b"before")
    with contextlib.closing(PerfData(str(tmp_path))) as perf_data:
        assert perf_data.read_last() == b""
        assert perf_data.read(0) == b"before"
        (place / "2").write_bytes(b"at its end")
        (place / "2").unlink()
        assert perf_data.read(0) == b""
        assert perf_data.read_last() == b"at its end"
    assert perf_data.read_last() == b""


def test_data_of_the_first_jvm(tmp_path: Path, place: Path) -> None:
    """Of several JVMs the one with the lowest id is read, as that is the application."""
    (place / "12").write_bytes(b"twelve")
    (place / "2").write_bytes(b"two")
    (place / "x").write_bytes(b"no")
    assert read(tmp_path, time.time()) == b"two"


def test_data_from_before_is_not_taken(tmp_path: Path, place: Path) -> None:
    """What an earlier start left is not this JVM's."""
    (place / "1").write_bytes(b"old")
    os.utime(place / "1", (time.time() - 60, time.time() - 60))
    assert read(tmp_path, time.time()) == b""


def test_the_whole_search_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many directories and files a task makes, few are looked at: the loop stands still."""
    entered: list[str] = []
    enter = walk.Held.enter

    def counted(held: walk.Held, name: str, kind: walk.Kind | None = None) -> walk.Held:
        if name.isdecimal() or name.startswith("hsperfdata_"):
            entered.append(name)
        return enter(held, name, kind)

    for user in range(10):
        directory = tmp_path / f"hsperfdata_{user}"
        directory.mkdir()
        for number in range(20):
            (directory / str(number)).touch()
            os.utime(directory / str(number), (1, 1))
    monkeypatch.setattr(walk.Held, "enter", counted)
    assert read(tmp_path, time.time()) == b""
    assert len(entered) == 4 + 4 * 8


@pytest.mark.parametrize("what", ["symlink", "fifo", "directory", "symlinked directory"])
def test_only_regular_files_are_read(tmp_path: Path, place: Path, what: str) -> None:
    """Nothing that a task plants in a JVM's place is followed, opened or waited for."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "1").write_bytes(b"secret")
    target = place / "1"
    if what == "symlink":
        target.symlink_to(secret / "1")
    elif what == "fifo":
        os.mkfifo(target)
    elif what == "directory":
        target.mkdir()
    else:
        place.rmdir()
        place.symlink_to(secret)
    assert read(tmp_path, 0) == b""


def test_large_data_is_cut(tmp_path: Path, place: Path) -> None:
    """No more is read than a JVM ever writes, however large the file."""
    with open(place / "1", "wb") as file:
        file.truncate(1 << 40)
    assert len(read(tmp_path, 0)) == hsperf.MAX_BYTES


# ---- a JVM that will not say ------------------------------------------------------------


def test_thread_of_a_jvm_is_seen() -> None:
    """A process with HotSpot's VM thread is past the making of its performance data."""
    assert not past_perf_data(os.getpid())
    begun, end = threading.Event(), threading.Event()

    def body() -> None:
        with open("/proc/thread-self/comm", "w", encoding="ascii") as file:
            file.write("VM Thread")
        begun.set()
        end.wait()

    thread = threading.Thread(target=body)
    thread.start()
    try:
        assert begun.wait(60)
        assert past_perf_data(os.getpid())
    finally:
        end.set()
        thread.join()
    # A joined thread may be in /proc a little longer.
    wait_for("the thread to be gone", lambda: not past_perf_data(os.getpid()))


def test_library_of_openj9_is_seen(tmp_path: Path) -> None:
    """A process with OpenJ9's library never makes performance data."""
    library = tmp_path / "libj9vm29.so"
    library.write_bytes(b"x" * mmap.PAGESIZE)
    with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        assert past_perf_data(os.getpid())
    assert not past_perf_data(os.getpid())


def test_process_that_is_gone() -> None:
    """Of a process that has ended nothing is known."""
    assert not past_perf_data(2**22 + 1)
