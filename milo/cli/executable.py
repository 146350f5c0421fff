"""The executable ``milo`` of a plugin directory: how to write, recognise and check it.

It is a launcher, which names an interpreter and the directory of Milo's packages, or the
self-contained file, which contains everything.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import os
import re
import secrets
import shlex
import stat
import sys
import sysconfig
import zipfile
import zipimport
from collections.abc import Iterator
from typing import Final

import attrs

import milo
from milo import walk
from milo.errors import MiloError, PathError

SHEBANG_BYTES: Final = 126
"""Linux before 5.1 cuts an interpreter line at 127 bytes, and no line may hold a blank in
the interpreter's path; execve(2)."""
MAX_LAUNCHER_BYTES: Final = 64 * 1024
"""Two paths and four lines."""
MAX_ARCHIVE_BYTES: Final = 64 << 20
"""Milo's self-contained file has 12 MB; of a larger one the directory may take all memory."""
MAX_MODULES: Final = 10_000
MAX_DEPTH: Final = 16
"""Of Milo's own package, which has a few hundred modules."""

LAUNCHER: Final = """\
import sys
sys.path.insert(0, {packages!r})
from milo.entry import main
main()
"""
_LAUNCHER: Final = re.compile(
    rb"\A#!([^\n]*)\n(?:'''exec' ([^\n]*)\n' '''\n)?import sys\nsys\.path\.insert\(0, ([^\n]*)\)\n"
    rb"from milo\.entry import main\nmain\(\)\n\Z"
)
_OWN_FILES: Final = {"milo_build.py", "milo_unpack.py", "packages.zip"}
"""All are in a self-contained file, which tools/build_executable.py makes."""


class FileAccessError(MiloError):
    """The kernel refuses to have the executable written or removed."""

    def __init__(self, path: str, done: str, error: OSError) -> None:
        self.path = path
        self.errno = error.errno
        denied = error.errno in (errno.EACCES, errno.EPERM)
        super().__init__(
            f"Error: {path} cannot be {done}: {error.strerror}" + (". Try: sudo" if denied else "")
        )


@attrs.frozen
class Executable:
    """One that Milo has made."""

    interpreter: str = ""
    packages: str = ""
    """Both of a launcher; empty for the self-contained file."""

    def __str__(self) -> str:
        if self.packages:
            return f"the launcher of the Milo in {self.packages}"
        return "Milo's self-contained executable"


def write_launcher(interpreter: str, packages: str) -> str:
    """Return the text of a launcher.

    ``-I`` keeps the agent's PYTHON* variables and working directory out of it.
    """
    body = LAUNCHER.format(packages=packages)
    line = f"#!{interpreter} -I"
    if len(os.fsencode(line)) <= SHEBANG_BYTES and " " not in interpreter:
        return f"{line}\n{body}"
    # A shell that Python reads as a string: the interpreter may then have any path.
    return f"#!/bin/sh\n'''exec' {shlex.quote(interpreter)} -I \"$0\" \"$@\"\n' '''\n{body}"


def own_archive() -> str:
    """Return the self-contained file that this process was started from; empty for none."""
    loader = getattr(sys.modules["__main__"], "__loader__", None)
    return loader.archive if isinstance(loader, zipimport.zipimporter) else ""


def own_packages() -> str:
    """Return the directory that holds the package of this Milo."""
    return os.path.dirname(os.path.dirname(os.path.abspath(milo.__file__)))


def write_executable(path: str) -> None:
    """Write the executable of this Milo to ``path``, whole or not at all; raises OSError.

    It is the self-contained file's own bytes, or a launcher.
    """
    temporary = f"{path}.{secrets.token_hex(4)}"
    file = open(temporary, "xb")  # noqa: SIM115 - another's is not to be removed below
    try:
        with file:
            file.write(_content())
        os.chmod(temporary, 0o755)  # noqa: S103 - the agent may run as another user
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _content() -> bytes:
    if archive := own_archive():
        with open(archive, "rb") as file:
            return file.read()
    return os.fsencode(write_launcher(sys.executable, own_packages()))


def read_executable(path: str) -> Executable | None:
    """Return what of Milo's the file is; None when it is something else.

    Raises:
        OSError: there is none, or it cannot be read; symlinks are not followed.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_ARCHIVE_BYTES:
            return None
        match = _LAUNCHER.match(file.read(MAX_LAUNCHER_BYTES))
        if match is not None:
            return _parse_launcher(*match.groups())
        try:
            with zipfile.ZipFile(file) as archive:
                return Executable() if set(archive.namelist()) >= _OWN_FILES else None
        except (zipfile.BadZipFile, ValueError):
            return None


def _parse_launcher(line: bytes, command: bytes | None, packages: bytes) -> Executable | None:
    try:
        place = ast.literal_eval(os.fsdecode(packages))
        if command is None:
            interpreter = os.fsdecode(line).removesuffix(" -I")
        else:
            interpreter = shlex.split(os.fsdecode(command))[0]
    except (ValueError, SyntaxError, IndexError):
        return None
    return Executable(interpreter, place) if isinstance(place, str) and place else None


def what_is_at(path: str) -> str:
    """Return what is at ``path``, for people, whatever it is; empty when nothing is."""
    try:
        return str(read_executable(path) or "a file that is not Milo's")
    except FileNotFoundError:
        return ""
    except OSError as exc:
        if os.path.islink(path):
            return f"a symlink to {os.readlink(path)}"
        return f"something that cannot be read ({exc.strerror})"


def changeable_by_others(executable: Executable) -> str:
    """Return what another user than root can change of what an executable runs; empty for none.

    That is its interpreter, and each module of Milo's; for a launcher of this very Milo the
    directories of its other packages, too.
    """
    if not executable.packages:
        return ""
    places = [executable.interpreter, executable.packages]
    if executable == Executable(sys.executable, own_packages()):
        paths = sysconfig.get_paths()
        places += sorted({paths["purelib"], paths["platlib"], paths["stdlib"]})
    problems = (walk.writable_by_others(place) for place in places)
    return next(filter(None, (*problems, *_modules(f"{executable.packages}/milo"))), "")


def _modules(package: str) -> Iterator[str]:
    """Yield what is wrong with the files of a package."""
    problems: list[str] = []
    try:
        with walk.follow(package, walk.Kind.DIRECTORY) as top:
            yield walk.others_write(top.path, top.status, (0,))
            for held in top.tree(
                MAX_MODULES, MAX_DEPTH, lambda exc: problems.append(f"{exc.part}: {exc.words}")
            ):
                yield walk.others_write(held.path, held.status, (0,))
    except PathError as exc:
        problems.append(f"{exc.part} cannot be followed: {exc.words}")
    yield from problems
