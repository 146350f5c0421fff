"""Applications that misbehave, and hosts that fail, from StartTask to DestroyTask.

For each: what the user is told, and (by the rig, at its end) that nothing is left behind.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import trio

from milo.core import control
from milo.core.config.plugin_options import PluginOptions
from milo.core.launch import JavaRuntime, Launch
from milo.core.records import ExitRecord, decode
from milo.core.report import ExitResult, TaskState
from milo.errors import StateError, TaskStartError
from milo.host.state_store import StateStore
from milo.proc import become_subreaper, start_ticks
from milo.task.children import Reaper
from milo.task.conclusion import LOW_PRIORITY
from milo.task.preparer import Preparer
from milo.task.supervisor import Supervisor
from tests.support import fake_crun, leftovers, private_mounts, scripted_java, spawners
from tests.support.driver_rig import DriverRig, Task, open_rig
from tests.support.perf_data import SERIAL, perf_data
from tests.support.private_mounts import read_only, small_tmpfs
from tests.support.waiting import fail_after, scaled

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")


@pytest.fixture(autouse=True)
def own_mounts() -> None:
    """Let a rig's spawner see the mounts that a test makes: it is executed as the rig begins."""
    private_mounts.enter()


async def started(rig: DriverRig, task: Task, line: bytes = b"running") -> int:
    """Start ``task``, wait for ``line`` on its stdout, return its process id on the host."""
    await rig.registry.start(task.request)
    await trio.to_thread.run_sync(task.out.wait_for, line)
    return int((await rig.registry.inspect(task.id)).attributes["container_pid"])


async def until_gone(pid: int) -> None:
    """Return once a process has ended."""
    with fail_after(20):
        while start_ticks(pid) is not None:  # noqa: ASYNC110
            await trio.sleep(0.02)


def exit_record(state_dir: Path) -> ExitRecord:
    """Return what a task process has written down of an exit."""
    return decode((state_dir / "exit.json").read_bytes(), ExitRecord, where="exit.json")


def running(words: str) -> list[int]:
    """Return the processes with ``words`` as their whole command line."""
    line = b"".join(word.encode() + b"\0" for word in words.split())
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                if (directory / "cmdline").read_bytes() == line:
                    found.append(int(directory.name))
            except OSError:
                continue
    return found


def scripted(tmp_path: Path, script: str) -> PluginOptions:
    """Return a configuration in which ``script`` is what every JAR does."""
    return PluginOptions(java_home=str(scripted_java.make(tmp_path / "jdk", script)))


# ---- applications -----------------------------------------------------------------------


async def test_sigterm_ignored(jar_dir: Path, tmp_path: Path) -> None:
    """What ignores SIGTERM is killed at its kill timeout, children too, and that is told."""
    script = "trap '' TERM INT; sleep 4001 & echo running; while :; do sleep 4002; done"
    async with open_rig(scripted(tmp_path, script)) as rig:
        with fail_after(40):
            task = rig.task(jar_dir / "hello.jar")
            await started(rig, task)
            begun = time.monotonic()
            await rig.registry.stop(task.id, "SIGTERM", 0.5)
            assert 0.5 <= time.monotonic() - begun < scaled(8)
            result = await rig.registry.wait(task.id)
            assert result == ExitResult(signal=9)
            assert "ended as asked by SIGKILL" in result.message
            assert not running("sleep 4001") and not running("sleep 4002")


async def test_children_hold_stdout(jar_dir: Path, tmp_path: Path) -> None:
    """A task whose children hold its streams open ends with its first process, at once."""
    script = "for i in 1 2 3; do setsid sleep 4003 & done; echo running; exit 3"
    async with open_rig(scripted(tmp_path, script)) as rig:
        with fail_after(40):
            task = rig.task(jar_dir / "hello.jar")
            await rig.registry.start(task.request)
            begun = time.monotonic()
            result = await rig.registry.wait(task.id)
            assert result == ExitResult(exit_code=3)
            assert time.monotonic() - begun < scaled(5)
            await trio.to_thread.run_sync(task.out.wait_end)
            await trio.to_thread.run_sync(task.err.wait_end)
            assert task.out.text == b"running\n"
            assert not running("sleep 4003")
            assert result.message.startswith("Task failed with exit code 3")


