"""Whether a running JVM will ever say what it chose: many ways lead to one that does not.

HotSpot makes its performance data before its first threads, unless an option in whatever file or
variable, or its /tmp, keeps it from that; OpenJ9 has none. So the process is looked at, and not
its options.
"""

from __future__ import annotations

import itertools
from typing import Final

from milo import proc

VM_THREAD: Final = b"VM Thread"
"""HotSpot's name of the thread that it starts after its performance data is there."""
OPENJ9_LIBRARY: Final = b"/libj9vm"
MAX_THREADS: Final = 512
"""That thread comes after those of the collector, of which there may be one a processor."""
MAX_MAPS_BYTES: Final = 256 * 1024


def past_perf_data(pid: int) -> bool:
    """Tell whether the JVM of process ``pid`` has made its performance data, or never will.

    A HotSpot that is past it has mapped its startup archive before, too (threads.cpp, create_vm).
    The names are of the task's making: nothing but the time of an event may hang on them.
    """
    if VM_THREAD in itertools.islice(proc.thread_names(pid), MAX_THREADS):
        return True
    return OPENJ9_LIBRARY in proc.mapped_files(pid, MAX_MAPS_BYTES)
