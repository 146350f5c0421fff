"""A task process dies while no driver can act: its spawner forks the successor by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from milo.core import records
from milo.core.report import ExitResult
from milo.core.spawning import LOCK_TIMEOUT_S
from milo.files import take_lock
from milo.proc import lives, start_ticks
from milo.task.kept_tasks import MAX_DEATHS
from milo.unix_sockets import listen
from tests.bench.plugin_host import PluginHost, Task, install, open_host
from tests.chaos import processes
from tests.support import leftovers
from tests.support.driver_rig import DriverRig, open_rig
from tests.support.driver_rig import Task as RigTask
from tests.support.waiting import fail_after, scaled, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

RATE = 2_000_000
"""Bytes a second on each stream: the pipe of 1 MiB holds half a second of it."""
STALL_US = 1_000
MORE_S = 0.2
"""How much longer a write may take than the longest before: 50 ms on a quiet machine."""
LINES_S = 1.0
"""How long the application goes on after each fault."""


class Collector:
    """Reads one FIFO to its end, as logmon does, and keeps everything."""

    def __init__(self, path: str) -> None:
        self.data = bytearray()
        self.ended = threading.Event()
        self._path = path
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with open(self._path, "rb", buffering=0) as file:
            while part := file.read(1 << 20):
                self.data += part
        self.ended.set()


@pytest.fixture
def launcher(tmp_path: Path) -> Path:
    """What Nomad starts."""
    return install(tmp_path / "plugins")


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[list[records.ProcessId]]:
    """Neither a spawner nor a task process that the test names outlives what it was there for."""
    named: list[records.ProcessId] = []
    try:
        yield named
        wait_for("Milo's processes to end", lambda: not any(map(lives, named)))
        assert not leftovers.staying(tmp_path)
    finally:
        for process in filter(lives, named):
            os.kill(process.pid, signal.SIGKILL)
        leftovers.kill(tmp_path)


def spawner_of(plugin: int) -> records.ProcessId:
    """Return the spawner of a plugin process."""
    [pid] = processes.spawners(plugin)
    ticks = start_ticks(pid)
    assert ticks is not None
    return records.ProcessId(pid, ticks)


def record(state_dir: Path) -> records.TaskRecord:
    """Return who runs the one task that there is."""
    [path] = state_dir.glob(f"*/{records.TASK_FILE}")
    return records.decode(path.read_bytes(), records.TaskRecord, where=str(path))


def served_anew(state_dir: Path, killed: records.ProcessId) -> bool:
    """Whether another task process than ``killed`` has taken the task over."""
    supervisor = record(state_dir).supervisor
    return supervisor != killed and lives(supervisor)


def kill(*processes: int) -> float:
    """Kill them at the same moment, and return that."""
    for pid in processes:
        os.kill(pid, signal.SIGKILL)
    return time.time()


def report(task: Task) -> list[list[str]]:
    """Return the lines that the application has written about its own writes."""
    path = Path(task.config.alloc_dir) / "app/local/chaos.log"
    return [line.split() for line in path.read_text().splitlines()]


def judge(task: Task, collectors: dict[str, Collector]) -> None:
    """Assert that all that was written is there, once and in order, and no write was refused."""
    lines = report(task)
    assert not [line for line in lines if line[0] == "refused"]
    written = {words[1]: words for words in lines if words[0] == "end"}
    for stream, collector in collectors.items():
        assert collector.ended.wait(scaled(20))
        count, size = map(int, written[stream][2:4])
        assert len(collector.data) == size
        numbers = [int(line[2:14]) for line in collector.data.splitlines()]
        assert numbers == list(range(count))


def longest_s(task: Task, from_s: float, to_s: float) -> float:
    """Return the seconds of the longest write that was going on between two moments."""
    found = [0.0]
    for words in report(task):
        if words[0] == "stall":
            began_s, took_s = float(words[2]) / 1e3, float(words[3]) / 1e6
            if began_s <= to_s and began_s + took_s >= from_s:
                found.append(took_s)
    return max(found)


class Scene:
    """One task under a plugin process, and what a test does to both."""

    def __init__(
        self, launcher: Path, base: Path, jar_dir: Path, named: list[records.ProcessId]
    ) -> None:
        self.launcher, self.base, self.named = launcher, base, named
        self.jar = jar_dir / "chaos-lines.jar"
        self.state_dir = base / "state"

    async def play(self, deed: Callable[[PluginHost, records.ProcessId], float]) -> None:
        """Start the task, have ``deed`` done, and end it with another plugin process.

        ``deed`` gets the plugin and the task process, and returns when it was done.
        """
        async with open_host(self.launcher, self.base, self.state_dir) as host:
            task = host.lay_out(
                self.jar, args=[str(RATE), str(STALL_US)], jvm_options=(), memory_mb=256
            )
            collectors = {
                "o": Collector(task.config.stdout_path),
                "e": Collector(task.config.stderr_path),
            }
            await host.start(task, stats=False)
            await self._flow(collectors)
            killed = record(self.state_dir).supervisor
            self.named.append(spawner_of(host.process.popen.pid))
            began_s = time.time()
            await self._flow(collectors)
            at_s = deed(host, killed)
            await until(lambda: served_anew(self.state_dir, killed))
            again_s = time.time()
            self.named.append(record(self.state_dir).supervisor)
            await self._flow(collectors)
            assert not any(one.ended.is_set() for one in collectors.values())
            host.process.popen.kill()  # stopped or gone as it may be
        async with open_host(self.launcher, self.base, self.state_dir) as host:
            self.named.append(spawner_of(host.process.popen.pid))
            await host.recover(task, stats=False)
            await self._flow(collectors)
            await host.stop(task, timeout_s=30)
            told = await host.wait(task)
            assert told is not None and told.result.exit_code != 0 and "killed" in told.err
            judge(task, collectors)
            before_s = longest_s(task, began_s, at_s - 0.1)
            took_s = longest_s(task, at_s, again_s)
            print(
                f"\nserved again after {(again_s - at_s) * 1e3:.0f} ms; longest write then "
                f"{took_s * 1e3:.0f} ms, before {before_s * 1e3:.0f} ms; "
                f"load {os.getloadavg()[0]:.1f}"
            )
            await host.end(task, force=False)
        assert took_s <= before_s + scaled(MORE_S)

    async def _flow(self, collectors: dict[str, Collector]) -> None:
        """Return when a second's output more has arrived on both streams."""
        wanted = {one: len(one.data) + LINES_S * RATE for one in collectors.values()}
        await until(lambda: all(len(one.data) >= size for one, size in wanted.items()))


