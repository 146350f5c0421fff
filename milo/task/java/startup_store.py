"""The plugin's ``cache_dir``: archives of the classes that applications have loaded.

Below it each task of a job has a directory of its own, named by a digest of its `Owner`: nothing in
it is ever used for another one. Root alone can write there, or the ordinary user whose ``milo run``
it is. An archive gets its name when it is complete; what describes it is written after that, and so
an archive without a description is nobody's.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from typing import Final, TypeVar

import attrs
import msgspec

from milo import walk
from milo.core.java.startup_cache import Method
from milo.errors import MiloError, PathError, StateError, UntrustedStateError
from milo.files import read_file, write_file
from milo.proc import trusted_users

VERSION: Final = 1
DESCRIPTION: Final = ".json"
ARCHIVE: Final = ".archive"
HASHES: Final = "hashes.json"
LOCK: Final = "lock"
LOCK_S: Final = 2.0
"""So long a start waits for it, and then does without an archive."""
LOCK_PAUSE_S: Final = 0.005
ADDING: Final = "adding"
"""The lock of whoever copies an archive into the cache."""
MAX_DIRECTORIES: Final = 10_000
MAX_OF_ONE: Final = 4
"""So many archives one task of a job may have: another set of options, the version before."""
MAX_NOTES: Final = 16
"""Of one task of a job. The oldest makes room for another."""
MAX_FILES: Final = 1_000
"""Of one directory; more are not looked at."""
RESERVE_BYTES: Final = 256 << 20
"""Of the cache's disk, which others use too."""
UNUSED_S: Final = 30 * 24 * 3600.0
"""What was not used for so long has outlived its application."""
YOUNG_S: Final = 120.0
"""An archive that was used so recently may be about to be mounted, and a file without a description
is about to get one: neither is removed."""

_OWNERS: Final = re.compile("[0-9a-f]{32}")
"""The names that `Owner.directory` gives."""
_LOCK_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
T = TypeVar("T")


class Note(enum.StrEnum):
    """What is remembered of an archive that could not be had."""

    FAILED = ".failed"
    """The JVM could not write it: it is not to try again."""
    KILLED = ".killed"
    """It was killed, and so wrote nothing at its end: the next one is asked while it runs."""
    LATE = ".late"
    """The time at its end was too short: the note holds how many seconds that was."""


@attrs.frozen
class Owner:
    """Whose archive it is: it is used for no other."""

    namespace: str
    job_id: str
    group: str
    task: str
    uid: int
    gid: int

    @property
    def directory(self) -> str:
        """The name of its directory."""
        data = msgspec.json.encode(attrs.astuple(self))
        return hashlib.sha256(data).hexdigest()[:32]

    def __str__(self) -> str:
        if not self.namespace:  # of `milo run`, whose task is the path of a JAR
            return f"{self.job_id} {self.task}"
        return "/".join((self.namespace, self.job_id, self.group, self.task))


@attrs.frozen
class Description:
    """What is written down of one archive."""

    owner: Owner
    method: Method
    java: str
    """Which Java made it, for people."""
    file: str
    """The archive's name, in the same directory."""
    size_bytes: int
    made_at_s: float
    stamps: dict[str, int] = attrs.field(factory=dict)
    """Of each file of the class path, as the container has it, when it was last changed, in
    seconds of Unix time: the JVM takes an archive only for files of the same time."""
    version: int = VERSION


@attrs.frozen
class Kept:
    """One archive of the cache."""

    path: str
    """The archive itself."""
    key: str
    description: Description
    used_at_s: float


