"""What an attack must not reach, and attackers that exchange paths as fast as they can."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

_libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
RENAME_EXCHANGE = 2
# inotify(7)
IN_OPEN, IN_MODIFY, IN_ATTRIB = 0x20, 0x2, 0x4
IN_MOVED, IN_CREATE, IN_DELETE = 0xC0, 0x100, 0x200
WATCHED = IN_OPEN | IN_MODIFY | IN_ATTRIB | IN_MOVED | IN_CREATE | IN_DELETE

HOST = (
    *("/", "/dev", "/dev/null", "/dev/shm", "/dev/zero", "/etc", "/etc/passwd", "/etc/shadow"),
    *("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/root", "/sys", "/tmp"),
    *("/usr", "/usr/bin", "/usr/bin/crun", "/usr/lib", "/usr/share", "/var"),
)
"""Of the host itself: owners and modes, which no task may change."""


@attrs.frozen
class Seen:
    """What one path is."""

    mode: int
    owner: tuple[int, int]
    changed_ns: int
    content: bytes


def look(path: Path) -> Seen:
    """Return everything about one path, without following or opening what is no file."""
    found = path.lstat()
    content = b""
    if path.is_symlink():
        content = os.fsencode(path.readlink())
    elif path.is_file():
        content = path.read_bytes()
    return Seen(found.st_mode, (found.st_uid, found.st_gid), found.st_ctime_ns, content)


def host_state() -> dict[str, tuple[int, int, int]]:
    """Return mode and owners of what is in `HOST`, as far as this host has it."""
    state = {}
    for name in HOST:
        with contextlib.suppress(OSError):
            found = os.stat(name)
            state[name] = (found.st_mode, found.st_uid, found.st_gid)
    return state


class Canary:
    """A tree outside of every task, that looks like a task's and that everybody may write.

    So whatever follows a planted symlink finds there what it looks for, and leaves a trace:
    `touched` tells what was opened, changed, made or removed, by anybody, since it was made.
    """

    def __init__(self, top: Path, jar: Path) -> None:
        self.top = top
        for name in ("local", "secrets", "tmp/hsperfdata_nobody", "data", "logs", "jdk/bin"):
            (top / name).mkdir(parents=True)
        files = {
            "local/hello.jar": jar.read_bytes(),
            "secret": b"secret of the host\n",
            "tmp/hsperfdata_nobody/1": b"\xca\xfe\xc0\xc0" + bytes(4096),
            "jdk/bin/java": f"#!/bin/sh\ntouch {top}/ran\ntouch /local/wrong\n".encode(),
        }
        for name, data in files.items():
            (top / name).write_bytes(data)
        for stream in ("stdout", "stderr"):
            os.mkfifo(top / f"logs/.app.{stream}.fifo")
        (top / "link").symlink_to("secret")
        for path in (top, *top.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o777)
        self._host = host_state()
        self._before = self._look()
        self._names: dict[int, Path] = {}
        self._inotify = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._inotify >= 0
        for path in (top, *top.rglob("*")):
            if not path.is_symlink():
                number = _libc.inotify_add_watch(self._inotify, os.fsencode(path), WATCHED)
                assert number > 0
                self._names[number] = path

    def _look(self) -> dict[str, Seen]:
        return {str(path): look(path) for path in (self.top, *sorted(self.top.rglob("*")))}

    def touched(self) -> list[str]:
        """Return what has happened to the tree, and to `HOST`, since the beginning. Once."""
        lines = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._inotify, 1 << 16):
                at = 0
                while at < len(data):
                    number, mask, _, length = struct.unpack_from("iIII", data, at)
                    name = data[at + 16 : at + 16 + length].rstrip(b"\0").decode()
                    lines.append(f"event {mask:#x} at {self._names[number]} {name}")
                    at += 16 + length
        os.close(self._inotify)
        after = self._look()
        for path in sorted({*self._before, *after}):
            if self._before.get(path) != after.get(path):
                lines.append(f"{path}: {self._before.get(path)} became {after.get(path)}")
        host = host_state()
        lines += [
            f"{name}: {was} became {host.get(name)}"
            for name, was in self._host.items()
            if host.get(name) != was
        ]
        return lines


class Swapper:
    """Exchanges two paths again and again, with rename(2), until the end of the context."""

    def __init__(self, *pairs: tuple[Path, Path]) -> None:
        self.rounds = 0
        self._pairs = [(os.fsencode(one), os.fsencode(other)) for one, other in pairs]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Swapper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        # An even number of exchanges, so that everything is in its place in the end; in random
        # looking, never equal steps, so that both orders meet every instant of a start.
        while not self._stop.is_set():
            for _ in range(2):
                for one, other in self._pairs:
                    _libc.renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE)
                self._stop.wait(self.rounds * 37 % 23 / 10_000)
                self.rounds += 1


@contextmanager
def drained(*paths: Path) -> Iterator[list[bytes]]:
    """Read FIFOs that may change their names meanwhile, and yield what has come so far."""
    fds = [os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC) for path in paths]
    came: list[bytes] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.wait(0.005):
            for fd in fds:
                with contextlib.suppress(BlockingIOError):
                    came.append(os.read(fd, 1 << 20))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield came
    finally:
        stop.set()
        thread.join(10)
        for fd in fds:
            os.close(fd)
