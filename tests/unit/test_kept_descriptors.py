"""The descriptors that a driver keeps for the successor of a task process."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Mapping
from types import SimpleNamespace
from typing import cast
from unittest import mock

import pytest
import trio
import trio.testing

from milo.core import control, records
from milo.core.records import ExitRecord, ProcessId
from milo.host.follower import Follower
from milo.host.kept_descriptors import KeptDescriptors
from milo.host.leftovers.removal import Leftovers
from milo.host.managed import ManagedTask
from milo.host.rush import Rush
from milo.host.spawner_client import SpawnerClient
from milo.host.task_client import TaskClient
from milo.host.task_processes import TaskProcesses
from milo.proc import start_ticks
from tests.support.launches import make_launch


class Answers:
    """A task process that gives what it is told to, when it is told to."""

    welcome = SimpleNamespace(supervisor=ProcessId(0, 0))

    def __init__(self) -> None:
        self.died = trio.Event()
        self._answers, self._next = trio.open_memory_channel[dict[str, int]](10)

    def give(self, *names: str) -> None:
        """Answer one question with descriptors of these names."""
        null = os.open(os.devnull, os.O_RDONLY)
        self._answers.send_nowait({name: os.dup(null) for name in names})
        os.close(null)

    async def descriptors(self) -> dict[str, int]:
        """What `TaskClient.descriptors` does."""
        return await self._next.receive()

    async def run(self) -> None:
        """What `TaskClient.run` does: it ends with the process."""
        await self.died.wait()


class Processes:
    """Takes a while to make a successor, and looks then at what it was to pass on."""

    def __init__(self) -> None:
        self.go_on = trio.Event()
        self.fds: list[int] = []
        self.passed_on: dict[str, bool] = {}

    async def adopt(self, state_dir: str, descriptors: Mapping[str, int]) -> None:
        """What `TaskProcesses.adopt` does."""
        await self.go_on.wait()
        self.fds = list(descriptors.values())
        self.passed_on = {name: is_open(fd) for name, fd in descriptors.items()}


def make_task(client: Answers) -> ManagedTask:
    """Return a task whose process is ``client``."""
    launch = make_launch(
        task_id="a/app/1",
        task_name="app",
        alloc_id="a",
        alloc_dir="/nowhere",
        stdout_path="/nowhere/1",
        stderr_path="/nowhere/2",
        state_dir="/nowhere/state",
        crun_path="/usr/bin/crun",
        javas=(),
    )
    task = ManagedTask(launch, on_event=lambda *_: None, on_log=lambda *_: None)
    task.connection.use(cast(TaskClient, client))
    return task


def is_open(fd: int) -> bool:
    """Whether a descriptor is open."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


async def test_a_change_wakes_whoever_waits_for_one() -> None:
    """A fetch by somebody else does not make the follower miss the next change."""
    client = Answers()
    task = make_task(client)
    woken = trio.Event()

    async def follow() -> None:
        await task.descriptors.stale.wait()
        woken.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        client.give("stdout.pipe")
        await task.fetch_descriptors()
        assert not woken.is_set()
        task.take(control.DescriptorsChanged())
        with trio.fail_after(5):
            await woken.wait()
    task.descriptors.release()


async def test_a_start_waits_for_descriptors_only_where_there_are_none() -> None:
    """They come before the application runs; only if they have not, it is asked for them then."""
    early, late = make_task(client := Answers()), make_task(other := Answers())
    started = control.Started(ProcessId(0, 0), "", "", 0.0)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(early.fetch_descriptors)
            await trio.testing.wait_all_tasks_blocked()
            early.take(started)
            nursery.start_soon(early.wait_started)
            await trio.testing.wait_all_tasks_blocked()
            client.give("stdout.pipe")
    null = os.open(os.devnull, os.O_RDONLY)
    late.descriptors.keep({"stdout.fifo": null})  # of an earlier instance
    late.take(started)
    other.give("stdout.pipe")
    with trio.fail_after(5):
        await late.wait_started()
    assert set(late.descriptors._kept) == {"stdout.fifo", "stdout.pipe"}
    for task in (early, late):
        task.descriptors.release()


