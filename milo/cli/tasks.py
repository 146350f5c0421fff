"""``milo ps``, ``stop``, ``stats``: every task of this host, whoever started it."""

from __future__ import annotations

import os
import signal
import sys
import time
from argparse import Namespace
from functools import partial
from typing import Any, Final

import trio

from milo import proc
from milo.cli.arguments import absolute, seconds_of
from milo.cli.caller import enter
from milo.cli.output import clear_screen, print_json, print_table, progress, say, size, span, warn
from milo.cli.run_leftovers import GONE_S, POLL_S, ends_within, is_run, remove_run
from milo.core import control
from milo.core.describe import exit_sentence
from milo.core.records import StreamCounters, TaskRecord
from milo.core.signals import NO_SIGNAL, parse_signal
from milo.errors import ControlError, TaskEndedError
from milo.host import state_dirs
from milo.host.state_store import StateStore
from milo.host.stats import sampling
from milo.host.stats.process_meter import ProcessMeter
from milo.host.task_client import TaskClient
from milo.host.tasks import HostTask, find_task, list_tasks
from milo.proc import signal_process

ANSWER_S: Final = 2.0
"""A task process that is busy or stuck is shown without its counters."""
SHOWN_ID: Final = 8
"""Characters of an id in a table; every command takes its beginning."""
NO_TASKS: Final = """\
No Milo tasks are running on this host. To include ended tasks: milo ps --all"""
NO_OWN_TASKS: Final = "You have no Milo tasks running. For those of Nomad: sudo milo ps"


def tasks_of_host(options: Namespace) -> list[HostTask]:
    """Return every task that a command may mean: for an ordinary user, those of that user alone."""
    found = state_dirs.of_host(absolute(options.state_dir))
    for problem in found.refused:
        warn(f"milo: {problem}")
    return list_tasks(found.trusted)


# ---- ps


def show_tasks(options: Namespace) -> int:
    """List the tasks; returns the exit status."""
    tasks = [task for task in tasks_of_host(options) if options.all or task.exit is None]
    counters = trio.run(_ask_all, tasks)
    if options.json:
        print_json([_as_json(task, counters.get(task.state_dir)) for task in tasks])
        return 0
    if not tasks:
        none = "No Milo tasks on this host." if options.all else NO_TASKS
        say(none if os.geteuid() == 0 else NO_OWN_TASKS)
        return 0
    columns = ("ID", "JOB", "GROUP", "TASK", "ALLOC", "STATE", "SINCE", "PID", "OUTPUT", "LOST")
    rows = [_row(task, counters.get(task.state_dir)) for task in tasks]
    print_table(columns, rows, folded=("JOB", "GROUP", "TASK"))
    return 0


async def _ask_all(tasks: list[HostTask]) -> dict[str, tuple[StreamCounters, StreamCounters]]:
    """Return the streams' counters of the tasks whose process answers."""
    found: dict[str, tuple[StreamCounters, StreamCounters]] = {}

    async def ask(task: HostTask) -> None:
        with trio.move_on_after(ANSWER_S):
            try:
                status = await _with_client(task, TaskClient.status)
            except ControlError:
                return
            found[task.state_dir] = (status.stdout, status.stderr)

    async with trio.open_nursery() as nursery:
        for task in tasks:
            if task.exit is not None:
                found[task.state_dir] = (task.exit.stdout, task.exit.stderr)
            elif task.supervised:
                nursery.start_soon(ask, task)
    return found


def _row(task: HostTask, counters: tuple[StreamCounters, StreamCounters] | None) -> list[str]:
    record = task.record
    since = task.exit.ended_at_s if task.exit else record.started_at_s if record else 0.0
    pid = record.container.pid if record and record.container and task.running else None
    moved = ["?", "?"]
    if counters is not None:
        output = sum(stream.bytes_moved for stream in counters)
        moved = [size(output), size(sum(stream.bytes_dropped for stream in counters))]
    return [
        task.id[:SHOWN_ID],
        task.job_name or "-",
        task.group or "-",
        task.name,
        task.alloc_id[:SHOWN_ID],
        task.state,
        span(time.time() - since) if since else "-",
        str(pid or "-"),
        *moved,
    ]


