"""The files that a startup archive is made of, and holds only for: class path, and the JDK.

A JVM compares size and time of each JAR with what they were when the archive was made, and nothing
else. Here they are known by what is in them, so that the archive holds for the same JAR too that
another allocation has downloaded: that is given its time then.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final

import attrs

from milo import walk
from milo.core.container.mounts import is_inside
from milo.core.java.class_path import resolve
from milo.core.java.jar import Jar
from milo.core.launch import Application, Launch
from milo.core.text import shortened
from milo.errors import ArtifactError, PathError, Reason
from milo.task.java.application import hold_named
from milo.walk import Held, Kind

MAX_FILES: Final = 1000
MAX_BYTES: Final = 1 << 30
"""Of all files together. 1 GiB takes a second to read the first time."""
READ_TIMEOUT_S: Final = 10.0
READ_CPU_S: Final = 5.0
"""For all that is not known yet: the start waits for it, and the preparer has limits of its own."""
SETTLED_S: Final = 2.0
"""A file that changed more recently may change again without its times saying so."""
RELEASE_BYTES: Final = 64 * 1024
BASE_ARCHIVE: Final = "lib/server/classes.jsa"
LIBJVM: Final = "lib/server/libjvm.so"
_TOO_SLOW: Final = "reading its class path takes too long"


class UnfitError(Exception):
    """Why there can be no archive, in words that end the sentence "No startup archive, because"."""


@attrs.frozen
class ArchivedFile:
    """One entry of a class path."""

    path: str
    """In the container."""
    digest: str
    """Of what is in it; empty for one that is not there."""
    size_bytes: int = 0
    changed_at_s: int = 0
    """Unix time, whole seconds, as the JVM compares them."""


class Hashes:
    """Digests of files, kept as long as nothing about a file says that it has changed."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self.used: dict[str, str] = {}
        """Those that were asked for, to be kept; empty for a file that takes too long to read."""
        self._known = known
        self._left = MAX_BYTES
        self._has_read = False
        self._until_s = time.monotonic() + READ_TIMEOUT_S
        self._until_cpu_s = time.process_time() + READ_CPU_S

    def of(self, held: Held) -> str:
        """Return the digest of a regular file; raises `PathError` and `UnfitError`."""
        name = file_identity(held.status)
        digest = self._known.get(name)
        if digest is None:
            digest = self._read(held, name)
        elif not digest:
            self.used[name] = ""
            raise UnfitError(_TOO_SLOW)
        # The kernel's clock of files ticks every few milliseconds.
        if time.time() - max(held.status.st_ctime, held.status.st_mtime) > SETTLED_S:
            self.used[name] = digest
        return digest

    def _read(self, held: Held, name: str) -> str:
        self._left -= held.status.st_size
        if self._left < 0:
            raise UnfitError(f"its class path has more than {MAX_BYTES >> 20} MiB")
        is_first, self._has_read = not self._has_read, True
        with os.fdopen(held.open(), "rb") as file:
            digest = hashlib.sha256()
            size = 0
            while part := file.read(1 << 20):
                digest.update(part)
                size += len(part)
                if size > held.status.st_size:
                    raise UnfitError(f"{shortened(held.path)} changes while it is read")
                late = time.monotonic() > self._until_s or time.process_time() > self._until_cpu_s
                if late and size < held.status.st_size:
                    if is_first:  # the next start would have no more time for it
                        self.used[name] = ""
                    raise UnfitError(_TOO_SLOW)
        return digest.hexdigest()


def file_identity(status: os.stat_result) -> str:
    """Return what differs as soon as somebody has changed a file, or put another in its place."""
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return ":".join(map(str, (status.st_dev, status.st_ino, status.st_size, *times)))


def class_path_files(launch: Launch, app: Application, hashes: Hashes) -> list[ArchivedFile]:
    """Return every file of the class path, in its order, those that manifests name included.

    Raises:
        UnfitError: with a directory of classes, of which the JVM makes no archive, or a file that
            is not the task's own.
        PathError: one cannot be read.
    """
    if not (app.class_path or app.jar):
        raise UnfitError("its class path is not known to Milo")
    found: list[ArchivedFile] = []
    pending = deque(_entries(launch, app))
    seen: set[str] = set()
    while pending:
        path = pending.popleft()
        if path in seen:
            continue
        seen.add(path)
        if len(seen) > MAX_FILES:
            raise UnfitError(f"its class path names more than {MAX_FILES} files")
        file, more = _look(launch, path, hashes)
        found.append(file)
        pending.extend(more)
    return found


