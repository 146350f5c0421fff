"""What the driver does when a task process falls silent, without root and containers.

A recorded task process (`tests.support.past_version`) plays the one that is followed.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from milo.core import records
from milo.core.config.plugin_options import PluginOptions
from milo.core.report import ExitResult, TaskEvent, TaskState
from milo.host import follower, registry, rush
from milo.host.registry import Registry
from milo.host.spawner_client import SpawnerClient
from milo.host.state_store import StateStore
from milo.host.task_processes import TaskProcesses
from milo.proc import start_ticks
from tests.support import spawners
from tests.support.past_version import VERSIONS, PastTask, Replay, identity, sleeper


@attrs.define
class Scene:
    """A task with a process and a container that can be ended."""

    past: PastTask
    supervisor: subprocess.Popen[bytes]
    container: subprocess.Popen[bytes]
    registry: Registry = attrs.field(init=False)
    events: list[TaskEvent] = attrs.field(factory=list)

    async def end(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        await trio.to_thread.run_sync(process.wait)

    async def told(self, text: str) -> None:
        """Return once an event has said so; there is a timeout around every scene."""
        while not any(text in event.message for event in self.events):  # noqa: ASYNC110
            await trio.sleep(0.01)

    async def collect(self) -> None:
        async with aclosing(self.registry.events()) as found:
            async for event in found:
                self.events.append(event)


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A task whose process and container are sleeping."""
    processes = [sleeper(), sleeper()]
    supervisor, container = processes
    # The path of a unix socket may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="milo-", dir="/tmp") as name:
        root = Path(name)
        past = PastTask(VERSIONS[-1], root, identity(supervisor.pid), identity(container.pid))
        past.write(records.LAUNCH_FILE, records.TASK_FILE)
        yield Scene(past, supervisor, container)
    for process in processes:
        process.kill()
        process.wait()


@asynccontextmanager
async def followed(
    scene: Scene, *, answering: bool = True, replay: Replay | None = None
) -> AsyncIterator[trio.CancelScope]:
    """Recover the task; cancelling the scope that is given ends its connection.

    Without ``answering`` its process has ended before; ``replay`` is who plays it.
    """
    spawner = SpawnerClient()
    scene.registry = Registry(spawner, environ={})
    await scene.registry.configure(PluginOptions(state_dir=str(scene.past.root / "state")))
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(scene.registry.run)
            nursery.start_soon(scene.collect)
            connection = trio.CancelScope()
            if answering:
                connection = await nursery.start(serve, scene.past, replay)
            await scene.registry.recover(scene.past.task_id, scene.past.handle)
            with trio.fail_after(30):
                yield connection
            nursery.cancel_scope.cancel()
    finally:
        spawner.close()


@asynccontextmanager
async def left_alone(scene: Scene, *, driver_lives: bool) -> AsyncIterator[None]:
    """The task process ends: before the driver's eyes, or before the driver recovers the task."""
    if not driver_lives:
        await scene.end(scene.supervisor)
    async with followed(scene, answering=driver_lives) as connection:
        if driver_lives:
            await scene.end(scene.supervisor)
            connection.cancel()
        yield


