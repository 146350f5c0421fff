"""Tells whether anybody has opened a file: of the kernel, whatever way it was opened by."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
IN_OPEN = 0x20
"""inotify(7). To hold a file (``O_PATH``) is no open."""


@contextlib.contextmanager
def watched(*paths: Path) -> Iterator[Callable[[], bool]]:
    """Watch files; what is yielded says whether one has been opened since it was last asked."""
    fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert fd >= 0
    try:
        for path in paths:
            assert _libc.inotify_add_watch(fd, os.fsencode(path), IN_OPEN) > 0

        def opened() -> bool:
            try:
                return bool(os.read(fd, 1 << 16))
            except BlockingIOError:
                return False

        yield opened
    finally:
        os.close(fd)
