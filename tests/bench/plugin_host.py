"""The agent's side of a real plugin process, for the benches: go-plugin's host and logmon.

The plugin is what ``milo install`` writes, started as Nomad starts it; tasks are started over
gRPC. Only the cgroup is missing that Nomad makes for a task: Milo's own is below the root.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import msgspec.msgpack
from grpclib.client import Channel, UnaryStreamMethod
from grpclib.exceptions import GRPCError, StreamTerminatedError

from milo.core.records import LOG_FILE, short_id
from milo.plugin.handshake import COOKIE_NAME, COOKIE_VALUE
from milo.wire.hashicorp.nomad.plugins.base import proto as base_wire
from milo.wire.hashicorp.nomad.plugins.drivers import proto as drivers

TASK = "app"
GROUP = "g"
"""As in `tests.support.jobs`: a startup archive is used for the same group alone."""
OUTPUT_TIMEOUT_S = 60.0
STATS_INTERVAL_S = 1
"""Nomad's default of ``telemetry.collection_interval``."""
TASK_STATS = "/hashicorp.nomad.plugins.drivers.proto.Driver/TaskStats"
AGENT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@attrs.frozen
class Process:
    """A plugin process that has given its handshake line."""

    popen: subprocess.Popen[bytes]
    socket_path: str
    stderr_path: Path
    handshake_s: float
    """From before the exec until the line had been read."""
    cpu_s: float
    """What it had used of a processor by then."""

    def end(self) -> None:
        """Ask the process to end, and wait for that."""
        self.popen.send_signal(signal.SIGTERM)
        self.popen.wait(10)
        assert self.popen.stdout is not None
        self.popen.stdout.close()


def install(directory: Path, python: str = sys.executable) -> Path:
    """Have ``milo install`` write its launcher into ``directory`` and return its path.

    ``python`` is the one of an environment with Milo, and runs it.
    """
    milo = Path(python).with_name("milo")
    subprocess.run([milo, "install", directory], check=True, stdout=subprocess.DEVNULL)
    return directory / "milo"


def start_plugin(launcher: Path, base: Path) -> Process:
    """Start the plugin as the agent does, and read its handshake line."""
    env = {COOKIE_NAME: COOKIE_VALUE, "PLUGIN_UNIX_SOCKET_DIR": str(base), "PATH": AGENT_PATH}
    stderr_path = base / f"plugin-{uuid.uuid4().hex[:8]}.log"
    with stderr_path.open("wb") as stderr:
        began = time.perf_counter()
        popen = subprocess.Popen(
            [launcher], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr
        )
        assert popen.stdout is not None
        line = popen.stdout.readline().decode()
        took = time.perf_counter() - began
    assert line.startswith("1|2|unix|"), stderr_path.read_text()
    nanoseconds = int(Path(f"/proc/{popen.pid}/schedstat").read_text().split()[0])
    return Process(popen, line.split("|")[3], stderr_path, took, nanoseconds / 1e9)


class Unread:
    """A message of the plugin's that is taken and not decoded.

    An agent in Go decodes a sample in microseconds. betterproto takes half a millisecond, and with
    a thousand samples a second this process took more of the processors than all of Milo.
    """

    @classmethod
    def FromString(cls, data: bytes) -> Unread:  # noqa: N802 - grpclib's codec calls it
        """Return a message that nobody looks at."""
        return cls()


