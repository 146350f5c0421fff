"""Children of a task process: crun's commands, other people's processes, the stop ladder."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from milo.core.records import ProcessId
from milo.core.signals import NO_SIGNAL
from milo.errors import ControlError, CrunError, CrunMissingError
from milo.namespaces import AT_FDCWD, SYS_MOUNT_SETATTR
from milo.proc import become_subreaper, start_ticks
from milo.task.children import Child, Placement, Reaper, WaitStatus
from milo.task.ladder import StopLadder
from milo.task.oci import crun, unwritable
from milo.task.oci.crun import Crun
from milo.task.oci.non_child import NonChildProcess, reopen_pipe
from milo.task.oci.pause import MS_BIND, MS_REMOUNT
from milo.task.oci.unwritable import PROTECTS_ITSELF, executable
from tests.support.log_rig import descriptors


@asynccontextmanager
async def reaping() -> AsyncIterator[Reaper]:
    """A reaper of the children that are started with it."""
    reaper = Reaper(reap_all=False)
    async with reaper.running():
        yield reaper


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
            child = reaper.spawn([script(tmp_path / "run", text)], {}, (0, 1, 2))
            with trio.fail_after(10):
                status = await child.wait()
            assert (status, str(status)) == (expected, words)
            assert await child.wait() == child.status == expected


async def _spawn(reaper: Reaper, argv: list[str], fds: list[int], placed: bool) -> Child:
    env = {"PATH": os.defpath}
    if not placed:
        return reaper.spawn(argv, env, fds)
    return await reaper.spawn_placed(argv, env, fds, Placement(_own_oom_score()))


def _own_oom_score() -> int:
    return int(Path("/proc/self/oom_score_adj").read_text())


@pytest.mark.parametrize("placed", [False, True])
async def test_a_child_gets_its_streams_and_no_signals(tmp_path: Path, placed: bool) -> None:
    """An ignored signal survives an exec; Python ignores SIGPIPE."""
    text = "head -c 1 | wc -c; grep -E 'Sig(Ign|Blk)' /proc/self/status; head -c 1 <&3"
    output = tmp_path / "output"
    before = descriptors()
    async with reaping() as reaper:
        with output.open("wb") as file, Path("/dev/zero").open("rb") as zero:
            passed = os.open(script(tmp_path / "run", text), os.O_RDONLY)
            fds = [zero.fileno(), file.fileno(), file.fileno(), passed]
            child = await _spawn(reaper, [str(tmp_path / "run")], fds, placed)
            os.close(passed)
            with trio.fail_after(10):
                assert await child.wait() == WaitStatus(0, 0)
        with pytest.raises(FileNotFoundError) as caught:
            await _spawn(reaper, ["/nonexistent"], [0, 1, 2], placed)
        assert caught.value.filename == "/nonexistent"
    count, *words = output.read_text().split()
    signals = dict(zip(words[0:4:2], words[1:4:2], strict=True))
    # 32 and 33 are the C library's own, which lets nobody set them; signal(7).
    assert count == "1" and not any(int(mask, 16) & ~(3 << 31) for mask in signals.values())
    assert words[4:] == ["#"]
    assert descriptors() == before


async def test_a_child_is_placed_before_it_executes(tmp_path: Path) -> None:
    """Its first instruction, and all that it starts, has its OOM score and is in its cgroup."""
    group = tmp_path / "group"
    group.mkdir()
    (group / "cgroup.procs").touch()  # stands for the kernel's: what is written there is seen
    score = min(_own_oom_score() + 345, 1000)
    output = tmp_path / "output"
    own = "cat /proc/self/oom_score_adj"
    text = f"cat {group}/cgroup.procs; ({own} & wait); {own}"
    argv = [script(tmp_path / "run", text)]
    async with reaping() as reaper:
        with output.open("wb") as file:
            child = await reaper.spawn_placed(
                argv,
                {"PATH": os.defpath},
                [0, file.fileno(), 2],
                Placement(score, (str(group),)),
            )
            with trio.fail_after(10):
                assert await child.wait() == WaitStatus(0, 0)
    assert output.read_text() == f"0{score}\n{score}\n"


async def test_a_child_that_cannot_be_placed_is_not_executed(tmp_path: Path) -> None:
    """The error names what refused it, and nothing ran."""
    ran = tmp_path / "ran"
    argv = [script(tmp_path / "run", f"touch {ran}")]
    async with reaping() as reaper:
        placement = Placement(_own_oom_score(), (str(tmp_path / "no-group"),))
        with pytest.raises(FileNotFoundError) as caught:
            await reaper.spawn_placed(argv, {}, [0, 1, 2], placement)
        assert caught.value.filename == f"{tmp_path}/no-group/cgroup.procs"
        with pytest.raises(
            CrunError, match=r"exec failed \(not started\): .*no-group.*No such file"
        ):
            await Crun(reaper, str(tmp_path / "log")).run("exec", argv, placement=placement)
    assert not ran.exists()


async def test_cancelling_kills_a_child_that_is_being_placed(tmp_path: Path) -> None:
    """Nothing is executed later, behind the back of whoever does not want it any more."""
    group = tmp_path / "group"
    group.mkdir()
    os.mkfifo(group / "cgroup.procs")  # a kernel that takes its time: this opens for no reader
    ran = tmp_path / "ran"
    argv = [script(tmp_path / "run", f"touch {ran}")]
    async with reaping() as reaper:
        with trio.move_on_after(0.2) as scope:
            await reaper.spawn_placed(
                argv, {}, [0, 1, 2], Placement(_own_oom_score(), (str(group),))
            )
        assert scope.cancelled_caught
        (child,) = reaper._watched.values()
        with trio.fail_after(10):
            assert await child.wait() == WaitStatus(0, signal.SIGKILL)
    assert not ran.exists()


def _in_a_task_process(run: Callable[[Reaper], Awaitable[None]]) -> None:
    """Run ``run`` in a process of its own, whose children are all its reaper's."""

    async def body() -> None:
        reaper = Reaper(reap_all=True)
        async with reaper.running():
            await run(reaper)

    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            become_subreaper()
            trio.run(body)
            status = 2 if _has_children() else 0
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


