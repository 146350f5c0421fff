"""The log path under faults: readers that go, come back or read nothing; overflow; the end."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from milo import proc
from milo.task.logs import pump
from milo.task.logs.fifo import PIPE_BYTES, raise_capacity, waiting_bytes
from milo.task.logs.idle_wait import IdleWait
from milo.task.logs.pacer import LOOK_BYTES
from milo.task.logs.pump import Pump
from milo.task.logs.pump_policy import Block, EventKind, PumpEvent, PumpPolicy, Watch
from tests.support.log_rig import Rig, descriptors, running, settle

BLOCK = PumpPolicy()
DROP = PumpPolicy(drop_when_full=True)


@pytest.fixture(autouse=True, params=["itself", "idle"])
def waits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test twice: a pump waits for output itself, or has that done for it."""
    if request.param == "idle":
        monkeypatch.setattr(Rig, "idle", IdleWait())


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Whatever a test does: no descriptor and no thread more or less afterwards."""
    before, threads = descriptors(), threading.active_count()
    yield
    assert descriptors() == before
    # Fewer is fine: a worker that an earlier test left idle ends after ten seconds.
    assert threading.active_count() <= threads


def notices() -> int:
    """How many descriptors of inotify(7) this process has open."""
    links = [f"/proc/self/fd/{fd}" for fd in descriptors()]
    return [os.readlink(link) for link in links if os.path.islink(link)].count("anon_inode:inotify")


async def test_no_reader_never_blocks(tmp_path: Path, autojump_clock: Any) -> None:
    """A FIFO without a reader blocks nothing; once one comes, it gets all from the start."""
    rig = Rig(tmp_path)
    rig.write(b"from the start")
    async with running(rig):
        await trio.sleep(1)
        assert not rig.sink.has_reader()
        rig.open_reader()
        began = trio.current_time()
        await rig.read_exactly(14)
        assert trio.current_time() - began <= 0.25
        rig.end_source()
    assert rig.events == []
    assert rig.pump.counters.stalled_s == pytest.approx(1, abs=0.25)
    rig.close()


async def test_a_line_is_moved_in_one_step(
    tmp_path: Path, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where little was there and all of it moved, the pipe is not asked for more at once."""
    rig = Rig(tmp_path)
    rig.open_reader()
    waits: list[int] = []
    read_end = rig.pump._source
    poll = rig.pump._source_poll

    class Counting:
        def poll(self, timeout: int) -> list[tuple[int, int]]:
            waits.append(timeout)
            return poll.poll(timeout)

    async with running(rig):
        await settle()
        monkeypatch.setattr(rig.pump, "_source_poll", Counting())
        for number in range(5):
            line = b"line %d\n" % number
            rig.write(line)
            assert await rig.read_exactly(len(line)) == line
            await settle()
        assert waits == [] and waiting_bytes(read_end) == 0
        rig.end_source()
    rig.close()


async def test_missing_reader_is_told_once(tmp_path: Path, autojump_clock: Any) -> None:
    """That nobody has opened the FIFO is reported once, and so is its end."""
    rig = Rig(tmp_path)
    async with running(rig):
        await trio.sleep(100)
        assert rig.kinds == [EventKind.READER_MISSING]
        assert rig.events[0].seconds == pytest.approx(5, abs=0.25)
        rig.write(b"something")
        rig.open_reader()
        await trio.sleep(1)
        rig.end_source()
    assert rig.kinds == [EventKind.READER_MISSING, EventKind.READER_BACK]
    assert rig.events[1].seconds == pytest.approx(100, abs=0.25)
    rig.close()


async def test_broken_pipe_waits_for_a_reader(tmp_path: Path, autojump_clock: Any) -> None:
    """Unit 2: a broken pipe is handled gracefully: reported, and the next reader gets all."""
    rig = Rig(tmp_path)
    rig.open_reader()
    async with running(rig):
        rig.write(b"unread, ")
        await settle()
        rig.close_reader()
        rig.write(b"waiting")
        await trio.sleep(7)
        assert rig.events == [PumpEvent(EventKind.READER_LOST, "stdout", bytes=7)]
        assert rig.waiting_bytes == 7
        rig.open_reader()
        assert await rig.read_exactly(15) == b"unread, waiting"
        rig.end_source()
    assert rig.kinds == [EventKind.READER_LOST, EventKind.READER_BACK]
    assert rig.events[1].seconds == pytest.approx(7, abs=0.25)
    rig.close()


