"""A driver process of its own that starts, stops, destroys and recovers, and weighs itself.

As a program: ``python -m tests.support.leak_driver BASE JAR CYCLES RECOVERIES`` prints one
JSON object, see `main`. It is what Nomad's plugin process is, without gRPC: the spawner is
forked before there is an event loop, the registry is the real one.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import sys
import time
import uuid
from contextlib import aclosing
from pathlib import Path
from typing import Any

import trio

from milo.core.config.plugin_options import PluginOptions
from milo.core.container.crun import container_name
from milo.core.launch import Resources, TaskRequest
from milo.core.records import short_id
from milo.host.registry import Registry
from milo.host.spawner_client import SpawnerClient
from milo.proc import children, comm
from milo.spawner_process import fork_spawner
from tests.support import leftovers
from tests.support.waiting import fail_after, move_on_after

WARM_UP = 20
"""Cycles until the interpreter, the allocator and the kernel's caches are as they stay."""
JVM = ["-Xshare:auto", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx16m"]


class Driver:
    """One registry after another, on one state directory."""

    def __init__(self, base: Path, jar: Path, nursery: trio.Nursery, spawner: SpawnerClient):
        self.base = base
        self.jar = jar
        self.options = PluginOptions(state_dir=str(base / "state"))
        self.spawner = spawner
        self.registry = Registry(spawner)
        self.nursery = nursery
        self.names: list[str] = []
        """Of all containers that there have been."""

    async def begin(self) -> None:
        await self.registry.configure(self.options)
        await self.nursery.start(self._run, self.registry)

    async def _run(
        self, registry: Registry, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        self._gone = trio.Event()
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(registry.run)
                nursery.start_soon(self._listen, registry)
                task_status.started()
        self._gone.set()

    async def _listen(self, registry: Registry) -> None:
        async with aclosing(registry.events()) as events:
            async for _ in events:
                pass

    async def die(self) -> int:
        """End as a process would: nothing is stopped, everything is closed.

        Returns the spawner's id, which goes on while it keeps a task.
        """
        self._scope.cancel()
        await self._gone.wait()
        for task in self.registry._tasks.values():
            task.descriptors.release()
            task.connection.close()
        pid = self.spawner.pid
        self.spawner.close()
        return pid

    async def be_another(self) -> None:
        """Be the next driver process."""
        self.spawner = SpawnerClient()
        self.registry = Registry(self.spawner)
        await self.begin()


class Allocation:
    """One allocation's directory, with its log FIFOs and somebody who reads them."""

    def __init__(self, driver: Driver) -> None:
        self.path = driver.base / "alloc" / str(uuid.uuid4())
        for name in ("app/local", "app/secrets", "app/tmp", "alloc/logs", "alloc/data"):
            (self.path / name).mkdir(parents=True)
            (self.path / name).chmod(0o777)
        shutil.copy(driver.jar, self.path / "app/local/app.jar")
        fifos = [self.path / f"alloc/logs/.app.{name}.fifo" for name in ("stdout", "stderr")]
        for fifo in fifos:
            os.mkfifo(fifo, 0o600)
        self.readers = [os.open(fifo, os.O_RDONLY | os.O_NONBLOCK) for fifo in fifos]
        self.request = TaskRequest(
            task_id=f"{self.path.name}/app/1",
            task_name="app",
            alloc_id=self.path.name,
            alloc_dir=str(self.path),
            stdout_path=str(fifos[0]),
            stderr_path=str(fifos[1]),
            config={"jvm_options": JVM},
            resources=Resources(memory_bytes=128 << 20, cpu_shares=500),
        )
        driver.names.append(container_name(short_id(self.request.task_id)))

    async def until(self, text: bytes) -> None:
        """Read stdout until ``text`` has come."""
        data = b""
        with fail_after(60):
            while text not in data:
                await trio.lowlevel.wait_readable(self.readers[0])
                data += os.read(self.readers[0], 65536)

    def remove(self) -> None:
        for fd in self.readers:
            os.close(fd)
        shutil.rmtree(self.path)


async def cycle(driver: Driver) -> None:
    """Start, stop and destroy one task, and collect its allocation as Nomad does."""
    allocation = Allocation(driver)
    task_id = allocation.request.task_id
    await driver.registry.start(allocation.request)
    await allocation.until(b"running")
    await driver.registry.inspect(task_id)
    await driver.registry.stop(task_id, "SIGTERM", 20)
    assert (await driver.registry.wait(task_id)).exit_code == 143
    await driver.registry.destroy(task_id, force=False)
    allocation.remove()


async def recoveries(driver: Driver, count: int) -> dict[str, Any]:
    """Start a task, have ``count`` drivers recover it one after the other, and end it.

    Returns what the task's own process had in the second and in the last of them.
    """
    allocation = Allocation(driver)
    task_id = allocation.request.task_id
    handle = await driver.registry.start(allocation.request)
    await allocation.until(b"running")
    supervisor = driver.registry._tasks[task_id].connection.require().welcome.supervisor.pid
    before: dict[str, Any] = {}
    for number in range(count):
        keeper = await driver.die()
        await driver.be_another()
        await driver.registry.recover(task_id, handle)
        await trio.to_thread.run_sync(_reap, keeper)  # the task has another now
        assert (await driver.registry.inspect(task_id)).attributes["phase"] == "running"
        if number == 1:
            before = weigh(supervisor)
    after = weigh(supervisor)
    await driver.registry.stop(task_id, "SIGTERM", 20)
    await driver.registry.destroy(task_id, force=False)
    allocation.remove()
    return {"before": before, "after": after}


def weigh(pid: int) -> dict[str, Any]:
    """Return descriptors and resident bytes of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    rss = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    links = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(os.readlink(path).partition(":")[0])
        except OSError:
            continue  # the listing's own
    return {"descriptors": sorted(links), "rss_bytes": int(rss) << 10}


async def survey(driver: Driver) -> dict[str, Any]:
    """Return all that must be the same afterwards."""
    # The last task's own process has said its last word, but may not have ended; and the next
    # one is forked a while after it.
    with move_on_after(10):
        while [comm(pid) for pid in children(driver.spawner.pid)] != [b"milo-standby"]:  # noqa: ASYNC110
            await trio.sleep(0.02)
    gc.collect()
    base = driver.base
    return {
        "driver": weigh(os.getpid()),
        "spawner": weigh(driver.spawner.pid),
        "children": len(children(os.getpid())),
        "processes": [x for x in leftovers.processes(base) if "leak_driver" not in x],
        "mounts": leftovers.mounts(base),
        "mount_count": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "cgroups": leftovers.cgroups(driver.names),
        # The last exit record stays until the next DestroyTask sweeps.
        "files": sorted(path.name for path in (base / "state").rglob("*") if path.is_file()),
    }


async def measure(base: Path, jar: Path, cycles: int, count: int, first: SpawnerClient) -> None:
    """Print the report: everything before and after, and the seconds that it took."""
    report: dict[str, Any] = {"cycles": cycles, "recoveries": count}
    async with trio.open_nursery() as nursery:
        driver = Driver(base, jar, nursery, first)
        await driver.begin()
        for _ in range(WARM_UP):
            await cycle(driver)
        report["before_cycles"] = await survey(driver)
        began = time.monotonic()
        for _ in range(cycles):
            await cycle(driver)
        report["cycles_s"] = time.monotonic() - began
        report["after_cycles"] = await survey(driver)
        await recoveries(driver, 3)
        report["before_recoveries"] = await survey(driver)
        began = time.monotonic()
        report["task_process"] = await recoveries(driver, count)
        report["recoveries_s"] = time.monotonic() - began
        report["after_recoveries"] = await survey(driver)
        await trio.to_thread.run_sync(_reap, await driver.die())
        nursery.cancel_scope.cancel()
    print(json.dumps(report))


def _reap(pid: int) -> None:
    """A driver's death leaves its spawner to init, which waits for it; here we do."""
    if pid == 0:
        return  # it never needed one
    with contextlib.suppress(ChildProcessError):  # its client may have been quicker
        os.waitpid(pid, 0)


def main() -> None:
    """Run with the command line's words."""
    base, jar, cycles, count = sys.argv[1:]
    spawner = SpawnerClient(fork_spawner())
    trio.run(measure, Path(base), Path(jar), int(cycles), int(count), spawner)


if __name__ == "__main__":
    main()