async def _reap_strangers(reaper: Reaper) -> None:
    mine = _sleeper()
    child = reaper.adopt(mine.pid)
    stranger = _ended_child("/bin/false")
    reaper.reap()
    assert not Path(f"/proc/{stranger}").exists()
    with pytest.raises(ChildProcessError):
        reaper.adopt(stranger)
    child.signal(signal.SIGTERM)
    with trio.fail_after(10):
        assert await child.wait() == WaitStatus(0, signal.SIGTERM)
    _sleeper()  # which the end kills


def test_children_that_nobody_watches_are_reaped_and_killed_at_the_end() -> None:
    """An orphan becomes a child of a task process: it is reaped when it ends, or at the end."""
    _in_a_task_process(_reap_strangers)


async def _take_the_number_of_another(reaper: Reaper) -> None:
    with reaper.orphans_kept():
        ended = _ended_child("/bin/false")
        reaper.reap()  # as for a SIGCHLD of anybody's
        child = reaper.adopt(ended)
        assert await child.wait() == WaitStatus(1, 0)
        # With the status taken, the kernel may give the number to the next one.
        for _ in range(100):  # somebody else's process may take it first
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(ended - 1))
            later = _sleeper()
            if later.pid == ended:
                break
            later.kill()
            later.wait()
        assert later.pid == ended
        other = reaper.adopt(later.pid)
        assert other.status is None
        with pytest.raises(ProcessLookupError):
            child.signal(signal.SIGKILL)
        child.kill_group()
        assert start_ticks(later.pid) is not None
        other.signal(signal.SIGKILL)
        with trio.fail_after(10):
            assert await other.wait() == WaitStatus(0, signal.SIGKILL)


@pytest.mark.skipif(os.geteuid() != 0, reason="asking the kernel for a process id needs root")
def test_a_status_belongs_to_one_process() -> None:
    """A child that ends before it is adopted keeps its status, which no later one gets."""
    _in_a_task_process(_take_the_number_of_another)


async def test_clean_up_may_wait_for_a_child_after_a_cancellation(tmp_path: Path) -> None:
    """Reaping outlives everything that waits for a child, whatever ends it."""
    reaper = Reaper(reap_all=False)
    with trio.fail_after(10):
        with trio.CancelScope() as scope:
            async with reaper.running():
                child = reaper.spawn(["/bin/sleep", "1000"], {}, (0, 1, 2))
                try:
                    scope.cancel()
                    await trio.sleep_forever()
                finally:
                    child.signal(signal.SIGTERM)
                    with trio.CancelScope(shield=True):
                        assert await child.wait() == WaitStatus(0, signal.SIGTERM)
        with pytest.raises(ExceptionGroup) as caught:
            async with reaper.running():
                child = reaper.spawn(["/bin/sleep", "1000"], {}, (0, 1, 2))
                try:
                    raise ValueError("of the block")
                finally:
                    child.kill_group()
                    assert await child.wait() == WaitStatus(0, signal.SIGKILL)
    assert caught.value.subgroup(ValueError)


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