def _as_json(
    task: HostTask, counters: tuple[StreamCounters, StreamCounters] | None
) -> dict[str, Any]:
    record = task.record
    result: dict[str, Any] = {
        "id": task.id,
        "task": task.name,
        "job": task.job_name or None,
        "group": task.launch.group_name or None if task.launch else None,
        "allocation": task.alloc_id,
        "allocation_name": task.alloc_name or None,
        "state": task.state,
        "state_dir": task.state_dir,
        "started_at": record.started_at_s if record else None,
        "pid": record.container.pid if record and record.container and task.running else None,
        "supervisor_pid": record.supervisor.pid if record and task.supervised else None,
    }
    if counters is not None:
        for name, stream in zip(("stdout", "stderr"), counters, strict=True):
            result[name] = {
                "bytes_moved": stream.bytes_moved,
                "bytes_dropped": stream.bytes_dropped,
                "stalled_seconds": stream.stalled_s,
            }
    if task.exit is not None:
        result["exit"] = {
            "exit_code": task.exit.exit_code,
            "signal": task.exit.signal,
            "oom_killed": task.exit.oom_killed,
            "oom_kills": task.exit.oom_kills,
            "error": task.exit.error,
            "ended_at": task.exit.ended_at_s,
        }
    return result


# ---- stop


def stop_task(options: Namespace) -> int:
    """Stop one task, and wait for its end; returns the exit status."""
    task = find_task(options.task, tasks_of_host(options))
    number = parse_signal(options.signal)
    timeout_s = seconds_of("--timeout", options.timeout)
    alone = task.running and not task.supervised
    ordinary, of_run = os.geteuid() != 0, is_run(os.path.dirname(task.state_dir))
    if alone and of_run and ordinary:
        # What his tasks leave may belong to subordinate users. Before a sign of progress is shown,
        # which is a thread's.
        enter()
    with progress(f"Stopping {task.name}"):
        if not alone:
            text = trio.run(_stop, task, number, timeout_s)
        else:
            text = trio.run(_end_alone, task, number, timeout_s)
            if of_run:
                trio.run(partial(remove_run, os.path.dirname(task.state_dir), ordinary=ordinary))
    say(text)
    return 0


async def _stop(task: HostTask, number: int, timeout_s: float) -> str:
    async def ask(client: TaskClient) -> None:
        await client.stop(number, timeout_s)

    await _with_client(task, ask)
    store = StateStore(os.path.dirname(task.state_dir))
    # The exit is written before the task process ends, and nothing tells an observer of it.
    while (ended := store.read_exit(task.state_dir)) is None:
        if not task.supervised and not task.running:
            return "The task has ended"
        await trio.sleep(POLL_S)
    return exit_sentence(ended, stopped=True)


async def _end_alone(task: HostTask, number: int, timeout_s: float) -> str:
    """End a task whose own process was killed."""
    assert task.record is not None and task.record.container is not None
    container = task.record.container
    for signal_number, patience_s in ((number, timeout_s), (signal.SIGKILL, GONE_S)):
        if signal_number != NO_SIGNAL:
            signal_process(container, signal_number)
        if await ends_within(container, patience_s):
            break
    return "The task has ended; its exit code is not known, as its task process was killed"


async def _with_client(task: HostTask, ask: Any) -> Any:
    """Return what ``ask`` does with a connection to the task's process."""
    client = await TaskClient.connect(task.state_dir, lambda _: None, role=control.ROLE_OBSERVER)
    failure: ControlError | None = None
    answer: Any = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        try:
            answer = await ask(client)
        except ControlError as exc:
            failure = exc
        client.close()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return answer


# ---- stats


def show_stats(options: Namespace) -> int:
    """Show what tasks use, again and again on a terminal; returns the exit status."""
    interval_s = seconds_of("--interval", options.interval, 0.1, 3600)
    tasks = tasks_of_host(options)
    if options.task:
        tasks = [find_task(options.task, tasks)]
        if not tasks[0].running:
            raise TaskEndedError(tasks[0].name, "it uses nothing. To see how: milo ps --all")
    tasks = [task for task in tasks if task.running]
    meters = {task.id: _meter(task.record) for task in tasks if task.record}
    try:
        before = {name: meter.sample() for name, meter in meters.items()}
        while True:
            time.sleep(interval_s)
            now = {name: meter.sample() for name, meter in meters.items()}
            _print_stats(tasks, before, now, options)
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


def _print_stats(
    tasks: list[HostTask],
    before: dict[str, sampling.Sample],
    now: dict[str, sampling.Sample],
    options: Namespace,
) -> None:
    mhz = proc.core_mhz()
    rows, objects = [], []
    for task in tasks:
        cpu, memory = sampling.usage(before[task.id], now[task.id], mhz)
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
            }
        )
    if options.json:
        print_json(objects)
        return
    if options.follow and sys.stdout.isatty():
        clear_screen()
    columns = ("ID", "TASK", "CPU", "USER", "SYSTEM", "THROTTLED", "MEMORY", "RSS", "LIMIT")
    print_table(columns, rows, folded=("TASK",))
