"""The application's working directory: makes it where the task may, and says where it may not."""

from __future__ import annotations

from typing import Final

from milo import walk
from milo.core.container.mounts import TASK_ROOT, Bind, is_inside, normalized
from milo.errors import ConfigError, PathError, Reason, StateError
from milo.walk import Kind

_EXPECTED: Final = (
    "a directory below /local, /alloc, /secrets or /tmp, which is made if it is missing, "
    "or one that exists"
)


def check(work_dir: str) -> str:
    """Return the path in the container of the key ``work_dir``; empty is the task's directory.

    Nomad's java driver starts in that too, and takes absolute paths alone. Raises `ConfigError`.
    """
    if work_dir and (not work_dir.startswith("/") or ".." in work_dir.split("/")):
        raise ConfigError(
            "work_dir", repr(work_dir), "an absolute path in the container, such as /local"
        )
    return normalized(work_dir) if work_dir else TASK_ROOT


def prepare(path: str, binds: tuple[Bind, ...], root: str, alloc_dir: str) -> None:
    """Make sure that ``path``, as `check` returned it, can be entered.

    What is missing in the task's own directories, below ``alloc_dir``, is made there, with the
    owner and the mode of the directory it is made in. ``root`` is the skeleton. No symlink is
    accepted: crun before 1.14.1 follows it with root's rights, wherever it leads.

    Raises:
        ConfigError: it is not there, no directory, or has a symlink in it.
        StateError: the file system refuses.
    """
    around = [bind for bind in binds if is_inside(path, bind.destination)]
    own = False
    try:
        if around:
            bind = max(around, key=lambda bind: len(bind.destination))
            at = walk.hold(bind.source, beneath=alloc_dir)
            rest, own = path[len(bind.destination) :], bind.origin == "task"
        else:
            at, rest = walk.follow(root), path
        for name in rest.split("/"):
            if name:
                with at:
                    at = _enter(at, name, own)
        with at:
            if at.kind is not Kind.DIRECTORY:
                raise ConfigError("work_dir", f"{path} is no directory", "a directory")
    except PathError as exc:
        if exc.reason is Reason.MISSING:
            raise ConfigError(
                "work_dir", f"{path} is not there in the container", _EXPECTED
            ) from exc
        if exc.reason is Reason.SYMLINK:
            raise ConfigError(
                "work_dir", f"{path} has a symlink in it", "a path without symlinks"
            ) from exc
        if exc.reason in (Reason.KIND, Reason.NOT_DIRECTORY):
            raise ConfigError("work_dir", f"{path} is no directory", "a directory") from exc
        raise StateError(exc.part, exc.words) from exc


def _enter(parent: walk.Held, name: str, own: bool) -> walk.Held:
    """Enter a directory; one that is missing in the task's ``own`` is made for the same users."""
    try:
        return parent.enter(name, Kind.DIRECTORY)
    except PathError as exc:
        if exc.reason is not Reason.MISSING or not own:
            raise
    like = parent.status
    return parent.make_directory(name, like.st_mode & 0o777, (like.st_uid, like.st_gid))
