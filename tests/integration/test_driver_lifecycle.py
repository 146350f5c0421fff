"""Start, stop, signal, exit and destroy, with the real crun and real JVMs."""

from __future__ import annotations

import os
import signal
import time
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from milo.core.config.plugin_options import PluginOptions
from milo.core.records import EXIT_FILE
from milo.core.report import ExitResult, TaskState
from milo.errors import MiloError, TaskNotFoundError, TaskRunningError, TaskStartError
from milo.host import registry
from milo.host.follower import connect
from milo.host.managed import ManagedTask
from milo.host.state_store import StateStore
from milo.proc import lives, start_ticks
from tests.support.driver_rig import DriverRig, Task, open_rig
from tests.support.waiting import fail_after, scaled

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")


async def started(rig: DriverRig, task: Task, line: bytes) -> int:
    """Start ``task``, wait for ``line`` on its stdout, return its process id on the host."""
    await rig.registry.start(task.request)
    await trio.to_thread.run_sync(task.out.wait_for, line)
    status = await rig.registry.inspect(task.id)
    return int(status.attributes["container_pid"])


async def test_exit_code_is_exact(jar_dir: Path) -> None:
    """An application that exits with 42 is reported with exit code 42, in words as well."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "exit42.jar")
        await rig.registry.start(task.request)
        result = await rig.registry.wait(task.id)
        assert result == ExitResult(exit_code=42)
        assert result.message.startswith("Task failed with exit code 42")


async def test_an_application_may_end_before_the_driver_has_connected(
    jar_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has been started, and is not started again: on a busy host the driver may be late."""

    async def connect_late(task: ManagedTask) -> None:
        with fail_after(20):
            while not Path(task.launch.state_dir, EXIT_FILE).exists():  # noqa: ASYNC110
                await trio.sleep(0.01)
        await connect(task)

    monkeypatch.setattr(registry, "connect", connect_late)
    async with open_rig() as rig:
        task = rig.task(jar_dir / "exit42.jar")
        await rig.registry.start(task.request)
        assert await rig.registry.wait(task.id) == ExitResult(exit_code=42)


@pytest.mark.parametrize("was_told", [False, True])
async def test_a_task_process_may_be_gone_before_the_driver_has_heard_it(
    jar_dir: Path, monkeypatch: pytest.MonkeyPatch, was_told: bool
) -> None:
    """The application has been started and has ended: it is not started again."""

    async def come_too_late(task: ManagedTask) -> None:
        store = StateStore(str(Path(task.launch.state_dir).parent))
        with fail_after(20):
            while (end := store.read_exit(task.launch.state_dir)) is None:  # noqa: ASYNC110
                await trio.sleep(0.01)
            record = store.read_task(task.launch.state_dir)
            assert record is not None
            os.kill(record.supervisor.pid, signal.SIGKILL)
            while lives(record.supervisor):  # noqa: ASYNC110
                await trio.sleep(0.01)
        if was_told:  # the connection broke after its welcome: `Follower` reads the same
            task.finish(end)
        else:
            await connect(task)

    monkeypatch.setattr(registry, "connect", come_too_late)
    async with open_rig() as rig:
        task = rig.task(jar_dir / "exit42.jar")
        await rig.registry.start(task.request)
        assert await rig.registry.wait(task.id) == ExitResult(exit_code=42)
        assert (await rig.registry.inspect(task.id)).started_at_s
        await rig.registry.destroy(task.id, force=False)


