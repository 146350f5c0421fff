"""A storm: 100 tasks started at once, streamed, asked and stopped at once."""

from __future__ import annotations

import math
import os
import time
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from milo.core.report import ExitResult, TaskState
from milo.errors import TaskNotFoundError
from tests.support.driver_rig import DriverRig, Task, open_rig
from tests.support.waiting import fail_after

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

TASKS = 100
INSPECTIONS = 1500
PAUSE_S = 0.002
P99_S = 0.050
JVM = ["-Xshare:auto", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx16m", "-Xss256k"]


class Latencies:
    """How long the calls of one kind took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def percentile(self, percent: float) -> float:
        """Return the nearest rank."""
        ordered = sorted(self.seconds)
        return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]

    def __str__(self) -> str:
        points = ", ".join(f"p{p:g} {self.percentile(p) * 1000:.1f} ms" for p in (50, 99, 100))
        return f"{len(self.seconds)} calls, {points}"


async def inspect(rig: DriverRig, tasks: list[Task], latencies: Latencies, count: int) -> None:
    """Ask for the status of one task after the other, and note how long each answer took."""
    for number in range(count):
        task = tasks[number % len(tasks)]
        begun = time.perf_counter()
        try:
            status = await rig.registry.inspect(task.id)
        except TaskNotFoundError:
            pass  # not started yet, which was an answer too
        else:
            assert status.state in (TaskState.RUNNING, TaskState.EXITED)
            latencies.seconds.append(time.perf_counter() - begun)
        await trio.sleep(PAUSE_S)


async def at_once(rig: DriverRig, tasks: list[Task], what: str, latencies: Latencies) -> float:
    """Start or stop all of ``tasks`` at once; return how long it took until all had answered."""
    begun = time.perf_counter()
    async with trio.open_nursery() as asking:
        asking.start_soon(inspect, rig, tasks, latencies, 1 << 30)
        async with trio.open_nursery() as nursery:
            for task in tasks:
                if what == "start":
                    nursery.start_soon(rig.registry.start, task.request)
                else:
                    nursery.start_soon(rig.registry.stop, task.id, "SIGTERM", 60.0)
        asking.cancel_scope.cancel()
    return time.perf_counter() - begun


@pytest.mark.alone
@pytest.mark.timeout(420)
async def test_a_hundred_tasks_at_once(jar_dir: Path) -> None:
    """Every RPC of a hundred tasks is answered; with all of them streaming p99 is below 50 ms."""
    async with open_rig() as rig:
        tasks = [
            rig.task(
                jar_dir / "clock.jar",
                args=["200", "0"],
                name=f"app{number}",
                memory_mb=96,
                jvm_options=JVM,
            )
            for number in range(TASKS)
        ]
        with fail_after(360):
            starting, running, stopping = Latencies(), Latencies(), Latencies()
            start_s = await at_once(rig, tasks, "start", starting)
            for task in tasks:
                await trio.to_thread.run_sync(task.out.wait_for, b"tick 2 ", 120.0)
            await inspect(rig, tasks, running, INSPECTIONS)
            async with aclosing(rig.registry.stats(tasks[0].id, 1.0)) as samples:
                assert (await anext(samples)).memory.rss > 1 << 20
            before = [task.out.length for task in tasks]
            await trio.to_thread.run_sync(tasks[-1].out.wait_for, b"tick 40 ", 60.0)
            stop_s = await at_once(rig, tasks, "stop", stopping)
            for task, seen in zip(tasks, before, strict=True):
                assert await rig.registry.wait(task.id) == ExitResult(exit_code=143)
                await trio.to_thread.run_sync(task.out.wait_end)
                lines = task.out.text.decode().splitlines()
                assert [int(line.split()[1]) for line in lines] == list(range(len(lines)))
                assert task.out.length > seen
            for task in tasks:
                await rig.registry.destroy(task.id, force=False)
        print(f"\n{TASKS} tasks started in {start_s:.1f} s and stopped in {stop_s:.1f} s")
        print(f"InspectTask while they start: {starting}")
        print(f"InspectTask while they run:   {running}")
        print(f"InspectTask while they stop:  {stopping}")
        # While a hundred JVMs start or end on two cores, this process waits for a core like all
        # others (measured: 0.34 of 0.39 s, runnable): that is printed, and no measure of Milo.
        assert running.percentile(99) < P99_S, str(running)
