"""Versions meet: a driver takes over what every earlier version of Milo has left.

`tests/data/v<N>` is a real task of version N, recorded by `tests.support.record_exchange`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from milo.core import control, records
from milo.core.config.plugin_options import PluginOptions
from milo.core.records import ProcessId
from milo.core.report import ExitResult, TaskState
from milo.errors import NewerVersionError, StateError, TaskEndedError, TaskNotFoundError
from milo.host import task_processes
from milo.host.registry import Registry
from milo.host.spawner_client import SpawnerClient
from milo.proc import start_ticks
from tests.support.log_rig import descriptors
from tests.support.past_version import VERSIONS, PastTask, Replay, identity, sleeper
from tests.support.waiting import wait_for

NEWER = records.RECORD_VERSION + 1
GONE = ProcessId(2**22, 1)
"""A process id that Linux never gives: PID_MAX_LIMIT, proc(5)."""


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def past(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PastTask]:
    """A task of an earlier version, whose container runs and whose own process is gone."""
    container = sleeper()
    try:
        yield PastTask(request.param, tmp_path, GONE, identity(container.pid))
    finally:
        container.kill()
        container.wait()


@asynccontextmanager
async def driver(past: PastTask) -> AsyncIterator[Registry]:
    """Run a driver of this version on the state directory."""
    spawner = SpawnerClient()
    registry = Registry(spawner, environ={})
    await registry.configure(PluginOptions(state_dir=str(past.root / "state")))
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(registry.run)
            yield registry
            nursery.cancel_scope.cancel()
    finally:
        spawner.close()


def test_this_version_is_recorded() -> None:
    """Whoever changes the version has recorded the one before; numbers have no gap."""
    names = [path.name for path in VERSIONS]
    assert names == [f"v{number}" for number in range(1, records.RECORD_VERSION + 1)]


async def test_a_running_task_is_recovered(past: PastTask) -> None:
    """It answers inspect and signals, accepts a stop, and its exit is delivered."""
    past.write(records.LAUNCH_FILE, records.TASK_FILE)
    before = descriptors()
    replay = Replay(past)
    async with trio.open_nursery() as nursery, driver(past) as registry:
        await nursery.start(replay.run)
        await registry.recover(past.task_id, past.handle)
        status = await registry.inspect(past.task_id)
        assert status.state is TaskState.RUNNING
        assert status.started_at_s == past.read("handle.json")["started_at_s"]
        assert status.attributes["phase"] == "running"
        assert int(status.attributes["stdout.bytes_moved"]) > 0
        await registry.signal(past.task_id, "SIGQUIT")
        await registry.stop(past.task_id, "SIGTERM", 10.0)
        with trio.fail_after(10):
            assert await registry.wait(past.task_id) == ExitResult(exit_code=143)
        assert (await registry.inspect(past.task_id)).state is TaskState.EXITED
    # How often it asks for the descriptors is the driver's own business.
    asked = [request for request in replay.requests if request != "descriptors"]
    assert asked == ["hello", "status", "signal", "stop"]
    assert "descriptors" in replay.requests
    assert descriptors() == before


async def test_an_ended_task_has_its_true_exit(past: PastTask) -> None:
    """What ended while no driver was there is told as it was written down."""
    past.write(records.LAUNCH_FILE, records.TASK_FILE, records.EXIT_FILE)
    async with driver(past) as registry:
        await registry.recover(past.task_id, past.handle)
        assert await registry.wait(past.task_id) == ExitResult(exit_code=143)
        status = await registry.inspect(past.task_id)
        assert status.completed_at_s == past.read("exit.json")["ended_at_s"]
        assert status.started_at_s == past.read("exit.json")["started_at_s"]
        with pytest.raises(TaskEndedError, match="has ended, so no command runs in it"):
            registry.place(past.task_id)
        await registry.destroy(past.task_id, force=False)
    assert [path.name for path in past.state_dir.iterdir()] == [records.EXIT_FILE]


async def test_a_task_whose_container_is_gone_is_not_found(past: PastTask) -> None:
    """After a reboot the answer is clear, and what was left is removed."""
    past.container = GONE
    past.write(records.LAUNCH_FILE, records.TASK_FILE)
    async with driver(past) as registry:
        with pytest.raises(TaskNotFoundError):
            await registry.recover(past.task_id, past.handle)
        with pytest.raises(TaskNotFoundError):
            await registry.wait(past.task_id)
    assert not past.state_dir.exists()


async def test_a_successor_goes_on_with_a_task(past: PastTask) -> None:
    """A task process of this version takes over a container that an earlier one started."""
    past.write(records.LAUNCH_FILE, records.TASK_FILE)
    async with driver(past) as registry:
        with trio.fail_after(30):
            await registry.recover(past.task_id, past.handle)
            assert (await registry.inspect(past.task_id)).attributes["phase"] == "running"
            await registry.stop(past.task_id, "SIGTERM", 10.0)
            result = await registry.wait(past.task_id)
    assert result.error and result.exit_code != 0  # nobody saw its exit: never a success


async def test_two_processes_never_serve_one_task(
    past: PastTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task process that lives but serves nobody is ended before another takes over."""
    monkeypatch.setattr(task_processes, "GONE_TIMEOUT_S", 0.1)
    silent = sleeper()
    past.supervisor = identity(silent.pid)
    past.write(records.LAUNCH_FILE, records.TASK_FILE)
    async with driver(past) as registry, trio.open_nursery() as nursery:
        nursery.start_soon(reaped, silent)
        with trio.fail_after(30):
            await registry.recover(past.task_id, past.handle)
            assert start_ticks(silent.pid) is None
            await registry.stop(past.task_id, "SIGTERM", 10.0)


