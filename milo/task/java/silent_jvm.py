"""Whether a running JVM will ever say what it chose: many ways lead to one that does not.

HotSpot makes its performance data before its first threads, unless an option in whatever file or
variable, or its /tmp, keeps it from that; OpenJ9 has none. So the process is looked at, and not
its options.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from typing import Final

VM_THREAD: Final = "VM Thread"
"""HotSpot's name of the thread that it starts after its performance data is there."""
OPENJ9_LIBRARY: Final = b"/libj9vm"
MAX_THREADS: Final = 512
"""That thread comes after those of the collector, of which there may be one a processor."""
MAX_MAPS_BYTES: Final = 256 * 1024


def past_perf_data(pid: int) -> bool:
    """Tell whether the JVM of process ``pid`` has made its performance data, or never will.

    The names are of the task's making: nothing but the time of an event may hang on them.
    """
    with contextlib.suppress(OSError):
        with os.scandir(f"/proc/{pid}/task") as threads:
            for thread in itertools.islice(threads, MAX_THREADS):
                with open(f"{thread.path}/comm", encoding="utf-8", errors="replace") as file:
                    if file.read().rstrip("\n") == VM_THREAD:
                        return True
        with open(f"/proc/{pid}/maps", "rb") as file:
            return OPENJ9_LIBRARY in file.read(MAX_MAPS_BYTES)
    return False
