"""What the driver, its spawner and its task processes hold in memory, and their idle CPU.

Proportional memory (PSS) divides each page by the number of processes that share it, so that
the sum over all processes is what the machine has given away.
"""

from __future__ import annotations

import asyncio
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.plugin_host import PluginHost, Task

MIB = 1 << 20
AT_ONCE = 4
JVM_OPTIONS = ("-XX:+UseSerialGC", "-Xmx8m", "-Xint")
"""A small JVM: a hundred of them have to fit into the machine beside each other."""
NEVER_MS = "100000000"
"""Clock prints its first line at once, and the next one after this."""


async def footprints(
    host: PluginHost, jar: Path, *, counts: Sequence[int], idle_s: float
) -> list[dict[str, Any]]:
    """Measure with each number of idle tasks, ascending; ``jar`` is tests/jars/Clock.java's.

    An agent's WaitTask and TaskStats calls are pending for every task. Each row, in bytes:
    driver_rss, driver_pss, spawner_pss, task_pss and jvm_pss (mean of all), marginal_pss (all of
    Milo's processes, compared with no task, a task); and of one CPU: driver_cpu, task_cpu,
    in idle_s.
    """
    tasks: list[Task] = []
    rows: list[dict[str, Any]] = []
    try:
        for count in counts:
            await _start_up_to(host, jar, tasks, count)
            # Collections, and a round of each task's statistics, before anything is measured.
            await asyncio.sleep(idle_s)
            rows.append(await _measure(host, count, idle_s))
            own = rows[-1]
            if count:
                own["marginal_pss"] = (own["all_pss"] - rows[0]["all_pss"]) / count
    finally:
        for start in range(0, len(tasks), AT_ONCE):
            await asyncio.gather(*map(host.destroy, tasks[start : start + AT_ONCE]))
        await asyncio.gather(*map(host.let_go, tasks))
    return rows


async def _start_up_to(host: PluginHost, jar: Path, tasks: list[Task], count: int) -> None:
    while len(tasks) < count:
        batch = [
            host.lay_out(jar, args=[NEVER_MS], jvm_options=JVM_OPTIONS, memory_mb=128)
            for _ in range(min(AT_ONCE, count - len(tasks)))
        ]
        await asyncio.gather(*(host.start(task, stats=True) for task in batch))
        tasks += batch
        await asyncio.gather(*(task.first_byte() for task in batch))


async def _measure(host: PluginHost, count: int, idle_s: float) -> dict[str, Any]:
    driver = host.process.popen.pid
    table = processes()
    (spawner,) = [pid for pid, (name, parent) in table.items() if parent == driver]
    supervisors = [
        pid for pid, (name, parent) in table.items() if name == "milo-task" and parent == spawner
    ]
    assert len(supervisors) == count, (len(supervisors), count)
    jvms = [pid for pid, (_, parent) in table.items() if parent in set(supervisors)]
    before = cpu_s(driver), sum(map(cpu_s, supervisors))
    await asyncio.sleep(idle_s)
    used = cpu_s(driver) - before[0], sum(map(cpu_s, supervisors)) - before[1]
    memory = {pid: rollup(pid) for pid in (driver, spawner, *supervisors, *jvms)}
    task_pss = [memory[pid]["Pss"] for pid in supervisors]
    return {
        "tasks": count,
        "idle_s": idle_s,
        "driver_rss": memory[driver]["Rss"],
        "driver_pss": memory[driver]["Pss"],
        "spawner_pss": memory[spawner]["Pss"],
        "task_pss": statistics.mean(task_pss or [0]),
        "task_pss_max": max(task_pss, default=0),
        "jvm_pss": statistics.mean([memory[pid]["Pss"] for pid in jvms] or [0]),
        "all_pss": memory[driver]["Pss"] + memory[spawner]["Pss"] + sum(task_pss),
        "driver_cpu": used[0] / idle_s,
        "task_cpu": used[1] / idle_s / max(count, 1),
    }


def jvms(driver: int) -> list[int]:
    """Return the processes of all tasks of a driver, which is given by its process id."""
    table = processes()
    spawners = {pid for pid, (_, parent) in table.items() if parent == driver}
    supervisors = {
        pid for pid, (name, parent) in table.items() if name == "milo-task" and parent in spawners
    }
    return [
        pid for pid, (name, parent) in table.items() if name == "java" and parent in supervisors
    ]


def rollup(pid: int) -> dict[str, int]:
    """Return the bytes of each kind in /proc/<pid>/smaps_rollup: Rss, Pss, Private_Dirty ..."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def processes() -> dict[int, tuple[str, int]]:
    """Return name and parent of every process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                head, _, tail = (entry / "stat").read_text().rpartition(")")
            except (FileNotFoundError, ProcessLookupError):
                continue
            found[int(entry.name)] = (head.partition("(")[2], int(tail.split()[1]))
    return found


def cpu_s(pid: int) -> float:
    """Return the processor seconds of all threads of a process (clock ticks of 10 ms)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
