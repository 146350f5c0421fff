"""Who was killed for memory: the application or another process of its task, and by whom."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from milo.core.config.plugin_options import PluginOptions
from tests.support import scripted_java
from tests.support.driver_rig import DriverRig, Task, open_rig
from tests.support.waiting import fail_after

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

HELPER = "echo begun; head -c 300m /dev/zero | tail | wc -c; echo survived\n"
"""A child that keeps all that it reads, until the kernel kills it; the application lives on."""
KILLED = "The kernel killed a process of the task for memory (limit 64 MiB)"


def scripted(tmp_path: Path, script: str) -> PluginOptions:
    """Return a configuration in which ``script`` is what every JAR does."""
    return PluginOptions(java_home=str(scripted_java.make(tmp_path / "jdk", script)))


async def started(rig: DriverRig, jar: Path) -> Task:
    """Start a task whose helper is killed, and return once the application has lived through it."""
    task = rig.task(jar, memory_mb=64)
    await rig.registry.start(task.request)
    await trio.to_thread.run_sync(task.out.wait_for, b"survived\n", 60)
    return task


async def event(rig: DriverRig, task: Task, words: str) -> str:
    """Return the event that holds ``words``, once it was told."""
    with fail_after(30):
        while not (found := [text for text in rig.texts(task) if words in text]):  # noqa: ASYNC110
            await trio.sleep(0.02)
    return found[0]


async def test_a_helpers_kill_and_a_stops_sigkill(jar_dir: Path, tmp_path: Path) -> None:
    """The helper's kill is told when it happens; a stop's SIGKILL later is never the kernel's."""
    async with open_rig(
        scripted(tmp_path, f"trap '' TERM; {HELPER} while :; do sleep 1; done")
    ) as rig:
        task = await started(rig, jar_dir / "hello.jar")
        assert await event(rig, task, "The kernel killed") == KILLED
        await rig.registry.stop(task.id, "SIGTERM", 0.5)
        result = await rig.registry.wait(task.id)
        assert (result.signal, result.oom_killed) == (signal.SIGKILL, False)
        assert result.message.startswith("Task was ended as asked by SIGKILL")
        assert "the kernel killed another process of the task for memory" in result.message


async def test_a_stop_right_after_a_helpers_kill(jar_dir: Path, tmp_path: Path) -> None:
    """Nor is it when nobody has had the time to look which of them was killed."""
    async with open_rig(scripted(tmp_path, f"{HELPER} exec sleep 1000")) as rig:
        task = await started(rig, jar_dir / "hello.jar")
        await rig.registry.stop(task.id, "SIGKILL", 0)
        result = await rig.registry.wait(task.id)
        assert (result.signal, result.oom_killed) == (signal.SIGKILL, False)
        assert result.message.startswith("Task was ended as asked by SIGKILL")


async def test_a_helpers_kill_and_the_applications_failure(jar_dir: Path, tmp_path: Path) -> None:
    """An application that ends since its child was killed is out of memory, as with Nomad's own."""
    async with open_rig(scripted(tmp_path, f"{HELPER} exit 137")) as rig:
        task = await started(rig, jar_dir / "hello.jar")
        result = await rig.registry.wait(task.id)
        assert (result.exit_code, result.signal, result.oom_killed) == (137, 0, True)
        assert result.message.startswith("Task failed with exit code 137")
        assert "the kernel killed another process of the task for memory" in result.message


async def test_a_helpers_kill_and_a_strangers_sigkill(jar_dir: Path, tmp_path: Path) -> None:
    """Nor is the SIGKILL of somebody on the host the kernel's, when the helper was long dead."""
    async with open_rig(scripted(tmp_path, f"{HELPER} exec sleep 1000")) as rig:
        task = await started(rig, jar_dir / "hello.jar")
        await event(rig, task, KILLED)
        attributes = (await rig.registry.inspect(task.id)).attributes
        os.kill(int(attributes["container_pid"]), signal.SIGKILL)
        result = await rig.registry.wait(task.id)
        assert result.message.startswith("Task was ended unexpectedly by SIGKILL")


async def test_a_helpers_kill_and_the_applications_own(jar_dir: Path, tmp_path: Path) -> None:
    """When the application too reaches the limit, that is its end, and both are told."""
    script = f"{HELPER} exec tail /dev/zero"
    async with open_rig(scripted(tmp_path, script)) as rig:
        task = await started(rig, jar_dir / "hello.jar")
        result = await rig.registry.wait(task.id)
        assert (result.signal, result.oom_killed) == (signal.SIGKILL, True)
        assert "because it reached its memory limit (OOM)" in result.message
        assert "another process of the task" in result.message


async def test_a_successor_knows_earlier_kills(jar_dir: Path, tmp_path: Path) -> None:
    """A successor of the task process takes no SIGKILL for that of an earlier kill."""
    async with open_rig(scripted(tmp_path, f"{HELPER} exec sleep 1000")) as rig:
        task = await started(rig, jar_dir / "hello.jar")
        os.kill(await rig.supervisor(task), signal.SIGKILL)
        await event(rig, task, "another one has taken over")
        await rig.registry.stop(task.id, "SIGTERM", 10)
        result = await rig.registry.wait(task.id)
        assert result.error and "(OOM)" not in result.message