async def until(condition: Callable[[], bool]) -> None:
    """Return once ``condition`` holds."""
    await asyncio.to_thread(wait_for, "the application to go on", condition, pause_s=0.005)


def test_plugin_and_task_process_killed_at_once(
    launcher: Path, tmp_path: Path, jar_dir: Path, nothing_is_left: list[records.ProcessId]
) -> None:
    """No write is refused or held up, no byte is lost, and logmon sees no end of file."""

    def deed(host: PluginHost, task_process: records.ProcessId) -> float:
        return kill(host.process.popen.pid, task_process.pid)

    asyncio.run(Scene(launcher, tmp_path, jar_dir, nothing_is_left).play(deed))


def test_a_task_process_killed_while_the_plugin_is_stopped(
    launcher: Path, tmp_path: Path, jar_dir: Path, nothing_is_left: list[records.ProcessId]
) -> None:
    """The same: the plugin is not needed for a successor."""

    def deed(host: PluginHost, task_process: records.ProcessId) -> float:
        os.kill(host.process.popen.pid, signal.SIGSTOP)
        return kill(task_process.pid)

    asyncio.run(Scene(launcher, tmp_path, jar_dir, nothing_is_left).play(deed))


# ---- with a driver in this process -----------------------------------------------------


async def gone(pid: int) -> None:
    """Return once a process has ended."""
    with fail_after(20):
        while start_ticks(pid) is not None:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def succeeded(rig: DriverRig, killed: records.ProcessId) -> records.ProcessId:
    """Return the task process that has taken over from ``killed``."""
    with fail_after(20):
        while not served_anew(rig.state_dir, killed):  # noqa: ASYNC110
            await trio.sleep(0.01)
    return record(rig.state_dir).supervisor


