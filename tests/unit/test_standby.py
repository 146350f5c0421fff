"""The task process that a spawner has ready for the next start."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from milo import spawner
from milo.core.spawning import RUN_KEPT, TAKEN
from milo.errors import SpawnerError
from milo.host.spawner_client import SpawnerClient
from milo.proc import children, comm, start_ticks
from milo.task import main as task_main
from tests.support.waiting import fail_after

FAILED = "the task process failed: StateError"
"""What one says of a directory without a launch."""


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nobody tells of."""
    with fail_after(20):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


async def standby_of(client: SpawnerClient) -> tuple[int, int]:
    """Return the process that stands by and its preparer, once they are there."""
    found: list[int] = []

    def ready() -> bool:
        found[:] = [pid for pid in children(client.pid) if comm(pid) == b"milo-standby"]
        found.extend(pid for standby in found[:1] for pid in children(standby))
        return len(found) == 2

    await until(ready)
    return found[0], found[1]


async def spawn(client: SpawnerClient, directory: Path) -> int:
    """Have a task process forked that fails at once; return its id when it has ended."""
    directory.mkdir()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with trio.socket.from_stdlib_socket(ours) as end:
        with theirs:
            pid = await client.spawn(RUN_KEPT, str(directory), [theirs.fileno()])
        with fail_after(20):
            assert await end.recv(1) == b""
    assert FAILED in (directory / "task.log").read_text()
    await until(lambda: start_ticks(pid) is None)
    return pid


@asynccontextmanager
async def open_client() -> AsyncIterator[SpawnerClient]:
    """Run a spawner; at the end nothing of it is left."""
    client = SpawnerClient()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.attend)
        await until(lambda: client.pid != 0)
        yield client
        left = (client.pid, *await standby_of(client))
        nursery.cancel_scope.cancel()
    client.close()
    await until(lambda: not any(map(start_ticks, left)))


async def test_the_next_task_is_run_by_the_process_that_stands_by(tmp_path: Path) -> None:
    """Then there is another one, for the task after that."""
    async with open_client() as client:
        first, _ = await standby_of(client)
        assert await spawn(client, tmp_path / "first") == first
        second, _ = await standby_of(client)
        assert second != first
        assert await spawn(client, tmp_path / "second") == second


async def test_without_one_a_process_is_forked(tmp_path: Path) -> None:
    """One that was killed costs no start, nor has a burst of starts to wait for the next one."""
    async with open_client() as client:
        killed, _ = await standby_of(client)
        os.kill(killed, signal.SIGKILL)
        await until(lambda: start_ticks(killed) is None)
        assert await spawn(client, tmp_path / "first") != killed
        assert await spawn(client, tmp_path / "second") > 0


def test_a_dead_one_gets_no_order_though_its_channel_is_open(
    tmp_path: Path,
) -> None:
    """Its preparer has the other end for a moment longer: the order would be nobody's."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    driver, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, driver, far:
        serving = spawner._Server(driver.fileno(), (1024, 1024))
        serving._standby = (pid, ours.detach())
        assert serving._order_standby(task_main.Order(RUN_KEPT, str(tmp_path), [])) is None
        assert theirs.recv(100) == b"", "there is an order"


class LateSocket(socket.socket):
    """A spawner's end of a channel: the word comes just as the spawner has given up."""

    late = b""

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Receive, or say that nothing came in time: the first time."""
        if late := self.late:
            self.late = b""
            self.peer.send(late)
            raise TimeoutError
        return super().recv(size, flags)

    peer: socket.socket


def test_an_order_is_taken_or_not_and_never_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a word in the last moment the spawner hears, or who says it hears that nobody did."""
    monkeypatch.setattr(spawner, "TAKEN_TIMEOUT_S", 0.01)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        assert not spawner._is_taken(ours)
        with pytest.raises(BrokenPipeError):
            theirs.send(TAKEN)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with LateSocket(fileno=ours.detach()) as late, theirs:
        late.late, late.peer = TAKEN, theirs
        assert spawner._is_taken(late)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
async def test_one_that_does_not_take_its_order_is_replaced(tmp_path: Path, number: int) -> None:
    """It is not known to have been stopped or killed; nothing of it is left."""
    async with open_client() as client:
        standby, preparer = await standby_of(client)
        os.kill(standby, number)  # it may not have ended yet
        assert await spawn(client, tmp_path / "first") != standby
        await until(lambda: start_ticks(standby) is None and start_ticks(preparer) is None)


@pytest.mark.parametrize("killed", [False, True])
async def test_a_stopped_one_ends_with_its_driver_or_spawner(killed: bool) -> None:
    """It cannot be told by the end of its channel."""
    client = SpawnerClient()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.attend)
        await until(lambda: client.pid != 0)
        left = await standby_of(client)
        os.kill(left[0], signal.SIGSTOP)
        nursery.cancel_scope.cancel()
    if killed:
        os.kill(client.pid, signal.SIGKILL)
        await until(lambda: not any(map(start_ticks, left)))
    client.close()
    await until(lambda: not any(map(start_ticks, (client.pid, *left))))


@pytest.mark.parametrize("whose", ["spawner", "standby"])
async def test_a_socket_that_finds_no_room_is_not_lost_in_silence(
    tmp_path: Path, whose: str
) -> None:
    """A process with as many descriptors as it may have is sent one: the kernel drops that."""
    async with open_client() as client:
        standby, _ = await standby_of(client)
        pid = client.pid if whose == "spawner" else standby
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        if whose == "spawner":
            with pytest.raises(SpawnerError, match="can be forked: Too many open files"):
                await spawn(client, tmp_path / "refused")
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
            assert await spawn(client, tmp_path / "first") == standby
        else:
            assert await spawn(client, tmp_path / "first") != standby


def test_what_has_the_number_of_one_that_has_ended_is_left_alone(tmp_path: Path) -> None:
    """A spawner has its children reaped by the kernel, and others get their numbers."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    driver, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    with driver, far, subprocess.Popen(["sleep", "60"]) as other:
        serving = spawner._Server(driver.fileno(), (1024, 1024))
        serving._standby = (other.pid, ours.detach())
        assert serving._order_standby(task_main.Order(RUN_KEPT, str(tmp_path), [])) is None
        assert other.poll() is None
        other.terminate()
    assert other.returncode == -signal.SIGTERM
