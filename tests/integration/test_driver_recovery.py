"""Tasks and their output survive the death of the processes around them."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
import trio

from milo.core import records
from milo.core.config.plugin_options import PluginOptions
from milo.core.report import ExitResult, TaskState
from milo.errors import StateError, TaskNotFoundError
from milo.proc import start_ticks
from tests.support import spawners
from tests.support.driver_rig import DriverRig, LogReader, Task, open_rig
from tests.support.waiting import fail_after

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")


DIES_ONCE = """
import os, signal, milo.task.supervisor as supervisor
conclude = supervisor.conclude
async def die_once(launch, running, *rest):
    mark = os.path.join(launch.state_dir, "died")
    if not os.path.exists(mark):
        await running.container.destroy()
        open(mark, "x").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return await conclude(launch, running, *rest)
supervisor.conclude = die_once
"""


async def container_pid(rig: DriverRig, task: Task) -> int:
    """Return the container's first process, on the host."""
    return int((await rig.registry.inspect(task.id)).attributes["container_pid"])


async def until_gone(pid: int) -> None:
    """Return once a process has ended."""
    with fail_after(20):
        while start_ticks(pid) is not None:  # noqa: ASYNC110
            await trio.sleep(0.02)


def ticks(reader: LogReader) -> list[int]:
    """Return the numbers of the lines that clock.jar has printed.

    Such a line may begin in the middle of one that the JVM itself is printing, a thread dump's.
    """
    return [int(number) for number in re.findall(rb"tick (\d+) ", reader.text)]


async def test_a_running_task_is_taken_over(jar_dir: Path) -> None:
    """A new driver process has the same JVM, its stats, its signals and its whole output."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "clock.jar", args=["5", "0"])
        handle = await rig.registry.start(task.request)
        pid = await container_pid(rig, task)
        await trio.to_thread.run_sync(task.out.wait_for, b"tick 20 ")
        await rig.restart()
        await rig.registry.recover(task.id, handle)
        assert await container_pid(rig, task) == pid
        await trio.to_thread.run_sync(task.out.wait_for, b"tick 200 ")
        await rig.registry.signal(task.id, "SIGQUIT")
        await trio.to_thread.run_sync(task.out.wait_for, b"Full thread dump")
        await rig.registry.stop(task.id, "SIGTERM", 10)
        assert await rig.registry.wait(task.id) == ExitResult(exit_code=143)
        await trio.to_thread.run_sync(task.out.wait_end)
        assert ticks(task.out) == list(range(len(ticks(task.out))))


async def test_a_task_that_ended_meanwhile_has_its_true_exit(jar_dir: Path) -> None:
    """What ended while there was no driver is recovered with its exit code and last output."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "clock.jar", args=["20", "50"])
        handle = await rig.registry.start(task.request)
        pid = await container_pid(rig, task)
        rig.pause()
        await until_gone(pid)
        await trio.to_thread.run_sync(task.out.wait_end)
        assert ticks(task.out) == list(range(50))
        await rig.restart()
        await rig.registry.recover(task.id, handle)
        assert await rig.registry.wait(task.id) == ExitResult()
        status = await rig.registry.inspect(task.id)
        assert status.state is TaskState.EXITED
        assert status.attributes["stdout.bytes_moved"] == str(task.out.length)