async def test_own_stdout_closed(jar_dir: Path, tmp_path: Path) -> None:
    """Closing its own stdout ends neither FIFO, nor stderr, before the application ends."""
    script = (
        "echo running; exec >&-; echo still here >&2; "
        "while [ ! -e /local/end ]; do sleep 0.05; done; echo end >&2"
    )
    async with open_rig(scripted(tmp_path, script)) as rig:
        with fail_after(40):
            task = rig.task(jar_dir / "hello.jar")
            await started(rig, task)
            await trio.to_thread.run_sync(task.err.wait_for, b"still here")
            assert not task.out.ended
            assert (await rig.registry.inspect(task.id)).state is TaskState.RUNNING
            (task.local / "end").touch()
            assert await rig.registry.wait(task.id) == ExitResult()
            await trio.to_thread.run_sync(task.out.wait_end)
            assert task.err.text == b"still here\nend\n"


async def test_exit_in_the_first_millisecond(jar_dir: Path, tmp_path: Path) -> None:
    """An exit at once is exact, with all of its output, every time, and StartTask succeeds."""
    async with open_rig(scripted(tmp_path, "echo there; exit 7")) as rig:
        with fail_after(60):
            for number in range(20):
                task = rig.task(jar_dir / "hello.jar", name=f"app{number}")
                await rig.registry.start(task.request)
                assert await rig.registry.wait(task.id) == ExitResult(exit_code=7)
                await trio.to_thread.run_sync(task.out.wait_end)
                assert task.out.text == b"there\n"
                await rig.registry.destroy(task.id, force=False)
        assert leftovers.files(rig.state_dir) == []


async def test_killed_from_outside(jar_dir: Path) -> None:
    """SIGKILL by somebody else is reported as that, and as unexpected."""
    async with open_rig() as rig:
        with fail_after(40):
            task = rig.task(jar_dir / "stubborn.jar")
            os.kill(await started(rig, task), signal.SIGKILL)
            result = await rig.registry.wait(task.id)
            assert result == ExitResult(signal=9)
            assert "ended unexpectedly by SIGKILL (signal 9)" in result.message


# ---- what only watches ------------------------------------------------------------------

UNTIL_TOLD = "while [ ! -e /local/end ]; do sleep 0.05; done"


async def test_hostile_performance_data(jar_dir: Path, tmp_path: Path) -> None:
    """What a task writes in its JVM's place ends nothing: the start is told, the exit is exact."""
    script = f"mkdir /tmp/hsperfdata_x; cp /local/data /tmp/hsperfdata_x/1; {UNTIL_TOLD}; exit 3"
    data = perf_data(SERIAL | {"java.property.java.version": "1", "java.rt.vmArgs": "-XX:Active"})
    async with open_rig(scripted(tmp_path, script)) as rig:
        with fail_after(40):
            task = rig.task(jar_dir / "hello.jar")
            (task.local / "data").write_bytes(data)
            await rig.registry.start(task.request)
            await rig.until_event(task, "Runs on Java 17.0.1")
            (task.local / "end").touch()
            assert await rig.registry.wait(task.id) == ExitResult(exit_code=3)


EVERYTHING_FAILS = """
import milo.task.supervisor as s, milo.task.java.jvm as j, milo.task.logs.streams as t
def fail(*arguments): raise IndexError('tuple index out of range')
async def fail_later(*arguments): fail()
j.describe = j.read_limits = j.Jvm.watch_dump = s.Supervisor._watch_allocation = fail
j.Jvm.tell_of_dump = s.Container.memory = s.Container.oom_killed = t.Streams.counters = fail
s.StopLadder.climb = fail_later
"""


