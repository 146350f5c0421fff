"""``milo run --log-dir``: log files by size and number, named as Nomad names its own."""

from __future__ import annotations

import contextlib
import os
import re
from typing import Final

from milo.cli.arguments import absolute
from milo.cli.new_file import hold_directory
from milo.errors import PathError, StateError
from milo.walk import Held

MODE: Final = 0o640
MAX_NAMES: Final = 100_000
"""As many names are looked through for the numbers of an earlier run's files."""


def hold_log_directory(path: str) -> Held:
    """Hold the directory for log files, made if need be: what comes to its path later is another.

    Before an ordinary user's namespaces, in which root's symlinks look like anybody's.

    Raises:
        StateError: it cannot be made.
    """
    try:
        return hold_directory(absolute(path), make=True)
    except PathError as exc:
        raise _refusal(path, f"{exc.part}: {exc.words}") from exc


class RotatingFile:
    """Writes ``<directory>/<task>.<stream>.<number>``, the next one when one is full.

    Bytes are written as they come; a file may pass its size by less than one chunk, so that a
    line is not torn more often than need be. Of an earlier run's files the numbers go on.
    """

    def __init__(self, directory: Held, task: str, stream: str, *, size: int, count: int) -> None:
        """Open the first file. ``directory`` stays the caller's.

        Raises:
            StateError: the directory cannot be written to.
        """
        self._directory = directory
        self._prefix = f"{task}.{stream}"
        self._size = size
        self._count = count
        self._fd = -1
        self.total = 0
        """Bytes that were written."""
        try:
            numbers = self._numbers()
            self._open(numbers[-1] + 1 if numbers else 0)
        except PathError as exc:
            self.close()
            raise _refusal(directory.path, exc.words) from exc

    def write(self, data: bytes) -> None:
        """Append ``data``. Raises OSError: the disk is full, say."""
        if self._written >= self._size:
            try:
                self._open(self._number + 1)
            except PathError as exc:
                raise OSError(exc.errno, exc.words) from exc
        view = memoryview(data)
        while view:
            written = os.write(self._fd, view)
            self._written += written
            self.total += written
            view = view[written:]

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self, number: int) -> None:
        fd = self._directory.make_file(f"{self._prefix}.{number}", MODE)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._number, self._written = fd, number, 0
        for old in self._numbers()[: -self._count]:
            with contextlib.suppress(PathError):  # somebody else was first
                self._directory.remove(f"{self._prefix}.{old}")

    def _numbers(self) -> list[int]:
        pattern = re.compile(rf"{re.escape(self._prefix)}\.([0-9]{{1,18}})")
        names, _ = self._directory.names(MAX_NAMES)
        found = (pattern.fullmatch(name) for name, _ in names)
        return sorted(int(match[1]) for match in found if match)


def _refusal(directory: str, words: str) -> StateError:
    return StateError(directory, f"no log file can be written there: {words}. See --log-dir")
