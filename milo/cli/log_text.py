"""The files of one stream's log, ``<task>.<stream>.<number>``, read as one text."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Final

import attrs

from milo.cli.log_printer import Printer
from milo.cli.output import warn
from milo.errors import PathError
from milo.walk import Held, Kind

CHUNK_BYTES: Final = 64 * 1024
MAX_NAMES: Final = 20_000
"""Nomad keeps ten files of each stream, unless the job says otherwise."""
MAX_LINE_BYTES: Final = 1 << 20
MAX_TAIL_BYTES: Final = 64 << 20
"""So much is looked through for the last lines: a MiB for each, and no more than this in all."""


@attrs.frozen
class Place:
    """A place in the log."""

    number: int = -1
    """Of the file."""
    offset: int = 0


@attrs.frozen
class File:
    """One file of the log, as it was when it was looked at."""

    name: str
    number: int
    size: int
    changed_s: float
    """Unix time of its last change."""


class LogText:
    """The files of one stream, as one text: ``<task>.<stream>.<number>``.

    The task can write to their directory, so that each look finds what it finds: only regular
    files are opened, and each look has an end.
    """

    def __init__(self, directory: Held, name: str, printer: Printer) -> None:
        self.print = printer
        self._directory = directory
        self._pattern = re.compile(rf"{re.escape(name)}\.([0-9]{{1,18}})")
        self._told = False

    def files(self) -> list[File]:
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
                    found.append(File(name, int(match[1]), status.st_size, status.st_mtime))
        return sorted(found, key=lambda file: file.number)

    def last_lines(self, files: list[File], lines: int) -> Place:
        """Return where the last lines of these files begin, looking at so much and no more."""
        newest = files[-1] if files else File("", -1, 0, 0.0)
        place = Place(newest.number, newest.size)
        limit = left = min(lines * MAX_LINE_BYTES, MAX_TAIL_BYTES)
        wanted = lines
        at_end = True
        for file in reversed(files):
            for offset, data in self._backwards(file, left):
                left -= len(data)
                place = Place(file.number, offset)
                if at_end and data:
                    at_end = False
                    wanted += data.endswith(b"\n")  # which ends the last line and begins none
                feeds = data.count(b"\n")
                if wanted and feeds >= wanted:
                    at = len(data)
                    for _ in range(wanted):
                        at = data.rindex(b"\n", 0, at)
                    return Place(file.number, offset + at + 1)
                wanted -= feeds
            if left <= 0:
                break
        if lines and left <= 0 and place != Place(files[0].number):
            warn(
                f"milo: the last lines are longer than {limit >> 20} MiB; only their end is printed"
            )
        return place

    def _backwards(self, file: File, limit: int) -> Iterator[tuple[int, bytes]]:
        """Yield blocks of a file from its end on, ``limit`` bytes at most, each with its place."""
        first = max(0, file.size - limit)
        with self.open(file) as fd:
            end = file.size
            while fd is not None and end > first:
                offset = max(first, end - CHUNK_BYTES)
                yield offset, os.pread(fd, end - offset, offset)
                end = offset

    def print_from(self, start: Place, files: list[File] | None = None) -> Place:
        """Print what comes after ``start``, and return where that ends.

        That is all that can be read, or no more than these ``files`` have had.
        """
        place = start
        for file in self.files() if files is None else files:
            if file.number < place.number:
                continue
            if file.number > place.number:
                place = Place(file.number)
            if file.size < place.offset:
                place = Place(file.number)  # another file, or one that was cut short
            end = None if files is None else file.size
            with self.open(file) as fd:
                for data in () if fd is None else _read(fd, place.offset, end):
                    place = Place(file.number, place.offset + len(data))
                    self.print.feed(data)
        return place

    @contextlib.contextmanager
    def open(self, file: File) -> Iterator[int | None]:
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


@attrs.frozen
class View:
    """A stream's files as one text: `milo.cli.merged_logs.Stream`."""

    log: LogText | None
    files: list[File]

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


def _read(fd: int, offset: int, end: int | None) -> Iterator[bytes]:
    while end is None or offset < end:
        count = CHUNK_BYTES if end is None else min(CHUNK_BYTES, end - offset)
        data = os.pread(fd, count, offset)
        if not data:
            return
        offset += len(data)
        yield data
