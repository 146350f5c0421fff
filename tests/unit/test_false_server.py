"""A server that is no task process of Milo's, and names processes that are not its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
import trio

from milo import cgroup_files, proc, unix_sockets
from milo.core import control, records
from milo.core.cgroup import Hierarchy, Mode
from milo.core.exec_io import ExecInput, Printed, Typed
from milo.core.records import ProcessId, TaskRecord
from milo.errors import ControlError
from milo.files import write_file
from milo.host import task_client
from milo.host.exec_client import run_command
from milo.host.task_client import TaskClient, open_control
from milo.task.children import Reaper
from milo.task.exec_server import Commands
from tests.support.launches import make_launch
from tests.support.waiting import fail_after, wait_for

GROUP = "/nomad/a1.web/milo-1"


@pytest.fixture
def victim() -> Iterator[ProcessId]:
    """A process of the host that has nothing to do with any task."""
    child = subprocess.Popen(["/bin/sleep", "1000"])
    identity = proc.identify(child.pid)
    assert identity is not None
    yield identity
    child.kill()
    child.wait()


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The list of processes of a made-up task's cgroup."""
    hierarchy = Hierarchy(Mode.V2, {"": str(tmp_path / "cgroup")})
    monkeypatch.setattr(cgroup_files, "detect", lambda: hierarchy)
    directory = Path(hierarchy.directory("", GROUP) or "")
    directory.mkdir(parents=True)
    file = directory / "cgroup.procs"
    file.write_text("")
    return file


@contextlib.contextmanager
def listening(directory: Path) -> Iterator[trio.socket.SocketType]:
    """Serve the control socket of a task that was written down as being in `GROUP`."""
    directory.mkdir()
    process = ProcessId(2**22, 1)
    record = TaskRecord("id", "web", "a1", "/nowhere", process, process, cgroup_path=GROUP)
    write_file(str(directory / records.TASK_FILE), records.encode(record))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(directory / records.CONTROL_SOCKET))
        listener.listen()
        yield trio.socket.from_stdlib_socket(listener)


async def answer_and_go(listener: trio.socket.SocketType, named: ProcessId) -> None:
    """Say that the command is ``named``, and die."""
    client, _ = await listener.accept()
    with client:
        await client.recv(control.MAX_MESSAGE_BYTES)
        me = proc.this_process()
        welcome = control.Welcome(version=control.PROTOCOL_VERSION, supervisor=me)
        await client.send(control.encode(welcome))
        await client.recv(control.MAX_MESSAGE_BYTES)
        await client.send(control.encode(control.ExecStarted(process=named)))


async def no_input() -> AsyncGenerator[ExecInput, None]:
    """Yield that there is none."""
    yield Typed(closed=True)


async def drop(printed: Printed) -> None:
    """Throw output away."""


async def test_what_a_task_process_says_is_heard_though_it_has_not_read_a_request() -> None:
    """Such an end comes out of the socket as a reset, before all that was sent."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    said = [control.Event(text=text, at_s=1.0) for text in ("one", "two")]
    heard: list[control.Notice] = []
    welcome = control.Welcome(version=control.PROTOCOL_VERSION, supervisor=proc.this_process())
    client = TaskClient(trio.socket.from_stdlib_socket(ours), welcome, heard.append)
    ours.send(b"a request")
    for notice in said:
        theirs.send(control.encode(notice))
    theirs.close()
    with fail_after(5):
        await client.run()
    assert heard == said


@pytest.mark.parametrize("inside", [False, True])
async def test_only_processes_of_the_container_are_killed(
    inside: bool, tmp_path: Path, victim: ProcessId, group: Path
) -> None:
    """A command whose task process died is killed, if it is in the recorded cgroup; others not.

    Else whoever serves the socket could have root kill any process, by naming it.
    """
    if inside:
        group.write_text(f"{victim.pid}\n")
    state_dir = tmp_path / "0123456789abcdef"
    with listening(state_dir) as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_and_go, listener, victim)
            with pytest.raises(ControlError):
                await run_command(
                    str(state_dir), ("/bin/true",), tty=False, inputs=no_input(), emit=drop
                )
    with trio.move_on_after(30 if inside else 0.2):
        while proc.lives(victim):  # noqa: ASYNC110
            await trio.sleep(0.01)
    assert proc.lives(victim) is not inside


def test_a_number_that_was_given_out_again_is_not_signalled(victim: ProcessId, group: Path) -> None:
    """A later process with the number of one that was meant is left alone, in whatever group."""
    group.write_text(f"{victim.pid}\n")
    earlier = ProcessId(victim.pid, victim.start_ticks - 1)
    assert not cgroup_files.signal_member(earlier, GROUP, signal.SIGKILL)
    assert not cgroup_files.signal_member(victim, "/", signal.SIGKILL)
    assert proc.lives(victim)
    assert cgroup_files.signal_member(victim, GROUP, 0)


@pytest.mark.parametrize("inside", [False, True])
def test_commands_that_were_left_behind_end(inside: bool, tmp_path: Path, group: Path) -> None:
    """A successor kills the commands of the process before it, which are in the container."""
    # As with crun, the leader of a command's session has ended.
    script = "sleep 1000 > /dev/null & echo $!"
    leader = subprocess.run(["sh", "-c", script], stdout=-1, text=True, start_new_session=True)
    pid = int(leader.stdout)
    (tmp_path / "exec-3.json").write_text("{}")
    (tmp_path / "exec-3.pid").write_text(str(pid))
    (tmp_path / "exec-4.pid").write_text("?")
    (tmp_path / "exec-5.pid").write_text(str(os.getpid()))  # a number that the application has now
    group.write_text(f"{pid}\n{os.getpid()}\n" if inside else "")
    commands = Commands(make_launch(state_dir=str(tmp_path)), Reaper(reap_all=False))
    commands.end_left_behind(GROUP, os.getpid())
    assert not list(tmp_path.glob("exec-[35]*"))
    if not inside:
        assert proc.start_ticks(pid) is not None
        os.kill(pid, signal.SIGKILL)
    wait_for("the command's end", lambda: proc.start_ticks(pid) is None)


async def test_a_server_of_another_user_is_not_spoken_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who listens there has to be root, or the user who asks; else not even a greeting is sent."""
    state_dir = tmp_path / "0123456789abcdef"
    monkeypatch.setattr(task_client, "has_roots_peer", lambda sock: False)
    with listening(state_dir) as listener:
        with pytest.raises(ControlError, match="does not belong to root"):
            await open_control(str(state_dir), control.ROLE_EXEC)
        with pytest.raises(ControlError, match="does not belong to root"):
            await TaskClient.connect(str(state_dir), lambda _: None)
        for _ in range(2):
            client, _ = await listener.accept()
            with client:
                assert await client.recv(control.MAX_MESSAGE_BYTES) == b""


def test_a_peer_is_judged_by_the_kernels_word() -> None:
    """The user of the other side is root or the own one, and no other."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        assert unix_sockets.has_roots_peer(ours)
    for uid, trusted in (
        (0, True),
        (os.geteuid(), True),
        (os.geteuid() + 1, False),
    ):
        assert unix_sockets.has_roots_peer(Peer(uid)) is trusted


class Peer:
    """A socket with the process of a user at its other side."""

    def __init__(self, uid: int) -> None:
        self.uid = uid

    def getsockopt(self, level: int, option: int, length: int) -> bytes:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_PEERCRED)
        return struct.pack("iII", os.getpid(), self.uid, 0)[:length]
