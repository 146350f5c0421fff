"""The application's working directory: makes it where the task may, and says where it may not."""

from __future__ import annotations

import os
import stat

from milo.core.container.mounts import Bind, is_inside, normalized
from milo.errors import ConfigError
from milo.task.root import volumes

_WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def check(work_dir: str) -> str:
    """Return the path in the container of the key ``work_dir``; empty is ``/``.

    Nomad's java driver starts in ``/`` too, and takes absolute paths alone. Raises `ConfigError`.
    """
    if work_dir and (not work_dir.startswith("/") or ".." in work_dir.split("/")):
        raise ConfigError(
            "work_dir", repr(work_dir), "an absolute path in the container, such as /local"
        )
    return normalized(work_dir)


def prepare(path: str, binds: tuple[Bind, ...], root: str) -> None:
    """Make sure that ``path``, as `check` returned it, can be entered.

    What is missing in the task's own directories is made there, with the owner and the mode of
    the directory it is made in. ``root`` is the skeleton. A symlink is not followed, as only
    the container itself can: crun then says whether it leads anywhere.

    Raises:
        ConfigError: it is not there, or no directory.
        OSError: the file system refuses.
    """
    around = [bind for bind in binds if is_inside(path, bind.destination)]
    if around:
        bind = max(around, key=lambda bind: len(bind.destination))
        top, rest = bind.source, path[len(bind.destination) :]
        own = bind.origin == "task"
    else:
        top, rest, own = root, path, False
    fd = os.open(top, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            raise _missing(path)
        for name in rest.split("/"):
            if not name:
                continue
            try:
                mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
            except FileNotFoundError as exc:
                if not own:
                    raise _missing(path) from exc
                _make(name, fd)
                mode = stat.S_IFDIR
            if stat.S_ISLNK(mode):
                if not volumes.kernel_is_recursive():
                    # crun would make what is missing behind it, through a read-only bind too
                    raise ConfigError("work_dir", f"{path} has a symlink in it", "a path without")
                return
            if not stat.S_ISDIR(mode):
                raise ConfigError("work_dir", f"{path} is no directory", "a directory")
            inner = os.open(name, _WALK, dir_fd=fd)
            os.close(fd)
            fd = inner
    finally:
        os.close(fd)


def _make(name: str, parent: int) -> None:
    """Make a directory that whoever can write in ``parent`` can write in."""
    like = os.fstat(parent)
    os.mkdir(name, 0o700, dir_fd=parent)
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.fchown(fd, like.st_uid, like.st_gid)
        os.fchmod(fd, stat.S_IMODE(like.st_mode) & 0o777)
    finally:
        os.close(fd)


def _missing(path: str) -> ConfigError:
    return ConfigError(
        "work_dir",
        f"{path} is not there in the container",
        "a directory below /local, /alloc, /secrets or /tmp, which is made if it is missing, "
        "or one that exists",
    )
