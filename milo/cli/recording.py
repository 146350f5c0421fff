"""A flight recording whose JVM has died: put together of the chunks that it has left.

That is what the JDK's ``jfr assemble`` does, byte for byte, but for the last chunk: the JVM was
killed while it wrote that, and the JDK's tools do not read it before it is made complete. The files
lie where the task, and others of its allocation, can write, so that they are taken for nothing but
bytes: no symlink is followed, only regular files are opened, and there is a bound to all.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

from milo import walk
from milo.cli.arguments import MIB
from milo.cli.new_file import NewFile
from milo.core.java.flight_recorder import FILE, HEADER, REPOSITORY, completed
from milo.errors import MiloError, PathError
from milo.walk import Held, Kind

MAX_BYTES: Final = 256 * MIB
"""Four times what the JVM is told to keep."""
MAX_DIRECTORIES: Final = 16
MAX_CHUNKS: Final = 4096
COPY_BYTES: Final = 1 << 20


class NoRecordingError(MiloError):
    """A task that has ended has left no recording that can be read."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"Error: there is no flight recording in {path}: {problem}")


def collect(alloc_dir: str, path: str, target: NewFile) -> None:
    """Write the recording whose files begin with the container's ``path`` to ``target``.

    Raises:
        NoRecordingError: there is none, or no chunk of it is complete.
    """
    place = f"{alloc_dir}{path}"
    whole = f"{place}{FILE}"
    with contextlib.suppress(PathError), walk.hold(whole, beneath=alloc_dir, kind=Kind.FILE) as one:
        # The JVM removes its repository only when this file is whole.
        if _is_whole(one) and _copy(one, target, MAX_BYTES, whole=True):
            return
    repository = f"{place}{REPOSITORY}"
    try:
        with walk.hold(repository, beneath=alloc_dir, kind=Kind.DIRECTORY) as held:
            written = _assemble(held, target)
    except PathError as exc:
        raise NoRecordingError(repository, exc.words) from exc
    if not written:
        raise NoRecordingError(
            repository,
            "no part of it is complete. That takes a second, and before Java 14 1 MiB of events",
        )


def _is_whole(file: Held) -> bool:
    """Whether a file is nothing but chunks, and the last one ends where it does."""
    source = file.open()
    try:
        size, at = os.fstat(source).st_size, 0
        for _ in range(MAX_CHUNKS):
            found = completed(os.pread(source, HEADER.size, at), size - at)
            if found is None:
                return False
            at += found[1]
            if at == size:
                return True
    finally:
        os.close(source)
    return False


def _assemble(repository: Held, target: NewFile) -> int:
    """Write the last chunks that fit into `MAX_BYTES`, in their order; return the bytes."""
    chosen: list[tuple[str, str]] = []
    left = MAX_BYTES
    for directory, name, size in sorted(_chunks(repository), reverse=True):
        if size > MAX_BYTES:
            continue
        left -= size
        if left < 0:
            break
        chosen.append((directory, name))
    written = 0
    for directory, name in reversed(chosen):
        with (
            contextlib.suppress(PathError),
            repository.enter(directory, Kind.DIRECTORY) as inner,
            inner.enter(name, Kind.FILE) as chunk,
        ):
            written += _copy(chunk, target, MAX_BYTES - written)
    return written


def _chunks(repository: Held) -> Iterator[tuple[str, str, int]]:
    """Yield directory, name and size of each file that may be a chunk; names begin with a time."""
    for directory, is_directory in sorted(repository.names(MAX_DIRECTORIES)[0]):
        if not is_directory:
            continue
        with (
            contextlib.suppress(PathError),
            repository.enter(directory, Kind.DIRECTORY) as inner,
        ):
            for name, _ in inner.names(MAX_CHUNKS)[0]:
                if name.endswith(FILE):
                    with contextlib.suppress(PathError), inner.enter(name, Kind.FILE) as chunk:
                        yield directory, name, chunk.status.st_size


def _copy(chunk: Held, target: NewFile, limit: int, *, whole: bool = False) -> int:
    """Copy a chunk, made complete; return how many bytes. ``whole`` files have several chunks."""
    source = chunk.open()
    try:
        size = os.fstat(source).st_size
        found = completed(os.read(source, HEADER.size), size)
        if found is None:
            return 0
        head, length = found
        length = size if whole else length
        if length > limit:
            return 0
        target.write(head)
        left = length - len(head)
        while left and (data := os.read(source, min(COPY_BYTES, left))):
            target.write(data)
            left -= len(data)
        return length - left
    finally:
        os.close(source)
