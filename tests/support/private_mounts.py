"""A private mount namespace without the cgroup v2 mount of a hybrid host.

crun 1.8 refuses a hybrid cgroup hierarchy. Where the host mounts one, tests and the demo run
in a mount namespace of their own, in which only the v1 controllers are mounted. Nothing
outside of the namespace changes.

As a program it runs a command in such a place: ``python -m tests.support.private_mounts CMD``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from milo.core.config.places import CACHE_DIR
from milo.host import state_dirs
from tests.support.waiting import scaled

HYBRID_MOUNT = "/sys/fs/cgroup/unified"
# Linux: sched.h and sys/mount.h.
CLONE_NEWNS = 0x00020000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18

_entered: set[int] = set()
"""The processes that are in a mount namespace of their own: one at most, this one."""


def is_hybrid(mounts: str) -> bool:
    """Whether the mount table, in the format of /proc/self/mounts, is a hybrid hierarchy's."""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) > 2 and fields[1] == HYBRID_MOUNT and fields[2] == "cgroup2":
            return True
    return False


def enter_if_hybrid() -> bool:
    """On a hybrid host, move this thread to a mount namespace without the v2 mount.

    Call it before other threads exist: a namespace belongs to the thread that asks, and is
    inherited by what it starts. Returns whether the host is hybrid. Raises OSError when the
    kernel refuses, as it does without root.
    """
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as table:
        if not is_hybrid(table.read()):
            return False
    enter()
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.umount2(HYBRID_MOUNT.encode(), 0), f"umount {HYBRID_MOUNT}")
    # The mount point stays, and crun makes directories in it as if it were a controller's:
    # they go to a file system that ends with the namespace, instead of the host's.
    _check(libc.mount(b"none", HYBRID_MOUNT.encode(), b"tmpfs", 0, None), f"mount {HYBRID_MOUNT}")
    return True


def enter() -> None:
    """Make sure that this thread is in a mount namespace of its own. Raises OSError."""
    if os.getpid() in _entered:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(CLONE_NEWNS), "unshare")
    _check(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "make / private")
    _entered.add(os.getpid())


@contextlib.contextmanager
def small_tmpfs(path: Path, size: str = "1m") -> Iterator[None]:
    """Mount a file system of ``size`` at ``path``, for this process and its children alone.

    At the end nobody may use it any more: else CalledProcessError.
    """
    enter()
    path.mkdir(mode=0o700, exist_ok=True)
    options = f"size={size},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", path], check=True)
    try:
        yield
    except BaseException:
        subprocess.run(["umount", "--lazy", path], check=True)
        raise
    # A task process ends a moment after its task.
    deadline = time.monotonic() + scaled(10)
    while (done := subprocess.run(["umount", path], capture_output=True, text=True)).returncode:
        if time.monotonic() > deadline:
            users = "\n".join(_users(path)) or "no process has anything there"
            raise AssertionError(f"{done.stderr.strip()}:\n{users}")
        time.sleep(0.02)


def _users(path: Path) -> Iterator[str]:
    """Yield who has something below ``path`` open, and the sockets there, if nobody else has."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            links = [*process.glob("fd/*"), process / "cwd", process / "root", process / "exe"]
            for link in links:
                with contextlib.suppress(OSError):
                    if os.readlink(link).startswith(str(path)):
                        state = (process / "stat").read_text()[:60]
                        yield f"{state}: {link.name} is {os.readlink(link)}"
    for line in Path("/proc/net/unix").read_text().splitlines():
        if str(path) in line:
            yield line


@contextlib.contextmanager
def own_runs() -> Iterator[None]:
    """Have no `milo run` of others in sight, and be out of theirs.

    All directories are hidden: of data whose records it does not see, ``milo gc`` takes the run
    for gone. Nor do startup archives stay.
    """
    with (
        small_tmpfs(Path(state_dirs.RUN_DIRECTORY), "64m"),
        small_tmpfs(Path(state_dirs.DATA_DIRECTORY), "1g"),
        small_tmpfs(Path(CACHE_DIR), "512m"),
    ):
        yield


@contextlib.contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Make ``path`` read-only, for whoever opens anything there from now on, until the end.

    By a second mount on top: the first one cannot be changed while files in it are written to.
    """
    enter()
    subprocess.run(["mount", "--bind", path, path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def main() -> None:
    """Run the command line's words where no hybrid hierarchy is mounted."""
    if os.geteuid() == 0:
        enter_if_hybrid()
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
