"""``milo run --log-dir``: log files by size and number, named as Nomad names its own."""

from __future__ import annotations

import os
import re
from typing import Final

from milo.errors import StateError

MODE: Final = 0o640


class RotatingFile:
    """Writes ``<directory>/<task>.<stream>.<number>``, the next one when one is full.

    Bytes are written as they come; a file may pass its size by less than one chunk, so that a
    line is not torn more often than need be. Of an earlier run's files the numbers go on.
    """

    def __init__(self, directory: str, task: str, stream: str, *, size: int, count: int) -> None:
        """Open the first file.

        Raises:
            StateError: the directory cannot be made or written to.
        """
        self._directory = directory
        self._prefix = f"{task}.{stream}"
        self._size = size
        self._count = count
        self._fd = -1
        try:
            os.makedirs(directory, exist_ok=True)
            numbers = self._numbers()
            self._open(numbers[-1] + 1 if numbers else 0)
        except OSError as exc:
            raise StateError(
                directory, f"no log file can be written there: {exc.strerror}. See --log-dir"
            ) from exc

    def write(self, data: bytes) -> None:
        """Append ``data``. Raises OSError: the disk is full, say."""
        if self._written >= self._size:
            self._open(self._number + 1)
        view = memoryview(data)
        while view:
            written = os.write(self._fd, view)
            self._written += written
            view = view[written:]

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self, number: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(f"{self._directory}/{self._prefix}.{number}", flags, MODE)
        self.close()
        self._fd, self._number, self._written = fd, number, 0
        for old in self._numbers()[: -self._count]:
            os.unlink(f"{self._directory}/{self._prefix}.{old}")

    def _numbers(self) -> list[int]:
        pattern = re.compile(rf"{re.escape(self._prefix)}\.(\d+)")
        found = (pattern.fullmatch(name) for name in os.listdir(self._directory))
        return sorted(int(match[1]) for match in found if match)
