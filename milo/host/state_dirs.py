"""Finds the state directories of this host, for the commands that people run.

The commands trust what a state directory contains: which process is a task's, which container to
kill. So a directory is used only if root alone can change it and every directory above it, and
only if root has named it: on the command line, by the default, by ``milo run``, or by a driver,
which leaves a pointer to a state directory that is not the default. Nothing that another process
of the host can say, such as the name of a socket, makes a state directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable
from typing import Final

import attrs

from milo import walk
from milo.core.config.places import CACHE_DIR, STATE_DIR
from milo.errors import BELIEVED, ConfigError, PathError, Reason, StateError
from milo.files import read_file, write_file
from milo.host.state_store import StateStore
from milo.proc import sysctl, trusted_users

DEFAULT: Final = STATE_DIR
RUN_DIRECTORY: Final = "/run/milo-run"
"""Below it, each ``milo run`` has a directory that is a state directory of one task."""
DATA_DIRECTORY: Final = "/var/lib/milo-run"
"""The same for the tasks' own directories."""
TEMPORARY: Final = "/tmp"  # noqa: S108
"""For an ordinary user whom no login has given a directory below /run."""
POINTERS: Final = "/run/milo-state-dirs"
"""A symlink for each other state directory that a driver has used since the last reboot."""
CLAIM_FILE: Final = "claim.json"
"""In a directory of data: whose it is. No task sees it."""
YOUNG_S: Final = 60.0
"""A run that is no younger has written that."""
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
    found = _judged(({named} - {DEFAULT}) | {*_runs()})
    # Without it nobody could tell "no tasks" from "not looked".
    refused = (told,) if (told := refusal(run_directories()[0])) else ()
    return attrs.evolve(found, refused=(*refused, *found.refused))


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


def cache_directory() -> str:
    """Return where this user's ``milo run`` keeps startup archives; it may not be there.

    By the XDG base directory specification.
    """
    if os.geteuid() == 0:
        return CACHE_DIR
    told = os.environ.get("XDG_CACHE_HOME", "")
    home = told if os.path.isabs(told) else os.path.expanduser("~/.cache")
    return os.path.join(home, os.path.basename(CACHE_DIR))


def trusted_cache_directory() -> str:
    """Return the same, or nothing if others can change it.

    To be called where root's files can be told from another user's.
    """
    path = cache_directory()
    return "" if _problem(path) else path


def claim_data(path: str, records: str) -> int:
    """Note, in the directory ``path`` for the data of a ``milo run``, where its records are.

    Returns a descriptor with a lock on it, to be held while the run lives: who cannot see the
    records, in a mount namespace with another /tmp, say, can tell by that. Raises `StateError`.
    """
    try:
        held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # a network's file system may have no locks
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as exc:
        raise StateError(path, f"it cannot be opened: {exc.strerror}") from exc
    claim = {"host": os.uname().nodename, "boot": _boot(), "records": records}
    try:
        write_file(os.path.join(path, CLAIM_FILE), json.dumps(claim).encode())
    except BaseException:
        os.close(held)
        raise
    return held


def left_data() -> list[str]:
    """Return directories of data whose ``milo run`` has no directory for records any more.

    That is elsewhere where another login had another ``$XDG_RUNTIME_DIR``, and on another host
    where both share a home.
    """
    found = _entries(data_directory())
    # Looked at last: a run that begins meanwhile has its records before its data.
    runs = {os.path.basename(path) for path in _runs()}
    return [path for path in found if os.path.basename(path) not in runs and _is_left(path)]


def _is_left(path: str) -> bool:
    try:
        if _is_held(path):
            return False
        data = read_file(os.path.join(path, CLAIM_FILE))
        claim = json.loads(data or b"null")
        if data is None:
            return time.time() - os.lstat(path).st_mtime > YOUNG_S
        host, boot, records = claim["host"], claim["boot"], claim["records"]
    except (StateError, OSError, ValueError, KeyError, TypeError):
        return False  # nobody knows
    if host != os.uname().nodename:
        return False
    return boot != _boot() or not os.path.lexists(records)