async def test_waiting_for_a_reader_is_cheap(
    tmp_path: Path, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FIFO without a reader polls as writable: nevertheless it is tried only now and then."""
    calls = 0
    splice = os.splice

    def counted(*args: Any, **kwargs: Any) -> int:
        nonlocal calls
        calls += 1
        return splice(*args, **kwargs)

    rig = Rig(tmp_path)
    rig.open_reader()
    async with running(rig):
        rig.write(b"x")
        await settle()
        rig.close_reader()
        monkeypatch.setattr(os, "splice", counted)
        rig.write(b"y")
        await trio.sleep(10)
        assert calls <= 50
        rig.open_reader()
        await rig.read_exactly(1)
        rig.end_source()
    rig.close()


async def test_a_reader_that_comes_back_is_seen_at_once(
    tmp_path: Path, autojump_clock: Any
) -> None:
    """However long it was gone: an application that waits for it waits no tick longer."""
    rig = Rig(tmp_path)
    rig.open_reader()
    async with running(rig):
        for gone_s in (0.005, 0.2, 7.1, 29.9):
            rig.close_reader()
            rig.write(b"waiting")
            await trio.sleep(gone_s)
            assert notices() == 1
            rig.open_reader()
            began = trio.current_time()
            assert await rig.read_exactly(7) == b"waiting"
            assert trio.current_time() == began
            assert notices() == 0
        rig.end_source()
    rig.close()


async def test_a_reader_that_comes_before_it_is_watched_for(
    tmp_path: Path, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the broken pipe and the watch it is missed by neither."""
    rig = Rig(tmp_path)
    rig.open_reader()
    real = proc.open_notices

    def late(path: str, kinds: int) -> int:
        rig.open_reader()
        return real(path, kinds)

    async with running(rig):
        rig.close_reader()
        monkeypatch.setattr(proc, "open_notices", late)
        began = trio.current_time()
        rig.write(b"x")
        await settle()
        assert rig.read() == b"x"
        assert trio.current_time() == began
        rig.end_source()
    rig.close()


async def test_no_reader_is_watched_for_while_output_is_dropped(
    tmp_path: Path, autojump_clock: Any
) -> None:
    """Nobody waits then, and the user's watches (128, by default) are for others."""
    rig = Rig(tmp_path)
    rig.open_reader()
    async with running(rig):
        rig.close_reader()
        rig.write(b"x")
        await trio.sleep(31)
        assert notices() == 0
        rig.open_reader()
        began = trio.current_time()
        assert await rig.read_exactly(1) == b"x"
        assert trio.current_time() - began <= 0.25
        rig.end_source()
    rig.close()


async def test_a_user_without_watches_left(
    tmp_path: Path, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The FIFO is then tried again four times a second."""

    def refused(path: str, kinds: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(proc, "open_notices", refused)
    rig = Rig(tmp_path)
    rig.open_reader()
    async with running(rig):
        rig.close_reader()
        rig.write(b"x")
        await trio.sleep(7.1)
        rig.open_reader()
        began = trio.current_time()
        assert await rig.read_exactly(1) == b"x"
        assert 0 < trio.current_time() - began <= 0.25
        rig.end_source()
    assert rig.kinds == [EventKind.READER_LOST, EventKind.READER_BACK]
    rig.close()


async def test_reader_back_to_a_full_fifo(tmp_path: Path, autojump_clock: Any) -> None:
    """A reader is seen to be back even while the FIFO it found is full."""
    rig = Rig(tmp_path)
    rig.open_reader()
    async with running(rig):
        await settle()
        rig.fill_fifo()
        rig.close_reader()
        rig.write(b"z")
        await trio.sleep(1)
        rig.open_reader()
        await trio.sleep(1)
        assert rig.kinds == [EventKind.READER_LOST, EventKind.READER_BACK]
        assert len(rig.read()) >= PIPE_BYTES
        rig.end_source()
    assert rig.read() in (b"", b"z")
    rig.close()


async def test_replaced_fifo_is_written_to(tmp_path: Path, autojump_clock: Any) -> None:
    """After a broken pipe, another FIFO at the path is taken, with what the old one held."""
    rig = Rig(tmp_path)
    rig.open_reader()
    async with running(rig):
        rig.write(b"one ")
        await settle()
        rig.close_reader()
        rig.path.unlink()
        rig.write(b"two ")
        await trio.sleep(1)
        assert rig.kinds == [EventKind.READER_LOST, EventKind.REFUSED]
        assert "does not exist" in rig.events[1].problem
        os.mkfifo(rig.path)
        await trio.sleep(1)
        rig.open_reader()
        assert await rig.read_exactly(8) == b"one two "
        rig.end_source()
    assert rig.kinds[2:] == [EventKind.SWITCHED, EventKind.READER_BACK]
    assert rig.pump.counters.bytes_moved == 8
    assert rig.pump.counters.bytes_dropped == 0
    rig.close()


async def test_replaced_full_fifo_counts_what_is_lost(tmp_path: Path, autojump_clock: Any) -> None:
    """What the old FIFO held and the new one has no room for counts as dropped, not moved."""
    rig = Rig(tmp_path)
    rig.open_reader()
    async with running(rig):
        rig.write(bytes(5000))
        await settle()
        rig.close_reader()
        rig.path.unlink()
        os.mkfifo(rig.path)
        rig.open_reader()
        filler = os.open(rig.path, os.O_WRONLY | os.O_NONBLOCK)
        raise_capacity(filler)
        assert os.write(filler, bytes(PIPE_BYTES)) == PIPE_BYTES
        rig.write(b"more")
        await trio.sleep(1)
        rig.pump.begin_drain()
    os.close(filler)
    counters = rig.pump.counters
    assert (counters.bytes_moved, counters.bytes_dropped) == (0, 5004)
    assert rig.kinds[-1] is EventKind.DROPPED
    rig.close()


@pytest.mark.parametrize("plant", ["symlink", "file"])
async def test_swapped_fifo_is_refused(tmp_path: Path, autojump_clock: Any, plant: str) -> None:
    """A symlink or a file that a task put in the FIFO's place is reported, once, and left alone."""
    rig = Rig(tmp_path)
    target = tmp_path / "precious"
    target.write_text("precious")
    rig.path.rename(tmp_path / "moved")
    if plant == "symlink":
        rig.path.symlink_to(target)
    else:
        rig.path.write_text("a file")
    rig.write(b"kept")
    async with running(rig):
        await trio.sleep(30)
        assert rig.kinds == [EventKind.REFUSED, EventKind.READER_MISSING]
        rig.path.unlink()
        (tmp_path / "moved").rename(rig.path)
        rig.open_reader()
        assert await rig.read_exactly(4) == b"kept"
        rig.end_source()
    assert target.read_text() == "precious"
    rig.close()


async def test_full_fifo_gets_one_warning(tmp_path: Path, autojump_clock: Any) -> None:
    """A reader that does not read is warned of once, with how long and how much waits."""
    rig = Rig(tmp_path, PumpPolicy(block_timeout_s=0))
    rig.open_reader()
    async with running(rig):
        await settle()
        rig.fill_fifo()
        rig.write(b"w" * 1000)
        await trio.sleep(3600)
        (event,) = rig.events
        assert (event.kind, event.bytes) == (EventKind.STALLED, 1000)
        assert event.seconds == pytest.approx(5)
        rig.read()
        await trio.sleep(1)
        assert rig.read() == b"w" * 1000
        rig.end_source()
    assert rig.kinds == [EventKind.STALLED, EventKind.MOVING]
    assert rig.events[1].seconds == pytest.approx(3600, abs=0.3)
    assert rig.pump.counters.stalled_s == pytest.approx(3600, abs=0.3)
    assert rig.pump.counters.bytes_dropped == 0
    rig.close()


async def test_stuck_reader_of_a_replaced_fifo(tmp_path: Path, autojump_clock: Any) -> None:
    """A reader that is stuck is left with its FIFO once the path names another that is read."""
    rig = Rig(tmp_path)
    rig.open_reader()
    async with running(rig):
        await settle()
        rig.fill_fifo()
        rig.write(b"next")
        await trio.sleep(10)
        stuck, rig.reader = rig.reader, None
        rig.path.unlink()
        os.mkfifo(rig.path)
        rig.open_reader()
        assert await rig.read_exactly(4) == b"next"
        rig.end_source()
    assert rig.kinds == [EventKind.STALLED, EventKind.SWITCHED, EventKind.MOVING]
    assert stuck is not None
    os.close(stuck)
    rig.close()


async def test_second_stall_of_a_replaced_fifo(tmp_path: Path, autojump_clock: Any) -> None:
    """A stall so soon after another is not told again, and the path is looked at all the same."""
    rig = Rig(tmp_path, PumpPolicy(block_timeout_s=0))
    rig.open_reader()
    async with running(rig):
        await settle()
        rig.fill_fifo()
        rig.write(b"one")
        await trio.sleep(10)
        rig.read()
        assert await rig.read_exactly(3) == b"one"
        rig.fill_fifo()
        rig.write(b"two")
        await trio.sleep(10)
        assert rig.kinds == [EventKind.STALLED, EventKind.MOVING]
        stuck, rig.reader = rig.reader, None
        rig.path.unlink()
        os.mkfifo(rig.path)
        rig.open_reader()
        with trio.fail_after(1):
            assert await rig.read_exactly(3) == b"two"
        rig.end_source()
    assert rig.kinds == [EventKind.STALLED, EventKind.MOVING, EventKind.SWITCHED]
    assert stuck is not None
    os.close(stuck)
    rig.close()


async def test_lasting_loss_soon_after_another_is_told(tmp_path: Path, autojump_clock: Any) -> None:
    """Output that goes on being dropped is told of once the last telling is a minute ago."""
    rig = Rig(tmp_path, DROP)
    rig.open_reader()
    async with running(rig):
        await settle()
        for at_s in (0, 30):
            await trio.sleep_until(at_s)
            rig.fill_fifo()
            while rig.write(bytes(65536)):
                pass
            await trio.sleep(1)
            if at_s == 0:
                rig.read()
                await trio.sleep(1)
                rig.read()
        told = [EventKind.DROPPING, EventKind.DROPPED]
        assert rig.kinds == told
        for _ in range(50):
            await trio.sleep(1)
            while rig.write(bytes(65536)):
                pass
        assert [kind for kind in rig.kinds if kind is not EventKind.STALLED] == [
            *told,
            EventKind.DROPPING,
        ]
        rig.end_source()
        rig.read()
    rig.close()


def test_what_is_due_is_done_when_it_is_due() -> None:
    """Whoever looks again when it was said to is told, whatever the clock's rounding."""
    for start_s in (0.1 * number for number in range(200)):
        watch = Watch("stdout", PumpPolicy(block_timeout_s=7.3))
        now = start_s
        assert watch.blocked(Block.FULL, now, 1) == []
        while not watch.may_drop(now):
            now += watch.next_change_s(now)
            assert now < start_s + 8
            watch.blocked(Block.FULL, now, 1)
        assert now == pytest.approx(start_s + 7.3)


async def test_block_waits_and_loses_nothing(tmp_path: Path, autojump_clock: Any) -> None:
    """With "block" the application waits while the pipes are full, and nothing is lost."""
    rig = Rig(tmp_path)
    rig.open_reader()
    async with running(rig):
        await settle()
        filled = rig.fill_fifo()
        rig.write(b"b" * PIPE_BYTES)
        await trio.sleep(29)
        assert rig.write(b"more") == 0
        got = await rig.read_exactly(filled + PIPE_BYTES)
        assert got[filled:] == b"b" * PIPE_BYTES
        rig.end_source()
    assert rig.pump.counters.bytes_dropped == 0
    rig.close()


async def test_block_drops_after_its_timeout(tmp_path: Path, autojump_clock: Any) -> None:
    """A dead log collector stops the application for log_block_timeout, and no longer."""
    rig = Rig(tmp_path)
    rig.open_reader()
    async with running(rig):
        await settle()
        filled = rig.fill_fifo()
        assert rig.write(bytes(PIPE_BYTES)) == PIPE_BYTES
        await trio.sleep(29.9)
        assert rig.write(b"x") == 0
        await trio.sleep(0.2)
        assert rig.write(b"fits again") == 10
        dropped = rig.pump.counters.bytes_dropped
        assert dropped == PIPE_BYTES * 3 // 4
        assert rig.kinds == [EventKind.STALLED, EventKind.DROPPING]
        # The reader moves again: from then on nothing more is dropped.
        got = await rig.read_exactly(filled + PIPE_BYTES // 4 + 10)
        assert got.endswith(b"fits again")
        await settle()
        assert rig.kinds[2:] == [EventKind.MOVING, EventKind.DROPPED]
        assert rig.events[3].bytes == dropped
        filled = rig.fill_fifo()
        rig.write(bytes(PIPE_BYTES))
        await trio.sleep(10)
        assert rig.write(b"y") == 0
        await rig.read_exactly(filled + PIPE_BYTES)
        rig.end_source()
    assert rig.pump.counters.bytes_dropped == dropped
    assert rig.pump.counters.bytes_moved == PIPE_BYTES // 4 + 10 + PIPE_BYTES
    rig.close()


@pytest.mark.parametrize("trouble", ["full", "reader gone", "no reader yet"])
async def test_drop_never_lets_the_application_wait(
    tmp_path: Path, autojump_clock: Any, trouble: str
) -> None:
    """With "drop" there is always room; the latest output is kept and the rest counted."""
    rig = Rig(tmp_path)
    rig.pump.use(DROP)  # as a task does, whose pumps are there before its options are known
    if trouble != "no reader yet":
        rig.open_reader()
    written = 0
    async with running(rig):
        await settle()
        if trouble == "full":
            rig.fill_fifo()
        elif trouble == "reader gone":
            rig.close_reader()
        for index in range(200):
            line = b"%6d" % index + b"." * 100_000 + b"\n"
            assert rig.write(line) == len(line)
            written += len(line)
            await trio.sleep(0.001 if index % 3 else 0.010)
        dropped, waiting = rig.pump.counters.bytes_dropped, rig.waiting_bytes
        assert dropped > 10 * PIPE_BYTES
        assert waiting + dropped == written
        assert EventKind.DROPPING in rig.kinds
        if rig.reader is None:
            rig.open_reader()
        rig.end_source()
        got = await rig.read_exactly(waiting)
        while rig.waiting_bytes:
            got += await rig.read_exactly(1)
        got += rig.read()
    assert got.endswith(line)
    assert rig.kinds.count(EventKind.DROPPED) == 1
    counters = rig.pump.counters
    assert counters.bytes_moved + counters.bytes_dropped == written
    rig.close()


async def test_drop_with_a_pipe_made_small(tmp_path: Path, autojump_clock: Any) -> None:
    """A pipe that the task has shrunk is kept from filling up as well."""
    rig = Rig(tmp_path, DROP)
    rig.open_reader()
    fcntl.fcntl(rig.write_fd, fcntl.F_SETPIPE_SZ, 16384)
    async with running(rig):
        await settle()
        rig.fill_fifo()
        for _ in range(100):
            assert rig.write(bytes(4096)) == 4096
            await trio.sleep(0.02)
        rig.read()
        rig.end_source()
    assert rig.pump.counters.bytes_dropped > 90 * 4096
    rig.close()


async def test_repeated_drops_are_reported_rarely(tmp_path: Path, autojump_clock: Any) -> None:
    """A reader that is always a little too slow makes few events, whose sum is right."""
    rig = Rig(tmp_path, DROP)
    rig.open_reader()
    async with running(rig):
        await settle()
        for _ in range(1000):
            rig.write(bytes(PIPE_BYTES))
            await trio.sleep(0.05)
            rig.write(bytes(PIPE_BYTES))
            await trio.sleep(0.05)
            rig.read()
        rig.end_source()
        while rig.waiting_bytes:
            rig.read()
            await trio.sleep(0.01)
    drops = [event for event in rig.events if event.kind is EventKind.DROPPED]
    assert 2 <= len(drops) <= 4
    assert sum(event.bytes for event in drops) == rig.pump.counters.bytes_dropped > 0
    assert rig.kinds.count(EventKind.DROPPING) <= 3
    rig.close()


async def test_source_ends_while_the_fifo_is_full(tmp_path: Path, autojump_clock: Any) -> None:
    """The end of the source is noticed behind a full FIFO: there is nothing to wait for."""
    rig = Rig(tmp_path)
    rig.open_reader()
    async with running(rig):
        await settle()
        rig.fill_fifo()
        rig.end_source()
    assert trio.current_time() < 1
    rig.close()


async def test_idle_source_behind_a_full_fifo(tmp_path: Path, autojump_clock: Any) -> None:
    """While nothing waits, a full FIFO is no stall."""
    rig = Rig(tmp_path)
    rig.open_reader()
    async with running(rig):
        rig.write(b"x")
        await settle()
        rig.fill_fifo()
        rig.write(b"y")
        await settle()
        assert os.read(rig.read_fd, 10) == b"y"  # as another process's pump does
        assert rig.read()
        await trio.sleep(100)
        assert rig.pump.counters.stalled_s < 1
        rig.end_source()
    assert rig.events == []
    rig.close()


async def test_drain_ends_when_empty(tmp_path: Path, autojump_clock: Any) -> None:
    """Draining ends with the pipe empty, although a descendant still holds its write end."""
    rig = Rig(tmp_path)
    rig.open_reader()
    async with running(rig):
        rig.write(b"last words")
        rig.pump.begin_drain()
        rig.pump.begin_drain()
    assert rig.read() == b"last words"
    assert trio.current_time() < 1
    rig.close()


async def test_drain_wakes_an_idle_pump(tmp_path: Path, autojump_clock: Any) -> None:
    """A pump that waits for output returns at once when it is told to drain."""
    for reader in (True, False):
        rig = Rig(tmp_path)
        if reader:
            rig.open_reader()
        async with running(rig):
            await settle()
            rig.pump.begin_drain()
        rig.close()
    assert trio.current_time() < 1


async def test_drain_goes_on_while_bytes_move(tmp_path: Path, autojump_clock: Any) -> None:
    """Draining lasts as long as a slow reader reads."""
    rig = Rig(tmp_path)
    rig.open_reader()
    got = b""
    async with running(rig):
        await settle()
        filled = rig.fill_fifo()
        rig.write(b"d" * PIPE_BYTES)
        rig.pump.begin_drain()
        assert rig.reader is not None
        while len(got) < filled + PIPE_BYTES:
            await trio.sleep(4)
            got += os.read(rig.reader, 128 << 10)
    assert got[filled:] == b"d" * PIPE_BYTES
    assert trio.current_time() > 30
    assert rig.pump.counters.bytes_dropped == 0
    rig.close()


@pytest.mark.parametrize("trouble", ["full", "reader gone", "no reader yet"])
async def test_drain_gives_up(tmp_path: Path, autojump_clock: Any, trouble: str) -> None:
    """Draining gives up after 5 s without a byte moving, and counts the rest as dropped."""
    rig = Rig(tmp_path)
    if trouble != "no reader yet":
        rig.open_reader()
    async with running(rig):
        await settle()
        if trouble == "full":
            rig.fill_fifo()
        elif trouble == "reader gone":
            rig.close_reader()
        rig.write(b"r" * 100_000)
        await trio.sleep(2)
        rig.pump.begin_drain()
    assert trio.current_time() == pytest.approx(7, abs=0.01)
    assert rig.pump.counters.bytes_dropped == 100_000
    assert rig.waiting_bytes == 0
    last = rig.events[-1]
    assert (last.kind, last.bytes) == (EventKind.DROPPED, 100_000)
    rig.close()


@pytest.mark.parametrize("pause_s", [0.3, 3])
async def test_drain_has_a_limit(tmp_path: Path, autojump_clock: Any, pause_s: float) -> None:
    """A reader that goes on reading, but hardly anything, does not hold up a stop for ever."""
    rig = Rig(tmp_path)
    rig.open_reader()

    async def trickle() -> None:
        assert rig.reader is not None
        while True:
            await trio.sleep(pause_s)
            os.read(rig.reader, 4096)

    async with trio.open_nursery() as readers:
        async with running(rig):
            rig.fill_fifo()
            rig.write(b"s" * PIPE_BYTES)
            readers.start_soon(trickle)
            rig.pump.begin_drain()
        readers.cancel_scope.cancel()
    assert trio.current_time() == pytest.approx(PumpPolicy().drain_limit_s, abs=0.5)
    counters = rig.pump.counters
    assert counters.bytes_moved > 0
    assert counters.bytes_moved + counters.bytes_dropped == PIPE_BYTES
    assert rig.kinds[-1] is EventKind.DROPPED
    rig.close()


async def test_drop_race_with_another_reader(
    tmp_path: Path, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what was thrown away is counted, when another pump emptied the pipe meanwhile."""
    monkeypatch.setattr("milo.task.logs.pump.waiting_bytes", lambda _fd: PIPE_BYTES)
    for ended in (False, True):
        rig = Rig(tmp_path)
        async with running(rig):
            rig.write(b"abc")
            await trio.sleep(1)
            if ended:
                rig.end_source()
            rig.pump.begin_drain()
        assert rig.pump.counters.bytes_dropped == 3
        rig.close()


@pytest.mark.parametrize("state", ["idle", "full", "reader gone", "no reader yet", "moving"])
async def test_cancellation_leaves_nothing(tmp_path: Path, autojump_clock: Any, state: str) -> None:
    """A pump cancelled in any state leaves no descriptor, thread or byte behind."""
    rig = Rig(tmp_path)
    if state != "no reader yet":
        rig.open_reader()
    with trio.CancelScope() as scope:
        async with running(rig):
            await settle()
            if state == "full":
                rig.fill_fifo()
            elif state == "reader gone":
                rig.close_reader()
            if state != "idle":
                rig.write(b"kept")
            if state != "moving":
                await trio.sleep(1)
            scope.cancel()
    counters = rig.pump.counters
    assert rig.waiting_bytes + counters.bytes_moved == (0 if state == "idle" else 4)
    assert counters.bytes_dropped == 0
    # A successor with the same descriptors delivers them.
    successor = Pump("stdout", rig.read_fd, rig.sink, BLOCK, rig.events.append)
    if rig.reader is None:
        rig.open_reader()
    rig.end_source()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(successor.run)
        await settle()
        got = rig.read()
    assert (got + rig.read()).endswith(b"" if state == "idle" else b"kept")
    rig.close()


async def test_what_is_served_between_tasks_has_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output without end is handed back to the pump's own task, which lets others have a turn."""
    monkeypatch.setattr(pump, "_BURST", 1)
    rig = Rig(tmp_path)
    rig.open_reader()
    moves: list[bool] = []
    move = rig.pump._move_waiting

    def noting() -> bool:
        moves.append(move())
        return moves[-1]

    monkeypatch.setattr(rig.pump, "_move_waiting", noting)
    async with running(rig):
        rig.write(bytes(3 * LOOK_BYTES))
        await rig.read_exactly(3 * LOOK_BYTES)
        rig.end_source()
    assert moves[:1] == ([False] if rig.idle else [])
    rig.close()