async def test_success_is_told(jar_dir: Path) -> None:
    """One event at the start, with all that is to be said, and one at the end."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "hello.jar", cap_drop=["all"])
        await rig.registry.start(task.request)
        assert (await rig.registry.wait(task.id)).message == ""
        await rig.until_event(task, "Task completed successfully")
        first, last = rig.texts(task)
        assert first.startswith("Runs on Java")
        assert ". cap_drop has no effect: " in first
        assert last == "Task completed successfully"


async def test_a_failure_is_one_event_of_nomads(jar_dir: Path) -> None:
    """What failed is told in the exit message, which Nomad has an event for, and nowhere else."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "exit42.jar")
        await rig.registry.start(task.request)
        result = await rig.registry.wait(task.id)
        assert result == ExitResult(exit_code=42)
        assert result.message.startswith("Task failed with exit code 42")
        await rig.registry.destroy(task.id, force=False)
        told = await rig.until_event(task, "Runs on Java")
        assert rig.texts(task) == [told] and told.startswith("Runs on Java")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["0", "137"], ExitResult(exit_code=137)), (None, ExitResult(exit_code=0, signal=9))],
)
async def test_code_137_is_no_signal(
    jar_dir: Path, arguments: list[str] | None, expected: ExitResult
) -> None:
    """Exit code 137 and death by signal 9 are told apart."""
    async with open_rig() as rig:
        if arguments is not None:
            task = rig.task(jar_dir / "last-words.jar", args=arguments)
            await rig.registry.start(task.request)
        else:
            task = rig.task(jar_dir / "stubborn.jar")
            os.kill(await started(rig, task, b"running"), signal.SIGKILL)
        assert await rig.registry.wait(task.id) == expected


async def test_output_of_the_last_instant_is_there_before_the_exit(jar_dir: Path) -> None:
    """When WaitTask answers, everything the application printed has been delivered."""
    async with open_rig() as rig:
        for _ in range(5):
            task = rig.task(jar_dir / "last-words.jar", args=["20000", "3"])
            await rig.registry.start(task.request)
            assert (await rig.registry.wait(task.id)).exit_code == 3
            await trio.to_thread.run_sync(task.out.wait_end)
            await trio.to_thread.run_sync(task.err.wait_end)
            assert task.out.text.endswith(b"last out 19999\n")
            assert task.err.text.endswith(b"last err 19999\n")


async def test_stop_lets_the_application_end_in_peace(jar_dir: Path) -> None:
    """StopTask sends its signal, and an application that heeds it is not killed."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar", args=["200"])
        await started(rig, task, b"running")
        await rig.registry.stop(task.id, "SIGTERM", 30)
        assert await rig.registry.wait(task.id) == ExitResult(exit_code=143)
        await trio.to_thread.run_sync(task.out.wait_for, b"ended in peace")


async def test_stop_kills_what_does_not_end(jar_dir: Path) -> None:
    """An application that ignores the signal is killed when the kill timeout has passed."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar", args=["600000"])
        await started(rig, task, b"running")
        before = time.monotonic()
        await rig.registry.stop(task.id, "SIGINT", 1.0)
        assert 1.0 <= time.monotonic() - before < scaled(8)
        assert await rig.registry.wait(task.id) == ExitResult(signal=9)
        await task.read()
        assert b"asked to end" in task.out.text


@pytest.mark.parametrize("name", ["SIGNULL", "SIGNONSENSE", "SIGSTOP", "SIGCONT"])
async def test_stop_kills_whatever_its_signal_is(jar_dir: Path, name: str) -> None:
    """A signal that cannot be sent, or ends nobody, is followed by SIGKILL like any other."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar", args=["600000"])
        await started(rig, task, b"running")
        before = time.monotonic()
        await rig.registry.stop(task.id, name, 1.0)
        assert 1.0 <= time.monotonic() - before < scaled(8)
        assert await rig.registry.wait(task.id) == ExitResult(signal=9)
        await task.read()
        assert b"asked to end" not in task.out.text


async def test_a_more_urgent_stop_overtakes(jar_dir: Path) -> None:
    """A second StopTask with a shorter timeout is not held up by the first."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar", args=["600000"])
        await started(rig, task, b"running")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.registry.stop, task.id, "SIGTERM", 300.0)
            await trio.to_thread.run_sync(task.out.wait_for, b"asked to end")
            with fail_after(20):
                await rig.registry.stop(task.id, "SIGKILL", 0.0)