async def test_a_change_during_a_fetch_is_not_lost() -> None:
    """What changes while the answer is on its way is asked for again."""
    client = Answers()
    task = make_task(client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(task.fetch_descriptors)
        await trio.testing.wait_all_tasks_blocked()
        task.take(control.DescriptorsChanged())
        client.give("stdout.pipe")
    assert task.descriptors.stale.is_set()
    task.descriptors.release()


async def test_a_fifo_is_held_until_there_is_another_one() -> None:
    """The write end of a FIFO outlives the instance that opened it, until the next opens it."""
    client = Answers()
    task = make_task(client)
    client.give("stdout.fifo", "stdout.pipe")
    await task.fetch_descriptors()
    first = task.descriptors._kept
    client.give("stdout.pipe")
    await task.fetch_descriptors()
    assert task.descriptors._kept["stdout.fifo"] == first["stdout.fifo"]
    assert task.descriptors._kept["stdout.pipe"] != first["stdout.pipe"]
    client.give("stdout.pipe", "stdout.fifo")
    await task.fetch_descriptors()
    assert task.descriptors._kept["stdout.fifo"] != first["stdout.fifo"]
    kept = list(task.descriptors._kept.values())
    task.finish(ExitRecord(exit_code=0))
    assert task.descriptors._kept == {} and not any(map(is_open, kept))
    client.give("stdout.pipe", "stdout.fifo")
    await task.fetch_descriptors()
    assert task.descriptors._kept == {}


async def test_what_a_successor_gets_is_what_came_last() -> None:
    """An answer that is on its way when the task process dies closes nothing that is passed on."""
    client = Answers()
    task = make_task(client)
    client.give("stdout.pipe")
    await task.fetch_descriptors()
    processes = Processes()
    leftovers = mock.AsyncMock(Leftovers)
    follower = Follower(cast(TaskProcesses, processes), leftovers, lambda *_: None, Rush())
    task.take(control.Started(ProcessId(0, 0), "", "", 0.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.follow, task)
        await trio.testing.wait_all_tasks_blocked()
        client.died.set()
        await trio.testing.wait_all_tasks_blocked()
        client.give("stdout.pipe", "stdout.fifo")
        await trio.testing.wait_all_tasks_blocked()
        processes.go_on.set()
    assert processes.passed_on == {"stdout.pipe": True, "stdout.fifo": True}
    assert not any(map(is_open, processes.fds))


async def test_a_dead_spawner_is_replaced_before_it_is_needed() -> None:
    """An attended spawner that is killed has a successor without anybody asking for one."""
    client = SpawnerClient()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.attend)
        with trio.fail_after(20):
            while not client.pid:  # noqa: ASYNC110
                await trio.sleep(0.01)
            first = client.pid
            os.kill(first, signal.SIGKILL)
            while client.pid == first:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert start_ticks(client.pid) is not None
        nursery.cancel_scope.cancel()
    last = client.pid
    client.close()
    with trio.fail_after(20):
        while start_ticks(last) is not None:  # noqa: ASYNC110
            await trio.sleep(0.01)
    client.close()
    assert not os.path.exists(f"/proc/{last}"), "a zombie stays"


async def test_without_room_none_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that has no descriptors left has a successor made all the same, and leaks none."""
    kept = KeptDescriptors()
    kept.keep({f"{name}{records.FIFO_SUFFIX}": os.open(os.devnull, os.O_RDONLY) for name in "ab"})
    real, made = os.dup, list[int]()

    def dup(fd: int) -> int:
        if made:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        made.append(real(fd))
        return made[-1]

    monkeypatch.setattr(os, "dup", dup)
    assert await kept.lend() == {}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(made.pop())
    assert kept.lend_fifos() == {}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(made.pop())
    monkeypatch.undo()
    kept.release()
