"""Small facts about processes, from prctl(2) and proc(5). Linux only.

Used by the driver and by the task process, which may not import each other.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Iterable
from typing import Final

if sys.platform != "linux":  # pragma: no cover
    raise ImportError("Milo runs on Linux only")

PR_SET_NAME: Final = 15
PR_SET_CHILD_SUBREAPER: Final = 36
CLONE_NEWNET: Final = 0x40000000
"""linux/sched.h"""

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, argument: int | bytes) -> None:
    """Call prctl(2) with one argument; raises OSError."""
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def enter_namespace(fd: int, kind: int) -> None:
    """Move the calling thread, and no other, to a namespace; setns(2). Raises OSError."""
    if _libc.setns(fd, kind) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def become_subreaper() -> None:
    """Let orphaned descendants become this process's children (Linux 3.4 and later)."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def set_process_name(name: str) -> None:
    """Set the name that ps and pgrep show; the kernel keeps 15 bytes of it."""
    prctl(PR_SET_NAME, name.encode())


def start_ticks(pid: int) -> int | None:
    """Return when ``pid`` started, in clock ticks since boot, or None when it does not run.

    A process and its start time together name one process for ever; field 22 of
    /proc/<pid>/stat. A zombie does not run. The second field is the name in parentheses,
    which may hold spaces and parentheses itself.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def signal_process(pid: int, ticks: int, number: int) -> bool:
    """Send a signal to the process ``pid`` that started at ``ticks``; False if it has ended.

    Never to a later process with the same number, where the kernel has pidfds (Linux 5.3).
    """
    fd = None
    try:
        with contextlib.suppress(OSError):
            fd = os.pidfd_open(pid)
        if start_ticks(pid) != ticks:
            return False
        if fd is None:
            os.kill(pid, number)
        else:
            signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    finally:
        if fd is not None:
            os.close(fd)
    return True


def children(pid: int) -> list[int]:
    """Return the children of ``pid``. Looks through all of /proc, some 10 ms on a busy host."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    return [found for found in pids if parent(found) == pid]


def parent(pid: int) -> int | None:
    """Return the parent of ``pid``, or None when that has gone; field 4 of /proc/<pid>/stat."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except OSError:
        return None
    return int(stat[stat.rindex(b")") + 2 :].split()[1])


def session(pid: int) -> int | None:
    """Return the session of ``pid``, or None when that has gone; getsid(2)."""
    try:
        return os.getsid(pid)
    except OSError:
        return None


def passed_descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors in what recvmsg(2) received beside a packet: SCM_RIGHTS, unix(7)."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def passing(fds: Iterable[int]) -> list[tuple[int, int, array.array[int]]]:
    """Return what sendmsg(2) takes to pass descriptors beside a packet: SCM_RIGHTS, unix(7)."""
    packed = array.array("i", fds)
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)] if packed else []


def close_all(fds: Iterable[int]) -> None:
    """Close all of ``fds``."""
    for fd in fds:
        os.close(fd)