class StartupStore:
    """One ``cache_dir``. Its methods may be called by several processes at once."""

    def __init__(self, path: str, limit_bytes: int, owners: tuple[int, ...] = ()) -> None:
        """``owners`` may change what is in it; else that is root, and this process's user."""
        self.path = path
        self.limit_bytes = limit_bytes
        self._owners = owners or trusted_users()

    def prepare(self) -> None:
        """Make the directory.

        Raises:
            StateError: it cannot be made.
            UntrustedStateError: others can change it.
        """
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
        except OSError as exc:
            raise StateError(self.path, f"it cannot be made: {exc.strerror}") from exc
        if problem := self.problem():
            raise UntrustedStateError(self.path, problem)

    def problem(self) -> str:
        """Return who else can change what is in it; nothing if nobody can."""
        return walk.writable_by_others(self.path, owners=self._owners)

    def owners_directory(self, owner: Owner) -> str:
        """Return the path of an owner's directory, which is made.

        Raises:
            OSError: the file system refuses.
            StateError: there are too many.
        """
        path = f"{self.path}/{owner.directory}"
        if not os.path.isdir(path):
            if len(_names(self.path, MAX_DIRECTORIES)) == MAX_DIRECTORIES:
                raise StateError(self.path, "it is of too many tasks. To make room: milo gc --yes")
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
        return path

    def find(self, owner: Owner, key: str) -> Kept | None:
        """Return the archive with that key, marked as used now; None if there is none.

        Raises:
            StateError: another process holds the cache's lock.
        """
        path = f"{self.path}/{owner.directory}/{key}{DESCRIPTION}"
        with self._locked(shared=True):
            kept = _read(path, key)
            if kept is None or kept.description.owner != owner:
                return None
            try:
                os.utime(path)
                found = os.stat(kept.path, follow_symlinks=False)
            except OSError:
                return None
            # Java 17 maps what a file no longer has, and dies of it (SIGBUS, tried).
            if not stat.S_ISREG(found.st_mode) or found.st_size != kept.description.size_bytes:
                return None
        return kept

    def hashes(self, owner: Owner) -> dict[str, str]:
        """Return the digests that are known of files, by what `file_identity` says of them."""
        data = _read_quietly(f"{self.path}/{owner.directory}/{HASHES}")
        return _decode(data, dict[str, str]) or {}

    def remember_hashes(self, owner: Owner, hashes: dict[str, str]) -> None:
        """Replace what is known; a disk that is full costs only time at the next start."""
        with contextlib.suppress(MiloError, OSError):
            directory = self.owners_directory(owner)
            write_file(f"{directory}/{HASHES}", msgspec.json.encode(hashes))

    def new_file(self, owner: Owner) -> tuple[str, int]:
        """Make the file of an archive, which is to be given to `add` or `discard`.

        Returns its path, and a descriptor to write to, which is the caller's. Raises as
        `owners_directory` does.
        """
        path = f"{self.owners_directory(owner)}/{secrets.token_hex(16)}{ARCHIVE}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC)
        os.fchmod(fd, 0o444)
        return path, fd

    def discard(self, path: str) -> None:
        """Remove a file that `new_file` has made and that is not to be kept, or a stray."""
        with contextlib.suppress(OSError):
            if os.path.isdir(path):
                os.rmdir(path)
            else:
                os.unlink(path)

    @contextlib.contextmanager
    def adding(self, size_bytes: int) -> Iterator[None]:
        """Let this process alone copy so many bytes into the cache, and `add` them.

        Raises:
            StateError: they do not fit, or another process is copying.
        """
        if size_bytes > self.limit_bytes:
            raise StateError(
                self.path,
                f"an archive of {-(-size_bytes >> 20)} MiB is more than the cache may hold, "
                f"{self.limit_bytes >> 20} MiB",
            )
        with contextlib.ExitStack() as undo:
            try:
                fd = os.open(f"{self.path}/{ADDING}", _LOCK_FLAGS, 0o600)
                undo.callback(os.close, fd)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                disk = os.fstatvfs(fd)
            except BlockingIOError as exc:
                raise StateError(self.path, "another archive is being copied into it") from exc
            except OSError as exc:
                raise StateError(self.path, f"{exc.strerror}") from exc
            self._remove_leftovers()
            free_bytes = disk.f_bavail * disk.f_frsize
            if free_bytes < size_bytes + RESERVE_BYTES:
                raise StateError(self.path, f"its disk has only {free_bytes >> 20} MiB left")
            yield

    def add(self, key: str, description: Description) -> list[Kept]:
        """Let a complete archive be found; return what was removed for it, the oldest first.

        Raises:
            StateError: the file system refuses, or there is no room that could be made.
        """
        owner = description.owner
        path = f"{self.owners_directory(owner)}/{key}{DESCRIPTION}"
        before = _read(path, key)
        # Only then it is found: nobody may be about to mount what is removed at once.
        removed = self.shrink(owner, more=0 if before else 1)
        if self.size_bytes() > self.limit_bytes:
            raise StateError(self.path, "the archives in it are in use, and there is no more room")
        write_file(path, msgspec.json.encode(description))
        self.clear_note(owner, key, Note.KILLED)
        self.clear_note(owner, key, Note.LATE)
        if before is not None:
            _keep_for_now(before.path)
        return removed

    def size_bytes(self) -> int:
        """Return what all archives take together, those too that are not found any more."""
        return _total_bytes(*self._survey())

    def shrink(self, owner: Owner, more: int) -> list[Kept]:
        """Remove what was used longest ago, until all the others are within the limits.

        And of ``owner``'s, of which so many are to come, what is too much.
        """
        found, others = self._survey()
        left = sorted(found, key=lambda kept: kept.used_at_s)
        own = [kept for kept in left if kept.description.owner == owner]
        removed = [
            kept for kept in own[: max(0, len(own) + more - MAX_OF_ONE)] if self.remove(kept)
        ]
        left = [kept for kept in left if kept not in removed]
        size = _total_bytes(left, others)
        for kept in left:
            if size <= self.limit_bytes:
                break
            if self.remove(kept):
                removed.append(kept)
                size -= kept.description.size_bytes
        return removed

    def remove(self, kept: Kept) -> bool:
        """Remove an archive, unless it was used meanwhile; return whether it is gone."""
        description = f"{os.path.dirname(kept.path)}/{kept.key}{DESCRIPTION}"
        with contextlib.suppress(OSError, StateError), self._locked(shared=False):
            if time.time() - os.stat(description).st_mtime < YOUNG_S:
                return False
            os.unlink(description)
            os.unlink(kept.path)
            return True
        return False

    def has_note(self, owner: Owner, key: str, note: Note) -> bool:
        """Whether that was noted of an archive that is not there."""
        return os.path.exists(f"{self.path}/{owner.directory}/{key}{note}")

    def late_s(self, owner: Owner, key: str) -> float:
        """Return how much time did not suffice for an archive the last time; 0 for none."""
        data = _read_quietly(f"{self.path}/{owner.directory}/{key}{Note.LATE}")
        return _decode(data, float) or 0.0

    def set_note(self, owner: Owner, key: str, note: Note, data: bytes = b"") -> None:
        """Note something of an archive that was to be recorded."""
        with contextlib.suppress(MiloError, OSError):
            directory = self.owners_directory(owner)
            notes = [
                f"{directory}/{name}" for name in _names(directory) if name.endswith(tuple(Note))
            ]
            if len(notes) >= MAX_NOTES:
                for oldest in sorted(notes, key=_age_s)[MAX_NOTES - 1 :]:
                    self.discard(oldest)
            write_file(f"{directory}/{key}{note}", data)

    def clear_note(self, owner: Owner, key: str, note: Note) -> None:
        """Let something be noted no more."""
        self.discard(f"{self.path}/{owner.directory}/{key}{note}")

    def forget(self, owner: Owner, key: str) -> None:
        """Let an archive not be found any more, whoever has it mounted or is about to."""
        path = f"{self.path}/{owner.directory}/{key}{DESCRIPTION}"
        with contextlib.suppress(OSError):
            if (kept := _read(path, key)) is not None:
                _keep_for_now(kept.path)
            os.unlink(path)

    def all(self) -> list[Kept]:
        """Return every archive that there is."""
        return self._survey()[0]

    def _survey(self) -> tuple[list[Kept], list[str]]:
        """Return every archive, and the paths of all other files but descriptions."""
        found: list[Kept] = []
        others: list[str] = []
        for directory in self._directories():
            for name in _names(directory):
                path = f"{directory}/{name}"
                if not name.endswith(DESCRIPTION) or name == HASHES:
                    others.append(path)
                elif (kept := _read(path, name.removesuffix(DESCRIPTION))) is not None:
                    found.append(kept)
        known = {kept.path for kept in found}
        return found, [path for path in others if path not in known]

    def strays(self) -> list[str]:
        """Return the paths of files that no description names, and of directories without one.

        A task process that was killed while it wrote has left them. Notes of failures are among
        them: without one a JVM may try again.
        """
        known = {kept.path for kept in self.all()}
        described = {os.path.dirname(path) for path in known}
        found = []
        for directory in self._directories():
            names = _names(directory)
            paths = [f"{directory}/{name}" for name in names]
            old = [path for path in paths if _age_s(path) > YOUNG_S]
            found += [path for path in old if path.endswith(ARCHIVE) and path not in known]
            found += [path for path in paths if path.endswith(tuple(Note))]
            if directory not in described and len(old) == len(names):
                found += [path for path in old if path not in found]
                found.append(directory)  # the last: it is empty then
        return found

    def _remove_leftovers(self) -> None:
        """Remove what nobody can be using: of processes that were killed, and of past tasks."""
        for path in self._survey()[1]:
            if not path.endswith((HASHES, *Note)) and _age_s(path) > YOUNG_S:
                self.discard(path)
        for directory in self._directories():
            paths = [f"{directory}/{name}" for name in _names(directory)]
            if not any(path.endswith(ARCHIVE) or _age_s(path) < UNUSED_S for path in paths):
                for path in [*paths, directory]:
                    self.discard(path)

    def _directories(self) -> list[str]:
        """Return the owners' directories; an operator's ``cache_dir`` may hold other things."""
        return [
            f"{self.path}/{name}"
            for name in _names(self.path, MAX_DIRECTORIES)
            if _OWNERS.fullmatch(name) and _is_directory(f"{self.path}/{name}")
        ]

    @contextlib.contextmanager
    def _locked(self, *, shared: bool) -> Iterator[None]:
        """Hold the cache's lock, which nobody holds for longer than a few system calls.

        Raises:
            StateError: somebody does, as a process that was stopped meanwhile.
        """
        try:
            fd = os.open(f"{self.path}/{LOCK}", _LOCK_FLAGS, 0o600)
        except OSError:  # a file system that is full, or read-only
            yield
            return
        try:
            self._lock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _lock(self, fd: int, kind: int) -> None:
        give_up_at = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(fd, kind | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                if time.monotonic() > give_up_at:
                    words = f"another process has held its lock for {LOCK_S:g} s"
                    raise StateError(self.path, words) from exc
                time.sleep(LOCK_PAUSE_S)
            else:
                return


def words_of(error: Exception) -> str:
    """Return what stood in the way, as the end of a line of the log, which is no error."""
    return str(error).removeprefix("Error: ")


def _read(path: str, key: str) -> Kept | None:
    """Return the archive that a description names; None when it is damaged or not there."""
    description = _decode(_read_quietly(path), Description)
    if description is None or description.version != VERSION or "/" in description.file:
        return None
    with contextlib.suppress(OSError):
        used_at_s = os.stat(path).st_mtime
        return Kept(f"{os.path.dirname(path)}/{description.file}", key, description, used_at_s)
    return None


def _read_quietly(path: str) -> bytes | None:
    try:
        return read_file(path)
    except StateError:
        return None


def _decode(data: bytes | None, kind: type[T]) -> T | None:
    try:
        return None if data is None else msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _names(path: str, limit: int = MAX_FILES) -> list[str]:
    try:
        with walk.follow(path, walk.Kind.DIRECTORY) as held:
            return [name for name, _ in held.names(limit)[0]]
    except PathError:
        return []


def _is_directory(path: str) -> bool:
    """Whether it is a directory, and no symlink to one."""
    try:
        return stat.S_ISDIR(os.stat(path, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _keep_for_now(path: str) -> None:
    """Have an archive that is not found any more stay until no start can be about to mount it."""
    with contextlib.suppress(OSError):
        os.utime(path, follow_symlinks=False)


def _total_bytes(archives: list[Kept], others: list[str]) -> int:
    loose = sum(_size_bytes(path) for path in others if path.endswith(ARCHIVE))
    return loose + sum(kept.description.size_bytes for kept in archives)


def _size_bytes(path: str) -> int:
    try:
        return os.stat(path, follow_symlinks=False).st_size
    except OSError:
        return 0


def _age_s(path: str) -> float:
    try:
        return time.time() - os.stat(path, follow_symlinks=False).st_mtime
    except OSError:
        return 0.0
