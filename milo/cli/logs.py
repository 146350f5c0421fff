"""``milo logs``: what tasks have printed, from the files of Nomad's log collector."""

from __future__ import annotations

import contextlib
import heapq
import os
import struct
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from typing import Final

import attrs

from milo import walk
from milo.cli.arguments import WrongValueError, seconds_of
from milo.cli.log_printer import Printer
from milo.cli.log_text import MAX_LINE_BYTES, MAX_TAIL_BYTES, LogText, Place, View
from milo.cli.merged_logs import Piece, last_lines, pieces, since, whole_lines
from milo.cli.output import size, warn
from milo.cli.tasks import tasks_of_host
from milo.core.records import COUNTERS_FILE, TIMELINE_FILE
from milo.core.text import printable
from milo.core.timeline import Mark, decode
from milo.errors import MiloError, PathError
from milo.files import read_file
from milo.host.tasks import HostTask, find_tasks
from milo.walk import Held, Kind

STREAMS: Final = ("stdout", "stderr")
COUNTS: Final = struct.Struct("4Q")
"""Of each stream what came and what was dropped; see `milo.task.logs.byte_counts`."""
POLL_S: Final = 0.1
"""The task can replace these files, so that a watch on one of them would not do."""


class NoLogsError(MiloError):
    """Nothing is kept of what the task prints."""

    def __init__(self, task: HostTask, why: str) -> None:
        super().__init__(f"Error: task {task.id} ({task.name}) has no log: {why}")


def show_logs(options: Namespace) -> int:
    """Print the log of a task, or of all tasks of a job; with ``-f`` until they have ended.

    Raises:
        MiloError: there is no such task, or no log of it.
    """
    if options.lines is not None and options.lines < 0:
        raise WrongValueError("--lines", f"got {options.lines}", "0 or more")
    since_s = seconds_of("--since", options.since) if options.since else 0.0
    tasks = find_tasks(options.task, tasks_of_host(options))
    streams = [name for name in STREAMS if getattr(options, name)] or list(STREAMS)
    with contextlib.ExitStack() as ending:
        found: list[_TaskLog] = []
        for task, name in zip(tasks, _labels(tasks), strict=True):
            try:
                found.append(_TaskLog(task, name, streams, ending))
                by_hand = task.launch is not None and task.launch.by_hand  # its files come first
                if not (
                    any(view.files for view in found[-1].views) or (options.follow and not by_hand)
                ):
                    what = " or ".join(streams)
                    text = f"there is no {what} file in alloc/logs of its allocation"
                    if by_hand:
                        text = "milo run keeps one with -d or --log-dir alone"
                    raise NoLogsError(task, text)
            except NoLogsError as exc:
                if len(tasks) == 1:
                    raise
                warn(str(exc).replace("Error", "milo", 1))
        if len(tasks) == len(streams) == 1 and not since_s:
            places = [_print_one(found[0].logs[0], found[0].views, options.lines)]
        else:
            _print_merged(found, options.lines, since_s)
            places = [place for one in found for place in one.ends]
        if options.follow:
            _follow(found, places)
        for one in found:
            one.tell_losses()
    return 0


def _labels(tasks: Sequence[HostTask]) -> list[str]:
    """Return what stands before the lines of each; nothing where there is one task alone."""
    if len(tasks) == 1:
        return [""]
    names = [f"{task.group}/{task.name}" if task.group else task.name for task in tasks]
    often = Counter(names)
    labels = [
        printable(f"{name} {task.alloc_id[:8]}" if often[name] > 1 else name)
        for name, task in zip(names, tasks, strict=True)
    ]
    width = max(map(len, labels))
    return [label.ljust(width) for label in labels]


