"""``milo logs``: what a task has printed, from the files of Nomad's log collector."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Final

import attrs

from milo import walk
from milo.cli.arguments import seconds_of
from milo.cli.merged_logs import last_lines, pieces, since, whole_lines
from milo.cli.output import warn
from milo.cli.tasks import tasks_of_host
from milo.cli.terminal_filter import TerminalFilter
from milo.core.records import COUNTERS_FILE, TIMELINE_FILE
from milo.core.timeline import Mark, decode
from milo.errors import ConfigError, MiloError, PathError
from milo.files import read_file
from milo.host.tasks import HostTask, find_task
from milo.walk import Held, Kind

STREAMS: Final = ("stdout", "stderr")
COUNTS: Final = struct.Struct("4Q")
"""Of each stream what came and what was dropped; see `milo.task.logs.byte_counts`."""
CHUNK_BYTES: Final = 64 * 1024
POLL_S: Final = 0.1
"""The task can replace these files, so that a watch on one of them would not do."""
MAX_NAMES: Final = 20_000
"""Nomad keeps ten files of each stream, unless the job says otherwise."""
MAX_LINE_BYTES: Final = 1 << 20
MAX_TAIL_BYTES: Final = 64 << 20
"""So much is looked through for the last lines: a MiB for each, and no more than this in all."""


class NoLogsError(MiloError):
    """Nothing is kept of what the task prints."""

    def __init__(self, task: HostTask, why: str) -> None:
        super().__init__(f"Error: task {task.id} ({task.name}) has no log: {why}")


def show_logs(options: Namespace) -> int:
    """Print a task's log, and with ``-f`` go on until the task has ended.

    Raises:
        MiloError: there is no such task, or no log of it.
    """
    if options.lines is not None and options.lines < 0:
        raise ConfigError("--lines", f"got {options.lines}", "0 or more")
    since_s = seconds_of("--since", options.since) if options.since else 0.0
    task = find_task(options.task, tasks_of_host(options))
    streams = [name for name in STREAMS if getattr(options, name)] or list(STREAMS)
    try:
        directory = _hold_directory(task)
    except PathError as exc:
        raise NoLogsError(task, f"{os.path.basename(exc.part)}: {exc.words}") from exc
    with directory, contextlib.ExitStack() as ending:
        logs = [_Log(directory, f"{task.name}.{name}") for name in streams]
        for log in logs:
            ending.callback(log.close)
        counted = _counted(task)
        files = [log.files() for log in logs]
        if not any(files) and not options.follow:
            what = " or ".join(streams)
            raise NoLogsError(task, f"there is no {what} file in alloc/logs of its allocation")
        if len(logs) == 1 and not since_s:
            lines = options.lines
            place = _Place() if lines is None else logs[0].last_lines(files[0], lines)
            places = [logs[0].print_from(place, files[0])]
        else:
            places = _print_merged(streams, logs, files, counted, options.lines, since_s)
        if options.follow:
            _follow(logs, task, places)
    return 0


def _counted(task: HostTask) -> tuple[tuple[int, int], list[Mark]]:
    """Return how many bytes of each stream have come, and when; nothing of what is not known."""
    counts = read_file(os.path.join(task.state_dir, COUNTERS_FILE)) or b""
    marks = decode(read_file(os.path.join(task.state_dir, TIMELINE_FILE)) or b"")
    if len(counts) < COUNTS.size or not marks:
        return (0, 0), []
    stdout, _, stderr, _ = COUNTS.unpack_from(counts)
    return (stdout, stderr), marks


def _print_merged(
    names: list[str],
    logs: list[_Log],
    files: list[list[_File]],
    counted: tuple[tuple[int, int], list[Mark]],
    lines: int | None,
    since_s: float,
) -> list[_Place]:
    """Print these files in order of time, and return where they end."""
    numbers = [STREAMS.index(name) for name in names]
    views = [_View(None, []), _View(None, [])]
    for number, log, found in zip(numbers, logs, files, strict=True):
        views[number] = _View(log, found)
    order = pieces([view.sizes() for view in views], *counted)
    if since_s:
        order = since(order, time.time() - since_s)
    if lines is not None:
        order = last_lines(order, views, lines, min(lines * MAX_LINE_BYTES, MAX_TAIL_BYTES))
    for number, data in whole_lines(order, views):
        if (printing := views[number].log) is not None:
            printing.write(data)
    return [_Place(found[-1].number, found[-1].size) if found else _Place() for found in files]


@attrs.frozen
class _View:
    """A stream's files as one text: `milo.cli.merged_logs.Stream`."""

    log: _Log | None
    files: list[_File]

    def sizes(self) -> list[tuple[int, float]]:
        return [(file.size, file.changed_s) for file in self.files]

    def read(self, start: int, end: int) -> Iterator[bytes]:
        at = 0
        for file in self.files:
            low, high = max(start, at), min(end, at + file.size)
            if low < high and self.log is not None:
                with self.log.open(file) as fd:
                    yield from () if fd is None else _read(fd, low - at, high - at)
            at += file.size


