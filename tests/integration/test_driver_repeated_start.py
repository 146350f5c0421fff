"""A start that Nomad repeats, because plugin or agent died inside of it, leaves one JVM."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
import pytest
import trio

from milo.core.report import ExitResult
from milo.proc import start_ticks
from tests.support.driver_rig import DriverRig, Task, open_rig
from tests.support.waiting import fail_after

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")


async def container_pid(rig: DriverRig, task_id: str) -> int:
    """Return the container's first process, on the host."""
    return int((await rig.registry.inspect(task_id)).attributes["container_pid"])


def again(task: Task, task_id: str) -> Task:
    """Return the same task of the same allocation under another id, as Nomad gives at a restart."""
    return attrs.evolve(task, request=attrs.evolve(task.request, task_id=task_id))


async def until_gone(pid: int) -> None:
    """Return once a process has ended."""
    with fail_after(20):
        while start_ticks(pid) is not None:  # noqa: ASYNC110
            await trio.sleep(0.02)


async def test_a_repeated_start_goes_on_with_the_first_one(jar_dir: Path) -> None:
    """After the plugin died inside StartTask, its repetition finds the JVM that runs already."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "clock.jar", args=["5", "0"])
        await rig.registry.start(task.request)
        pid = await container_pid(rig, task.id)
        await trio.to_thread.run_sync(task.out.wait_for, b"tick 10 ")
        await rig.restart()
        handle = await rig.registry.start(task.request)
        assert await container_pid(rig, task.id) == pid
        await trio.to_thread.run_sync(task.out.wait_for, b"tick 100 ")
        await rig.restart()
        await rig.registry.recover(task.id, handle)
        assert await container_pid(rig, task.id) == pid
        await rig.registry.stop(task.id, "SIGTERM", 10)
        assert await rig.registry.wait(task.id) == ExitResult(exit_code=143)


async def test_a_repeated_start_of_a_task_that_has_ended_has_its_exit(jar_dir: Path) -> None:
    """A task that ran to its end before StartTask was repeated is not run a second time."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "exit42.jar")
        await rig.registry.start(task.request)
        pid = await container_pid(rig, task.id)
        rig.pause()
        await until_gone(pid)
        await trio.to_thread.run_sync(task.out.wait_end)
        await rig.restart()
        await rig.registry.start(task.request)
        assert await rig.registry.wait(task.id) == ExitResult(exit_code=42)
        assert task.out.text == b"About to fail\n"


@pytest.mark.parametrize("known", [True, False])
async def test_a_start_under_a_new_id_ends_the_first_one(jar_dir: Path, known: bool) -> None:
    """After the agent's death inside StartTask there is one JVM, and its log is collected.

    The FIFO that the collector reads has a writer all the time: with its end of file the
    collector would stop reading, for this JVM too. Both if the driver process has lived on
    and if it is another one.
    """
    async with open_rig() as rig:
        task = rig.task(jar_dir / "clock.jar", args=["5", "0"])
        await rig.registry.start(task.request)
        first = await container_pid(rig, task.id)
        await trio.to_thread.run_sync(task.out.wait_for, b"tick 10 ")
        if not known:
            await rig.restart()
        other = again(task, f"{task.id}-other")
        await rig.registry.start(other.request)
        assert start_ticks(first) is None
        second = await container_pid(rig, other.id)
        with fail_after(20):
            while task.out.text.count(b"tick 0 ") < 2:  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert not task.out.ended
        assert start_ticks(second) is not None
        await rig.registry.stop(other.id, "SIGTERM", 10)
        await trio.to_thread.run_sync(task.out.wait_end)
        await rig.registry.destroy(other.id, False)
