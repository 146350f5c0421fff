"""A crowd of tasks: how start, memory, processor time, statistics and recovery grow with it.

``python -m tests.bench.crowd_bench [--counts N...]`` prints JSON, and the table for the page. Task
processes and containers are real; the application in them does nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.bench import machine, rpc_bench
from tests.bench.memory_bench import cpu_s, processes, rollup
from tests.bench.plugin_host import PluginHost, Task, install, open_host
from tests.bench.start_bench import quantile
from tests.support import jars, scripted_java

COUNTS: Final = (10, 100, 1000)
AT_ONCE: Final = 4
DOES_NOTHING: Final = "exec sleep 1000000"
REST_S: Final = 10.0
MEMORY_MB: Final = 64
MIB: Final = 1 << 20
LEAST: Final = 1e-3
"""What less than this is taken for: nothing has no logarithm."""
TOTALS: Final = {
    "start_s": "time of all starts",
    "pss": "memory",
    "driver_cpu": "driver's processor time at rest",
    "recover_s": "time to take over",
    "stop_s": "time of all ends",
}
"""What is held to grow no faster than the number of tasks, and what it is called."""


async def measure(launcher: Path, base: Path, state: Path, jar: Path, count: int) -> dict[str, Any]:
    """Start ``count`` tasks, rest, replace the plugin, take all over, and end all.

    Returns, in seconds, bytes, and shares of one processor: start_s, start_p99_s, pss (all of
    Milo's processes), driver_pss, driver_cpu, tasks_cpu (at rest, with statistics each second),
    descriptors (the driver's), shutdown_s (SIGTERM of the plugin to its end), recover_s (exec of
    the next one until all are taken over), of it recover_driver_cpu_s and recover_tasks_cpu_s,
    recover_p99_s (of one RecoverTask), inspect_p99_s (meanwhile), stop_s.
    """
    home = scripted_java.make(base / f"nothing{count}", DOES_NOTHING)
    options = {"java_home": str(home)}
    row: dict[str, Any] = {"tasks": count}
    async with open_host(launcher, base, state, **options) as host:
        empty = milo_memory(host.process.popen.pid)
        tasks = [
            host.lay_out(jar, jvm_options=(), memory_mb=MEMORY_MB, java_home=str(home))
            for _ in range(count)
        ]
        began = time.monotonic()
        took = await _each(tasks, lambda task: host.start(task, stats=True), AT_ONCE)
        row["start_s"] = time.monotonic() - began
        row["start_p99_s"] = quantile(took, 0.99)
        await asyncio.sleep(REST_S)
        row |= await _rest(host)
        row["pss"] = milo_memory(host.process.popen.pid) - empty
        row["driver_pss"] = rollup(host.process.popen.pid)["Pss"]
        table = processes()
        followed = [
            pid for pid in milo_processes(host.process.popen.pid) if table[pid][0] == "milo-task"
        ]
        row["descriptors"] = len(os.listdir(f"/proc/{host.process.popen.pid}/fd"))
        began = time.monotonic()
    row["shutdown_s"] = time.monotonic() - began
    await asyncio.gather(*(task.answered() for task in tasks))
    tasks_before = sum(map(cpu_s, followed))
    out = base / f"samples{count}"
    with contextlib.ExitStack() as stack:
        asker = stack.enter_context(rpc_bench.asking([task.config.id for task in tasks], out))
        began = time.monotonic()
        async with open_host(launcher, base, state, **options) as host:
            row["configured_s"] = time.monotonic() - began
            asker.begin(host.process)
            took = await _each(tasks, lambda task: host.recover(task, stats=True), count)
            ended = time.monotonic()
            row["recover_s"] = ended - began
            row["recover_driver_cpu_s"] = cpu_s(host.process.popen.pid)
            row["recover_tasks_cpu_s"] = sum(map(cpu_s, followed)) - tasks_before
            row["recover_p99_s"] = quantile(took, 0.99)
            stack.close()
            asked = [one.seconds for one in rpc_bench.read(out) if one.ended_at_s <= ended]
            row["inspect_p99_s"] = quantile(asked, 0.99)
            began = time.monotonic()
            await _each(tasks, host.destroy, AT_ONCE)
            row["stop_s"] = time.monotonic() - began
            # A stream of statistics ends with its next sample, for which no agent waits.
            await asyncio.gather(*map(host.let_go, tasks))
    return row


async def _each(tasks: Sequence[Task], work: Any, at_once: int) -> list[float]:
    """Do ``work`` with every task, some at once; return the seconds of each."""
    limit = asyncio.Semaphore(at_once)

    async def one(task: Task) -> float:
        async with limit:
            began = time.monotonic()
            await work(task)
            return time.monotonic() - began

    return await asyncio.gather(*(one(task) for task in tasks))


async def _rest(host: PluginHost) -> dict[str, float]:
    driver = host.process.popen.pid
    own = milo_processes(driver)
    before = cpu_s(driver), sum(map(cpu_s, own))
    await asyncio.sleep(REST_S)
    return {
        "driver_cpu": (cpu_s(driver) - before[0]) / REST_S,
        "tasks_cpu": (sum(map(cpu_s, own)) - before[1]) / REST_S,
    }


def growth(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return of every total in `TOTALS` the power of the number of tasks that it grows with.

    From the first row to the last one: 1 is linear, 0 is no growth at all.
    """
    first, last = rows[0], rows[-1]
    scale = math.log(last["tasks"] / first["tasks"])
    return {
        name: math.log(max(last[name], LEAST) / max(first[name], LEAST)) / scale for name in TOTALS
    }


def lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the section of docs/benchmarks.md, in Markdown."""
    powers = growth(rows)
    table = [
        [
            f"{row['tasks']:,}",
            f"{row['tasks'] / row['start_s']:.0f}",
            f"{1000 * row['start_p99_s']:.0f}",
            f"{row['pss'] / row['tasks'] / MIB:.1f}",
            f"{row['driver_pss'] / MIB:.0f}",
            f"{row['driver_cpu']:.1%}",
            f"{row['tasks_cpu']:.1%}",
            f"{row['descriptors']:,}",
            f"{row['shutdown_s']:.2f}",
            f"{row['recover_s']:.2f}",
            f"{1000 * row['inspect_p99_s']:.0f}",
            f"{row['tasks'] / row['stop_s']:.0f}",
        ]
        for row in rows
    ]
    told = ", ".join(f"{what} {powers[name]:.2f}" for name, what in TOTALS.items())
    return [
        "## A crowd of tasks",
        "",
        "How it was measured: real task processes and containers, in which a program does",
        f"nothing; a plugin process of its own for each row; {AT_ONCE} tasks are started, and",
        "destroyed in the end, at once. For each an agent's WaitTask is pending and its TaskStats",
        "come once a second, which the bench, on the same processors, takes and does not decode.",
        "Then the plugin is ended as by an agent, and the next one is asked to take all over",
        "at once, which is timed from its exec to the last answer. Meanwhile a process with",
        "priority asks by InspectTask for one task after the other, with pauses of 5 ms.",
        "Processor time is that at rest, of one processor, by the kernel's count.",
        "",
        "| tasks | started a second | StartTask p99, ms | Milo's memory a task, MiB | "
        "driver, MiB | driver's CPU | task processes' CPU | driver's descriptors | "
        "driver's end, s | taken over, s | InspectTask p99 meanwhile, ms | ended a second |",
        "| ---: " * 12 + "|",
        *(f"| {' | '.join(cells)} |" for cells in table),
        "",
        f"From {rows[0]['tasks']:,} to {rows[-1]['tasks']:,} tasks, these grow with the number of "
        f"tasks to the power of: {told}. 1 is linear.",
        "",
    ]


def milo_processes(driver: int) -> list[int]:
    """Return the spawner and the task processes of a driver."""
    table = processes()
    spawners = {pid for pid, (_, parent) in table.items() if parent == driver}
    return [*spawners, *(pid for pid, (_, parent) in table.items() if parent in spawners)]


def milo_memory(driver: int) -> int:
    """Return the proportional memory, in bytes, of a driver, its spawner and task processes."""
    return sum(rollup(pid)["Pss"] for pid in (driver, *milo_processes(driver)))


def run(counts: Sequence[int]) -> list[dict[str, Any]]:
    """Measure with each number of tasks, a plugin of its own for each."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    base = Path(tempfile.mkdtemp(prefix="milo-bench-"))
    base.chmod(0o755)
    state = Path(tempfile.mkdtemp(prefix="milo-bench-", dir=machine.memory_file_system()))
    rows = []
    try:
        launcher = install(base / "plugins")
        jars.build_all(base / "jars")
        for count in counts:
            rows.append(
                asyncio.run(
                    measure(launcher, base, state / str(count), base / "jars/hello.jar", count)
                )
            )
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(base)
        shutil.rmtree(state)
    return rows


def main() -> None:
    """Measure, and print all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS))
    options = parser.parse_args()
    rows = run(options.counts)
    print(json.dumps(rows, indent=2))
    print("\n".join(lines(rows)))


if __name__ == "__main__":
    main()