async def reaped(process: subprocess.Popen[bytes]) -> None:
    """Wait for a child, so that it does not stay a zombie."""
    await trio.to_thread.run_sync(process.wait)


@pytest.mark.parametrize("name", [records.LAUNCH_FILE, records.TASK_FILE, records.EXIT_FILE])
async def test_a_newer_file_is_left_alone(past: PastTask, name: str) -> None:
    """A file of a newer Milo is refused in clear words, and nothing is destroyed."""
    past.write(*{records.LAUNCH_FILE, records.TASK_FILE, name})
    past.write(name, version=NEWER)
    await refused(past, past.handle, name)


async def test_a_newer_handle_is_left_alone(past: PastTask) -> None:
    """So is a task whose handle a newer Milo has written."""
    past.write(records.LAUNCH_FILE, records.TASK_FILE)
    handle = {**json.loads(past.handle), "version": NEWER, "state_dir": ["somewhere", "else"]}
    await refused(past, json.dumps(handle).encode(), "task handle")


async def test_a_newer_task_process_is_left_alone(past: PastTask) -> None:
    """So is a task that a newer Milo's process serves."""
    past.write(records.LAUNCH_FILE, records.TASK_FILE)
    replay = Replay(past, version=control.PROTOCOL_VERSION + 1)
    async with trio.open_nursery() as nursery:
        await nursery.start(replay.run)
        await refused(past, past.handle, records.CONTROL_SOCKET)
    assert replay.requests == ["hello"]


async def refused(past: PastTask, handle: bytes, where: str) -> None:
    """Recover, and see that it is refused and that everything is as it was."""
    before = {path.name: path.stat().st_mtime_ns for path in past.state_dir.iterdir()}
    async with driver(past) as registry:
        with pytest.raises(NewerVersionError, match="at least the Milo that started") as caught:
            await registry.recover(past.task_id, handle)
        with pytest.raises(TaskNotFoundError):
            await registry.inspect(past.task_id)
    assert where in caught.value.path
    assert {path.name: path.stat().st_mtime_ns for path in past.state_dir.iterdir()} == before
    assert start_ticks(past.container.pid) == past.container.start_ticks


@pytest.mark.parametrize("damage", ["newer", "garbage"])
async def test_destroy_removes_what_recover_has_refused(past: PastTask, damage: str) -> None:
    """Nomad then asks for the task to be destroyed, and its container must not live on."""
    past.write(records.LAUNCH_FILE, records.TASK_FILE)
    if damage == "newer":
        past.write(records.LAUNCH_FILE, version=NEWER)
    else:
        (past.state_dir / records.LAUNCH_FILE).write_bytes(b"\0" * 4096)
    async with driver(past) as registry:
        with pytest.raises(StateError):
            await registry.recover(past.task_id, past.handle)
        assert start_ticks(past.container.pid) is not None
        await registry.destroy(past.task_id, force=True)
    wait_for("the container's end", lambda: start_ticks(past.container.pid) is None)
    assert not past.state_dir.exists()