async def test_signals_reach_the_application(jar_dir: Path) -> None:
    """SIGQUIT puts the JVM's thread dump into the task's log, and the task runs on."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar")
        await started(rig, task, b"running")
        await rig.registry.signal(task.id, "SIGQUIT")
        await trio.to_thread.run_sync(task.out.wait_for, b"Full thread dump")
        assert (await rig.registry.inspect(task.id)).state is TaskState.RUNNING
        with pytest.raises(MiloError, match="SIGNONSENSE"):
            await rig.registry.signal(task.id, "SIGNONSENSE")


async def test_unknown_ids(jar_dir: Path) -> None:
    """StopTask and DestroyTask of an unknown id succeed; Wait, Inspect and Signal say so."""
    async with open_rig() as rig:
        await rig.registry.stop("nobody", "SIGTERM", 5)
        await rig.registry.destroy("nobody", force=False)
        for call in (rig.registry.wait("nobody"), rig.registry.inspect("nobody")):
            with pytest.raises(TaskNotFoundError):
                await call
        with pytest.raises(TaskNotFoundError):
            await rig.registry.signal("nobody", "SIGTERM")


async def test_destroy_of_a_running_task_needs_force(jar_dir: Path) -> None:
    """DestroyTask refuses a running task, and with force ends it and leaves an exit record."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar")
        pid = await started(rig, task, b"running")
        with pytest.raises(TaskRunningError):
            await rig.registry.destroy(task.id, force=False)
        await rig.registry.destroy(task.id, force=True)
        assert not Path(f"/proc/{pid}").exists()
        (directory,) = rig.state_dir.iterdir()
        assert [path.name for path in directory.iterdir()] == ["exit.json"]


async def test_stop_after_exit_and_two_waits(jar_dir: Path) -> None:
    """Two WaitTasks get the same answer, and a StopTask after the exit succeeds."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "exit42.jar")
        await rig.registry.start(task.request)
        results: list[ExitResult] = []

        async def wait() -> None:
            results.append(await rig.registry.wait(task.id))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(wait)
        assert results == [ExitResult(exit_code=42)] * 2
        await rig.registry.stop(task.id, "SIGTERM", 5)
        status = await rig.registry.inspect(task.id)
        assert status.state is TaskState.EXITED and status.result == results[0]


async def test_a_living_id_is_not_started_twice(jar_dir: Path) -> None:
    """A second StartTask for a living id is refused and does not touch the first."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar")
        pid = await started(rig, task, b"running")
        with pytest.raises(TaskRunningError):
            await rig.registry.start(task.request)
        assert Path(f"/proc/{pid}").exists()


async def test_an_unclaimed_instance_is_removed_by_the_next_start(jar_dir: Path) -> None:
    """When the driver died inside StartTask, the next start leaves only one JVM."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar")
        pid = await started(rig, task, b"running")
        await rig.restart()
        again = rig.task(None, alloc_id=task.request.alloc_id, readers=False)
        await rig.registry.start(again.request)
        assert start_ticks(pid) is None


async def test_a_failed_start_leaves_nothing_and_tells_everywhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A JAR that is none: StartTask's error, of which Nomad makes an event, and on stderr."""
    script = tmp_path / "my-script.py"
    script.write_text("print('no')\n")
    async with open_rig() as rig:
        task = rig.task(script)
        text = "Error: Artifact must be a .jar file, got: my-script.py"
        with pytest.raises(TaskStartError) as caught:
            await rig.registry.start(task.request)
        assert str(caught.value) == text and not caught.value.recoverable
        await trio.to_thread.run_sync(task.err.wait_end)
        assert task.err.text.decode() == text + "\n"
        assert rig.texts(task) == []
        assert list(rig.state_dir.iterdir()) == []
    assert "does not answer and is killed" not in caplog.text  # it was ending by itself


async def test_missing_crun_is_told(jar_dir: Path) -> None:
    """Without crun, StartTask says where it was looked for and what to do."""
    async with open_rig(PluginOptions(crun_path="/nonexistent/crun")) as rig:
        task = rig.task(jar_dir / "hello.jar")
        with pytest.raises(TaskStartError, match=r"/nonexistent/crun.*Install"):
            await rig.registry.start(task.request)
        async with aclosing(rig.registry.fingerprints()) as fingerprints:
            assert (await anext(fingerprints)).health == "unhealthy"


async def test_crun_that_fails_is_quoted(jar_dir: Path, tmp_path: Path) -> None:
    """A failure of crun create is StartTask's error, with crun's own words in it."""
    crun = tmp_path / "crun"
    crun.write_text(
        "#!/bin/sh\necho 'the moon is in the wrong phase' >\"${2#--log=file:}\"\nexit 3\n"
    )
    crun.chmod(0o755)
    async with open_rig(PluginOptions(crun_path=str(crun))) as rig:
        task = rig.task(jar_dir / "hello.jar")
        with pytest.raises(TaskStartError, match=r"exit code 3.*wrong phase"):
            await rig.registry.start(task.request)
        assert list(rig.state_dir.iterdir()) == []