class _TaskLog:
    """The log of one task: both streams, or one of them."""

    def __init__(
        self, task: HostTask, label: str, names: Sequence[str], ending: contextlib.ExitStack
    ) -> None:
        self.task = task
        try:
            directory = ending.enter_context(hold_logs(task))
        except PathError as exc:
            raise NoLogsError(task, f"{os.path.basename(exc.part)}: {exc.words}") from exc
        self._counted = _counted(task)
        self.views = [View(None, []), View(None, [])]
        """Of standard output and of standard error."""
        for number, stream in enumerate(STREAMS):
            if stream in names:
                printer = Printer(label)
                ending.callback(printer.close)
                log = LogText(directory, f"{task.name}.{stream}", printer)
                self.views[number] = View(log, log.files())

    @property
    def logs(self) -> list[LogText]:
        """The streams that are wanted."""
        return [view.log for view in self.views if view.log is not None]

    @property
    def ends(self) -> list[Place]:
        """Where each of them ended when it was looked at."""
        return [
            Place(view.files[-1].number, view.files[-1].size) if view.files else Place()
            for view in self.views
            if view.log is not None
        ]

    def tell_losses(self) -> None:
        """Say what was dropped of the streams that are wanted: the log does not show it."""
        dropped = _dropped(self.task)
        for number, stream in enumerate(STREAMS):
            if dropped[number] and self.views[number].log is not None:
                words = f"{size(dropped[number])} of {stream} of task {self.task.name}"
                warn(f"milo: {words} were dropped and are in no log")

    def pieces(self, lines: int | None, since_s: float) -> list[Piece]:
        """Return what it holds in order of time, and is wanted."""
        order = pieces([view.sizes() for view in self.views], *self._counted)
        if since_s:
            order = since(order, time.time() - since_s)
        if lines is not None:
            limit = min(lines * MAX_LINE_BYTES, MAX_TAIL_BYTES)
            order = last_lines(order, self.views, lines, limit)
        return order


def _counted(task: HostTask) -> tuple[tuple[int, int], list[Mark]]:
    """Return how many bytes of each stream have come, and when; nothing of what is not known."""
    counts = read_file(os.path.join(task.state_dir, COUNTERS_FILE)) or b""
    marks = decode(read_file(os.path.join(task.state_dir, TIMELINE_FILE)) or b"")
    if len(counts) < COUNTS.size or not marks:
        return (0, 0), []
    stdout, _, stderr, _ = COUNTS.unpack_from(counts)
    return (stdout, stderr), marks


def _dropped(task: HostTask) -> tuple[int, int]:
    """Return how many bytes of each stream nobody has taken."""
    if task.exit is not None:
        return task.exit.stdout.bytes_dropped, task.exit.stderr.bytes_dropped
    counts = read_file(os.path.join(task.state_dir, COUNTERS_FILE)) or b""
    if len(counts) < COUNTS.size:
        return 0, 0
    _, stdout, _, stderr = COUNTS.unpack_from(counts)
    return stdout, stderr


def _print_one(log: LogText, views: Sequence[View], lines: int | None) -> Place:
    """Print one stream as it is, and return where that ends."""
    files = [file for view in views for file in view.files]
    return log.print_from(Place() if lines is None else log.last_lines(files, lines), files)


def _print_merged(found: Sequence[_TaskLog], lines: int | None, since_s: float) -> None:
    """Print these logs in order of time."""
    views = [view for one in found for view in one.views]
    orders = [
        [
            attrs.evolve(piece, stream=number * len(STREAMS) + piece.stream)
            for piece in one.pieces(lines, since_s)
        ]
        for number, one in enumerate(found)
    ]
    order = list(heapq.merge(*orders, key=lambda piece: piece.at_s))
    for number, data in whole_lines(order, views):
        if (log := views[number].log) is not None:
            log.print.feed(data)


def hold_logs(task: HostTask) -> Held:
    """Hold the directory of the log files, reached by no symlink that a task can make."""
    if task.launch is not None and task.launch.log_dir:
        return walk.follow(task.launch.log_dir, Kind.DIRECTORY)
    return walk.hold(f"{task.alloc_dir}/alloc/logs", beneath=task.alloc_dir, kind=Kind.DIRECTORY)


def _follow(found: Sequence[_TaskLog], places: Sequence[Place]) -> None:
    logs = [log for one in found for log in one.logs]
    while True:
        ended = not any(one.task.running or one.task.supervised for one in found)
        places = [log.print_from(place) for log, place in zip(logs, places, strict=True)]
        if ended:
            return
        time.sleep(POLL_S)
