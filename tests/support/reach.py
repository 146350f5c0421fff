"""Run inside of a container, by /usr/bin/python3: tries to change whatever it can reach.

Prints one line for each thing that accepted: ``write PATH``, ``make DIRECTORY``, ``did WHAT``.
It uses the standard library alone, and nothing of this project.
"""

import contextlib
import ctypes
import errno
import os
import socket
import stat
import sys
import time
from collections.abc import Callable
from functools import partial

libc = ctypes.CDLL(None, use_errno=True)
REFUSED = (errno.EPERM, errno.ENOSYS)


LARGE = ("/usr/", "/sys/")
MANY = 20
"""So many names of a directory in these, which have 100,000 and more, are tried."""


def try_path(path: str, found: os.stat_result) -> None:
    """Report what may be opened to write, given another mode, owner or name."""
    mode = found.st_mode
    if stat.S_ISDIR(mode):
        inner = path.rstrip("/") + "/reach"
        with contextlib.suppress(OSError):
            os.mkdir(inner)
            print("make", path)
            os.rmdir(inner)
        calls: tuple[tuple[str, Callable[[], object]], ...] = (
            ("symlink", lambda: os.symlink("x", inner)),
            ("link", lambda: os.link("/usr/bin/env", inner)),
            ("fifo", lambda: os.mkfifo(inner)),
            ("device", lambda: os.mknod(inner, 0o666 | stat.S_IFBLK, os.makedev(8, 0))),
        )
        for name, call in calls:
            with contextlib.suppress(OSError):
                call()
                print(name, path)
                if name == "device":
                    with contextlib.suppress(OSError):
                        os.close(os.open(inner, os.O_RDWR))
                        print("did open a block device")
                os.unlink(inner)
    elif not stat.S_ISLNK(mode):
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
            print("write", path)
    with contextlib.suppress(OSError):
        if not stat.S_ISLNK(mode):
            os.chmod(path, stat.S_IMODE(mode))
            print("chmod", path)
    with contextlib.suppress(OSError):
        os.chown(path, found.st_uid, found.st_gid, follow_symlinks=False)
        print("chown", path)
    with contextlib.suppress(OSError):
        os.utime(path, follow_symlinks=False)
        print("touch", path)


def walk(top: str) -> None:
    pending = [top]
    own = f"/proc/{os.getpid()}"
    while pending:
        path = pending.pop()
        if path == own:
            continue
        try:
            found = os.lstat(path)
        except OSError:
            continue
        try_path(path, found)
        if stat.S_ISDIR(found.st_mode):
            with contextlib.suppress(OSError):
                names = sorted(os.listdir(path))
                if path.startswith(LARGE):
                    names = names[:MANY]
                pending += [path.rstrip("/") + "/" + name for name in names]


def in_child(what: str, function: Callable[[], object]) -> None:
    """Report, from a child of its own, a function that came back without an error."""
    pid = os.fork()
    if pid == 0:
        try:
            ok = function()
        except BaseException:
            ok = False
        os._exit(7 if ok is not False else 0)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7:
        print("did", what)


def ok(result: int) -> bool:
    return result >= 0


NEW = {"user": 0x10000000, "mount": 0x20000, "network": 0x40000000, "pid": 0x20000000}


def unshare(flag: int) -> bool:
    return ok(libc.unshare(flag))


def deeds() -> None:
    """Try what no file stands for."""
    for name, flag in NEW.items():
        in_child(f"unshare {name}", partial(unshare, flag))
    in_child("mount tmpfs", lambda: ok(libc.mount(b"x", b"/tmp", b"tmpfs", 0, None)))
    in_child("remount /usr", lambda: ok(libc.mount(b"", b"/usr", b"", 0x1000 | 32, None)))
    in_child("umount /usr", lambda: ok(libc.umount2(b"/usr", 2)))
    in_child("umount /proc/kcore", lambda: ok(libc.umount2(b"/proc/kcore", 2)))
    in_child("chroot", lambda: os.chroot("/tmp"))
    in_child("sethostname", lambda: ok(libc.sethostname(b"evil", 4)))
    in_child("settimeofday", lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()))
    in_child("raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
    in_child("packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
    in_child("nice -5", lambda: os.nice(-5))
    in_child("lower OOM score", lower_score)
    in_child("own other cgroup", join_root_cgroup)
    in_child("swapon", lambda: ok(libc.swapon(b"/tmp/x", 0)))
    in_child("setns", lambda: ok(libc.setns(os.open("/proc/1/ns/mnt", os.O_RDONLY), 0)))
    if os.getuid() != 0:
        in_child("setuid 0", lambda: os.setuid(0))
        in_child("setgid 0", lambda: os.setgid(0))
    in_child("setgroups", lambda: os.setgroups([0]))
    in_child("kernel keyring", lambda: ok(libc.syscall(250, 0, -1, 0)) if X86 else False)
    in_child("bpf", lambda: ok(libc.syscall(321, 0, b"\2\0\0\0\4\0\0\0\4\0\0\0\1\0\0\0", 16)))
    in_child("perf_event_open", lambda: ok(libc.syscall(298, bytes(112), 0, -1, -1, 0)))
    in_child("init_module", lambda: ok(libc.syscall(175, b"x", 1, b"")))
    in_child("reboot", may_reboot)
    in_child("open_by_handle_at", by_handle)


X86 = os.uname().machine == "x86_64"


def by_handle() -> bool:
    """The way out of early docker: a file handle of the host's root directory (inode 2)."""
    handle = (8).to_bytes(4, "little") + (1).to_bytes(4, "little") + (2).to_bytes(8, "little")
    fd = os.open("/usr", os.O_RDONLY)
    ctypes.set_errno(0)
    result = int(libc.syscall(304, fd, handle, os.O_RDONLY))
    return result >= 0 or ctypes.get_errno() not in REFUSED


def may_reboot() -> bool:
    """Wrong magic numbers: EINVAL to who might reboot, EPERM to all others."""
    return libc.syscall(169, 0, 0, 0, None) >= 0 or ctypes.get_errno() not in (
        errno.EPERM,
        errno.ENOSYS,
    )


def lower_score() -> None:
    with open("/proc/self/oom_score_adj", "r+") as file:
        score = int(file.read())
        file.write(str(score - 1))


def join_root_cgroup() -> bool:
    for top, _, names in os.walk("/sys/fs/cgroup"):
        if "cgroup.procs" in names:
            with open(f"{top}/cgroup.procs", "w") as file:
                file.write("0")
                return True
    return False


if __name__ == "__main__":
    print("reach as", os.getuid())
    walk("/")
    if X86:
        deeds()
    print("end")
    sys.stdout.flush()