def _is_held(path: str) -> bool:
    """Whether the run whose data it is lives, on this host."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass  # without locks its records alone tell
    finally:
        os.close(fd)
    return False


def _boot() -> str:
    """Return what sets this run of the kernel apart; random(4)."""
    return sysctl("kernel.random.boot_id")


def of_drivers(named: str) -> StateDirs:
    """Return those that drivers may use: the one that is ``named``, the default, the others."""
    return _judged((named, DEFAULT, *_pointed()))


def of_runs() -> StateDirs:
    """Return those of ``milo run``."""
    return _judged(_runs())


def require_there(state_dir: str) -> None:
    """Refuse a state directory that is not there, but for the default; raises `ConfigError`."""
    if state_dir != DEFAULT and not os.path.isdir(state_dir):
        raise ConfigError("--state-dir", f"there is no directory {state_dir}", "the plugin's")


def refusal(path: str) -> str:
    """Return a sentence on why a directory of state or archives is not looked into.

    Empty where it is missing, or root's alone, or that of the user who asks, which a user namespace
    cannot tell: to be called before one is entered.
    """
    problem = _problem(path)
    return _refusal(path, problem) if problem else ""


def announce(state_dir: str) -> None:
    """Leave a pointer for the commands, and drop those that lead nowhere any more.

    Whatever is wrong is only logged: a task starts without it, and ``--state-dir`` names what has
    no pointer.
    """
    if state_dir == DEFAULT:
        return
    pointer = _pointer(state_dir)
    try:
        os.makedirs(POINTERS, mode=0o700, exist_ok=True)
        if problem := walk.writable_by_others(POINTERS):
            raise StateError(POINTERS, problem)
        with contextlib.suppress(FileExistsError):
            os.symlink(state_dir, pointer)
            with os.scandir(POINTERS) as entries:
                for entry in entries:
                    if entry.path != pointer and not os.path.exists(entry.path):
                        with contextlib.suppress(FileNotFoundError):  # another driver was quicker
                            os.unlink(entry.path)
    except (OSError, StateError) as exc:
        _log.warning("milo ps will not find %s by itself: %s", state_dir, exc)


def forget(state_dir: str) -> None:
    """Take back what `announce` has left, if it has."""
    with contextlib.suppress(OSError):
        os.unlink(_pointer(state_dir))


def _pointer(state_dir: str) -> str:
    name = hashlib.sha256(os.fsencode(state_dir)).hexdigest()[:16]
    return os.path.join(POINTERS, name)


def _pointed() -> list[str]:
    """Return where the pointers of drivers lead; nothing unless root alone can make them."""
    found = []
    for path in _entries(POINTERS):
        with contextlib.suppress(OSError):
            found.append(os.readlink(path))
    return found


def _runs() -> list[str]:
    found = (path for directory in run_directories() for path in _entries(directory))
    return [path for path in found if not os.path.basename(path).startswith(".")]


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
            refused[path] = _refusal(path, problem)
            continue
        with contextlib.suppress(PathError), walk.follow(path) as held:
            trusted.setdefault((held.status.st_dev, held.status.st_ino), path)
    return StateDirs(tuple(trusted.values()), tuple(refused.values()))


def _refusal(path: str, problem: str) -> str:
    return f"{path} is not looked into: {problem}. {BELIEVED}"


def _problem(path: str) -> str:
    """Return why what lies in a state directory is not believed; empty also if it is missing."""
    try:
        walk.follow(path, walk.Kind.DIRECTORY).close()
    except PathError as exc:
        return "" if exc.reason is Reason.MISSING else f"{exc.part}: {exc.words}"
    return walk.writable_by_others(path, owners=trusted_users())