async def serve(
    past: PastTask,
    replay: Replay | None = None,
    task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Be the task process for one connection."""
    (past.state_dir / records.CONTROL_SOCKET).unlink(missing_ok=True)
    async with trio.open_nursery() as nursery:
        await nursery.start((replay or Replay(past)).run)
        task_status.started(nursery.cancel_scope)


async def test_a_lost_connection_is_made_again(scene: Scene) -> None:
    """As long as the task process lives, nothing has happened."""
    async with followed(scene) as connection, trio.open_nursery() as nursery:
        connection.cancel()
        await nursery.start(serve, scene.past)
        await scene.registry.stop(scene.past.task_id, "SIGTERM", 10.0)
        result = await scene.registry.wait(scene.past.task_id)
        assert result == ExitResult(exit_code=143)
        assert "stopped as asked" in result.message


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    """One task is a rush."""
    monkeypatch.setattr(rush, "FEW", 0)


@pytest.mark.usefixtures("crowd")
async def test_a_task_that_is_kept_is_recovered_before_it_is_provided_for(scene: Scene) -> None:
    """Its last driver's spawner has what a successor needs: the agent, with many, need not wait."""
    replay = Replay(scene.past, keeper=1)
    async with followed(scene, replay=replay):
        assert replay.requests == ["hello"]
        while replay.requests != ["hello", "descriptors", "keep"]:  # noqa: ASYNC110
            await trio.sleep(0.01)
        task = scene.registry._tasks[scene.past.task_id]
        while not task.descriptors._kept or task.connection.require().keeper == 1:  # noqa: ASYNC110
            await trio.sleep(0.01)


@pytest.mark.usefixtures("crowd")
@pytest.mark.parametrize("keeper", [None, 0])
async def test_a_task_that_nobody_keeps_is_provided_for_at_once(
    scene: Scene, keeper: int | None
) -> None:
    """As one that an older Milo has started, or whose keeper was killed."""
    replay = Replay(scene.past, keeper=keeper)
    async with followed(scene, replay=replay):
        assert replay.requests[:2] == ["hello", "descriptors"]
        assert scene.registry._tasks[scene.past.task_id].descriptors._kept


async def test_one_that_does_not_give_its_descriptors_holds_up_no_other(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its turn ends, and it is asked again until it has given them."""
    monkeypatch.setattr(follower, "TURN_S", 0.01)
    replay = Replay(scene.past, keeper=1)
    answer, replay._answers["descriptors"] = replay._answers["descriptors"], []
    async with followed(scene, replay=replay):
        while "descriptors" not in replay.requests:  # noqa: ASYNC110
            await trio.sleep(0.01)
        replay._answers["descriptors"] = answer
        task = scene.registry._tasks[scene.past.task_id]
        while not task.descriptors._kept:  # noqa: ASYNC110
            await trio.sleep(0.01)
        async with scene.registry._follower._providing:
            pass


async def test_statistics_begin_after_a_rush(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a thousand tasks the samples alone would keep the driver from answering."""
    taken: list[str] = []
    over = trio.Event()

    async def follow_usage(task_id: str, *_: object, keep: object) -> AsyncIterator[None]:
        taken.append(task_id)
        yield None

    monkeypatch.setattr(registry, "follow_usage", follow_usage)
    async with followed(scene), trio.open_nursery() as nursery:
        monkeypatch.setattr(scene.registry._rush, "over", over.wait)
        samples = scene.registry.stats(scene.past.task_id, 1.0)
        nursery.start_soon(anext, samples)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not taken
        over.set()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert taken == [scene.past.task_id]
        await samples.aclose()


async def test_an_exit_that_was_only_written_is_told(scene: Scene) -> None:
    """A task process that wrote its record and died before it could say so."""
    async with followed(scene) as connection:
        scene.past.write(records.EXIT_FILE)
        await scene.end(scene.supervisor)
        connection.cancel()
        assert await scene.registry.wait(scene.past.task_id) == ExitResult(exit_code=143)


async def test_a_successor_takes_over_while_the_driver_lives(scene: Scene) -> None:
    """The container runs on; its exit is unknown, and the user is told why."""
    async with followed(scene) as connection:
        await scene.end(scene.supervisor)
        connection.cancel()
        await scene.told("taken over")
        assert start_ticks(scene.container.pid) is not None
        await scene.registry.stop(scene.past.task_id, "SIGTERM", 10.0)
        result = await scene.registry.wait(scene.past.task_id)
        assert result.error and result.exit_code != 0
        await scene.registry.destroy(scene.past.task_id, force=False)
        assert result.message.startswith("How the task ended is not known")


@pytest.mark.parametrize("driver_lives", [True, False])
@pytest.mark.parametrize(("code", "number"), [(0, 0), (3, 0), (0, 15)])
async def test_an_end_that_was_seen_is_not_lost(
    scene: Scene, driver_lives: bool, code: int, number: int
) -> None:
    """A task process that is killed while it keeps a startup archive has written it down before."""
    seen = {"exit_code": code, "signal": number, "at_s": 1234.5}
    scene.past.write(records.TASK_FILE, ended=seen)
    await scene.end(scene.container)
    async with left_alone(scene, driver_lives=driver_lives):
        result = await scene.registry.wait(scene.past.task_id)
        assert (result.exit_code, result.signal, result.error) == (code, number, "")
        status = await scene.registry.inspect(scene.past.task_id)
        assert status.completed_at_s == 1234.5
        await scene.registry.destroy(scene.past.task_id, force=False)


async def test_a_task_that_dies_with_its_process_is_lost(scene: Scene) -> None:
    """Its record is gone as well: the end is told, never as a success, and nothing is left."""
    async with followed(scene) as connection:
        (scene.past.state_dir / records.TASK_FILE).unlink()
        await scene.end(scene.supervisor)
        connection.cancel()
        result = await scene.registry.wait(scene.past.task_id)
        assert "could not be taken over" in result.error
        assert not scene.past.state_dir.exists()


BROKEN = "raise ImportError('half of Milo is of another version')"


@pytest.mark.parametrize("driver_lives", [True, False])
async def test_a_spawner_that_cannot_import_costs_no_application(
    scene: Scene,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    driver_lives: bool,
) -> None:
    """While Milo's own files are broken it runs on alone; once they are whole, it is taken over.

    Whether the driver has seen the death of the task process or recovers the task. What the
    spawner printed is in the driver's log, and in an event.
    """
    with monkeypatch.context() as broken:
        spawners.patch(broken, BROKEN)
        async with left_alone(scene, driver_lives=driver_lives):
            await scene.told("half of Milo is of another version")
            assert "half of Milo is of another version" in caplog.text
            assert (await scene.registry.inspect(scene.past.task_id)).state is TaskState.RUNNING
            await trio.sleep(2.5)
            assert len([e for e in scene.events if "another version" in e.message]) == 1
            assert start_ticks(scene.container.pid) is not None
            broken.undo()
            await scene.told("taken over")
            assert start_ticks(scene.container.pid) is not None
            await scene.registry.destroy(scene.past.task_id, force=True)


async def reap(process: subprocess.Popen[bytes]) -> None:
    """Take the status of a child that somebody else ends: a zombie is not gone."""
    await trio.to_thread.run_sync(process.wait)


async def test_a_task_that_nobody_serves_can_be_stopped(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is unknown, and why is said with the spawner's words."""
    spawners.patch(monkeypatch, BROKEN)
    async with followed(scene) as connection, trio.open_nursery() as nursery:
        nursery.start_soon(reap, scene.container)
        await scene.end(scene.supervisor)
        connection.cancel()
        await scene.told("another version")
        await scene.registry.stop(scene.past.task_id, "SIGTERM", 1.0)
        result = await scene.registry.wait(scene.past.task_id)
        assert "another version" in result.error


class DyingFirst(TaskProcesses):
    """Has its first successor die while the driver waits for what it says."""

    def __init__(self, spawner: SpawnerClient, nursery: trio.Nursery) -> None:
        super().__init__(spawner)
        self.nursery = nursery
        self.adoptions = 0

    async def adopt(self, state_dir: str, descriptors: Mapping[str, int]) -> None:
        self.adoptions += 1
        if self.adoptions > 1:
            await super().adopt(state_dir, descriptors)
            return
        (Path(state_dir) / records.CONTROL_SOCKET).unlink(missing_ok=True)
        listener = StateStore(str(Path(state_dir).parent)).listen(state_dir)
        self.nursery.start_soon(die, listener)


async def die(listener: socket.socket) -> None:
    """Close a socket as the kernel does for who is killed: whoever has connected is cut off."""
    await trio.testing.wait_all_tasks_blocked()
    listener.close()


@pytest.mark.parametrize("driver_lives", [True, False])
async def test_a_successor_that_is_killed_at_once_has_one_too(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, driver_lives: bool
) -> None:
    """As long as the container lives, whether the driver has seen the death or recovers."""
    async with trio.open_nursery() as nursery:
        made: list[DyingFirst] = []

        def processes(spawner: SpawnerClient) -> DyingFirst:
            made.append(DyingFirst(spawner, nursery))
            return made[0]

        monkeypatch.setattr(registry, "TaskProcesses", processes)
        async with left_alone(scene, driver_lives=driver_lives):
            await scene.told("taken over")
            assert made[0].adoptions == 2
            assert start_ticks(scene.container.pid) is not None
            await scene.registry.stop(scene.past.task_id, "SIGTERM", 10.0)
            await scene.registry.wait(scene.past.task_id)
            await scene.registry.destroy(scene.past.task_id, force=False)
        nursery.cancel_scope.cancel()
