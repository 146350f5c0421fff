"""The driver without gRPC and Nomad: a registry, task directories and a stand-in for logmon."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import attrs
import trio

from milo.core.config.plugin_options import PluginOptions
from milo.core.container.crun import container_name
from milo.core.launch import JavaRuntime, Resources, TaskRequest
from milo.core.records import short_id
from milo.core.report import TaskEvent
from milo.host.java.finder import JavaFinder, _Known
from milo.host.registry import Registry
from milo.host.spawner_client import SpawnerClient
from tests.support import leftovers, private_mounts, spawner_source
from tests.support.waiting import move_on_after, scaled

TASK = "app"


class LogReader:
    """Reads one FIFO like logmon: opened blocking, until end of file, in a thread.

    Keeps the digest and the length of everything, and the first megabyte itself.
    """

    KEEP = 1 << 20

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digest = hashlib.sha256()
        self.length = 0
        self.text = b""
        self.arrived = threading.Condition()
        self.ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        fd = os.open(self.path, os.O_RDONLY)
        try:
            while data := os.read(fd, 1 << 20):
                with self.arrived:
                    self.digest.update(data)
                    self.length += len(data)
                    self.text += data[: max(0, self.KEEP - len(self.text))]
                    self.arrived.notify_all()
        finally:
            os.close(fd)
            with self.arrived:
                self.ended = True
                self.arrived.notify_all()

    def wait_for(self, text: bytes, timeout_s: float = 20.0) -> None:
        """Return once ``text`` has arrived."""
        with self.arrived:
            ok = self.arrived.wait_for(lambda: text in self.text or self.ended, scaled(timeout_s))
            assert ok and text in self.text, f"{text!r} did not arrive; {self.text[-2000:]!r}"

    def wait_end(self, timeout_s: float = 20.0) -> None:
        """Return once the writer has come and gone."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: self.ended, scaled(timeout_s)), "no end of file"

    def release(self) -> None:
        """Let a reader go that no writer ever came to."""
        if not self.ended and self.path.exists():
            os.close(os.open(self.path, os.O_RDWR | os.O_NONBLOCK))
        self._thread.join(scaled(10))


@attrs.define
class Task:
    """One task that the rig can start, with the readers of its FIFOs."""

    request: TaskRequest
    stdout: LogReader | None
    stderr: LogReader | None

    @property
    def id(self) -> str:
        return self.request.task_id

    @property
    def local(self) -> Path:
        return Path(self.request.task_dir) / "local"

    @property
    def out(self) -> LogReader:
        assert self.stdout is not None
        return self.stdout

    @property
    def err(self) -> LogReader:
        assert self.stderr is not None
        return self.stderr

    async def read(self) -> None:
        """Return once both streams have been read to their ends.

        That is a moment after WaitTask has answered: the readers are threads of this process.
        """
        await trio.to_thread.run_sync(self.out.wait_end)
        await trio.to_thread.run_sync(self.err.wait_end)


