"""Both streams of a task together, and what is said of them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from milo.core import control
from milo.core.launch import Launch
from milo.core.records import COUNTERS_FILE, ProcessId, StreamCounters, TaskRecord
from milo.errors import FifoError
from milo.task.journal import Journal
from milo.task.logs import streams
from milo.task.logs.pump_policy import EventKind, PumpEvent, PumpPolicy
from milo.task.logs.streams import Streams, Takeover, sentence
from tests.support import launches
from tests.support.log_rig import descriptors


def make_launch(tmp_path: Path, *, stdout: str = "", stderr: str = "") -> Launch:
    """A launch whose FIFOs are there, unless they are given."""
    logs = tmp_path / "alloc"
    logs.mkdir(exist_ok=True)
    for name in ("stdout", "stderr"):
        if not (logs / f"{name}.fifo").exists():
            os.mkfifo(logs / f"{name}.fifo", 0o600)
    return launches.make_launch(
        task_id="id",
        task_name="app",
        alloc_id="alloc",
        alloc_dir=str(logs),
        stdout_path=stdout or str(logs / "stdout.fifo"),
        stderr_path=stderr or str(logs / "stderr.fifo"),
        state_dir=str(tmp_path),
        crun_path="/bin/true",
        javas=(),
    )


def open_reader(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)


class Told:
    """A journal, and what it has told."""

    def __init__(self, tmp_path: Path) -> None:
        self.messages: list[control.Message] = []
        self.journal = Journal(str(tmp_path / "task.log"), self.messages.append)

    def events(self) -> list[str]:
        return [message.text for message in self.messages if isinstance(message, control.Event)]


async def test_fifos_with_a_reader_are_open_before_the_pumps_run(tmp_path: Path) -> None:
    """So there is another descriptor of each before this process can die with the only one."""
    told = Told(tmp_path)
    launch = make_launch(tmp_path)
    both = Streams.open(launch, PumpPolicy(), told.journal)
    reader = open_reader(launch.stdout_path)
    both.open_fifos()
    names, _ = both.descriptors()
    assert names == ("stdout.pipe", "stderr.pipe", "stdout.fifo")
    assert told.messages == [control.DescriptorsChanged()] * 2
    os.unlink(launch.stderr_path)
    both.open_fifos()  # what is wrong with a FIFO, its pump tells
    both.close()
    os.close(reader)


async def test_both_streams_arrive_whole(tmp_path: Path) -> None:
    """Each at its own FIFO, all of it before `drained` returns, and nothing stays open."""
    before = descriptors()
    told = Told(tmp_path)
    launch = make_launch(tmp_path)
    both = Streams.open(launch, PumpPolicy(), told.journal)
    assert told.messages == [control.DescriptorsChanged()]  # before the application is there
    readers = [open_reader(path) for path in (launch.stdout_path, launch.stderr_path)]
    os.write(both.container_stdout, b"out")
    os.write(both.container_stderr, b"error")
    assert set(both.inodes()) == {"stdout", "stderr"}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(both.run)
        both.release_container_ends()
        await both.drained()
    assert [os.read(fd, 100) for fd in readers] == [b"out", b"error"]
    names, fds = both.descriptors()
    assert names == ("stdout.pipe", "stderr.pipe", "stdout.fifo", "stderr.fifo")
    assert len(set(fds)) == 4
    assert told.messages[1:].count(control.DescriptorsChanged()) == 2
    both.close()
    assert both.counters() == (StreamCounters(bytes_moved=3), StreamCounters(bytes_moved=5))
    for fd in readers:
        assert os.read(fd, 100) == b""  # the end of file, for both
        os.close(fd)
    assert descriptors() == before


async def test_streams_do_as_the_job_wants_later(tmp_path: Path, autojump_clock: Any) -> None:
    """Both are there before that is known: here nobody reads, and output is to be dropped."""
    launch = make_launch(tmp_path)
    both = Streams.open(launch, PumpPolicy(), Told(tmp_path).journal)
    both.use(PumpPolicy(drop_when_full=True))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(both.run)
        for end in (both.container_stdout, both.container_stderr):
            os.set_blocking(end, False)
            written = 0
            while written < 4 << 20:
                with contextlib.suppress(BlockingIOError):
                    written += os.write(end, bytes(4096))
                    continue
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert all(counters.bytes_dropped for counters in both.counters())
    both.close()


async def test_disabled_log_collection_needs_no_pump(tmp_path: Path) -> None:
    """Where Nomad names /dev/null, the container gets that itself."""
    before = descriptors()
    launch = make_launch(tmp_path, stdout=os.devnull, stderr=os.devnull)
    both = Streams.open(launch, PumpPolicy(), Told(tmp_path).journal)
    assert both.container_stdout == both.container_stderr
    assert os.path.samestat(os.fstat(both.container_stdout), os.stat(os.devnull))
    assert both.descriptors() == ((), ())
    await both.run()
    await both.drained()
    both.close()
    assert both.counters() == (StreamCounters(), StreamCounters())
    assert descriptors() == before


def test_a_path_that_is_no_fifo_leaves_nothing_open(tmp_path: Path) -> None:
    """Neither stream is opened when one of them cannot be."""
    before = descriptors()
    (tmp_path / "file").write_text("")
    launch = make_launch(tmp_path, stderr=str(tmp_path / "file"))
    with pytest.raises(FifoError, match="not a FIFO but a regular file"):
        Streams.open(launch, PumpPolicy(), Told(tmp_path).journal)
    assert descriptors() == before


async def test_a_bug_in_one_pump_is_not_the_tasks_end(
    tmp_path: Path, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pump is started again, and the other stream never notices."""
    told = Told(tmp_path)
    launch = make_launch(tmp_path)
    both = Streams.open(launch, PumpPolicy(), told.journal)
    readers = [open_reader(path) for path in (launch.stdout_path, launch.stderr_path)]
    pump = both._streams[0].pump
    run = pump.run
    failures: list[float] = []

    async def broken() -> None:
        if len(failures) < 2:
            failures.append(trio.current_time())
            raise RuntimeError("a bug")
        await run()

    monkeypatch.setattr(pump, "run", broken)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(both.run)
        os.write(both.container_stdout, b"out")
        os.write(both.container_stderr, b"error")
        await trio.sleep(0.5)
        assert os.read(readers[1], 100) == b"error"
        await trio.sleep(2 * streams.RETRY_S)
        assert os.read(readers[0], 100) == b"out"
        both.release_container_ends()
        await both.drained()
    both.close()
    for fd in readers:
        os.close(fd)
    assert len(failures) == 2
    lines = [line.text for line in told.messages if isinstance(line, control.Log)]
    assert lines[0].startswith("the pump of stdout failed (RuntimeError('a bug') in test_task_")
    assert lines[0].endswith("it is tried again in 1 s")


