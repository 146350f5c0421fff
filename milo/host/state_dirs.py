"""Finds the state directories of this host, for the commands that people run.

The commands trust what a state directory contains: which process is a task's, which container to
kill. So a directory is used only if root alone can change it and every directory above it, and
only if root has named it: on the command line, by the default, by ``milo run``, or by a driver,
which leaves a pointer to a state directory that is not the default. Nothing that another process
of the host can say, such as the name of a socket, makes a state directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterable
from typing import Final

import attrs

from milo import walk
from milo.core.config.plugin_options import PluginOptions
from milo.errors import PathError, Reason, StateError
from milo.host.state_store import StateStore
from milo.proc import trusted_users

DEFAULT: Final = PluginOptions().state_dir
RUN_DIRECTORY: Final = "/run/milo-run"
"""Below it, each ``milo run`` has a directory that is a state directory of one task."""
DATA_DIRECTORY: Final = "/var/lib/milo-run"
"""The same for the tasks' own directories."""
TEMPORARY: Final = "/tmp"  # noqa: S108
"""For an ordinary user whom no login has given a directory below /run."""
POINTERS: Final = "/run/milo-state-dirs"
"""A symlink for each other state directory that a driver has used since the last reboot."""
MAX_DIRECTORIES: Final = 10_000
"""So many entries of one of these are looked at."""

_log = logging.getLogger(__name__)


@attrs.frozen
class StateDirs:
    """State directories that are there."""

    trusted: tuple[str, ...]
    """Only root, or the user who asks, can change them."""
    refused: tuple[str, ...]
    """Sentences about the others: which, and who could change what."""


def of_host(named: str) -> StateDirs:
    """Return all of this host: those of drivers, ``named`` among them, and of ``milo run``.

    For an ordinary user those of his own ``milo run``, and ``named`` if it is not the default.
    """
    if os.geteuid() == 0:
        return _judged((named, DEFAULT, *_pointed(), *_runs()))
    return _judged(({named} - {DEFAULT}) | {*_runs()})


def run_directories() -> tuple[str, ...]:
    """Return where ``milo run`` of this user may have its directories, the first choice first."""
    uid = os.geteuid()
    if uid == 0:
        return (RUN_DIRECTORY,)
    login = f"/run/user/{uid}"
    told = os.environ.get("XDG_RUNTIME_DIR", "")
    parents = dict.fromkeys(path for path in (told, login) if os.path.isabs(path))
    # One of another user is inherited through su(1).
    own = [path for path in parents if not _problem(path) and os.access(path, os.W_OK)]
    return (*(os.path.join(path, "milo") for path in own), f"{TEMPORARY}/milo-{uid}")


def make_run_directory() -> str:
    """Return the directory for this user's ``milo run``, made for his eyes only.

    Raises:
        StateError: it cannot be made, or others can change it.
    """
    path = run_directories()[0]
    StateStore(path).prepare("XDG_RUNTIME_DIR" if os.geteuid() else "state_dir")
    return path


def make_data_directory() -> str:
    """Return where the tasks of this user's ``milo run`` have their directories, on a disk.

    By the XDG base directory specification. Raises `StateError` as `make_run_directory` does.
    """
    path = data_directory()
    StateStore(path).prepare("XDG_STATE_HOME" if os.geteuid() else "state_dir")
    return path


def data_directory() -> str:
    """Return the same; it may not be there."""
    if os.geteuid() == 0:
        return DATA_DIRECTORY
    told = os.environ.get("XDG_STATE_HOME", "")
    home = told if os.path.isabs(told) else os.path.expanduser("~/.local/state")
    return os.path.join(home, "milo")


def left_data() -> list[str]:
    """Return directories of data whose ``milo run`` has no directory for records any more."""
    found = _entries(data_directory())
    # Looked at last: a run that begins meanwhile has its records before its data.
    runs = {os.path.basename(path) for path in _runs()}
    return [path for path in found if os.path.basename(path) not in runs]


def of_drivers(named: str) -> StateDirs:
    """Return those that drivers may use: the one that is ``named``, the default, the others."""
    return _judged((named, DEFAULT, *_pointed()))


def of_runs() -> StateDirs:
    """Return those of ``milo run``."""
    return _judged(_runs())


def require_roots(state_dir: str) -> None:
    """Make sure that a state directory, if it is there, is root's alone.

    Raises:
        StateError: another user can change it, or a directory above it.
    """
    if problem := _problem(state_dir):
        raise StateError(state_dir, f"{problem}. Only what root alone can change is believed")


def announce(state_dir: str) -> None:
    """Leave a pointer for the commands, and drop those that lead nowhere any more.

    Whatever is wrong is only logged: a task starts without it, and ``--state-dir`` names what has
    no pointer.
    """
    if state_dir == DEFAULT:
        return
    name = hashlib.sha256(os.fsencode(state_dir)).hexdigest()[:16]
    try:
        os.makedirs(POINTERS, mode=0o700, exist_ok=True)
        if problem := walk.writable_by_others(POINTERS):
            raise StateError(POINTERS, problem)
        with contextlib.suppress(FileExistsError):
            os.symlink(state_dir, os.path.join(POINTERS, name))
            for entry in os.scandir(POINTERS):
                if entry.name != name and not os.path.exists(entry.path):
                    os.unlink(entry.path)
    except (OSError, StateError) as exc:
        _log.warning("milo ps will not find %s by itself: %s", state_dir, exc)


def _pointed() -> list[str]:
    """Return where the pointers of drivers lead; nothing unless root alone can make them."""
    found = []
    for path in _entries(POINTERS):
        with contextlib.suppress(OSError):
            found.append(os.readlink(path))
    return found


def _runs() -> list[str]:
    return [path for directory in run_directories() for path in _entries(directory)]


def _entries(directory: str) -> list[str]:
    if walk.writable_by_others(directory, owners=trusted_users()):
        return []  # or it is not there
    try:
        with walk.follow(directory, walk.Kind.DIRECTORY) as held:
            names, _ = held.names(MAX_DIRECTORIES)
    except PathError:
        return []
    return sorted(os.path.join(directory, name) for name, _ in names)


def _judged(paths: Iterable[str]) -> StateDirs:
    """Tell those that are root's alone from the others; each directory counts once."""
    trusted: dict[tuple[int, int], str] = {}
    refused = {}
    for path in filter(os.path.isabs, paths):
        if problem := _problem(path):
            refused[path] = f"{path} is not looked into: {problem}"
            continue
        with contextlib.suppress(PathError), walk.follow(path) as held:
            trusted.setdefault((held.status.st_dev, held.status.st_ino), path)
    return StateDirs(tuple(trusted.values()), tuple(refused.values()))


def _problem(path: str) -> str:
    """Return why what lies in a state directory is not believed; empty also if it is missing."""
    try:
        walk.follow(path, walk.Kind.DIRECTORY).close()
    except PathError as exc:
        return "" if exc.reason is Reason.MISSING else f"{exc.part}: {exc.words}"
    return walk.writable_by_others(path, owners=trusted_users())
