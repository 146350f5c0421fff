"""The application's working directory: makes it where the task may, and says where it may not."""

from __future__ import annotations

from typing import Final

from milo import walk
from milo.core.container.mounts import (
    SYSTEM_DESTINATIONS,
    TASK_ROOT,
    Bind,
    innermost,
    is_inside,
    normalized,
)
from milo.core.text import shortened
from milo.errors import ConfigError, PathError, Reason, StateError
from milo.task.root.brought import LOGS, is_closed
from milo.walk import Kind

_EXPECTED: Final = (
    "a directory below /task, /local, /alloc/data, /secrets or /tmp, which is made if it is "
    "missing, or one that exists"
)
MAX_NAME_BYTES: Final = 255
"""Of one part of a path (NAME_MAX in limits.h)."""
MAX_PATH_BYTES: Final = 4095
"""Of a path that is given to the kernel as a whole, as crun does (PATH_MAX, less the zero)."""


def check(work_dir: str) -> str:
    """Return the path in the container of the key ``work_dir``; empty is the task's directory.

    Nomad's java driver starts in that too, and takes absolute paths alone. Raises `ConfigError`.
    """
    parts = work_dir.split("/")
    if work_dir and (not work_dir.startswith("/") or ".." in parts or "\0" in work_dir):
        raise ConfigError(
            "work_dir",
            repr(shortened(work_dir)),
            "an absolute path in the container, such as /local",
        )
    return normalized(work_dir) if work_dir else TASK_ROOT


def prepare(
    path: str, binds: tuple[Bind, ...], masks: tuple[str, ...], root: str, alloc_dir: str
) -> None:
    """Make sure that ``path``, as `check` returned it, can be entered.

    What is missing in the task's own directories, below ``alloc_dir``, is made there, with the
    owner and the mode of the directory it is made in; never where the task may make nothing.
    ``masks`` are the container's hidden directories, ``root`` is the skeleton. No symlink is
    accepted: crun before 1.14.1 follows it with root's rights, wherever it leads.

    Raises:
        ConfigError: it is too long, not there, hidden, the system's, no directory, or has a symlink
            in it.
        StateError: the file system refuses.
    """
    _check_length(path)
    _check_seen(path, masks)
    bind = innermost(binds, path)
    own = bind is not None and bind.origin == "task" and not (bind.readonly or is_closed(path))
    shown = shortened(path)
    try:
        if bind is not None:
            at = walk.hold(bind.source, beneath=alloc_dir)
            rest = path[len(bind.destination) :]
        else:
            at, rest = walk.follow(root), path
        for name in rest.split("/"):
            if name:
                with at:
                    at = _enter(at, name, own)
        with at:
            if at.kind is not Kind.DIRECTORY:
                raise ConfigError("work_dir", f"{shown} is no directory", "a directory")
    except PathError as exc:
        if exc.reason is Reason.MISSING:
            where = _missing_from(path, bind)
            raise ConfigError("work_dir", f"{shown} is not there in {where}", _EXPECTED) from exc
        if exc.reason is Reason.SYMLINK:
            raise ConfigError(
                "work_dir", f"{shown} has a symlink in it", "a path without symlinks"
            ) from exc
        if exc.reason in (Reason.KIND, Reason.NOT_DIRECTORY):
            raise ConfigError("work_dir", f"{shown} is no directory", "a directory") from exc
        raise StateError(exc.part, exc.words) from exc


def _check_length(path: str) -> None:
    data = path.encode(errors="surrogatepass")
    if len(data) > MAX_PATH_BYTES or any(len(name) > MAX_NAME_BYTES for name in data.split(b"/")):
        raise ConfigError(
            "work_dir",
            f"{shortened(path)} is too long",
            f"at most {MAX_PATH_BYTES} bytes, and {MAX_NAME_BYTES} between two slashes",
        )


def _check_seen(path: str, masks: tuple[str, ...]) -> None:
    for place in SYSTEM_DESTINATIONS:
        if is_inside(path, place):
            raise ConfigError(
                "work_dir", f"{shortened(path)} lies in {place}, which is the kernel's", _EXPECTED
            )
    for place in masks:
        if is_inside(path, place):
            raise ConfigError(
                "work_dir",
                f"{shortened(path)} lies in {shortened(place)}, which is Nomad's or Milo's own "
                "and hidden from tasks",
                _EXPECTED,
            )


def _missing_from(path: str, bind: Bind | None) -> str:
    """Return what a directory that is not made is missing from, in words."""
    if bind is None or bind.origin == "host":
        return "the container"
    if bind.origin == "job":
        return f"{shortened(bind.destination)}, a mount of the job, where nothing is made"
    if bind.readonly:
        return f"{LOGS}, the log directory, which is read-only"
    return f"{shortened(bind.destination)}, where nothing may be made at this place"


def _enter(parent: walk.Held, name: str, own: bool) -> walk.Held:
    """Enter a directory; one that is missing in the task's ``own`` is made for the same users."""
    try:
        return parent.enter(name, Kind.DIRECTORY)
    except PathError as exc:
        if exc.reason is not Reason.MISSING or not own:
            raise
    like = parent.status
    return parent.make_directory(name, like.st_mode & 0o777, (like.st_uid, like.st_gid))
