"""Unpacks the self-contained ``milo`` once, and runs what was unpacked ever after.

C extensions cannot be loaded from inside a zip file, so the packages go to a directory named by
their content and the interpreter's version. It lies in ``/var/cache/milo``, for other users than
root in ``~/.cache/milo`` or, where that cannot be written, below ``/var/tmp``, or in
``$MILO_CACHE_DIR``. Nomad starts a plugin several times at boot:
what is there is entered with a handful of system calls, and nothing but this file is imported for
it.

Every process that runs from such a directory holds a shared lock on it. Whoever unpacks another
version removes those that nobody holds. Task processes hold none: they have imported all that
they will ever need.
"""

from __future__ import annotations

import _imp
import fcntl
import os
import sys
from typing import Final, NoReturn

import milo_build

ROOTS_CACHE: Final = "/var/cache/milo"
"""Not /run, where many hosts forbid code (noexec), nor /tmp, where anybody may write."""
PACKAGES: Final = "packages.zip"


class CacheError(Exception):
    """The packages cannot be unpacked; its text is for a person."""


def enter(archive: str) -> NoReturn:
    """Run Milo from the unpacked packages of ``archive``, the file that was started."""
    try:
        directory = unpacked_somewhere(archive, milo_build.ID, cache_directories())
    except CacheError as error:
        sys.exit(f"milo: {error}")
    except OSError as error:
        hint = "MILO_CACHE_DIR may name another directory."
        sys.exit(f"milo: cannot be unpacked: {error.strerror}: {error.filename}. {hint}")
    sys.path[0] = directory
    from milo.entry import main

    main()
    sys.exit(0)


def cache_directories() -> list[str]:
    """Return where this user's unpacked packages may lie, the best place first."""
    if chosen := os.environ.get("MILO_CACHE_DIR"):
        return [os.path.abspath(chosen)]
    user = os.geteuid()
    if user == 0:
        return [ROOTS_CACHE]
    own = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    places = [os.path.join(own, "milo")] if os.path.isabs(own) else []
    # Another user may be first there; then it is not this user's, and refused.
    return [*places, f"/var/tmp/milo-cache-{user}"]  # noqa: S108


def unpacked_somewhere(archive: str, build_id: str, caches: list[str]) -> str:
    """Return what `unpacked` does, for the first of ``caches`` that can be used."""
    for cache in caches[:-1]:
        try:
            return unpacked(archive, build_id, cache)
        except OSError:
            continue  # no home directory, say, or one that cannot be written
    return unpacked(archive, build_id, caches[-1])


def unpacked(archive: str, build_id: str, cache: str) -> str:
    """Return the directory with the packages of ``build_id``, unpacked now if need be.

    It is locked against removal for as long as this process lives.

    Raises:
        CacheError: somebody else could change what would be run.
        OSError: the cache cannot be written.
    """
    os.makedirs(cache, 0o700, exist_ok=True)
    _check_owner(cache)
    suffix = _imp.extension_suffixes()[0]
    directory = os.path.join(cache, build_id + suffix.removesuffix(".so"))
    if _hold(directory):
        return directory
    lock = os.open(os.path.join(cache, ".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        # Others that start at the same time wait here, and find the work done.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _hold(directory):
            _remove_unused(cache, directory)
            _unpack(archive, build_id, directory, suffix)
            if not _hold(directory):
                raise CacheError(f"{directory} was removed as soon as it was made. Start it again.")
    finally:
        os.close(lock)
    return directory


def _check_owner(cache: str) -> None:
    found = os.lstat(cache)
    if found.st_uid != os.geteuid() or found.st_mode & 0o170022 != 0o040000:
        raise CacheError(
            f"{cache} must be a directory of the user with id {os.geteuid()} that nobody else may "
            f"write, as Milo's code is run from it. Remove it, or name another one with "
            f"MILO_CACHE_DIR."
        )


def _hold(directory: str) -> bool:
    """Lock ``directory`` against removal, for good; False when it is not there (any more)."""
    try:
        # Never closed: the lock ends with the process. A forked child does not give it up.
        first = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    # Not the number of a standard stream that the caller has closed: it would be read as that.
    fd = fcntl.fcntl(first, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(first)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), os.stat(directory)):
            return True
    except (BlockingIOError, FileNotFoundError):
        pass  # it is being removed at this moment
    os.close(fd)
    return False


def _remove_unused(cache: str, wanted: str) -> None:
    """Remove other versions that no process holds, and what broken attempts have left."""
    import contextlib
    import shutil

    for entry in os.scandir(cache):
        if entry.path == wanted or not entry.is_dir(follow_symlinks=False):
            continue
        fd = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Under another name first: nobody may find half of it.
                doomed = os.path.join(cache, f".old-{os.path.basename(entry.path)}")
                os.rename(entry.path, doomed)
                shutil.rmtree(doomed, ignore_errors=True)
        finally:
            os.close(fd)


def _unpack(archive: str, build_id: str, directory: str, suffix: str) -> None:
    """Unpack into a new ``directory``; of the extensions, which are most of it, just our own."""
    import hashlib
    import io
    import tempfile
    import zipfile

    with zipfile.ZipFile(archive) as outer:
        data = outer.read(PACKAGES)
    if hashlib.sha256(data).hexdigest()[: len(build_id)] != build_id:
        raise CacheError(f"{archive} was replaced as it started, or is damaged. Start it again.")
    # Of mode 0700, so that it does not matter which modes the files in it get.
    temporary = tempfile.mkdtemp(prefix=".new-", dir=os.path.dirname(directory))
    with zipfile.ZipFile(io.BytesIO(data)) as packages:
        names = packages.namelist()
        packages.extractall(
            temporary, [name for name in names if name.endswith(suffix) or name[-3:] != ".so"]
        )
    _flush(temporary)
    os.rename(temporary, directory)


def _flush(directory: str) -> None:
    """Have its files on the disk before its name is: a power cut must leave all or nothing."""
    import ctypes

    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # The one file system, in one go: fsync for each of a thousand files takes far longer.
        ctypes.CDLL(None, use_errno=True).syncfs(fd)
    finally:
        os.close(fd)