def _hold_directory(task: HostTask) -> Held:
    """Hold the directory of the log files, reached by no symlink that a task can make."""
    if task.launch is not None and task.launch.log_dir:
        return walk.follow(task.launch.log_dir, Kind.DIRECTORY)
    assert task.record is not None
    alloc_dir = task.record.alloc_dir
    return walk.hold(f"{alloc_dir}/alloc/logs", beneath=alloc_dir, kind=Kind.DIRECTORY)


def _follow(logs: list[_Log], task: HostTask, places: list[_Place]) -> None:
    while True:
        ended = not task.running and not task.supervised
        places = [log.print_from(place) for log, place in zip(logs, places, strict=True)]
        if ended:
            return
        time.sleep(POLL_S)


@attrs.frozen
class _Place:
    """A place in the log."""

    number: int = -1
    """Of the file."""
    offset: int = 0


@attrs.frozen
class _File:
    """One file of the log, as it was when it was looked at."""

    name: str
    number: int
    size: int
    changed_s: float
    """Unix time of its last change."""


class _Log:
    """The files of one stream, as one text: ``<task>.<stream>.<number>``.

    The task can write to their directory, so that each look finds what it finds: only regular
    files are opened, and each look has an end.
    """

    def __init__(self, directory: Held, name: str) -> None:
        self._directory = directory
        self._pattern = re.compile(rf"{re.escape(name)}\.([0-9]{{1,18}})")
        self._told = False
        # A program that reads the log gets each byte as it is.
        self._filter = TerminalFilter() if sys.stdout.isatty() else None

    def files(self) -> list[_File]:
        """Return the files, the oldest first."""
        names, complete = self._directory.names(MAX_NAMES)
        if not complete and not self._told:
            self._told = True
            warn(
                f"milo: the directory of the log has more than {MAX_NAMES} files; parts of the log "
                "may be missing"
            )
        found = []
        for name, _ in names:
            if match := self._pattern.fullmatch(name):
                with contextlib.suppress(PathError), self._directory.enter(name, Kind.FILE) as held:
                    status = held.status
                    found.append(_File(name, int(match[1]), status.st_size, status.st_mtime))
        return sorted(found, key=lambda file: file.number)

    def last_lines(self, files: list[_File], lines: int) -> _Place:
        """Return where the last lines of these files begin, looking at so much and no more."""
        newest = files[-1] if files else _File("", -1, 0, 0.0)
        place = _Place(newest.number, newest.size)
        limit = left = min(lines * MAX_LINE_BYTES, MAX_TAIL_BYTES)
        wanted = lines
        at_end = True
        for file in reversed(files):
            for offset, data in self._backwards(file, left):
                left -= len(data)
                place = _Place(file.number, offset)
                if at_end and data:
                    at_end = False
                    wanted += data.endswith(b"\n")  # which ends the last line and begins none
                feeds = data.count(b"\n")
                if wanted and feeds >= wanted:
                    at = len(data)
                    for _ in range(wanted):
                        at = data.rindex(b"\n", 0, at)
                    return _Place(file.number, offset + at + 1)
                wanted -= feeds
            if left <= 0:
                break
        if lines and left <= 0 and place != _Place(files[0].number):
            warn(
                f"milo: the last lines are longer than {limit >> 20} MiB; only their end is printed"
            )
        return place

    def _backwards(self, file: _File, limit: int) -> Iterator[tuple[int, bytes]]:
        """Yield blocks of a file from its end on, ``limit`` bytes at most, each with its place."""
        first = max(0, file.size - limit)
        with self.open(file) as fd:
            end = file.size
            while fd is not None and end > first:
                offset = max(first, end - CHUNK_BYTES)
                yield offset, os.pread(fd, end - offset, offset)
                end = offset

    def print_from(self, start: _Place, files: list[_File] | None = None) -> _Place:
        """Print what comes after ``start``, and return where that ends.

        That is all that can be read, or no more than these ``files`` have had.
        """
        place = start
        for file in self.files() if files is None else files:
            if file.number < place.number:
                continue
            if file.number > place.number:
                place = _Place(file.number)
            if file.size < place.offset:
                place = _Place(file.number)  # another file, or one that was cut short
            end = None if files is None else file.size
            with self.open(file) as fd:
                for data in () if fd is None else _read(fd, place.offset, end):
                    place = _Place(file.number, place.offset + len(data))
                    self.write(data)
        return place

    def write(self, data: bytes) -> None:
        """Print a part of the log."""
        _write(data if self._filter is None else self._filter.feed(data))

    def close(self) -> None:
        """Print what is held back of the last characters."""
        if self._filter is not None:
            _write(self._filter.end())

    @contextlib.contextmanager
    def open(self, file: _File) -> Iterator[int | None]:
        """Open a file, if it still is one: it may be rotated away meanwhile."""
        try:
            with self._directory.enter(file.name, Kind.FILE) as held:
                fd = held.open()
        except PathError:
            yield None
            return
        try:
            yield fd
        finally:
            os.close(fd)


def _read(fd: int, offset: int, end: int | None) -> Iterator[bytes]:
    while end is None or offset < end:
        count = CHUNK_BYTES if end is None else min(CHUNK_BYTES, end - offset)
        data = os.pread(fd, count, offset)
        if not data:
            return
        offset += len(data)
        yield data


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
