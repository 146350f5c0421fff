"""``milo logs``: what a task has printed, from the files of Nomad's log collector."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Final

import attrs

from milo import walk
from milo.cli.output import warn
from milo.cli.tasks import tasks_of_host
from milo.cli.terminal_filter import TerminalFilter
from milo.errors import ConfigError, MiloError, PathError
from milo.host.tasks import HostTask, find_task
from milo.walk import Held, Kind

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
    task = find_task(options.task, tasks_of_host(options))
    stream = "stderr" if options.stderr else "stdout"
    try:
        directory = _hold_directory(task)
    except PathError as exc:
        raise NoLogsError(task, f"{os.path.basename(exc.part)}: {exc.words}") from exc
    with directory:
        log = _Log(directory, f"{task.name}.{stream}")
        files = log.files()
        if not files and not options.follow:
            raise NoLogsError(task, f"there is no {stream} file in alloc/logs of its allocation")
        start = _Place() if options.lines is None else log.last_lines(files, options.lines)
        with contextlib.closing(log):
            if options.follow:
                _follow(log, task, start)
            else:
                log.print_from(start, files)
    return 0


def _hold_directory(task: HostTask) -> Held:
    """Hold the directory of the log files, reached by no symlink that a task can make."""
    if task.launch is not None and task.launch.log_dir:
        return walk.follow(task.launch.log_dir, Kind.DIRECTORY)
    assert task.record is not None
    alloc_dir = task.record.alloc_dir
    return walk.hold(f"{alloc_dir}/alloc/logs", beneath=alloc_dir, kind=Kind.DIRECTORY)


def _follow(log: _Log, task: HostTask, start: _Place) -> None:
    place = start
    while True:
        ended = not task.running and not task.supervised
        place = log.print_from(place)
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
                    found.append(_File(name, int(match[1]), held.status.st_size))
        return sorted(found, key=lambda file: file.number)

    def last_lines(self, files: list[_File], lines: int) -> _Place:
        """Return where the last lines of these files begin, looking at so much and no more."""
        newest = files[-1] if files else _File("", -1, 0)
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
        with self._open(file) as fd:
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
            with self._open(file) as fd:
                for data in () if fd is None else _read(fd, place.offset, end):
                    place = _Place(file.number, place.offset + len(data))
                    _write(data if self._filter is None else self._filter.feed(data))
        return place

    def close(self) -> None:
        """Print what is held back of the last characters."""
        if self._filter is not None:
            _write(self._filter.end())

    @contextlib.contextmanager
    def _open(self, file: _File) -> Iterator[int | None]:
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
