"""Namespaces: makes those of an ordinary user's ``milo run``, and tells who is in one."""

from __future__ import annotations

import ctypes
import os
from typing import Final

from milo import proc

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000
"""linux/sched.h"""
MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
"""linux/mount.h"""

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def unshare(kinds: int) -> None:
    """Give this process namespaces of its own, which must have one thread; unshare(2).

    Raises OSError.
    """
    _checked(_libc.unshare(kinds))


def map_own_user(uid: int, gid: int) -> None:
    """Make this process 0 in its new user namespace, where no other id is; user_namespaces(7).

    ``uid`` and ``gid`` are its own outside. Raises OSError.
    """
    proc.write("/proc/self/setgroups", "deny")
    proc.write("/proc/self/uid_map", f"0 {uid} 1")
    proc.write("/proc/self/gid_map", f"0 {gid} 1")


def hide_cgroups() -> None:
    """Mount an empty directory over the cgroup file systems, in this mount namespace.

    Raises OSError.
    """
    target = b"/sys/fs/cgroup"
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY
    _checked(_libc.mount(b"tmpfs", target, b"tmpfs", ctypes.c_ulong(flags), b"size=4k,mode=555"))


def groups_are_kept() -> bool:
    """Whether this user namespace lets nobody change a process's groups; user_namespaces(7)."""
    return (proc.read("/proc/self/setgroups") or b"").strip() == b"deny"


def pid_namespace_members(pid: int) -> set[int]:
    """Return the processes in the PID namespace of ``pid``; that alone where it is also this one's.

    Looks through all of /proc, some 10 ms on a busy host.
    """
    wanted = _pid_namespace(pid)
    if wanted in (0, _pid_namespace("self")):
        return {pid} if wanted else set()
    return {found for found in proc.pids() if _pid_namespace(found) == wanted}


def _pid_namespace(pid: int | str) -> int:
    """Return the number of a PID namespace; 0 when the process has gone, or is another user's."""
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return 0
