"""Writes down which stream printed when: see `milo.core.timeline`."""

from __future__ import annotations

import mmap
import time
from collections.abc import Sequence

from milo.core.timeline import CELLS, FILE_BYTES, MARKS, STEP_S
from milo.task.logs.byte_counts import ByteCounts, map_file


class Timeline:
    """The marks of one task, in a file that outlives this process.

    Nothing depends on it: where the file cannot be made, no mark is.
    """

    def __init__(self, path: str, counts: Sequence[ByteCounts]) -> None:
        """``counts`` are those of stdout and stderr, in that order."""
        self._counts = counts
        self._stream = -1
        self._next_s = 0.0
        self._map: mmap.mmap | None = None
        try:
            self._map = map_file(path, FILE_BYTES)
        except OSError:
            return
        self._view = memoryview(self._map)
        self._cells = self._view.cast("Q")

    def moving(self, stream: int) -> None:
        """Mark that bytes of ``stream``, which are not counted yet, come now."""
        now = time.time()
        if self._map is None or (stream == self._stream and now < self._next_s):
            return
        self._stream, self._next_s = stream, now + STEP_S
        number = self._cells[0]
        at = 1 + number % MARKS * CELLS
        self._cells[at] = int(now * 1e9)
        self._cells[at + 1] = self._counts[0].moved
        self._cells[at + 2] = self._counts[1].moved
        self._cells[0] = number + 1

    def close(self) -> None:
        """Let go of the file."""
        if self._map is not None:
            self._cells.release()
            self._view.release()
            self._map.close()
            self._map = None
