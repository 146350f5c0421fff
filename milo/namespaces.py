"""Namespaces: makes those of an ordinary user's ``milo run``, and tells who is in one."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from typing import Final

import attrs

from milo import proc

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000
"""linux/sched.h"""
MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REC: Final = 16384
MS_SLAVE: Final = 1 << 19
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8
OPEN_TREE_CLONE: Final = 1
MOUNT_ATTR_RDONLY: Final = 1
"""linux/mount.h"""
AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
"""linux/fcntl.h"""
SYS_OPEN_TREE: Final = 428
SYS_MOUNT_SETATTR: Final = 442
"""asm-generic/unistd.h: the same on every machine but Alpha."""


@attrs.frozen
class Subordinate:
    """Ids that a user may give away, and the program with the right to map them."""

    program: str
    first: int
    count: int


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


def make_user_namespace(more: Sequence[Subordinate]) -> tuple[int, int]:
    """Make this process 0 in a user and a mount namespace of its own; user_namespaces(7).

    ``more`` are the program and the ids for subordinate users and groups, as /etc/subuid has them;
    where its program fails, these ids are not there. Returns how many there are of both.

    Raises:
        OSError: the kernel refuses.
    """
    uid, gid = os.geteuid(), os.getegid()
    reader, writer = os.pipe2(os.O_CLOEXEC)
    helper = os.fork() if more else 0
    if more and helper == 0:
        os.close(writer)
        if os.read(reader, 1):
            for one, own in zip(more, (uid, gid), strict=True):
                ids = ("0", str(own), "1", "1", str(one.first), str(one.count))
                argv = (one.program, str(os.getppid()), *ids)
                os.spawnv(os.P_WAIT, one.program, argv)  # noqa: S606
        os._exit(0)
    try:
        unshare(CLONE_NEWUSER | CLONE_NEWNS)
        if helper:
            os.write(writer, b"x")
    finally:
        os.close(writer)
        os.close(reader)
        if helper:
            os.waitpid(helper, 0)
    if not proc.read("/proc/self/uid_map"):
        proc.write("/proc/self/uid_map", f"0 {uid} 1")
    if not proc.read("/proc/self/gid_map"):
        proc.write("/proc/self/setgroups", "deny")
        proc.write("/proc/self/gid_map", f"0 {gid} 1")
    return _count_more("/proc/self/uid_map"), _count_more("/proc/self/gid_map")


def _count_more(path: str) -> int:
    return sum(int(line.split()[2]) for line in proc.lines(proc.read(path))) - 1


def hide_cgroups() -> None:
    """Mount an empty directory over the cgroup file systems, in this mount namespace.

    Raises OSError.
    """
    target = b"/sys/fs/cgroup"
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY
    _checked(_libc.mount(b"tmpfs", target, b"tmpfs", ctypes.c_ulong(flags), b"size=4k,mode=555"))


def keep_mounts_private() -> None:
    """Have no mount of this namespace appear in another one; those of the host still appear here.

    Raises OSError.
    """
    _checked(_libc.mount(None, b"/", None, ctypes.c_ulong(MS_SLAVE | MS_REC), None))


def mount_memory(target: str, size_bytes: int) -> None:
    """Mount a file system in memory, which everybody may write to. Raises OSError."""
    flags = ctypes.c_ulong(MS_NOSUID | MS_NODEV)
    words = f"size={size_bytes},mode=1777".encode()
    _checked(_libc.mount(b"tmpfs", os.fsencode(target), b"tmpfs", flags, words))


def read_only_mount(path: str) -> int:
    """Return a descriptor of what ``path`` names, on a read-only mount of its own; open_tree(2).

    Nobody can write by that mount, nor make it writable, since it is in no mount namespace. It ends
    with the last use of it. The descriptor is O_PATH, and is not inherited.

    Raises:
        OSError: there is no such file, no right to mount, or no Linux 5.12.
    """
    flags = OPEN_TREE_CLONE | os.O_CLOEXEC
    clone = _syscall(SYS_OPEN_TREE, AT_FDCWD, os.fsencode(path), flags)
    try:
        # struct mount_attr: set, clear, propagation, user namespace.
        attributes = struct.pack("=4Q", MOUNT_ATTR_RDONLY, 0, 0, 0)
        size = ctypes.c_size_t(len(attributes))
        _syscall(SYS_MOUNT_SETATTR, clone, b"", AT_EMPTY_PATH, attributes, size)
        return proc.reopen(clone, os.O_PATH)
    finally:
        # Until here the mount is in a namespace that the kernel made for this descriptor, where it
        # could be made writable by who has CAP_SYS_ADMIN and finds a process that executes there.
        os.close(clone)


def _syscall(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    _checked(result)
    return result


def unmount(target: str) -> None:
    """Detach what is mounted at ``target``, following no symlink. Raises OSError."""
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW))


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
