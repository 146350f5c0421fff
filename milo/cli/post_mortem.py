"""``milo post-mortem``: what is known of a task that has died.

The exit record has most of it, which outlives the task. What the task has written, its log and its
dumps, is looked for in its allocation's directory: within bounds, and nothing of it is believed.
"""

from __future__ import annotations

import contextlib
import time
from argparse import Namespace
from typing import Any, Final

from milo.cli.last_end import end_of
from milo.cli.log_printer import Printer
from milo.cli.log_text import LogText, View
from milo.cli.logs import hold_logs
from milo.cli.output import print_json, say, size, span, warn
from milo.cli.tasks import SHOWN_ID, tasks_of_host
from milo.core.describe import exit_message
from milo.core.java.flight_recorder import FILE, REPOSITORY
from milo.core.java.printed_threads import PrintedThreads
from milo.core.java.startup_cache import RECORDED
from milo.core.records import ExitRecord, LastFigures
from milo.core.signals import signal_name
from milo.core.text import printable
from milo.errors import MiloError, PathError
from milo.host.tasks import HostTask, find_task, last_end
from milo.walk import Kind, hold

LAST_LINES: Final = 20
MAX_LINE_CHARS: Final = 500
MAX_TAIL_BYTES: Final = 64 * 1024
MAX_DUMP_BYTES: Final = 4 << 20
"""Of the log are read where a thread dump may stand at its end: some 5,000 threads."""
WIDTH: Final = 14
DUMPS: Final = (
    ("heap_dump", "heap dump", ".hprof", Kind.FILE),
    ("crash_report", "crash report", ".hs_err.log", Kind.FILE),
    ("recording", "recording", FILE, Kind.FILE),
    ("recording", "recording", REPOSITORY, Kind.DIRECTORY),
)
"""In JSON, for people, and what the name ends with. Of two of one name the first counts."""
LABELS: Final = {key: label for key, label, _, _ in DUMPS}


class NotEndedError(MiloError):
    """The task has not ended."""

    def __init__(self, task: HostTask) -> None:
        self.task = task.name
        words = f"task {task.id} ({printable(task.name)}) has not ended: it is {task.state}"
        super().__init__(f"Error: {words}. To see what its JVM does: milo dump threads {task.id}")


def show_end(options: Namespace) -> int:
    """Show how a task has ended; return the exit status.

    Raises:
        MiloError: there is no such task, or it has not ended.
    """
    tasks = tasks_of_host(options)
    found = find_task(options.task, tasks)
    task = found if end_of(found) is not None else last_end(found, tasks)
    if task is None or (end := end_of(task)) is None:
        raise NotEndedError(found)
    if task is not found:
        warn(
            f"milo: that is the end of {task.id}. Nomad has restarted the task since: it is "
            f"{found.id} now, and {found.state}"
        )
    dumps = dumps_of(task, end)
    lines = _last_lines(task, with_threads=end.thread_dump)
    if options.json:
        print_json(_as_json(task, end, dumps, lines))
        return 0
    for name, text in _rows(task, end, dumps):
        say(f"{name:<{WIDTH}}{text}")
    if lines:
        say("the end of its standard error:", *(f"  {line}" for line in lines))
    return 0


def _rows(task: HostTask, end: ExitRecord, dumps: dict[str, str]) -> list[tuple[str, str]]:
    """Return what is to be said, without what is not known."""
    when = "nobody has seen when"
    if end.ended_at_s:
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(end.ended_at_s))
        if end.started_at_s:
            when += f", after {span(end.ended_at_s - end.started_at_s)}"
    rows = [
        ("task", task.full_name),
        ("allocation", task.alloc_id[:SHOWN_ID]),
        ("ended", when),
        ("how", exit_message(end) or "Task completed successfully"),
    ]
    if not end.error:
        how = f"signal {end.signal} ({signal_name(end.signal)})" if end.signal else "none"
        rows.append(("exit", f"code {end.exit_code}, signal {how.removeprefix('signal ')}"))
    memory = end.memory
    if memory.peak_bytes or memory.limit_bytes:
        limit = f" of {size(memory.limit_bytes)}" if memory.limit_bytes else ""
        rows.append(("memory", f"up to {size(memory.peak_bytes)}{limit}"))
    if end.oom_kills:
        own = ", the application among them" if end.oom_killed else ""
        rows.append(("OOM kills", f"{end.oom_kills}{own}"))
    rows += _figure_rows(end.figures)
    if end.thread_dump:
        where = f"in its log: milo logs {task.id}"
        if end.thread_dump_files:
            where = f"{task.alloc_dir}{end.thread_dump_files}"
        rows.append(("thread dump", where))
    rows += [(LABELS[key], path) for key, path in dumps.items()]
    if "recording" in dumps:
        rows.append(("", f"to fetch the recording: milo dump jfr {task.id}"))
    return rows


