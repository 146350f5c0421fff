"""Counters in a file of shared memory, which outlive the process that counts."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, MutableSequence
from typing import Final

from milo.errors import StateError

CELLS: Final = 2
"""Of one stream: bytes moved, bytes dropped; each eight bytes in the host's order."""
FILE_BYTES: Final = 4096


class ByteCounts:
    """The counts of one stream, in ``cells`` of its own or of a `ByteCountsFile`."""

    def __init__(self, cells: MutableSequence[int] | memoryview[int] | None = None) -> None:
        self.moving: Callable[[], None] | None = None
        """Called before bytes are counted as moved."""
        self._cells: MutableSequence[int] | memoryview[int] = (
            [0] * CELLS if cells is None else cells
        )

    @property
    def moved(self) -> int:
        """Bytes that were delivered."""
        return self._cells[0]

    @property
    def dropped(self) -> int:
        """Bytes that were thrown away."""
        return self._cells[1]

    def count(self, *, moved: int = 0, dropped: int = 0) -> None:
        """Add to the counts; a negative number takes back."""
        if moved > 0 and self.moving is not None:
            self.moving()
        self._cells[0] += moved
        self._cells[1] += dropped


class ByteCountsFile:
    """The counts of a task's streams, in a file that a successor finds them in."""

    def __init__(self, path: str) -> None:
        """Open ``path``, or make it with all counts at 0; raises `StateError`."""
        try:
            self._map = map_file(path, FILE_BYTES)
        except OSError as exc:
            raise StateError(path, f"the counters: {exc.strerror}") from exc
        self._view = memoryview(self._map)
        self._all = self._view.cast("Q")
        self._parts: list[memoryview[int]] = []

    def counts(self, position: int) -> ByteCounts:
        """Return the counts of the stream at ``position`` (0 is stdout, 1 is stderr)."""
        part = self._all[position * CELLS : (position + 1) * CELLS]
        self._parts.append(part)
        return ByteCounts(part)

    def close(self) -> None:
        """Let go of the file; its counts_file cannot be used any more."""
        for view in (*self._parts, self._all, self._view):
            view.release()
        self._parts.clear()
        self._map.close()


def map_file(path: str, size: int) -> mmap.mmap:
    """Return the first ``size`` bytes of a file as shared memory; made, of zeros, if it is missing.

    Raises OSError.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        # Written, not only sized: a store to a hole of a full file system is SIGBUS.
        if os.fstat(fd).st_size < size:
            os.posix_fallocate(fd, 0, size)
        return mmap.mmap(fd, size)
    finally:
        os.close(fd)
