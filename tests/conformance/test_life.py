"""The life of a task, as the driver's RPCs give it to Nomad's client."""

from __future__ import annotations

import os
import signal
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from grpclib.exceptions import GRPCError

from milo import cgroup_files
from milo.errors import TaskStartError
from milo.proc import start_ticks
from milo.wire.hashicorp.nomad.plugins.drivers import proto as drivers
from tests.conformance.harness import EXITED, RUNNING, open_harness
from tests.support.waiting import fail_after, scaled

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")


@pytest.mark.parametrize(
    ("name", "timeout_s", "expected"),
    [
        ("SIGINT", 20.0, drivers.ExitResult(exit_code=130)),
        ("SIGKILL", 2.0, drivers.ExitResult(exit_code=137, signal=9)),
        ("", 0.0, drivers.ExitResult(exit_code=137, signal=9)),
    ],
)
async def test_a_stopped_task_has_failed_and_ended(
    jar_dir: Path, name: str, timeout_s: float, expected: drivers.ExitResult
) -> None:
    """Whatever stops a task, its end is no success, and InspectTask knows it as exited."""
    async with open_harness() as harness:
        task = harness.rig.task(jar_dir / "clock.jar")
        await harness.running(task, b"\n")
        began_s = time.monotonic()
        await harness.stop(task, name, timeout_s)
        result = await harness.wait(task)
        assert (result.exit_code, result.signal) == (expected.exit_code, expected.signal)
        assert time.monotonic() - began_s < scaled(10)
        assert (await harness.inspect(task)).state == EXITED


@pytest.mark.parametrize("timeout_s", [0.0, 0.1])
async def test_a_task_can_be_killed_as_soon_as_it_is_started(
    jar_dir: Path, timeout_s: float
) -> None:
    """SIGKILL at the moment in which StartTask has answered ends the task, and its log."""
    async with open_harness() as harness:
        task = harness.rig.task(jar_dir / "clock.jar")
        await harness.start(task)
        began_s = time.monotonic()
        await harness.stop(task, "SIGKILL", timeout_s)
        assert (await harness.wait(task)).signal == 9
        assert time.monotonic() - began_s < scaled(4)
        await trio.to_thread.run_sync(task.out.wait_end)
        await trio.to_thread.run_sync(task.err.wait_end)


async def test_a_wait_that_is_given_up_changes_nothing(jar_dir: Path) -> None:
    """A WaitTask whose client goes leaves the task running, and another WaitTask has its end."""
    async with open_harness() as harness:
        task = harness.rig.task(jar_dir / "stubborn.jar")
        await harness.running(task)
        with trio.move_on_after(0.3) as scope:
            await harness.wait(task)
        assert scope.cancelled_caught
        assert (await harness.inspect(task)).state == RUNNING
        await harness.stop(task, "SIGKILL", 0)
        assert (await harness.wait(task)).signal == 9


async def test_a_recovered_task_is_what_it_was(jar_dir: Path) -> None:
    """RecoverTask gives back the task as InspectTask showed it, and may be repeated."""
    async with open_harness() as harness:
        task = harness.rig.task(jar_dir / "stubborn.jar")
        handle = await harness.start(task)
        before = await harness.inspect(task)
        await harness.recover(handle)
        await harness.rig.restart()
        with pytest.raises(Exception, match=r"(?i)task"):
            await harness.inspect(task)
        await harness.recover(handle)
        assert await harness.inspect(task) == before
        await harness.stop(task, "SIGKILL", 0)
        result = await harness.wait(task)
        assert (result.exit_code, result.signal) == (137, 9)


async def test_the_first_sample_comes_at_once(jar_dir: Path) -> None:
    """TaskStats answers before its interval has passed, with the present time and measures."""
    async with open_harness() as harness:
        task = harness.rig.task(jar_dir / "stubborn.jar")
        await harness.running(task)
        with fail_after(2):
            stats = await harness.stats(task, 30)
        age = datetime.now(UTC) - stats.timestamp
        assert abs(age.total_seconds()) < 2
        usage = stats.agg_resource_usage
        assert usage.memory.measured_fields and usage.cpu.measured_fields


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_to_the_helper_ends_no_task(jar_dir: Path, number: signal.Signals) -> None:
    """What asks a task's own process to end has no effect: StopTask alone ends a task.

    Nomad's executor takes such a signal for a stop, and ends its task.
    """
    async with open_harness() as harness:
        task = harness.rig.task(jar_dir / "stubborn.jar")
        await harness.running(task)
        helper = await harness.rig.supervisor(task)
        os.kill(helper, number)
        await trio.sleep(0.5)
        assert start_ticks(helper) is not None
        assert (await harness.inspect(task)).state == RUNNING