async def test_crun_that_cannot_be_executed_is_named(tmp_path: Path) -> None:
    """By its own path, whatever it was executed by."""
    program = tmp_path / "crun"
    program.write_bytes(b"\x7fELF and nothing more but " + PROTECTS_ITSELF)
    program.chmod(0o755)
    async with reaping() as reaper:
        executable(str(program))
        before = descriptors()
        for placement in (None, Placement(_own_oom_score())):
            with pytest.raises(CrunError, match=rf"not started.*{program}: Exec format error"):
                await Crun(reaper, str(tmp_path / "log")).run(
                    "create", [str(program)], placement=placement
                )
        assert descriptors() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
@pytest.mark.parametrize("placed", [False, True])
async def test_nobody_writes_to_crun_by_a_process_of_it(tmp_path: Path, placed: bool) -> None:
    """Whoever holds its /proc/PID/exe has no way to the file, after its end neither.

    That was CVE-2019-5736. The kernel alone refuses it only as long as it is executed.
    """
    program, pid, end = tmp_path / "crun", tmp_path / "pid", tmp_path / "end"
    make_crun(program)
    os.mkfifo(end)
    argv = [str(program), "-c", f"echo $$ >{pid}.new; mv {pid}.new {pid}; read x <{end}"]
    placement = Placement(_own_oom_score()) if placed else None
    run = Crun(reaper := Reaper(reap_all=False), str(tmp_path / "log")).run
    async with reaper.running(), trio.open_nursery() as nursery:
        nursery.start_soon(partial(run, "start", argv, placement=placement))
        with trio.fail_after(10):
            while not pid.exists():  # noqa: ASYNC110
                await trio.sleep(0.01)
        exe = f"/proc/{pid.read_text().strip()}/exe".encode()
        # mount_attr: set nothing, clear MOUNT_ATTR_RDONLY. Root's CAP_SYS_ADMIN is a container's.
        attributes = struct.pack("=4Q", 0, 1, 0, 0)
        size = ctypes.c_size_t(len(attributes))
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, exe, 0, attributes, size) == -1
        assert ctypes.get_errno() == errno.EINVAL
        held = os.open(f"/proc/{pid.read_text().strip()}/exe", os.O_PATH)
        end.write_text("\n")
    way = f"/proc/self/fd/{held}"
    assert os.path.samefile(way, program)
    with pytest.raises(OSError, match="Read-only file system"):
        os.open(way, os.O_WRONLY)
    assert libc.mount(None, way.encode(), None, MS_REMOUNT | MS_BIND, None) == -1
    assert ctypes.get_errno() == errno.EINVAL
    os.close(held)
    program.write_bytes(b"")  # by its own path it can be


def make_crun(program: Path) -> None:
    """Make a shell that is taken for crun."""
    shell = Path(shutil.which("sh") or "/bin/sh").read_bytes()
    program.write_bytes(shell + PROTECTS_ITSELF)
    program.chmod(0o755)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_crun_that_was_replaced_is_the_one_that_runs(tmp_path: Path) -> None:
    """By an upgrade of its package, while tasks run. Of the old one nothing is held any more."""
    program = tmp_path / "crun"
    make_crun(program)
    way = executable(str(program))
    assert way == executable(str(program)) != str(program)
    make_crun(tmp_path / "new")
    os.rename(tmp_path / "new", program)
    before = descriptors()
    way = executable(str(program))
    assert os.path.samefile(way, program) and way != str(program)
    assert len(descriptors()) == len(before)
    program.unlink()
    assert executable(str(program)) == str(program)


def test_what_is_no_crun_is_executed_by_its_path(tmp_path: Path) -> None:
    """It may look for something beside its own file. A FIFO's opening would not return."""
    wrapper, script, fifo = (tmp_path / name for name in ("wrapper", "script", "fifo"))
    shutil.copy(shutil.which("sh") or "/bin/sh", wrapper)
    script.write_bytes(b"#!/bin/sh\n# " + PROTECTS_ITSELF)
    os.mkfifo(fifo)
    (tmp_path / "empty").touch()
    for path in (wrapper, script, fifo, tmp_path, tmp_path / "empty", tmp_path / "gone"):
        assert executable(str(path)) == str(path)


async def test_crun_runs_where_there_is_no_such_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before Linux 5.12 and without the right to mount: it then protects itself."""

    def refuse(path: str) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    make_crun(program := tmp_path / "crun")
    monkeypatch.setattr(unwritable, "read_only_mount", refuse)
    async with reaping() as reaper:
        await Crun(reaper, str(tmp_path / "log")).run("start", [str(program), "-c", "true"])
        with pytest.raises(CrunError, match="exit code 1"):
            await Crun(reaper, str(tmp_path / "log")).run("start", [str(program), "-c", "false"])


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

    def kill(self) -> None:
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
