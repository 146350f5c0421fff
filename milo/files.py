"""Writes files of a task's state directory: completely or not at all, and never through a symlink.

The directory itself is what locks a task.

The driver and the task process both use it, because they may not import each other.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from typing import Final

from milo.errors import StateError

MAX_RECORD_BYTES: Final = 48 << 20
"""A job's environment and config are in the launch file: at most the 6 MiB that a kernel passes on
(`milo.core.container.exec_limits`), each byte of which may be six in JSON."""


def write_file(path: str, data: bytes, *, mode: int = 0o600) -> None:
    """Replace ``path`` by a file that holds ``data``, synced before it gets its name.

    Raises:
        StateError: the file system refuses (full, read-only, not there).
    """
    temporary = f"{path}.{secrets.token_hex(4)}"
    try:
        fd = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode
        )
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except OSError as exc:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise StateError(path, f"{exc.strerror}. Free space there, or set state_dir") from exc


def read_file(path: str) -> bytes | None:
    """Return what ``path`` holds, or None when there is no such file.

    Raises:
        StateError: it cannot be read, or is larger than `MAX_RECORD_BYTES`.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        words = getattr(exc, "strerror", None) or exc
        raise StateError(path, f"it cannot be opened: {words}") from exc
    try:
        # Not a file object: of a directory none can be made, and its descriptor would stay.
        data = bytearray()
        while len(data) <= MAX_RECORD_BYTES and (part := os.read(fd, 1 << 16)):
            data += part
    except OSError as exc:
        raise StateError(path, f"it cannot be read: {exc.strerror}") from exc
    finally:
        os.close(fd)
    if len(data) > MAX_RECORD_BYTES:
        raise StateError(path, f"it is larger than {MAX_RECORD_BYTES} bytes")
    return bytes(data)


def take_lock(state_dir: str) -> int | None:
    """Return a descriptor that holds the lock of ``state_dir``; None while another one does.

    It is the lock that counts who has a duplicate of it, and goes with the last one: flock(2).

    Raises:
        OSError: the directory is gone, or cannot be opened.
    """
    fd = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(fd)
        if exc.errno == errno.EWOULDBLOCK:
            return None
        raise
    return fd