async def test_a_dead_spawner_is_replaced(jar_dir: Path) -> None:
    """When the spawner is killed, running tasks go on and the next start makes a new one."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar")
        pid = await started(rig, task, b"running")
        killed = rig.spawner.pid
        os.kill(killed, signal.SIGKILL)
        other = rig.task(jar_dir / "hello.jar", name="other")
        await rig.registry.start(other.request)
        assert rig.spawner.pid != killed and not Path(f"/proc/{killed}").exists()  # no zombie
        assert (await rig.registry.wait(other.id)).exit_code == 0
        assert Path(f"/proc/{pid}").exists()


async def test_a_task_is_at_an_ordinary_oom_score(jar_dir: Path) -> None:
    """Application and task process are in the memory killer's reach even when the driver is not."""
    own = Path("/proc/self/oom_score_adj")
    before = own.read_text()
    try:
        own.write_text("-1000")  # HashiCorp's service unit
    except PermissionError:
        own.write_text("500")  # without CAP_SYS_RESOURCE only the other direction is allowed
    try:
        async with open_rig() as rig:
            task = rig.task(jar_dir / "stubborn.jar")
            pid = await started(rig, task, b"running")
            for process in (pid, await rig.supervisor(task)):
                assert Path(f"/proc/{process}/oom_score_adj").read_text().strip() == "0"
    finally:
        own.write_text(before)


async def test_stats_have_time_and_use(jar_dir: Path) -> None:
    """TaskStats come at the interval, with a timestamp, memory and CPU."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar")
        await started(rig, task, b"running")
        samples = []
        async with aclosing(rig.registry.stats(task.id, 0.2)) as usages:
            async for usage in usages:
                samples.append(usage)
                if len(samples) == 3:
                    break
        assert all(abs(sample.timestamp_s - time.time()) < 30 for sample in samples)
        assert all(sample.memory.rss > 5 << 20 for sample in samples)
        assert "Percent" in samples[-1].cpu.measured


async def test_memory_killer_is_named(jar_dir: Path) -> None:
    """A task that the kernel kills at its memory limit is reported as OOM-killed."""
    async with open_rig() as rig:
        task = rig.task(
            jar_dir / "probe.jar", memory_mb=32, jvm_options=["-Xms512m", "-XX:+AlwaysPreTouch"]
        )
        try:
            await rig.registry.start(task.request)
        except TaskStartError:
            pytest.fail(f"crun cannot start in 32 MiB: {task.err.text!r}")
        result = await rig.registry.wait(task.id)
        assert result.oom_killed and result.signal == signal.SIGKILL
        assert result.message.startswith("OOM Killed: Task was killed by the kernel")
        assert "its limit of 32 MiB" in result.message


async def test_one_task_does_not_touch_another(jar_dir: Path) -> None:
    """The end of one task, its process included, is told for that task alone."""
    async with open_rig() as rig:
        first = rig.task(jar_dir / "stubborn.jar", name="first")
        second = rig.task(jar_dir / "stubborn.jar", name="second")
        victim = await started(rig, first, b"running")
        other = await started(rig, second, b"running")
        os.kill(await rig.supervisor(first), signal.SIGKILL)
        os.kill(victim, signal.SIGKILL)
        with fail_after(30):
            assert (await rig.registry.wait(first.id)).error
            while start_ticks(victim) is not None:  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert start_ticks(other) is not None
        assert (await rig.registry.inspect(second.id)).state is TaskState.RUNNING


async def test_recover_by_another_driver(jar_dir: Path) -> None:
    """A new driver takes a running task over by its handle: same JVM, waited for, stoppable."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar")
        handle = await rig.registry.start(task.request)
        before = await rig.registry.inspect(task.id)
        await trio.to_thread.run_sync(task.out.wait_for, b"running")
        await rig.restart()
        await rig.registry.recover(task.id, handle)
        await rig.registry.recover(task.id, handle)
        after = await rig.registry.inspect(task.id)
        assert after.attributes["container_pid"] == before.attributes["container_pid"]
        await rig.registry.stop(task.id, "SIGTERM", 10)
        assert (await rig.registry.wait(task.id)).exit_code == 143