async def test_a_pump_that_always_fails_holds_no_exit_up(
    tmp_path: Path, autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of the task one try is left, and the other stream is delivered whole."""
    told = Told(tmp_path)
    launch = make_launch(tmp_path)
    both = Streams.open(launch, PumpPolicy(), told.journal)
    readers = [open_reader(path) for path in (launch.stdout_path, launch.stderr_path)]

    async def broken() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(both._streams[0].pump, "run", broken)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(both.run)
        await trio.sleep(5)
        os.write(both.container_stderr, b"error")
        both.release_container_ends()
        with trio.fail_after(2 * streams.RETRY_S):
            await both.drained()
    assert os.read(readers[1], 100) == b"error"
    both.close()
    for fd in readers:
        os.close(fd)
    lines = [line.text for line in told.messages if isinstance(line, control.Log)]
    assert lines[-1].endswith("and is given up")


async def test_a_successor_goes_on_where_the_streams_are(tmp_path: Path) -> None:
    """It gets pipes and FIFOs, and the counts of the process before it."""
    launch = make_launch(tmp_path)
    first = Streams.open(launch, PumpPolicy(), Told(tmp_path).journal)
    readers = [open_reader(path) for path in (launch.stdout_path, launch.stderr_path)]
    os.write(first.container_stdout, b"before ")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    os.write(first.container_stdout, b"between ")
    names, fds = first.descriptors()
    handed = dict(zip(names, [os.dup(fd) for fd in fds], strict=True))
    container_end = os.dup(first.container_stdout)
    first.close()

    told = Told(tmp_path)
    record = TaskRecord("id", "app", "alloc", launch.alloc_dir, ProcessId(1, 1))
    second = Streams.adopt(launch, PumpPolicy(), told.journal, Takeover(record, handed))
    os.write(container_end, b"after")
    os.close(container_end)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(second.run)
        await second.drained()
    assert os.read(readers[0], 100) == b"before between after"
    second.close()
    assert second.counters()[0].bytes_moved == len(b"before between after")
    assert told.events() == []
    for fd in readers:
        os.close(fd)


async def test_a_pipe_that_nobody_has_any_more_is_told_of(tmp_path: Path) -> None:
    """That stream is over; one that Nomad does not collect is not missed."""
    told = Told(tmp_path)
    launch = make_launch(tmp_path, stderr=os.devnull)
    record = TaskRecord(
        "id", "app", "alloc", launch.alloc_dir, ProcessId(1, 1), pipes={"stdout": 1}
    )
    adopted = Streams.adopt(launch, PumpPolicy(), told.journal, Takeover(record, {}))
    await adopted.run()
    await adopted.drained()
    adopted.close()
    assert told.events() == ["The output on stdout cannot be collected any more"]
    assert (tmp_path / COUNTERS_FILE).exists()


async def test_an_error_is_written_for_a_task_without_a_process(
    tmp_path: Path, autojump_clock: Any
) -> None:
    """It stands in `nomad logs -stderr`; where nobody reads or nothing is, it is let go."""
    launch = make_launch(tmp_path)
    readers = [open_reader(path) for path in (launch.stdout_path, launch.stderr_path)]
    await Streams.write_error(launch, "Error: no")
    assert os.read(readers[1], 100) == b"Error: no\n"
    for fd in readers:
        os.close(fd)
    await Streams.write_error(launch, "Error: nobody reads")
    await Streams.write_error(attrs.evolve(launch, stderr_path="/nonexistent"), "Error: nowhere")


@pytest.mark.parametrize("kind", list(EventKind))
def test_every_event_has_its_sentence(kind: EventKind) -> None:
    """Of each stream, with what is known of it, at a level of hclog's."""
    event = PumpEvent(kind, "stderr", bytes=4096, seconds=7.25, problem="permission denied")
    level, text, is_event = sentence(event)
    assert level in {"debug", "info", "warn"}
    assert "stderr" in text
    loud = {EventKind.STALLED, EventKind.DROPPING, EventKind.DROPPED, EventKind.REFUSED}
    loud |= {EventKind.JAVA_OOM}
    assert (level == "warn") == (kind in loud)
    assert is_event == (kind in loud | {EventKind.READER_LOST, EventKind.READER_BACK})
    if kind in {EventKind.STALLED, EventKind.DROPPED, EventKind.READER_LOST}:
        assert "4096 bytes" in text
    if kind is EventKind.REFUSED:
        assert "permission denied" in text