async def test_a_successor_takes_over_from_a_killed_task_process(jar_dir: Path) -> None:
    """The JVM runs on, streamed without a gap and stoppable; its exit is unknown, no success."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "clock.jar", args=["2", "0"])
        await rig.registry.start(task.request)
        pid = await container_pid(rig, task)
        supervisor = 0
        for round_number in range(1, 4):
            await trio.to_thread.run_sync(task.out.wait_for, b"tick %d " % (round_number * 100))
            # A successor's lines may come before the driver has connected to it.
            while (successor := await rig.supervisor(task)) == supervisor:  # noqa: ASYNC110
                await trio.sleep(0.01)
            supervisor = successor
            os.kill(supervisor, signal.SIGKILL)
            await until_gone(supervisor)
        await trio.to_thread.run_sync(task.out.wait_for, b"tick 600 ")
        assert await container_pid(rig, task) == pid and start_ticks(pid) is not None
        await rig.registry.stop(task.id, "SIGTERM", 10)
        result = await rig.registry.wait(task.id)
        assert result.error and result.exit_code != 0
        await trio.to_thread.run_sync(task.out.wait_end)
        assert ticks(task.out) == list(range(len(ticks(task.out))))
        await rig.until_event(task, "taken over")
        counted = (await rig.registry.inspect(task.id)).attributes["stdout.bytes_moved"]
        # Each process went on with the last one's count, which may lag by the chunk that was
        # moved as it was killed: it is killed at the very moment at which a line arrives.
        assert task.out.length - 3 * 4096 <= int(counted) <= task.out.length


async def test_a_successor_does_not_judge_a_running_task_again(jar_dir: Path) -> None:
    """A task that today's rules or configuration would refuse runs on: it was permitted once.

    Its record may be of a Milo that knew fewer rules.
    """
    async with open_rig(PluginOptions(allow_host_namespaces=True)) as rig:
        task = rig.task(jar_dir / "clock.jar", args=["5", "0"], pid_mode="host")
        await rig.registry.start(task.request)
        pid = await container_pid(rig, task)
        [record] = rig.state_dir.glob(f"*/{records.LAUNCH_FILE}")
        fields = json.loads(record.read_text())
        fields["plugin"] = {"state_dir": fields["plugin"]["state_dir"]}
        record.write_text(json.dumps(fields))
        supervisor = await rig.supervisor(task)
        os.kill(supervisor, signal.SIGKILL)
        await until_gone(supervisor)
        count = len(ticks(task.out))
        await trio.to_thread.run_sync(task.out.wait_for, b"tick %d " % (count + 100))
        assert await container_pid(rig, task) == pid
        await rig.until_event(task, "taken over")
        await rig.registry.stop(task.id, "SIGTERM", 10)
        await rig.registry.wait(task.id)


async def test_a_container_that_dies_with_its_task_process_loses_no_output(jar_dir: Path) -> None:
    """When task process and JVM are killed together, what the pipe held is still delivered."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "both.jar", args=["3000"], readers=False)
        await rig.registry.start(task.request)
        pid = await container_pid(rig, task)
        supervisor = await rig.supervisor(task)
        os.kill(supervisor, signal.SIGSTOP)
        await until_gone_or_zombie(pid)
        os.kill(supervisor, signal.SIGKILL)
        task.stdout = LogReader(Path(task.request.stdout_path))
        task.stderr = LogReader(Path(task.request.stderr_path))
        assert (await rig.registry.wait(task.id)).error
        await trio.to_thread.run_sync(task.out.wait_end)
        assert task.out.text.decode().splitlines() == [f"out {i}" for i in range(3000)]


async def until_gone_or_zombie(pid: int) -> None:
    """Return once a process has ended, reaped or not."""
    await until_gone(pid)


async def test_driver_spawner_and_task_process_killed_at_once(jar_dir: Path) -> None:
    """The next driver finds the JVM by its record and streams on from its own descriptors."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "clock.jar", args=["5", "0"])
        handle = await rig.registry.start(task.request)
        pid = await container_pid(rig, task)
        await trio.to_thread.run_sync(task.out.wait_for, b"tick 10 ")
        supervisor = await rig.supervisor(task)
        rig.kill_all(supervisor)
        await until_gone(supervisor)
        await trio.to_thread.run_sync(task.out.wait_end)  # logmon would stop reading here
        task.stdout = LogReader(Path(task.request.stdout_path))
        await rig.restart()
        await rig.registry.recover(task.id, handle)
        assert await container_pid(rig, task) == pid
        await trio.to_thread.run_sync(task.out.wait_for, b"tick ")
        [figures] = await rig.registry.figures()
        assert figures.process_restarts == 1
        await rig.registry.stop(task.id, "SIGTERM", 10)
        assert (await rig.registry.wait(task.id)).error


@pytest.mark.parametrize("driver_lives", [True, False])
async def test_an_end_that_was_seen_is_not_lost(
    jar_dir: Path, monkeypatch: pytest.MonkeyPatch, *, driver_lives: bool
) -> None:
    """A task process is killed between the application's end and its record: 42 stays 42."""
    spawners.patch(monkeypatch, f"exec({DIES_ONCE!r})")
    async with open_rig() as rig:
        task = rig.task(jar_dir / "exit42.jar")
        handle = await rig.registry.start(task.request)
        if not driver_lives:
            rig.pause()
            (directory,) = rig.state_dir.iterdir()
            with fail_after(40):
                while not (directory / "died").exists():  # noqa: ASYNC110
                    await trio.sleep(0.01)
            await rig.restart()
            await rig.registry.recover(task.id, handle)
        with fail_after(40):
            assert await rig.registry.wait(task.id) == ExitResult(exit_code=42)
        await rig.until_event(task, "taken over")


