"""Opens files in a task's directories as the task itself would see them.

The task may have prepared those directories, so no path in them is trusted: it is walked
component by component with directory descriptors, symlinks are resolved as inside the
container, and nothing but a regular file is ever opened.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

MAX_LINKS = 40
"""As many symlinks as Linux itself follows in one path (path_resolution(7))."""
_MAX_DEPTH = 128
_WALK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class OutsideError(Exception):
    """The path leaves the places that it may lead to; the text says how."""


def open_inside(places: Mapping[str, str], path: str) -> int:
    """Open the regular file ``path``, a path in the container, and return a descriptor.

    ``places`` maps the names of directories at the container's root to the host's paths,
    which are trusted. An absolute symlink begins at the container's root again, and ``..``
    stays there, as in the container. Never blocks, and opens no device and no FIFO.

    Raises `OutsideError` when the path leads elsewhere, `OSError` with its usual codes, and
    `OSError` of type `IsADirectoryError` or without a code for what is not a regular file.
    """
    pending = path.split("/")[::-1]
    held: list[int] = []
    links = 0
    try:
        while pending:
            name = pending.pop()
            if name in ("", "."):
                continue
            if name == "..":
                if held:
                    os.close(held.pop())
                elif not links:
                    raise OutsideError('it leaves them by ".."')
                continue
            if not held and name not in places:
                raise OutsideError("a symlink leads out of them" if links else "it is elsewhere")
            found = (
                os.open(name, _WALK, dir_fd=held[-1])
                if held
                else os.open(places[name], _WALK | os.O_DIRECTORY)
            )
            held.append(found)
            mode = os.fstat(found).st_mode
            if stat.S_ISLNK(mode):
                links += 1
                target = os.readlink("", dir_fd=found)
                os.close(held.pop())
                if links > MAX_LINKS:
                    raise OutsideError(f"it leads through more than {MAX_LINKS} symlinks")
                if target.startswith("/"):
                    _close(held)
                pending += target.split("/")[::-1]
            elif not stat.S_ISDIR(mode):
                if pending:
                    raise NotADirectoryError(f"{name} is not a directory")
                if not stat.S_ISREG(mode):
                    raise OSError(f"it is {_kind(mode)}")
                # the way of open_tree(2) would be shorter, but this needs no new kernel: what
                # the O_PATH descriptor names is known to be a regular file
                return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            if len(held) > _MAX_DEPTH:
                raise OutsideError(f"it is more than {_MAX_DEPTH} directories deep")
        raise IsADirectoryError("it is a directory")
    finally:
        _close(held)


def list_names(directory: str, limit: int) -> tuple[list[tuple[str, bool]], bool]:
    """Return names in a directory and whether each is a directory, and if these are all.

    At most ``limit`` entries are read. A directory that does not exist is empty. Raises
    `OSError`.
    """
    try:
        held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return [], True
    found: list[tuple[str, bool]] = []
    try:
        with os.scandir(held) as entries:
            for entry in entries:
                if len(found) == limit:
                    return found, False
                found.append((entry.name, entry.is_dir(follow_symlinks=False)))
    finally:
        os.close(held)
    return found, True


def _close(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((name for test, name in kinds if test(mode)), "no regular file")
