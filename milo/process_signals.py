"""Signals that reach only the process that is meant, and what a process does with its own."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Final

from milo.core.records import ProcessId
from milo.proc import lives, stat_fields, status_field

PF_EXITING: Final = 0x4
"""include/linux/sched.h"""


def signal_process(process: ProcessId, number: int) -> bool:
    """Send a signal to ``process``; False if it has ended.

    Never to a later process with the same number, where the kernel has pidfds (Linux 5.3).
    """
    fd = None
    try:
        with contextlib.suppress(OSError):
            fd = os.pidfd_open(process.pid)
        if not lives(process):
            return False
        if fd is None:
            os.kill(process.pid, number)
        else:
            signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    finally:
        if fd is not None:
            os.close(fd)
    return True


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal; False when it has gone.

    Without one a signal is ignored, or ends it. A process loses its handlers when it executes
    another program.
    """
    mask = status_field(b"SigCgt", pid)
    return mask is not None and bool(int(mask, 16) >> number - 1 & 1)


def is_ending(process: ProcessId) -> bool:
    """Whether ``process`` has ended or is about to: SIGKILL has been sent to it, by whomever.

    To free the memory of a large process takes the kernel seconds, and until then it is there.
    """
    fields = stat_fields(process.pid)
    if not lives(process) or not fields or int(fields[6]) & PF_EXITING:
        return True
    kill = 1 << signal.SIGKILL - 1
    pending = (status_field(name, process.pid) or b"0" for name in (b"SigPnd", b"ShdPnd"))
    return any(int(mask, 16) & kill for mask in pending)


def is_halted(pid: int) -> bool:
    """Whether a process does nothing until it is let go on: by SIGSTOP, or by a debugger."""
    fields = stat_fields(pid)
    return bool(fields) and fields[0] in (b"T", b"t")