def _entries(launch: Launch, app: Application) -> Iterator[str]:
    for entry in app.class_path.split(":") if app.class_path else (app.jar,):
        if not entry.endswith("/*"):
            yield entry
            continue
        try:
            with hold_named(launch, entry.removesuffix("/*"), Kind.DIRECTORY) as held:
                names, complete = held.names(MAX_FILES)
        except PathError as exc:
            if exc.reason is Reason.MISSING:
                continue
            raise
        if not complete:
            raise UnfitError(f"{shortened(entry)} are more than {MAX_FILES} files")
        # The launcher has them in the directory's own order.
        for name, _ in names:
            if name.endswith((".jar", ".JAR")):
                yield f"{entry.removesuffix('*')}{name}"


def _look(launch: Launch, path: str, hashes: Hashes) -> tuple[ArchivedFile, list[str]]:
    """Return one file, and the paths that its manifest names."""
    try:
        path.encode()
    except UnicodeEncodeError as exc:
        raise UnfitError(f"the name {shortened(path)} is not UTF-8") from exc
    try:
        held = hold_named(launch, path, None)
    except PathError as exc:
        if exc.reason in (Reason.MISSING, Reason.NOT_DIRECTORY):
            return ArchivedFile(path, ""), []
        raise
    with held:
        if held.kind is Kind.DIRECTORY:
            raise UnfitError(
                f"{shortened(path)} is a directory of classes, and a JVM makes archives of JARs "
                "alone"
            )
        digest = hashes.of(held)
        status = held.status
        try:
            with os.fdopen(held.open(), "rb") as file:
                entries = Jar(file).inspect().class_path
        except ArtifactError:
            entries = ()
    more = [there for entry in entries if (there := resolve(path, entry)) is not None]
    return ArchivedFile(path, digest, status.st_size, int(status.st_mtime)), more


def set_times(launch: Launch, files: list[ArchivedFile], stamps: Mapping[str, int]) -> bool:
    """Give the task's own files the times that the same files had; return whether all have them.

    What lies elsewhere, as in a volume, or has another name that Milo does not know, is left alone.
    """
    for file in files:
        wanted = stamps.get(file.path, 0)
        if not file.digest or file.changed_at_s == wanted:
            continue
        with hold_named(launch, file.path) as held:
            own = is_inside(held.path, launch.alloc_dir) and held.status.st_nlink == 1
            if not own or held.status.st_size != file.size_bytes:
                return False
            _set_changed_at(held, wanted)
    return True


def _set_changed_at(held: Held, unix_s: int) -> None:
    fd = held.open()
    try:
        os.utime(fd, ns=(held.status.st_atime_ns, unix_s * 1_000_000_000))
    finally:
        os.close(fd)


def java_identity(app: Application, alloc_dir: str, hashes: Hashes, *, base: bool) -> list[str]:
    """Return what tells one build of a JDK from another.

    Raises:
        UnfitError: it has not what it takes; with ``base`` an archive of its own, on which that of
            an application is built.
        PathError: it cannot be read.
    """
    with walk.hold(app.java.home, beneath=alloc_dir, kind=Kind.DIRECTORY) as home:
        release = ""
        try:
            with home.within("release", Kind.FILE) as file:
                release = file.read(RELEASE_BYTES).decode("utf-8", "replace")
        except PathError as exc:
            if exc.reason is not Reason.MISSING:
                raise
        try:
            with home.within(LIBJVM, Kind.FILE) as file:
                library = hashes.of(file)
            if base:
                home.within(BASE_ARCHIVE, Kind.FILE).close()
        except PathError as exc:
            if exc.reason is not Reason.MISSING:
                raise
            raise UnfitError(
                f"Java {app.java.version} has no {exc.part[len(home.path) + 1 :]}"
            ) from exc
    return [app.java_home or app.java.home, app.java.version, release, library]