async def test_the_helper_is_no_part_of_the_task(jar_dir: Path) -> None:
    """The task's cgroup holds the application and the pause process, and not Milo's helper."""
    async with open_harness() as harness:
        task = harness.rig.task(jar_dir / "stubborn.jar")
        await harness.running(task)
        started = harness.rig.registry._tasks[task.id].started
        assert started is not None
        inside = cgroup_files.processes(started.cgroup_path)
        assert await harness.rig.supervisor(task) not in inside
        names = sorted(Path(f"/proc/{pid}/comm").read_text().strip() for pid in inside)
        assert names == ["java", "milo-pause"]


async def test_a_task_sees_its_own_processes(jar_dir: Path) -> None:
    """A command sees the application, itself and, as process 1, the pause process.

    With Nomad's java driver the application is process 1.
    """
    async with open_harness() as harness:
        task = harness.rig.task(jar_dir / "stubborn.jar")
        await harness.running(task)
        session = await harness.shell(task, "cat /proc/[0-9]*/comm")
        assert sorted(session.stdout.split()) == [b"java", b"milo-pause", b"sh"]


async def test_a_class_file_alone_runs(jar_dir: Path) -> None:
    """`class` without class_path is looked for where the application begins."""
    async with open_harness() as harness:
        config: dict[str, Any] = {"class": "Hello", "work_dir": "/local"}
        task = harness.rig.task(None, **config)
        with zipfile.ZipFile(jar_dir / "hello.jar") as jar:
            (task.local / "Hello.class").write_bytes(jar.read("Hello.class"))
        await harness.start(task)
        assert (await harness.wait(task)).exit_code == 0
        await trio.to_thread.run_sync(task.out.wait_end)
        assert task.out.text.startswith(b"Hello")


async def test_a_relative_jar_begins_at_the_working_directory(jar_dir: Path) -> None:
    """A jar_path may lead out of work_dir and back into the task's directories."""
    async with open_harness() as harness:
        task = harness.rig.task(
            jar_dir / "probe.jar", jar_path="../probe.jar", work_dir="/local/below"
        )
        await harness.start(task)
        assert (await harness.wait(task)).exit_code == 0
        await trio.to_thread.run_sync(task.out.wait_end)
        assert b"cwd /local/below\n" in task.out.text


async def test_the_end_of_a_task_takes_no_device_from_another(jar_dir: Path) -> None:
    """A task reads and writes the usual devices, also after another one has ended."""
    words = ("dd", "if=/dev/zero", "of=/dev/null", "count=1")
    async with open_harness() as harness:
        one = harness.rig.task(jar_dir / "stubborn.jar")
        other = harness.rig.task(jar_dir / "stubborn.jar", name="other")
        await harness.running(one)
        await harness.running(other)
        for task in (one, other):
            assert (await harness.command(task, *words)).exit_code == 0
        await harness.stop(one, "SIGKILL", 0)
        await harness.wait(one)
        assert (await harness.command(other, *words)).exit_code == 0


async def test_an_unknown_user_is_named(jar_dir: Path) -> None:
    """A start as a user that the host does not have fails, and names the user."""
    async with open_harness() as harness:
        task = harness.rig.task(jar_dir / "hello.jar")
        with pytest.raises((TaskStartError, GRPCError), match="no-such-person"):
            await harness.start(task, user="no-such-person")


async def test_every_capability_that_is_refused_is_named(jar_dir: Path) -> None:
    """A start that asks for several capabilities that are not allowed names each of them."""
    async with open_harness() as harness:
        wanted = ["net_admin", "CAP_SYS_TIME", "net_bind_service"]
        task = harness.rig.task(jar_dir / "hello.jar", cap_add=wanted)
        with pytest.raises(TaskStartError) as caught:
            await harness.start(task)
        assert "net_admin" in str(caught.value) and "sys_time" in str(caught.value)
