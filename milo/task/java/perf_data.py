"""The file in which a task's JVM counts, ``/tmp/hsperfdata_*`` of the task.

The task may write anything there, at any time: what is looked at is bounded, and nothing is
followed.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from milo import walk
from milo.core.java import hsperf
from milo.errors import PathError
from milo.walk import Held, Kind

MAX_NAMES: Final = 256
"""So many entries of a directory of the task's are read."""
MAX_DIRECTORIES: Final = 4
MAX_FILES: Final = 8
"""Of performance data, and in each: nothing else is done meanwhile, and figures are often asked."""
CLOCK_SLACK_S: Final = 1.0
"""Between a file system's clock and Milo's."""


class PerfData:
    """The performance data of one task. `close` lets go of what is held."""

    def __init__(self, tmp: str) -> None:
        """``tmp`` is the host's path of the task's /tmp."""
        self._tmp = tmp
        self._held: Held | None = None

    def read(self, not_before_s: float) -> bytes:
        """Return what the JVM has written, empty when there is none; see `hold_perf_data`.

        The file is held from then on: a JVM that ends by itself removes it.
        """
        try:
            held = hold_perf_data(self._tmp, not_before_s)
            if held is None:
                return b""
            self.close()
            self._held = held
            return held.read(hsperf.MAX_BYTES)
        except PathError:
            return b""

    def read_last(self) -> bytes:
        """Return what is in the file that was read last, there or not; empty when there is none."""
        try:
            return b"" if self._held is None else self._held.read(hsperf.MAX_BYTES)
        except PathError:
            return b""

    def close(self) -> None:
        """Let go of the file; may be called again."""
        if self._held is not None:
            self._held.close()
            self._held = None


def hold_perf_data(tmp: str, not_before_s: float) -> Held | None:
    """Hold the performance data of the first JVM that has written some since ``not_before_s``.

    ``tmp`` is the host's path of the task's /tmp, which is trusted; its content the task may
    change at any time. None when there is none. Raises `PathError`.
    """
    with walk.hold(tmp, beneath=os.path.dirname(tmp), kind=Kind.DIRECTORY) as held:
        entries = held.names(MAX_NAMES)[0]
        names = [name for name, is_dir in entries if is_dir and name.startswith("hsperfdata_")]
        for name in names[:MAX_DIRECTORIES]:
            with held.enter(name, Kind.DIRECTORY) as inner:
                found = _hold_lowest(inner, not_before_s)
            if found is not None:
                return found
    return None


def _hold_lowest(directory: Held, not_before_s: float) -> Held | None:
    """Hold the data of the lowest process id, which is the application's first JVM."""
    names = [name for name, _ in directory.names(MAX_NAMES)[0] if name.isdecimal()]
    for name in sorted(names, key=int)[:MAX_FILES]:
        with contextlib.suppress(PathError):
            file = directory.enter(name, Kind.FILE)
            status = file.status
            if status.st_size and status.st_mtime >= not_before_s - CLOCK_SLACK_S:
                return file
            file.close()
    return None
