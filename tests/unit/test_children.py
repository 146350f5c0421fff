"""Children of a task process: crun's commands, other people's processes, the stop ladder."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from milo.core.records import ProcessId
from milo.core.signals import NO_SIGNAL
from milo.errors import ControlError, CrunError, CrunMissingError
from milo.proc import start_ticks
from milo.task import children
from milo.task.children import Reaper, WaitStatus
from milo.task.ladder import StopLadder
from milo.task.oci import crun
from milo.task.oci.crun import Crun
from milo.task.oci.non_child import NonChildProcess, reopen_pipe
from tests.support.log_rig import descriptors


@asynccontextmanager
async def reaping() -> AsyncIterator[Reaper]:
    """A reaper of the children that are started with it."""
    reaper = Reaper(reap_all=False)
    async with trio.open_nursery() as nursery:
        await nursery.start(reaper.run)
        yield reaper
        nursery.cancel_scope.cancel()


def script(path: Path, text: str) -> str:
    """Write a shell script and return its path."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


async def test_exit_codes_and_signals_are_told_apart(tmp_path: Path) -> None:
    """Exit code 137 is not death by signal 9."""
    async with reaping() as reaper:
        for text, expected, words in (
            ("exit 0", WaitStatus(0, 0), "exit code 0"),
            ("exit 137", WaitStatus(137, 0), "exit code 137"),
            ("kill -9 $$", WaitStatus(0, 9), "killed by signal 9"),
        ):
            pid = reaper.spawn([script(tmp_path / "run", text)], {}, stdout=1, stderr=2)
            with trio.fail_after(10):
                status = await reaper.wait(pid)
            assert (status, str(status)) == (expected, words)
            assert await reaper.wait(pid) == expected
            reaper.forget(pid)


async def test_a_child_gets_its_streams_and_no_ignored_signals(tmp_path: Path) -> None:
    """An ignored signal survives an exec; Python ignores SIGPIPE."""
    output = tmp_path / "output"
    async with reaping() as reaper:
        with output.open("wb") as file, Path("/dev/zero").open("rb") as zero:
            pid = reaper.spawn(
                [script(tmp_path / "run", "head -c 1 | wc -c; grep SigIgn /proc/self/status >&2")],
                {"PATH": os.defpath},
                stdin=zero.fileno(),
                stdout=file.fileno(),
                stderr=file.fileno(),
            )
            with trio.fail_after(10):
                await reaper.wait(pid)
        with pytest.raises(FileNotFoundError):
            reaper.spawn(["/nonexistent"], {}, stdout=1, stderr=2)
    count, _, ignored = output.read_text().split()
    # 32 and 33 are the C library's own, which lets nobody set them; signal(7).
    assert (count, int(ignored, 16) & ~(3 << 31)) == ("1", 0)


def test_every_child_of_a_task_process_is_reaped() -> None:
    """Only asked for statuses are kept for long; what is left at the end is killed."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            trio.run(_be_a_task_process)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _ended_child(program: str) -> int:
    """Start a program and return its id once it is a zombie."""
    pid = os.posix_spawn(program, [program], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def _sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["/bin/sleep", "1000"])


def _has_children() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


async def _be_a_task_process() -> None:
    reaper = Reaper(reap_all=True)
    early = _ended_child("/bin/false")
    async with trio.open_nursery() as nursery:
        await nursery.start(reaper.run)
        reaper.reap()
        assert await reaper.wait(early) == WaitStatus(1, 0)
        for _ in range(children.REMEMBERED_STATUSES + 10):
            _ended_child("/bin/true")
            reaper.reap()
        assert len(reaper._statuses) <= children.REMEMBERED_STATUSES + 1
        stray = _sleeper()
        nursery.cancel_scope.cancel()
    assert not _has_children() and start_ticks(stray.pid) is None


async def test_crun_that_succeeds(tmp_path: Path) -> None:
    """A command that ends with 0 is a success, and its descriptors are closed again."""
    async with reaping() as reaper:
        before = descriptors()
        await Crun(reaper, str(tmp_path / "log")).run("start", ["/bin/true"])
        assert descriptors() == before


async def test_crun_that_fails_is_quoted(tmp_path: Path) -> None:
    """The error has the command, its status and crun's own words, not those of an earlier one."""
    log = tmp_path / "log"
    log.write_text("words of another command")
    async with reaping() as reaper:
        runtime = Crun(reaper, str(log))
        with pytest.raises(CrunError, match="it printed nothing") as caught:
            await runtime.run("start", ["/bin/false"])
        assert (caught.value.command, caught.value.status) == ("start", "exit code 1")
        path = script(tmp_path / "crun", f"echo 'no such rootfs' >{log}; exit 3")
        with pytest.raises(CrunError, match=r"create failed \(exit code 3\): no such rootfs"):
            await runtime.run("create", [path])


async def test_crun_that_is_missing_or_no_program(tmp_path: Path) -> None:
    """Each says what to look at."""
    (tmp_path / "text").write_text("no program")
    async with reaping() as reaper:
        runtime = Crun(reaper, str(tmp_path / "log"))
        with pytest.raises(CrunMissingError, match="Install the package crun"):
            await runtime.run("create", ["/nonexistent/crun"])
        with pytest.raises(CrunError, match=r"not started.*Permission denied"):
            await runtime.run("create", [str(tmp_path / "text")])


