"""The only way to follow a path that a task, a job or another user of the host can influence.

Whoever can write to a directory can at any time exchange its entries for a symlink to somewhere
else, a FIFO or a device. So such a path is never given to the kernel as a whole. It is looked up
part by part, each part from the descriptor of the one before (openat(2)), and what is found is
only held (``O_PATH``): no file is opened by that, no FIFO gets a reader, no device is activated.
Kind and owner of what is held are checked. Then exactly that is opened, through its descriptor, so
that nothing can take its place in between.

Four functions differ in what they do with a symlink:

- `hold`: follows none below a trusted directory;
- `Held.within`: follows those that do not lead out of a directory;
- `hold_in_container`: follows each as the task's container would;
- `follow`: follows each as the host would; for the operator's own paths, and for those whose target
  the caller checks.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import secrets
import stat
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from itertools import islice
from typing import Final

from milo import proc
from milo.errors import PathError, Reason

MAX_LINKS: Final = 40
"""As many symlinks as Linux itself follows in one path (path_resolution(7))."""
MAX_DEPTH: Final = 128
"""So many directories of one path are held at once, while symlinks may lead up again."""
MAX_OPEN_FILES: Final = 4096
"""Of one process are looked at; the first are those that it was started with."""

_FIND: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_BYTES: Final = 1 << 20
_NAMES: Final = 1000
Choice = Callable[[Iterator[os.DirEntry[str]], int], Iterable[os.DirEntry[str]]]


class Kind(enum.StrEnum):
    """What something is, in words."""

    FILE = "a regular file"
    DIRECTORY = "a directory"
    SYMLINK = "a symlink"
    FIFO = "a FIFO"
    SOCKET = "a socket"
    CHARACTER_DEVICE = "a character device"
    BLOCK_DEVICE = "a block device"
    NO_FILE = "no file"  # what only a descriptor leads to: an epoll, a pidfd


_KINDS: Final = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
    stat.S_IFCHR: Kind.CHARACTER_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
}


class Held(contextlib.AbstractContextManager["Held"]):
    """What a path led to, held by a descriptor that names it and can neither read nor write.

    Whoever gets one lets go of it, by ``with`` or `close`. What its methods cannot do is a
    `PathError`.
    """

    def __init__(self, fd: int, path: str) -> None:
        """Take over ``fd``, which is closed if that fails. Raises OSError."""
        self.fd = fd
        """Stays this object's."""
        self.path = path
        """Its place on the host when it was found, without symlinks."""
        self.links: dict[str, str] = {}
        """The symlinks that led here, each by its own place with what it says."""
        try:
            self.status = os.fstat(fd)
            """What it was then."""
        except OSError:  # a file system that is gone, say
            self.close()
            raise
        self.kind = _KINDS.get(stat.S_IFMT(self.status.st_mode), Kind.NO_FILE)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it; may be called again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def is_same(self, other: Held) -> bool:
        """Whether both are one and the same file."""
        return os.path.samestat(self.status, other.status)

    def may(self, use: int) -> bool:
        """Whether this process may read, write or execute it: ``os.R_OK`` and so on."""
        return os.access(proc.descriptor_path(self.fd), use, effective_ids=True)

    def enter(self, name: str, kind: Kind | None = None) -> Held:
        """Hold ``name``, one part of a path, in this directory: no symlink, and only a ``kind``."""
        if name in ("", ".", "..") or "/" in name:
            raise PathError(_join(self.path, name), Reason.NOT_PLAIN, "it is no name of a file")
        return _checked(self._find(name), kind)

    def _find(self, name: str) -> Held:
        path = _join(self.path, name)
        try:
            return Held(os.open(name, _FIND, dir_fd=self.fd), path)
        except (OSError, ValueError) as exc:
            raise _refusal(path, exc) from exc

    def within(self, path: str, kind: Kind | None = None) -> Held:
        """Hold what ``path`` leads to from here; ``..`` and absolute symlinks do not lead out."""
        with _translated(self.path):
            top = Held(os.dup(self.fd), self.path)
        return _descend(path, [top], _Top.DIRECTORY, kind)

    def target(self) -> str:
        """Return what a symlink says; one is only held while a `tree` is looked through."""
        with _translated(self.path):
            return os.readlink("", dir_fd=self.fd)

    def names(self, limit: int, choose: Choice = islice) -> tuple[list[tuple[str, bool]], bool]:
        """Return names in this directory and whether each is one, and if these are all.

        At most ``limit`` entries are read, and one more, or what ``choose`` reads.
        """
        fd = self.open(os.O_RDONLY | os.O_DIRECTORY)
        try:
            with _translated(self.path), os.scandir(fd) as entries:
                first = choose(entries, limit)
                found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in first]
                return found, next(entries, None) is None
        finally:
            os.close(fd)

    def tree(self, limit: int, depth: int, problem: Callable[[PathError], None]) -> Iterator[Held]:
        """Yield all that is in this directory and below it; no symlink is followed.

        Each is let go of when the next one is asked for. Ends after ``limit`` of them, or below
        ``depth`` directories. ``problem`` is called with that, and with what cannot be read;
        what is removed meanwhile is left out.
        """
        yield from self._tree([limit], depth, problem)

    def _tree(
        self, left: list[int], depth: int, problem: Callable[[PathError], None]
    ) -> Iterator[Held]:
        try:
            names, _ = self.names(left[0] + 1)
        except PathError as exc:
            problem(exc)
            return
        for name, _ in names:
            left[0] -= 1
            if left[0] < 0 or depth < 0:
                left[0] = -1
                problem(PathError(self.path, Reason.TOO_LONG, "it holds too many files"))
                return
            try:
                found = self._find(name)
            except PathError as exc:
                if exc.reason is not Reason.MISSING:
                    problem(exc)
                continue
            with found:
                yield found
                if found.kind is Kind.DIRECTORY:
                    yield from found._tree(left, depth - 1, problem)
            if left[0] < 0:
                return

    def open(self, flags: int = os.O_RDONLY) -> int:
        """Open what is held, close-on-exec and without blocking; the descriptor is the caller's.

        No device and no socket is ever opened.
        """
        if self.kind not in (Kind.FILE, Kind.DIRECTORY, Kind.FIFO):
            raise PathError(self.path, Reason.KIND, f"it is {self.kind}")
        with _translated(self.path):
            return proc.reopen(self.fd, flags | os.O_NONBLOCK)

    def read(self, limit: int) -> bytes:
        """Return what a regular file holds, at most ``limit`` bytes."""
        if self.kind is not Kind.FILE:
            raise _wrong_kind(self, Kind.FILE)
        fd = self.open()
        data = b""
        try:
            with _translated(self.path):
                while part := os.read(fd, min(_READ_BYTES, limit - len(data))):
                    data += part
        finally:
            os.close(fd)
        return data

    def make_directory(self, name: str, mode: int, owner: tuple[int, int] | None = None) -> Held:
        """Make the directory ``name`` in this one and hold it; its mode knows no umask.

        ``owner`` is a user and a group by number; without, it is this process's own.
        """
        path = _join(self.path, name)
        with _translated(path), contextlib.ExitStack() as undo:
            os.mkdir(name, 0o700, dir_fd=self.fd)
            made = undo.enter_context(self.enter(name, Kind.DIRECTORY))
            # Nobody else can make one that is this process's user's alone, but may have moved
            # one here, which must not change hands.
            if made.status.st_uid != os.geteuid() or stat.S_IMODE(made.status.st_mode) != 0o700:
                raise PathError(path, Reason.REFUSED, "something else took its place")
            fd = made.open(os.O_RDONLY | os.O_DIRECTORY)
            try:
                if owner is not None:
                    os.fchown(fd, *owner)
                os.fchmod(fd, mode)
                made.status = os.fstat(fd)
            finally:
                os.close(fd)
            undo.pop_all()
        return made

    def make_file(self, name: str, mode: int) -> int:
        """Make the file ``name``, which may not be there; return a descriptor to write to."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with _translated(_join(self.path, name)):
            return os.open(name, flags, mode, dir_fd=self.fd)

    def remove(self, name: str, *, directory: bool = False) -> None:
        """Remove the file, or the symlink, ``name``; or the ``directory``, if it is empty."""
        with _translated(_join(self.path, name)):
            (os.rmdir if directory else os.unlink)(name, dir_fd=self.fd)

    def remove_tree(self, name: str) -> None:
        """Remove the directory ``name`` with all that is in it; no symlink is followed.

        What lies deeper is moved up first: so no depth takes descriptors or the stack.
        """
        with _translated(_join(self.path, name)), self.enter(name, Kind.DIRECTORY) as top:
            while names := top.names(_NAMES)[0]:
                for inner, is_directory in names:
                    if is_directory:
                        with top.enter(inner, Kind.DIRECTORY) as directory:
                            directory._move_all(top)
                        os.rmdir(inner, dir_fd=top.fd)
                    else:
                        os.unlink(inner, dir_fd=top.fd)
            os.rmdir(name, dir_fd=self.fd)

    def _move_all(self, to: Held) -> None:
        while names := self.names(_NAMES)[0]:
            for name, _ in names:
                os.rename(name, secrets.token_hex(16), src_dir_fd=self.fd, dst_dir_fd=to.fd)


def hold(path: str, *, beneath: str = "/", kind: Kind | None = None) -> Held:
    """Hold what is at the absolute ``path``.

    Below the trusted directory ``beneath`` no symlink is followed, and none is held: neither on
    the way nor at the end. A path that does not lie below it is looked up from the root on.
    ``kind`` is the only one that is taken. Raises `PathError`.
    """
    root = beneath.rstrip("/")
    root = root if path.startswith(f"{root}/") else ""
    try:
        names = [name for name in path[len(root) :].split("/") if name not in ("", ".")]
        if not path.startswith("/") or not names or ".." in names:
            raise PathError(path, Reason.NOT_PLAIN, "it is not the plain path of a file")
        at = hold_directory(root or "/")
        for name in names[:-1]:
            with at:
                at = _checked(at._find(name), Kind.DIRECTORY, Reason.NOT_DIRECTORY)
        with at:
            return at.enter(names[-1], kind)
    except PathError as exc:
        _tell(exc, path, [])
        raise


def hold_directory(path: str, flags: int = 0) -> Held:
    """Hold a directory whose path is trusted, as the kernel follows it. Raises `PathError`."""
    with _translated(path):
        return Held(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | flags), path)


def hold_in_container(places: Mapping[str, str], path: str, kind: Kind | None = None) -> Held:
    """Hold what ``path`` leads to in a task's container.

    ``places`` maps the names of directories at the container's root to the host's paths, which
    are trusted. An absolute symlink begins at the container's root again, and ``..`` stays
    there. Raises `PathError`, with `Reason.OUTSIDE` when it leads to none of the places.
    """
    return _descend(path, [], _Top.CONTAINER, kind, places)


def follow(path: str, kind: Kind | None = None, look: Callable[[Held], None] | None = None) -> Held:
    """Hold what the absolute ``path`` leads to on the host, as the kernel would follow it.

    `Held.path` and `Held.links` say where that is, and how it was reached. ``look`` is shown all
    that is on the way, symlinks too, and may refuse it. Raises `PathError`.
    """
    return _descend(path, [], _Top.HOST, kind, look=look or (lambda _: None))


def real_path(path: str) -> str:
    """Return the absolute ``path`` without symlinks, as far as there is anything."""
    try:
        with follow(path) as held:
            return held.path
    except PathError as exc:
        return exc.reached


def open_files(pid: int) -> Generator[Held, None, None]:
    """Hold, one after the other, what a process has open; nothing of it is opened by that.

    Its path is the kernel's name for it. A process that has gone has nothing.
    """
    for link, name in islice(proc.descriptors(pid), MAX_OPEN_FILES):
        # The kernel's own link leads to the file itself, whatever lies at its path by now.
        with (
            contextlib.suppress(OSError),
            Held(os.open(link, os.O_PATH | os.O_CLOEXEC), name) as held,
        ):
            yield held


def writable_by_others(path: str, *, owners: Collection[int] = (0,), top: str = "/") -> str:
    """Return what others than ``owners`` can change on the way to a file; empty for none.

    That is the file, every directory on the way, and the same for every symlink met, below
    ``top``. On the way, a sticky directory of theirs will do: what is in it can be renamed
    or removed by its own owner alone, who is looked at next. POSIX access lists need no look of
    their own: their mask is what the group's bits show.
    """
    problems: list[str] = []
    last = ""

    def look(held: Held) -> None:
        nonlocal last
        last = ""
        if f"{held.path}/".startswith(f"{top.rstrip('/')}/"):
            problem = others_write(held.path, held.status, owners)
            if held.status.st_mode & stat.S_ISVTX and held.status.st_uid in owners:
                last = problem
            else:
                problems.append(problem)

    try:
        _descend(path, [], _Top.HOST, None, look=look).close()
    except PathError as exc:
        problems.append(f"{exc.part} cannot be followed: {exc.words}")
    return next(filter(None, [*problems, last]), "")


def others_write(path: str, status: os.stat_result, owners: Collection[int]) -> str:
    """Return why others than ``owners`` can change one file or directory; empty for nobody."""
    if status.st_uid not in owners:
        return f"{path} belongs to the user {status.st_uid}"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not stat.S_ISLNK(status.st_mode):
        return f"{path} can be written by others (mode {stat.S_IMODE(status.st_mode):o})"
    return ""


class _Top(enum.Enum):
    """Where a path begins, and so what becomes of ``..`` and of absolute symlinks there."""

    HOST = enum.auto()  # its root
    CONTAINER = enum.auto()  # its root, of which only some places are looked into
    DIRECTORY = enum.auto()  # one that may not be left


def _descend(
    path: str,
    held: list[Held],
    top: _Top,
    kind: Kind | None,
    places: Mapping[str, str] | None = None,
    look: Callable[[Held], None] = lambda _: None,
) -> Held:
    """Follow ``path`` with its symlinks. All of ``held``, the way so far, is let go of.

    ``look`` is shown all that is found, symlinks too.
    """
    pending = path.split("/")[::-1]
    links: dict[str, str] = {}
    followed = 0
    try:
        if top is _Top.HOST:
            held.append(hold_directory("/"))
            look(held[0])
        bottom = len(held)
        while pending:
            name = pending.pop()
            if name in ("", "."):
                continue
            if name == "..":
                if len(held) > bottom:
                    held.pop().close()
                elif top is _Top.DIRECTORY or (top is _Top.CONTAINER and not followed):
                    raise PathError(path, Reason.OUTSIDE, 'it leads out by ".."')
                continue
            found = held[-1]._find(name) if held else _place(places or {}, name, followed)
            held.append(found)
            look(found)
            if found.kind is Kind.SYMLINK:
                followed += 1
                links[found.path] = target = found.target()
                held.pop().close()
                if followed > MAX_LINKS:
                    words = f"it leads through more than {MAX_LINKS} symlinks"
                    raise PathError(path, Reason.TOO_LONG, words)
                if target.startswith("/"):
                    if top is _Top.DIRECTORY:
                        raise PathError(path, Reason.OUTSIDE, "a symlink in it leads out")
                    while len(held) > bottom:
                        held.pop().close()
                pending += target.split("/")[::-1]
            elif found.kind is not Kind.DIRECTORY and pending:
                raise _wrong_kind(found, Kind.DIRECTORY, Reason.NOT_DIRECTORY)
            if len(held) > MAX_DEPTH:
                words = f"it is more than {MAX_DEPTH} directories deep"
                raise PathError(path, Reason.TOO_LONG, words)
        if not held:
            raise PathError(path, Reason.KIND, "it is a directory")
        held[-1].links = links
        return _checked(held.pop(), kind)
    except PathError as exc:
        _tell(exc, path, pending)
        raise
    finally:
        for one in held:
            one.close()


def _place(places: Mapping[str, str], name: str, followed: int) -> Held:
    if name not in places:
        words = "a symlink leads out of them" if followed else "it is elsewhere"
        raise PathError(f"/{name}", Reason.OUTSIDE, words)
    return hold_directory(places[name], os.O_NOFOLLOW)


def _checked(held: Held, kind: Kind | None, reason: Reason | None = None) -> Held:
    """Return ``held`` if it is of this kind, and no symlink; else let go of it."""
    if held.kind is not Kind.SYMLINK and kind in (None, held.kind):
        return held
    with held:
        raise _wrong_kind(held, kind, reason)


def _wrong_kind(held: Held, kind: Kind | None, reason: Reason | None = None) -> PathError:
    if held.kind is Kind.SYMLINK:
        words = "it is a symlink, which is not followed"
        return PathError(held.path, reason or Reason.SYMLINK, words)
    return PathError(held.path, reason or Reason.KIND, f"it is not {kind} but {held.kind}")


def _refusal(path: str, error: OSError | ValueError) -> PathError:
    """Return the kernel's refusal, or Python's of what cannot be a path, as one of ours."""
    if not isinstance(error, OSError):
        return PathError(path, Reason.NOT_PLAIN, "it holds what no path can hold")
    code = error.errno or 0
    match code:
        case errno.ENOENT:
            return PathError(path, Reason.MISSING, "it does not exist", code)
        case errno.ENOTDIR:
            return PathError(path, Reason.NOT_DIRECTORY, "it is not a directory", code)
        case errno.EACCES | errno.EPERM:
            words = f"permission denied for user id {os.geteuid()}"
            return PathError(path, Reason.REFUSED, words, code)
    return PathError(path, Reason.REFUSED, error.strerror or str(error), code)


@contextlib.contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as exc:
        raise _refusal(path, exc) from exc


def _tell(error: PathError, path: str, pending: list[str]) -> None:
    """Have an error tell what was asked for, and where that leads."""
    error.path = path
    error.reached = os.path.normpath("/".join((error.part, *pending[::-1])))


def _join(directory: str, name: str) -> str:
    return f"{directory.rstrip('/')}/{name}"