async def test_watchers_that_fail(
    jar_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No failure of what runs beside the container ends it, and its exit is told and written."""
    spawners.patch(monkeypatch, f"exec({EVERYTHING_FAILS!r})")
    async with open_rig(scripted(tmp_path, f"echo running; {UNTIL_TOLD}; exit 3")) as rig:
        with fail_after(40):
            task = rig.task(jar_dir / "hello.jar")
            pid = await started(rig, task)
            (directory,) = rig.state_dir.iterdir()
            while "stop ladder failed" not in (directory / "task.log").read_text():  # noqa: ASYNC110
                await trio.sleep(0.05)
            assert start_ticks(pid) is not None
            (task.local / "end").touch()
            assert await rig.registry.wait(task.id) == ExitResult(exit_code=3)
            assert exit_record(directory).exit_code == 3


async def test_a_supervisor_that_is_cancelled(jar_dir: Path, tmp_path: Path) -> None:
    """The container is killed, waited for and removed, and its end is written down and told."""
    home = scripted_java.make(tmp_path / "jdk", "echo running; sleep 4009")
    java = JavaRuntime(str(home), "17.0.1", 17, "the test", trusted=False)
    become_subreaper()
    async with open_rig() as rig:
        with fail_after(40):
            launch = Launch.of(
                rig.task(jar_dir / "hello.jar").request,
                state_dir=str(rig.state_dir / "alone"),
                crun_path=shutil.which("crun") or "",
                javas=(java,),
                plugin=rig.options,
            )
            StateStore(str(rig.state_dir)).make(launch)
            told: list[str] = []

            def observe(message: control.Message) -> None:
                told.append(type(message).__name__)
                if isinstance(message, control.Started):
                    scope.cancel()
                    raise OSError("nobody is there to hear of it")

            with trio.CancelScope() as scope:
                await Supervisor(launch, Reaper(reap_all=False), observe=observe).run(
                    Preparer.fork()
                )
            others = [one for one in told if one != "DescriptorsChanged"]
            assert scope.cancelled_caught and others == ["Started"]
            assert not running("sleep 4009")
            record = decode(
                (Path(launch.state_dir) / "exit.json").read_bytes(), ExitRecord, where=""
            )
            assert record.signal == 9 and not record.error
            shutil.rmtree(launch.state_dir)


async def test_a_supervisor_that_fails(
    jar_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in what waits for the container ends it, and that is what its exit record says."""
    code = "import milo.task.supervisor as s; s.Streams.drained = lambda self: 1 / 0"
    spawners.patch(monkeypatch, code)
    async with open_rig(scripted(tmp_path, f"echo running; {UNTIL_TOLD}; exit 3")) as rig:
        with fail_after(40):
            task = rig.task(jar_dir / "hello.jar")
            await started(rig, task)
            (directory,) = rig.state_dir.iterdir()
            (task.local / "end").touch()
            result = await rig.registry.wait(task.id)
            assert "the process that supervised it failed: ZeroDivisionError" in result.error
            record = exit_record(directory)
            assert record.exit_code == 3 and record.ended_at_s >= record.started_at_s > 0


async def test_a_fault_before_the_start(
    jar_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of Milo's own while a task is prepared is StartTask's error, and leaves nothing."""
    code = "import milo.task.preparer as p; p.java_arguments = lambda *a: 1 / 0"
    spawners.patch(monkeypatch, code)
    async with open_rig() as rig:
        with fail_after(40):
            task = rig.task(jar_dir / "hello.jar")
            with pytest.raises(TaskStartError, match=r"fault of Milo's own: ZeroDivisionError"):
                await rig.registry.start(task.request)
            await trio.to_thread.run_sync(task.err.wait_for, b"fault of Milo's own")
            assert list(rig.state_dir.iterdir()) == []


# ---- crun -------------------------------------------------------------------------------


async def test_crun_start_fails(jar_dir: Path, tmp_path: Path) -> None:
    """A container that was made but cannot be started is StartTask's error and is removed."""
    crun = fake_crun.wrapper(tmp_path / "crun", "start", 'echo "no luck today" >"$log"; exit 1')
    async with open_rig(PluginOptions(crun_path=str(crun))) as rig:
        with fail_after(40):
            task = rig.task(jar_dir / "stubborn.jar")
            with pytest.raises(TaskStartError, match=r"crun start failed \(exit code 1\): no luck"):
                await rig.registry.start(task.request)
            assert list(rig.state_dir.iterdir()) == []
            assert rig.texts(task) == []


@pytest.mark.parametrize("command", ["create", "start"])
async def test_crun_hangs_at_the_start(
    jar_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """A crun that never answers is killed, with what it had started, and StartTask fails."""
    spawners.patch(monkeypatch, "import milo.task.oci.crun as c; c.COMMAND_TIMEOUT_S = 1.0")
    crun = fake_crun.wrapper(tmp_path / "crun", command, "sleep 4004; exit 1")
    async with open_rig(PluginOptions(crun_path=str(crun))) as rig:
        with fail_after(40):
            task = rig.task(jar_dir / "stubborn.jar")
            text = rf"crun {command} failed \(no answer in 1 s, so it was killed\)"
            with pytest.raises(TaskStartError, match=text):
                await rig.registry.start(task.request)
            assert list(rig.state_dir.iterdir()) == []
            await trio.to_thread.run_sync(task.err.wait_for, b"no answer in 1 s")
            for pid in running("sleep 4004"):
                await until_gone(pid)


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ('echo "out of order" >"$log"; exit 1', "crun delete failed (exit code 1): out of order"),
        ("sleep 4005; exit 1", "crun delete failed (no answer in 1 s"),
        ("", "crun was not found"),
    ],
    ids=["fails", "hangs", "missing"],
)
async def test_crun_at_the_end(
    jar_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
    words: str,
) -> None:
    """A crun that fails, hangs or is gone at stop time keeps nothing from ending or removal."""
    spawners.patch(monkeypatch, "import milo.task.oci.crun as c; c.DELETE_TIMEOUT_S = 1.0")
    crun = fake_crun.wrapper(tmp_path / "crun", "delete", trouble or ":")
    async with open_rig(PluginOptions(crun_path=str(crun))) as rig:
        with fail_after(60):
            task = rig.task(jar_dir / "stubborn.jar")
            pid = await started(rig, task)
            if not trouble:
                crun.unlink()
            await rig.registry.stop(task.id, "SIGTERM", 10)
            assert await rig.registry.wait(task.id) == ExitResult(exit_code=143)
            assert start_ticks(pid) is None
            (directory,) = rig.state_dir.iterdir()
            assert words in (directory / "task.log").read_text()
            for left in running("sleep 4005"):
                await until_gone(left)
            await rig.registry.destroy(task.id, force=False)
        assert leftovers.files(rig.state_dir) == []


async def test_the_end_gives_way_and_the_start_does_not(jar_dir: Path, tmp_path: Path) -> None:
    """Once the output is delivered the task process and its crun come behind the driver."""
    (noted := tmp_path / "nice").write_text("")
    crun = fake_crun.wrapper(tmp_path / "crun", "create|delete", f'echo "$word $(nice)" >>{noted}')
    async with open_rig(PluginOptions(crun_path=str(crun))) as rig:
        with fail_after(60):
            task = rig.task(jar_dir / "stubborn.jar")
            await started(rig, task)
            await rig.registry.stop(task.id, "SIGTERM", 10)
            await rig.registry.destroy(task.id, force=False)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert noted.read_text().splitlines() == [f"create {own}", f"delete {own or LOW_PRIORITY}"]


# ---- the state directory ----------------------------------------------------------------


def fill(directory: Path) -> Path:
    """Leave no byte free in the file system of ``directory``; return what takes the room."""
    path = directory / "filler"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while os.write(fd, bytes(size)):
                    pass
            except OSError:
                continue
    finally:
        os.close(fd)
    return path


async def test_full_before_the_start(jar_dir: Path) -> None:
    """With a full state directory StartTask fails, says so and what to do, and leaves nothing."""
    async with open_rig() as rig:
        with small_tmpfs(rig.state_dir), fail_after(40):
            filler = fill(rig.state_dir)
            task = rig.task(jar_dir / "stubborn.jar")
            with pytest.raises(StateError, match=r"No space left.*Free space there") as caught:
                await rig.registry.start(task.request)
            assert caught.value.recoverable
            assert list(rig.state_dir.iterdir()) == [filler]
            filler.unlink()
            again = rig.task(jar_dir / "exit42.jar", name="again")
            await rig.registry.start(again.request)
            assert (await rig.registry.wait(again.id)).exit_code == 42
            await rig.registry.destroy(again.id, force=False)


async def test_too_small_for_the_bundle(jar_dir: Path) -> None:
    """Space that runs out while the container is made fails StartTask and leaves nothing."""
    async with open_rig() as rig:
        with small_tmpfs(rig.state_dir), fail_after(40):
            filler = fill(rig.state_dir)
            os.truncate(filler, filler.stat().st_size - 8192)
            task = rig.task(jar_dir / "stubborn.jar")
            with pytest.raises((TaskStartError, StateError), match="No space left"):
                await rig.registry.start(task.request)
            assert list(rig.state_dir.iterdir()) == [filler]


async def test_full_while_it_runs(jar_dir: Path) -> None:
    """A state directory that fills up costs a running task nothing but the record of its exit."""
    async with open_rig() as rig:
        with small_tmpfs(rig.state_dir), fail_after(60):
            task = rig.task(jar_dir / "clock.jar", args=["5", "0"])
            pid = await started(rig, task, b"tick 10 ")
            filler = fill(rig.state_dir)
            os.kill(await rig.supervisor(task), signal.SIGKILL)
            await rig.until_event(task, "taken over")
            seen = task.out.text.count(b"\n")
            await trio.to_thread.run_sync(task.out.wait_for, b"tick %d " % (seen + 50))
            assert start_ticks(pid) is not None
            await rig.registry.stop(task.id, "SIGTERM", 10)
            assert (await rig.registry.wait(task.id)).error
            await rig.registry.destroy(task.id, force=False)
            assert leftovers.files(rig.state_dir) == [f"file {filler}"]


async def test_read_only_before_the_start(jar_dir: Path) -> None:
    """With a read-only state directory StartTask fails and says so."""
    async with open_rig() as rig:
        with small_tmpfs(rig.state_dir), fail_after(40):
            task = rig.task(jar_dir / "stubborn.jar")
            with read_only(rig.state_dir), pytest.raises(StateError, match="Read-only"):
                await rig.registry.start(task.request)
            assert list(rig.state_dir.iterdir()) == []


async def test_read_only_while_it_runs(jar_dir: Path) -> None:
    """A state directory that turns read-only does not keep a task from its exact end."""
    async with open_rig() as rig:
        with small_tmpfs(rig.state_dir), fail_after(60):
            task = rig.task(jar_dir / "stubborn.jar")
            pid = await started(rig, task)
            with read_only(rig.state_dir):
                await rig.registry.stop(task.id, "SIGTERM", 10)
                assert await rig.registry.wait(task.id) == ExitResult(exit_code=143)
                assert start_ticks(pid) is None
                await rig.registry.destroy(task.id, force=False)


async def test_read_only_without_its_process(jar_dir: Path) -> None:
    """A task process killed over a read-only state directory takes its container with it."""
    async with open_rig() as rig:
        with small_tmpfs(rig.state_dir), fail_after(60):
            task = rig.task(jar_dir / "stubborn.jar")
            pid = await started(rig, task)
            with read_only(rig.state_dir):
                os.kill(await rig.supervisor(task), signal.SIGKILL)
                result = await rig.registry.wait(task.id)
                assert "Read-only" in result.error
                await until_gone(pid)
                await rig.registry.destroy(task.id, force=False)
            assert result.message.startswith("How the task ended is not known")


# ---- what lies under the task -----------------------------------------------------------


async def test_jdk_removed(jar_dir: Path, tmp_path: Path) -> None:
    """A running task outlives the removal of its JDK; the next start names another one."""
    home = Path("/usr/lib/jvm/java-17-openjdk-amd64")
    if not home.is_dir():
        pytest.skip(f"there is no JDK in {home}")
    jdk = tmp_path / "jdk"
    shutil.copytree(home, jdk, symlinks=True, ignore=shutil.ignore_patterns("jmods", "src.zip"))
    async with open_rig(PluginOptions(java_home=str(jdk))) as rig:
        with fail_after(60):
            task = rig.task(jar_dir / "clock.jar", args=["20", "0"])
            pid = await started(rig, task, b"tick 5 ")
            shutil.rmtree(jdk)
            seen = task.out.text.count(b"\n")
            await trio.to_thread.run_sync(task.out.wait_for, b"tick %d " % (seen + 20))
            await rig.registry.stop(task.id, "SIGTERM", 10)
            assert (await rig.registry.wait(task.id)).exit_code == 143
            assert start_ticks(pid) is None
            again = rig.task(jar_dir / "exit42.jar", name="again")
            await rig.registry.start(again.request)
            assert (await rig.registry.wait(again.id)).exit_code == 42
            await rig.until_event(again, "Runs on Java")
            assert not any(str(jdk) in text for text in rig.texts(again))


async def test_task_directory_removed(jar_dir: Path) -> None:
    """A task whose own directory is removed under it is streamed, stopped and told as ever."""
    async with open_rig() as rig:
        with fail_after(60):
            task = rig.task(jar_dir / "clock.jar", args=["20", "0"])
            pid = await started(rig, task, b"tick 5 ")
            shutil.rmtree(task.request.task_dir)
            seen = task.out.text.count(b"\n")
            await trio.to_thread.run_sync(task.out.wait_for, b"tick %d " % (seen + 20))
            await rig.registry.stop(task.id, "SIGTERM", 10)
            assert (await rig.registry.wait(task.id)).exit_code == 143
            assert start_ticks(pid) is None
            await rig.registry.destroy(task.id, force=False)
            with pytest.raises(TaskStartError, match="local"):
                await rig.registry.start(task.request)


async def test_allocation_removed(jar_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task whose allocation's directory is removed, FIFOs and all, is stopped and told."""
    spawners.patch(monkeypatch, "import milo.task.supervisor as s; s.ALLOC_CHECK_S = 0.1")
    async with open_rig() as rig:
        with fail_after(40):
            task = rig.task(jar_dir / "stubborn.jar")
            pid = await started(rig, task)
            shutil.rmtree(task.request.alloc_dir)
            assert (await rig.registry.wait(task.id)).exit_code == 143
            await until_gone(pid)
            await rig.until_event(task, "its allocation's directory is gone")
            await rig.registry.destroy(task.id, force=False)
        assert list(rig.state_dir.iterdir()) == []


# ---- a task process that stands still ---------------------------------------------------


async def test_stuck_task_process(jar_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DestroyTask(force) of a task whose own process answers nothing removes both."""
    import milo.host.stopping as stopping
    import milo.host.task_client as task_client

    monkeypatch.setattr(stopping, "GRACE_S", 1.0)
    monkeypatch.setattr(task_client, "ANSWER_TIMEOUT_S", 0.5)
    monkeypatch.setattr(task_client, "CONNECT_TIMEOUT_S", 0.5)
    async with open_rig() as rig:
        with fail_after(60):
            task = rig.task(jar_dir / "stubborn.jar")
            pid = await started(rig, task)
            supervisor = await rig.supervisor(task)
            os.kill(supervisor, signal.SIGSTOP)
            await rig.registry.destroy(task.id, force=True)
            await until_gone(supervisor)
            await until_gone(pid)
        assert leftovers.files(rig.state_dir) == []