async def test_crun_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it has started itself, and its words so far are told."""
    monkeypatch.setattr(crun, "COMMAND_TIMEOUT_S", 0.2)
    text = f"echo waiting >{tmp_path / 'log'}; sleep 1000 & echo $! >{tmp_path / 'pid'}; wait"
    async with reaping() as reaper:
        with pytest.raises(CrunError, match=r"no answer in 0.2 s, so it was killed.*: waiting"):
            await Crun(reaper, str(tmp_path / "log")).run(
                "create", [script(tmp_path / "crun", text)]
            )
        with trio.fail_after(10):
            while start_ticks(int((tmp_path / "pid").read_text())) is not None:  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_cancelling_kills_crun(tmp_path: Path) -> None:
    """A command is not left behind by whoever does not wait for it any more."""
    async with reaping() as reaper:
        path = script(tmp_path / "crun", f"echo $$ >{tmp_path / 'pid'}; exec sleep 1000")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Crun(reaper, str(tmp_path / "log")).run, "create", [path])
            with trio.fail_after(10):
                while not (tmp_path / "pid").exists():  # noqa: ASYNC110
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert start_ticks(int((tmp_path / "pid").read_text() or 2**22)) is None


def _identity(pid: int) -> ProcessId:
    ticks = start_ticks(pid)
    assert ticks is not None
    return ProcessId(pid, ticks)


@pytest.mark.parametrize("pidfds", [True, False])
async def test_a_process_that_is_nobodys_child(
    pidfds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is seen and it takes signals, on a kernel with pidfds and without."""
    if not pidfds:

        def missing(pid: int) -> int:
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr(os, "pidfd_open", missing)
    before = descriptors()
    child = _sleeper()
    process = NonChildProcess(_identity(child.pid))
    assert process.alive()
    process.signal(signal.SIGTERM)
    with trio.fail_after(10):
        await process.wait()
    child.wait()
    assert not process.alive()
    with pytest.raises(ProcessLookupError):
        process.signal(signal.SIGTERM)
    process.close()
    assert descriptors() == before


async def test_a_recycled_number_is_not_the_process() -> None:
    """A process with another start time is neither waited for nor signalled."""
    me = _identity(os.getpid())
    process = NonChildProcess(ProcessId(me.pid, me.start_ticks - 1))
    assert not process.alive()
    with trio.fail_after(10):
        await process.wait()
    with pytest.raises(ProcessLookupError):
        process.signal(signal.SIGKILL)
    process.close()


def test_a_pipe_is_found_by_its_number() -> None:
    """A successor without descriptors opens the container's own, and only the right pipe."""
    read, write = os.pipe()
    inode = os.fstat(read).st_ino
    os.write(write, b"output")
    found = reopen_pipe([2**22, os.getpid()], inode)
    assert found is not None
    assert os.read(found, 100) == b"output"
    assert not os.get_inheritable(found) and not os.get_blocking(found)
    for fd in (read, write, found):
        os.close(fd)
    assert reopen_pipe([os.getpid()], inode) is None


def test_a_fifo_with_a_pipes_number_is_not_taken_for_it(tmp_path: Path) -> None:
    """A container cannot have a file of its own opened whose inode has the same number."""
    os.mkfifo(tmp_path / "fifo")
    fd = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    before = descriptors()
    assert reopen_pipe([os.getpid()], os.fstat(fd).st_ino) is None
    assert descriptors() == before
    os.close(fd)


class Target:
    """A container that takes signals."""

    def __init__(self, gone: bool = False) -> None:
        self.got: list[tuple[float, str]] = []
        self.gone = gone

    def signal(self, number: int) -> None:
        if self.gone:
            raise ControlError("it has ended")
        self.got.append((trio.current_time(), signal.Signals(number).name))

    async def kill_all(self) -> None:
        self.got.append((trio.current_time(), "all"))


async def _climb(ladder: StopLadder, target: Any) -> None:
    await ladder.climb(target)


async def test_the_ladder(autojump_clock: Any) -> None:
    """The signal at once, SIGKILL to all at the deadline; of two stops the earlier counts."""
    lines: list[str] = []
    ladder = StopLadder(lambda level, text: lines.append(text))
    target = Target()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_climb, ladder, target)
        await trio.sleep(1)
        assert not ladder.requested
        ladder.request(signal.SIGTERM, 10)
        assert ladder.requested
        await trio.sleep(2)
        ladder.request(signal.SIGINT, 3)
        await trio.sleep(1)
        ladder.request(signal.SIGINT, 100)
    assert target.got == [(1.0, "SIGTERM"), (3.0, "SIGINT"), (6.0, "all")]
    assert "after SIGINT: SIGKILL" in lines[0]


async def test_a_stop_without_a_signal(autojump_clock: Any) -> None:
    """Nothing is sent before the SIGKILL, which comes when the kill timeout has passed."""
    lines: list[str] = []
    ladder = StopLadder(lambda level, text: lines.append(text))
    ladder.request(NO_SIGNAL, 2)
    target = Target()
    await _climb(ladder, target)
    assert target.got == [(2.0, "all")]
    assert "after no signal: SIGKILL" in lines[0]


async def test_a_stop_before_there_is_anything_to_stop(autojump_clock: Any) -> None:
    """A request may overtake the start, and the application may be ending by itself."""
    ladder = StopLadder(lambda level, text: None)
    ladder.request(signal.SIGTERM, -5)
    target = Target(gone=True)
    await _climb(ladder, target)
    assert [name for _, name in target.got] == ["all"]
