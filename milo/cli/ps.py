"""``milo ps``: every task of this host, whoever started it."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from typing import Any, Final

import trio

from milo.cli.output import print_json, print_table, say, size, span
from milo.cli.tasks import SHOWN_ID, places_of_host
from milo.core.records import StreamCounters
from milo.errors import ControlError
from milo.host.task_client import TaskClient, observed
from milo.host.tasks import HostTask, list_tasks

ANSWER_S: Final = 2.0
"""A task process that is busy or stuck is shown without its counters."""
NO_TASKS: Final = """\
No Milo tasks are running on this host. To include ended tasks: milo ps --all"""
NO_OWN_TASKS: Final = "You have no Milo tasks running. For those of Nomad: sudo milo ps"

NONE_ELSEWHERE: Final = "No Milo tasks were found elsewhere."
"""Than where it could not look, which was said."""


def show_tasks(options: Namespace) -> int:
    """List the tasks; returns the exit status."""
    places = places_of_host(options)
    tasks = [task for task in list_tasks(places.trusted) if options.all or task.exit is None]
    counters = trio.run(_ask_all, tasks)
    if options.json:
        print_json([_as_json(task, counters.get(task.state_dir)) for task in tasks])
        return 0
    if not tasks:
        none = "No Milo tasks on this host." if options.all else NO_TASKS
        none = none if os.geteuid() == 0 else NO_OWN_TASKS
        say(NONE_ELSEWHERE if places.refused else none)
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
                status = await observed(task.state_dir, TaskClient.status)
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
    since = task.exit.ended_at_s if task.exit else task.started_at_s
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
        task.full_state,
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
        "group": task.group_name or None,
        "allocation": task.alloc_id,
        "allocation_name": task.alloc_name or None,
        "state": task.state,
        "state_dir": task.state_dir,
        "started_at": task.started_at_s,
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