async def kept_by(rig: DriverRig, task: RigTask, spawner: int) -> None:
    """Return once ``spawner`` is the keeper of the task."""
    with fail_after(20):
        while rig.registry._tasks[task.id].connection.require().keeper != spawner:  # noqa: ASYNC110
            await trio.sleep(0.01)


def ticks(task: RigTask) -> list[int]:
    """Return the numbers of the lines that clock.jar has printed."""
    return [int(number) for number in re.findall(rb"tick (\d+) ", task.out.text)]


async def further(task: RigTask) -> None:
    """Return when the application has printed more, all in order, and the stream has no end."""
    count = len(ticks(task))
    await trio.to_thread.run_sync(task.out.wait_for, b"tick %d " % (count + 50))
    found = ticks(task)  # once: more may come meanwhile
    assert found == list(range(len(found)))
    assert not task.out.ended


async def test_a_new_spawner_keeps_what_the_killed_one_kept(jar_dir: Path) -> None:
    """The driver sees to it; so plugin and task process may be killed again."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "clock.jar", args=["5", "0"])
        handle = await rig.registry.start(task.request)
        first = rig.spawner.pid
        await kept_by(rig, task, first)
        os.kill(first, signal.SIGKILL)
        await gone(first)
        with fail_after(20):
            while rig.spawner.pid == first:  # noqa: ASYNC110
                await trio.sleep(0.01)
        await kept_by(rig, task, rig.spawner.pid)
        killed = record(rig.state_dir).supervisor
        rig.pause()
        os.kill(killed.pid, signal.SIGKILL)
        await succeeded(rig, killed)
        await further(task)
        await rig.restart()
        await rig.registry.recover(task.id, handle)
        await rig.registry.stop(task.id, "SIGTERM", 10)
        assert (await rig.registry.wait(task.id)).error


async def test_a_spawner_ends_with_its_last_task(jar_dir: Path) -> None:
    """Its plugin is gone. The log has its end at once, and the next driver learns of the exit."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "clock.jar", args=["20", "150"])
        handle = await rig.registry.start(task.request)
        killed, spawner = record(rig.state_dir).supervisor, rig.spawner.pid
        rig.pause()
        rig.spawner.close()
        os.kill(killed.pid, signal.SIGKILL)
        await succeeded(rig, killed)
        assert start_ticks(spawner) is not None
        await trio.to_thread.run_sync(task.out.wait_end)
        assert ticks(task) == list(range(150))
        await gone(spawner)
        await rig.restart()
        await rig.registry.recover(task.id, handle)
        result = await rig.registry.wait(task.id)
        assert result.exit_code == -1 and "killed" in result.error


async def test_another_drivers_spawner_takes_over(jar_dir: Path) -> None:
    """A spawner without a plugin ends as soon as the next plugin's has its tasks."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "clock.jar", args=["5", "0"])
        handle = await rig.registry.start(task.request)
        spawner = rig.spawner.pid
        await rig.restart()
        assert start_ticks(spawner) is not None
        await rig.registry.recover(task.id, handle)
        await kept_by(rig, task, rig.spawner.pid)
        await gone(spawner)
        await further(task)
        await rig.registry.stop(task.id, "SIGTERM", 10)
        assert await rig.registry.wait(task.id) == ExitResult(exit_code=143)


async def test_a_task_process_that_dies_too_often_is_left_to_a_driver(jar_dir: Path) -> None:
    """The spawner makes no more successors and ends; the application runs on."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "clock.jar", args=["5", "0"])
        handle = await rig.registry.start(task.request)
        container = record(rig.state_dir).container
        current, spawner = record(rig.state_dir).supervisor, rig.spawner.pid
        rig.pause()
        rig.spawner.close()
        for _ in range(MAX_DEATHS):
            os.kill(current.pid, signal.SIGKILL)
            current = await succeeded(rig, current)
        await further(task)
        os.kill(current.pid, signal.SIGKILL)
        await gone(spawner)
        assert container is not None and lives(container) and not lives(current)
        await rig.restart()
        await rig.registry.recover(task.id, handle)
        assert record(rig.state_dir).container == container
        await rig.registry.stop(task.id, "SIGTERM", 10)
        assert (await rig.registry.wait(task.id)).error