async def test_a_container_that_is_gone_is_a_clear_answer(jar_dir: Path) -> None:
    """After a reboot RecoverTask fails, and leaves nothing behind."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar")
        handle = await rig.registry.start(task.request)
        pid = await container_pid(rig, task)
        supervisor = await rig.supervisor(task)
        rig.kill_all(supervisor, pid)
        await until_gone(pid)
        await rig.restart()
        with pytest.raises(TaskNotFoundError):
            await rig.registry.recover(task.id, handle)
        assert list(rig.state_dir.iterdir()) == []
        with pytest.raises(TaskNotFoundError):
            await rig.registry.recover(task.id, handle)  # the state directory is gone as well


async def test_a_recycled_process_id_is_not_the_task(jar_dir: Path) -> None:
    """A process with the recorded id but another start is left alone."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar")
        handle = await rig.registry.start(task.request)
        pid = await container_pid(rig, task)
        supervisor = await rig.supervisor(task)
        rig.kill_all(supervisor, pid)
        await until_gone(pid)
        async with trio.open_nursery() as nursery:
            stranger = await nursery.start(trio.run_process, ["sleep", "1000"])
            (directory,) = rig.state_dir.iterdir()
            path = directory / records.TASK_FILE
            old = records.decode(path.read_bytes(), records.TaskRecord, where="")
            assert old.container is not None
            import attrs

            forged = attrs.evolve(old, container=attrs.evolve(old.container, pid=stranger.pid))
            path.write_bytes(records.encode(forged))
            await rig.restart()
            with pytest.raises(TaskNotFoundError):
                await rig.registry.recover(task.id, handle)
            assert start_ticks(stranger.pid) is not None
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("state", [b"", b"nonsense", b'{"version":99}', b"\x00" * 50])
async def test_a_handle_that_is_none_is_refused(state: bytes) -> None:
    """RecoverTask of a handle that this Milo cannot read says so."""
    async with open_rig() as rig:
        with pytest.raises(StateError, match="task handle"):
            await rig.registry.recover("some-id", state)


async def test_destroy_of_an_id_from_before_finds_it_on_disk(jar_dir: Path) -> None:
    """DestroyTask(force) of an id that this driver never knew removes everything of it."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar")
        await rig.registry.start(task.request)
        pid = await container_pid(rig, task)
        supervisor = await rig.supervisor(task)
        await rig.restart()
        await rig.registry.destroy(task.id, force=True)
        await until_gone(supervisor)
        await until_gone(pid)


async def test_a_task_without_its_allocation_ends(
    jar_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task whose allocation's directory is gone stops its container and ends by itself."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar")
        await rig.registry.start(task.request)
        pid = await container_pid(rig, task)
        os.rename(task.request.alloc_dir, task.request.alloc_dir + ".gone")
        with fail_after(60):
            await until_gone_slowly(pid)


async def until_gone_slowly(pid: int) -> None:
    """Return once a process has ended, however long it takes."""
    while start_ticks(pid) is not None:  # noqa: ASYNC110
        await trio.sleep(0.1)