def _figure_rows(figures: LastFigures) -> list[tuple[str, str]]:
    rows = []
    if figures.heap_used_bytes is not None:
        most = f" of {size(figures.heap_max_bytes)}" if figures.heap_max_bytes else ""
        rows.append(("heap", f"{size(figures.heap_used_bytes)}{most}, at the last count"))
    if figures.metaspace_used_bytes is not None:
        rows.append(("metaspace", size(figures.metaspace_used_bytes)))
    if figures.collections is not None:
        took = f" in {figures.collections_s:.1f} s" if figures.collections_s is not None else ""
        rows.append(("GC", f"{figures.collector} {figures.collections} times{took}"))
    if figures.threads is not None:
        peak = f", at most {figures.peak_threads}" if figures.peak_threads is not None else ""
        rows.append(("threads", f"{figures.threads}{peak}"))
    return rows


def _as_json(
    task: HostTask, end: ExitRecord, dumps: dict[str, str], lines: list[str]
) -> dict[str, Any]:
    figures = end.figures
    return {
        "id": task.id,
        "task": task.name,
        "job": task.job_name or None,
        "group": task.group_name or None,
        "allocation": task.alloc_id,
        "started_at": end.started_at_s or None,
        "ended_at": end.ended_at_s or None,
        "successful": end.successful,
        "message": printable(exit_message(end)),
        "exit_code": end.exit_code,
        "signal": end.signal,
        "error": printable(end.error),
        "stop_asked": end.stop_asked,
        "stopped_by_kill": end.stop_killed,
        "oom_killed": end.oom_killed,
        "oom_kills": end.oom_kills,
        "memory": {
            "peak_bytes": end.memory.peak_bytes or None,
            "limit_bytes": end.memory.limit_bytes or None,
        },
        "java_oom": printable(end.java_oom) or None,
        "crash": printable(end.crash) or None,
        "heap": {
            "used_bytes": figures.heap_used_bytes,
            "committed_bytes": figures.heap_committed_bytes,
            "max_bytes": figures.heap_max_bytes,
        },
        "metaspace_used_bytes": figures.metaspace_used_bytes,
        "gc": {
            "collector": figures.collector or None,
            "collections": figures.collections,
            "seconds": figures.collections_s,
        },
        "threads": figures.threads,
        "peak_threads": figures.peak_threads,
        "classes": figures.classes,
        "thread_dump": end.thread_dump,
        "dumps": dumps,
        "stderr": lines,
    }


def dumps_of(task: HostTask, end: ExitRecord) -> dict[str, str]:
    """Return the host's paths of what the JVM has written, as far as it is there."""
    found: dict[str, str] = {}
    if not end.files:
        return found
    for key, _, suffix, kind in DUMPS:
        path = f"{task.alloc_dir}{end.files}{suffix}"
        with contextlib.suppress(PathError), hold(path, beneath=task.alloc_dir, kind=kind) as held:
            if held.status.st_size:  # the JVM makes its recording's file long before it writes it
                found.setdefault(key, path)
    return found


def _last_lines(task: HostTask, *, with_threads: bool) -> list[str]:
    """Return the last lines of the task's standard error, none where there is no log of it.

    Those of a thread dump that Milo has asked for are left out: a row says where it is.
    """
    most = MAX_DUMP_BYTES if with_threads else MAX_TAIL_BYTES
    try:
        with hold_logs(task) as directory:
            log = LogText(directory, f"{task.name}.stderr", Printer())
            view = View(log, log.files())
            end = sum(length for length, _ in view.sizes())
            data = b"".join(view.read(max(0, end - most), end))
    except PathError:
        return []
    data = data.removesuffix(RECORDED)  # which is the JVM's last word, and about Milo
    if with_threads:
        threads = PrintedThreads()
        data = b"\n".join(line for line in data.split(b"\n") if not threads.has(line))
    lines = data.decode(errors="replace").splitlines()[-LAST_LINES:]
    return [printable(line[:MAX_LINE_CHARS].expandtabs()) for line in lines]