async def test_a_successor_is_where_drivers_look_for_it(jar_dir: Path) -> None:
    """Also when a driver that was about to fork one has been killed, and left a dead socket."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "clock.jar", args=["5", "0"])
        handle = await rig.registry.start(task.request)
        await further(task)
        current, spawner = record(rig.state_dir).supervisor, rig.spawner.pid
        os.kill(spawner, signal.SIGSTOP)
        rig.pause()
        os.kill(current.pid, signal.SIGKILL)
        with fail_after(20):
            while lives(current):  # noqa: ASYNC110
                await trio.sleep(0.01)
        [state_dir] = (path.parent for path in rig.state_dir.glob(f"*/{records.TASK_FILE}"))
        lock = take_lock(str(state_dir))
        assert lock is not None
        (state_dir / records.CONTROL_SOCKET).unlink()
        listen(str(state_dir / records.CONTROL_SOCKET)).close()
        os.close(lock)
        os.kill(spawner, signal.SIGCONT)
        current = await succeeded(rig, current)
        await rig.restart()
        with fail_after(5):
            await rig.registry.recover(task.id, handle)
        assert servers(rig.state_dir) == [current.pid]
        await further(task)


async def test_a_death_at_any_moment_of_a_recovery_has_one_successor(jar_dir: Path) -> None:
    """Of two spawners and a driver one forks it: two task processes would share the log."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "clock.jar", args=["5", "0"])
        handle = await rig.registry.start(task.request)
        for round_number in range(12):
            current = record(rig.state_dir).supervisor
            await rig.restart()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rig.registry.recover, task.id, handle)
                await trio.sleep(round_number * 0.002)
                os.kill(current.pid, signal.SIGKILL)
            current = await succeeded(rig, current)
            await further(task)
            with fail_after(20):
                while len(servers(rig.state_dir)) != 1:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            assert servers(rig.state_dir) == [current.pid]
        await rig.registry.stop(task.id, "SIGTERM", 10)
        assert (await rig.registry.wait(task.id)).error


async def test_a_lock_that_somebody_holds_costs_no_output(jar_dir: Path) -> None:
    """A successor that a driver has forked may have it for long, and nothing else yet."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "clock.jar", args=["5", "0"])
        handle = await rig.registry.start(task.request)
        await further(task)
        killed = record(rig.state_dir).supervisor
        [directory] = rig.state_dir.glob(f"*/{records.TASK_FILE}")
        rig.pause()  # a driver would help
        os.kill(rig.spawner.pid, signal.SIGSTOP)  # or it has the lock first
        os.kill(killed.pid, signal.SIGKILL)
        with fail_after(20):
            while (lock := take_lock(str(directory.parent))) is None:
                await trio.lowlevel.checkpoint()
        os.kill(rig.spawner.pid, signal.SIGCONT)
        await trio.sleep(2 * LOCK_TIMEOUT_S)
        assert not task.out.ended
        os.close(lock)
        await succeeded(rig, killed)
        await further(task)
        await rig.restart()
        await rig.registry.recover(task.id, handle)


def servers(state_dir: Path) -> list[int]:
    """Return the task processes that hold the one state directory that there is."""
    [directory] = (str(path.parent) for path in state_dir.glob(f"*/{records.TASK_FILE}"))
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (path / "comm").read_text().strip() == "milo-task" and any(
                os.readlink(fd) == directory for fd in (path / "fd").iterdir()
            ):
                found.append(int(path.name))
    return found