@attrs.define
class Task:
    """One task as the agent holds it: its request, and the read ends of its FIFOs."""

    config: drivers.TaskConfig
    stdout: int
    stderr: int
    waiting: asyncio.Task[Any] | None = None
    following: asyncio.Task[Any] | None = None
    handle: drivers.TaskHandle | None = None
    """What StartTask answered, for RecoverTask."""

    async def answered(self) -> None:
        """Return when its pending calls have ended, with the task or the plugin."""
        for pending in (self.waiting, self.following):
            if pending is not None:
                await asyncio.wait_for(pending, OUTPUT_TIMEOUT_S)

    async def first_byte(self) -> float:
        """Return time.perf_counter() of the moment when stdout has something to read."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[float] = loop.create_future()

        def seen() -> None:
            loop.remove_reader(self.stdout)
            if not arrived.done():
                arrived.set_result(time.perf_counter())

        loop.add_reader(self.stdout, seen)
        try:
            return await asyncio.wait_for(arrived, OUTPUT_TIMEOUT_S)
        except TimeoutError:
            raise AssertionError(f"no output: {os.read(self.stderr, 4096)!r}") from None
        finally:
            loop.remove_reader(self.stdout)


class PluginHost:
    """What the agent does with one plugin process."""

    def __init__(self, process: Process, channel: Channel, base: Path) -> None:
        self.process = process
        self._driver = drivers.DriverStub(channel)
        self._samples: UnaryStreamMethod[drivers.TaskStatsRequest, Unread] = UnaryStreamMethod(
            channel, TASK_STATS, drivers.TaskStatsRequest, Unread
        )
        self._base = base_wire.BasePluginStub(channel)
        self._dir = base
        self._state_dir = base
        self._log_offset = 0
        self._background: list[asyncio.Task[Any]] = []

    async def begin(self, state_dir: Path, **keys: str) -> None:
        """Configure the plugin, by more ``keys`` too, and open the streams of an agent."""
        self._state_dir = state_dir
        block = msgspec.msgpack.encode(
            {"state_dir": str(state_dir), "cache_dir": str(self._dir / "cache"), **keys}
        )
        await self._base.set_config(base_wire.SetConfigRequest(msgpack_config=block))
        healthy: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def fingerprints() -> None:
            async for finger in self._driver.fingerprint(drivers.FingerprintRequest()):
                if finger.health_description == "Healthy" and not healthy.done():
                    healthy.set_result(None)

        self._background.append(asyncio.create_task(_quiet(fingerprints())))
        self._background.append(
            asyncio.create_task(
                _quiet(_drain(self._driver.task_events(drivers.TaskEventsRequest())))
            )
        )
        await asyncio.wait_for(healthy, 30)

    def lay_out(
        self,
        jar: Path,
        *,
        args: Sequence[str] = (),
        jvm_options: Sequence[str],
        memory_mb: int,
        job: str = "bench",
        env: dict[str, str] | None = None,
        **keys: str,
    ) -> Task:
        """Make a task's directories and FIFOs as Nomad does, with ``jar`` as its artifact.

        That is a JAR, or a directory. ``keys`` are more of the job's config.
        """
        alloc_id = str(uuid.uuid4())
        alloc_dir = self._dir / "alloc" / alloc_id
        for path in (f"{TASK}/local", f"{TASK}/secrets", f"{TASK}/tmp", "alloc/logs", "alloc/data"):
            directory = alloc_dir / path
            directory.mkdir(parents=True)
            directory.chmod(0o777)
        target = alloc_dir / TASK / "local" / jar.name
        if jar.is_dir():
            shutil.copytree(jar, target, copy_function=shutil.copy)
        else:
            shutil.copy(jar, target)
        fifos = [alloc_dir / f"alloc/logs/.{TASK}.{name}.fifo" for name in ("stdout", "stderr")]
        for fifo in fifos:
            os.mkfifo(fifo, 0o600)
        # 1024 shares, as every process has that is in no group: with fewer a busy machine would
        # hold the container back behind what it is compared with.
        limit = drivers.LinuxResources(memory_limit_bytes=memory_mb << 20, cpu_shares=1024)
        block = {"args": list(args), "jvm_options": list(jvm_options), **keys}
        config = drivers.TaskConfig(
            id=f"{alloc_id}/{TASK}/{uuid.uuid4().hex[:8]}",
            name=TASK,
            alloc_id=alloc_id,
            alloc_dir=str(alloc_dir),
            stdout_path=str(fifos[0]),
            stderr_path=str(fifos[1]),
            msgpack_driver_config=msgspec.msgpack.encode(block),
            env={"NOMAD_TASK_DIR": "/local", **(env or {})},
            namespace="default",
            job_id=job,
            job_name=job,
            task_group_name=GROUP,
            resources=drivers.Resources(linux_resources=limit),
        )
        stdout, stderr = (os.open(fifo, os.O_RDONLY | os.O_NONBLOCK) for fifo in fifos)
        return Task(config, stdout, stderr)

    async def start(self, task: Task, *, stats: bool) -> None:
        """StartTask; then a WaitTask is pending, and ``stats`` are streamed, as by an agent."""
        answer = await self._driver.start_task(drivers.StartTaskRequest(task=task.config))
        task.handle = answer.handle
        self.attend(task, stats=stats)

    async def recover(self, task: Task, *, stats: bool) -> None:
        """RecoverTask of one that an earlier plugin process has started; then as `start`."""
        assert task.handle is not None
        await self._driver.recover_task(
            drivers.RecoverTaskRequest(task_id=task.config.id, handle=task.handle)
        )
        self.attend(task, stats=stats)

    def attend(self, task: Task, *, stats: bool) -> None:
        """Have a WaitTask pending, and ``stats`` streamed, as an agent has."""
        task.waiting = asyncio.create_task(
            _quiet(self._driver.wait_task(drivers.WaitTaskRequest(task.config.id)))
        )
        if stats:
            request = drivers.TaskStatsRequest(task.config.id, timedelta(seconds=STATS_INTERVAL_S))
            task.following = asyncio.create_task(_quiet(self._take_samples(request)))

    async def _take_samples(self, request: drivers.TaskStatsRequest) -> None:
        """Take all samples of a task's resource use, and pass them over."""
        async with self._samples.open() as stream:
            await stream.send_message(request, end=True)
            await _drain(stream)

    async def inspect(self, task: Task) -> None:
        """InspectTask; that the plugin does not know it yet is an answer, too."""
        await _quiet(self._driver.inspect_task(drivers.InspectTaskRequest(task.config.id)))

    async def stop(self, task: Task, *, timeout_s: float) -> None:
        """StopTask, by SIGTERM; returns when the task has ended."""
        timeout = timedelta(seconds=timeout_s)
        await self._driver.stop_task(drivers.StopTaskRequest(task.config.id, timeout, "SIGTERM"))

    async def wait(self, task: Task) -> drivers.WaitTaskResponse | None:
        """Wait for the task's end; return how it was, if the plugin has told."""
        if task.waiting is None:
            return None
        told: drivers.WaitTaskResponse | None = await asyncio.wait_for(
            task.waiting, OUTPUT_TIMEOUT_S
        )
        return told

    async def end(self, task: Task, *, force: bool) -> None:
        """Wait for the task's end, or ``force`` it, and remove all of it."""
        if not force:
            await self.wait(task)
        await self._driver.destroy_task(drivers.DestroyTaskRequest(task.config.id, force))
        await self.let_go(task)

    async def destroy(self, task: Task) -> None:
        """DestroyTask by force, and no more: see `let_go`."""
        await self._driver.destroy_task(drivers.DestroyTaskRequest(task.config.id, True))

    async def let_go(self, task: Task) -> None:
        """Let the calls of a task that has been destroyed end, and remove its directories."""
        await task.answered()
        os.close(task.stdout)
        os.close(task.stderr)
        shutil.rmtree(task.config.alloc_dir)

    def start_parts(self) -> dict[str, float]:
        """Return the seconds of each step of the last StartTask, as the plugin logs them."""
        with self.process.stderr_path.open("rb") as file:
            file.seek(self._log_offset)
            text = file.read()
        self._log_offset += len(text)
        lines = [json.loads(line) for line in text.splitlines()]
        found = [line for line in lines if line["@message"] == "a task started"]
        assert found, text.decode(errors="replace")
        return {key: float(value) for key, value in found[-1].items() if not key.startswith("@")}

    def task_log(self, task: Task) -> str:
        """Return the log of a task's own process, which there is until the task is destroyed."""
        path = self._state_dir / short_id(task.config.id) / LOG_FILE
        return path.read_text() if path.exists() else ""

    async def close(self) -> None:
        """Let the streams go."""
        for task in self._background:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@asynccontextmanager
async def open_host(
    launcher: Path, base: Path, state_dir: Path, **keys: str
) -> AsyncIterator[PluginHost]:
    """Start a plugin, configure it, by more ``keys`` too, and end it when the block is left."""
    process = start_plugin(launcher, base)
    try:
        channel = Channel(path=process.socket_path)
        host = PluginHost(process, channel, base)
        try:
            await host.begin(state_dir, **keys)
            yield host
        finally:
            await host.close()
            channel.close()
    finally:
        process.end()


async def _drain(stream: AsyncIterator[Any]) -> None:
    async for _ in stream:
        pass


async def _quiet(work: Awaitable[Any] | Coroutine[Any, Any, Any]) -> Any:
    """Await ``work``, whose end by the plugin's or the task's is no failure."""
    with contextlib.suppress(GRPCError, StreamTerminatedError):
        return await work