class DriverRig:
    """A registry on a state directory of its own."""

    def __init__(
        self, registry: Registry, options: PluginOptions, base: Path, spawner: SpawnerClient
    ) -> None:
        self.registry = registry
        self.options = options
        self.base = base
        self.spawner = spawner
        self.events: list[TaskEvent] = []
        self._tasks: list[Task] = []

    def pause(self) -> None:
        """End the driver as its death does; `restart` begins another."""
        self._scope.cancel()
        for task in self.registry._tasks.values():
            task.descriptors.release()
            task.connection.close()

    def kill_all(self, *pids: int) -> None:
        """As `pause`, and kill the spawner too, which would fork successors, and then ``pids``."""
        self.pause()
        for pid in (self.spawner.pid, *pids):
            os.kill(pid, signal.SIGKILL)

    async def supervisor(self, task: Task) -> int:
        """Return the id of the task's own process."""
        client = self.registry._tasks[task.id].connection.require()
        return client.welcome.supervisor.pid

    async def restart(self) -> None:
        """End the driver as its death does, and begin a new one that knows of nothing."""
        self.pause()
        await self._gone.wait()
        self.spawner.close()
        self.spawner, self.registry = _driver()
        await self.registry.configure(self.options)
        await self.begin(self._nursery)

    async def begin(self, nursery: trio.Nursery) -> None:
        """Run the registry in ``nursery``."""
        self._nursery = nursery
        await nursery.start(self._run)

    async def _run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self._gone = trio.Event()
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.registry.run)
                nursery.start_soon(self._collect)
                task_status.started()
        self._gone.set()

    async def _collect(self) -> None:
        async with aclosing(self.registry.events()) as events:
            async for event in events:
                self.events.append(event)

    @property
    def state_dir(self) -> Path:
        return self.base / "state"

    def task(
        self,
        jar: Path | None,
        *,
        args: list[str] | None = None,
        readers: bool = True,
        name: str = TASK,
        alloc_id: str = "",
        memory_mb: int = 256,
        **config: Any,
    ) -> Task:
        """Lay out a task as Nomad does, with ``jar`` as its artifact."""
        alloc_id = alloc_id or str(uuid.uuid4())
        alloc_dir = self.base / "alloc" / alloc_id
        for path in (name + "/local", name + "/secrets", name + "/tmp", "alloc/logs", "alloc/data"):
            directory = alloc_dir / path
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o777)
        if jar is not None:
            shutil.copy(jar, alloc_dir / name / "local" / jar.name)
        fifos = [
            alloc_dir / "alloc/logs" / f".{name}.{stream}.fifo" for stream in ("stdout", "stderr")
        ]
        for fifo in fifos:
            if not fifo.exists():
                os.mkfifo(fifo, 0o600)
        task = Task(
            TaskRequest(
                task_id=f"{alloc_id}/{name}/{uuid.uuid4().hex[:8]}",
                task_name=name,
                alloc_id=alloc_id,
                alloc_dir=str(alloc_dir),
                stdout_path=str(fifos[0]),
                stderr_path=str(fifos[1]),
                config={"args": args or [], **config},
                env={"NOMAD_TASK_DIR": "/local"},
                resources=Resources(memory_bytes=memory_mb << 20, cpu_shares=500),
            ),
            LogReader(fifos[0]) if readers else None,
            LogReader(fifos[1]) if readers else None,
        )
        self._tasks.append(task)
        return task

    def texts(self, task: Task) -> list[str]:
        """Return the events of ``task`` so far."""
        return [event.message for event in self.events if event.task_id == task.id]

    async def until_event(self, task: Task, text: str, timeout_s: float = 20) -> str:
        """Return the first event of ``task`` that holds ``text``, once it has been told.

        The events are a stream of their own, and may come after the answer of any call.
        """
        with move_on_after(timeout_s):
            while not any(text in line for line in self.texts(task)):  # noqa: ASYNC110
                await trio.sleep(0.02)
        found = [line for line in self.texts(task) if text in line]
        assert found, f"no event of {task.id} with {text!r}, but: {self.texts(task)}"
        return found[0]

    def names(self) -> list[str]:
        """Return the names of all containers that there have been."""
        return [container_name(short_id(task.id)) for task in self._tasks]

    async def finish(self) -> None:
        """End what still runs, and the readers."""
        for task in self._tasks:
            await self.registry.destroy(task.id, force=True)
        # Only then: two tasks of one allocation have the same FIFOs.
        for task in self._tasks:
            for reader in (task.stdout, task.stderr):
                if reader is not None:
                    await trio.to_thread.run_sync(reader.release)


def _driver() -> tuple[SpawnerClient, Registry]:
    spawner = SpawnerClient(spawner_source.spawner())
    registry = Registry(spawner)
    registry._fingerprinter._finder = _Finder()
    return spawner, registry


class _Finder(JavaFinder):
    """Runs no Java again that an earlier driver of this process has run, as long as it is the same.

    That is a second of each test's processor time.
    """

    LEARNED: ClassVar[dict[str, _Known]] = {}

    async def find(
        self, configured_home: str, environ: Mapping[str, str]
    ) -> tuple[JavaRuntime, ...]:
        """As `JavaFinder.find`."""
        self._known = {**self.LEARNED, **self._known}
        found = await super().find(configured_home, environ)
        self.LEARNED.update({java.home: self._known[java.home] for java in found})
        return found


@asynccontextmanager
async def open_rig(
    options: PluginOptions | None = None, *, parent: str = "/tmp"
) -> AsyncIterator[DriverRig]:
    """Run a driver below ``parent``; afterwards nothing of it may be left, which is asserted."""
    if os.geteuid() == 0:
        # Before there is a spawner, which would stay behind and not see what a test mounts.
        private_mounts.enter()
    base = Path(tempfile.mkdtemp(prefix="milo-", dir=parent))
    base.chmod(0o755)
    spawner, registry = _driver()
    options = attrs.evolve(options or PluginOptions(), state_dir=str(base / "state"))
    await registry.configure(options)
    rig = DriverRig(registry, options, base, spawner)
    try:
        async with trio.open_nursery() as nursery:
            await rig.begin(nursery)
            try:
                yield rig
            finally:
                with trio.CancelScope(shield=True):
                    await rig.finish()
                nursery.cancel_scope.cancel()
    finally:
        rig.spawner.close()
        left = leftovers.lasting(lambda: _left(base, rig))
        shutil.rmtree(base, ignore_errors=True)
    assert not left, "left behind:\n" + "\n".join(left)


def _left(base: Path, rig: DriverRig) -> list[str]:
    groups = [f"cgroup {path}" for path in cgroups_of(rig.names())]
    return [*leftovers.processes(base), *leftovers.mounts(base), *groups]


def cgroups_of(names: Iterable[str]) -> list[Path]:
    """Return the cgroups of the containers with these names, in every hierarchy."""
    return [Path(line.removeprefix("cgroup ")) for line in leftovers.cgroups(names)]
