"""``milo stats``: what tasks use of the processors and the memory, and what their JVMs tell."""

from __future__ import annotations

import sys
import time
from argparse import Namespace

import attrs

from milo import proc
from milo.cli.arguments import seconds_of
from milo.cli.jvm_figures import gc_seconds, jvm_figures
from milo.cli.output import clear_screen, print_json, print_table, size
from milo.cli.tasks import SHOWN_ID, tasks_of_host
from milo.core.java.jvm_figures import JvmFigures
from milo.core.records import TaskRecord
from milo.errors import TaskEndedError
from milo.host.stats import sampling
from milo.host.stats.process_meter import ProcessMeter
from milo.host.tasks import HostTask, find_tasks


@attrs.frozen
class _Reading:
    """All figures at one moment, by the tasks' ids."""

    samples: dict[str, sampling.Sample]
    jvms: dict[str, JvmFigures]


def show_stats(options: Namespace) -> int:
    """Show what tasks use, again and again on a terminal; returns the exit status."""
    interval_s = seconds_of("--interval", options.interval, 0.1, 3600)
    tasks = tasks_of_host(options)
    if options.task:
        tasks = find_tasks(options.task, tasks)
        if not any(task.running for task in tasks):
            state = f"Its state: {tasks[-1].full_state}. To see more: milo ps --all"
            raise TaskEndedError(tasks[-1].name, f"it uses nothing. {state}")
    tasks = [task for task in tasks if task.running]
    meters = {task.id: _meter(task.record) for task in tasks if task.record}

    def read() -> _Reading:
        jvms = jvm_figures(tasks)
        return _Reading({name: meter.sample() for name, meter in meters.items()}, jvms)

    try:
        before = read()
        while True:
            time.sleep(interval_s)
            now = read()
            _print_stats(tasks, before, now, options)
            sys.stdout.flush()  # a pipe's reader waits for it as well
            if not options.follow:
                return 0
            before = now
            tasks = [task for task in tasks if task.running]
            if not tasks:
                return 0
    finally:
        for meter in meters.values():
            meter.close()


def _meter(record: TaskRecord) -> sampling.Meter | ProcessMeter:
    if not record.cgroup_path and record.container is not None:
        return ProcessMeter(record.container.pid)
    return sampling.Meter(sampling.locate(record.cgroup_path))


def _gc_percent(task: str, before: _Reading, now: _Reading) -> float | None:
    """Return the share of the time between that the application stood still for collections."""
    earlier, later = gc_seconds(before.jvms.get(task)), gc_seconds(now.jvms.get(task))
    elapsed_s = (now.samples[task].taken_ns - before.samples[task].taken_ns) / 1e9
    if earlier is None or later is None or later < earlier or elapsed_s <= 0:
        return None
    return min(100.0, (later - earlier) / elapsed_s * 100)


def _print_stats(
    tasks: list[HostTask], before: _Reading, now: _Reading, options: Namespace
) -> None:
    mhz = proc.core_mhz()
    rows, objects = [], []
    for task in tasks:
        cpu, memory = sampling.usage(before.samples[task.id], now.samples[task.id], mhz)
        jvm = now.jvms.get(task.id) or JvmFigures()
        gc_percent = _gc_percent(task.id, before, now)
        limited = task.launch is not None and task.launch.rights.cgroups
        limit = task.launch.resources.memory_bytes if task.launch and limited else 0
        rows.append(
            [
                task.id[:SHOWN_ID],
                task.full_name,
                f"{cpu.percent:.1f}%",
                f"{cpu.user_percent:.1f}%",
                f"{cpu.system_percent:.1f}%",
                str(cpu.throttled_periods),
                size(memory.usage),
                size(memory.rss),
                size(limit) if limit else "-",
                "-" if jvm.heap_used_bytes is None else size(jvm.heap_used_bytes),
                "-" if gc_percent is None else f"{gc_percent:.1f}%",
                "-" if jvm.threads is None else str(jvm.threads),
            ]
        )
        objects.append(
            {
                "id": task.id,
                "task": task.name,
                "job": task.job_name or None,
                "allocation": task.alloc_id,
                "cpu_percent": cpu.percent,
                "cpu_user_percent": cpu.user_percent,
                "cpu_system_percent": cpu.system_percent,
                "throttled_periods": cpu.throttled_periods,
                "memory_bytes": memory.usage,
                "memory_rss_bytes": memory.rss,
                "memory_limit_bytes": limit or None,
                "heap_used_bytes": jvm.heap_used_bytes,
                "heap_committed_bytes": jvm.heap_committed_bytes,
                "heap_max_bytes": jvm.heap_max_bytes,
                "metaspace_used_bytes": jvm.metaspace_used_bytes,
                "gc_percent": gc_percent,
                "gc_seconds": gc_seconds(jvm),
                "gc_collections": sum(one.collections for one in jvm.gc) if jvm.gc else None,
                "threads": jvm.threads,
                "classes": jvm.classes,
            }
        )
    if options.json:
        print_json(objects)
        return
    if options.follow and sys.stdout.isatty():
        clear_screen()
    of_kernel = ("ID", "TASK", "CPU", "USER", "SYSTEM", "THROTTLED", "MEMORY", "RSS", "LIMIT")
    print_table((*of_kernel, "HEAP", "GC", "THREADS"), rows, folded=("TASK",))
