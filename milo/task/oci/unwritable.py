"""Executes crun on a mount by which nobody can write to its file.

crun's own file must not be written to by a container, to which a process of crun's is visible that
has this file as its /proc/PID/exe (CVE-2019-5736). So crun looks whether it was executed on a
read-only mount. If not it makes one, and executes itself there: 2.6 ms of each start, of which its
own way to a mount that nobody sees, by way of /tmp, is half. It is executed on one at once here,
which this process makes once and holds as long as it lives.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
from typing import Final

from milo.namespaces import read_only_mount
from milo.proc import descriptor_path, reopen
from milo.task.children import PASSED_FD

ELF: Final = b"\x7fELF"
PROTECTS_ITSELF: Final = b"_LIBCONTAINER_CLONED_BINARY"
"""A name that crun has for its own protection (src/libcrun/cloned_binary.c). A wrapper, which may
look for what it needs beside its own file, has not: there is nothing beside the file here."""

_held: dict[str, int] = {}
"""The path of the one program that was executed last, and a descriptor of it on its mount."""


def executable(program: str) -> str:
    """Return a path to execute ``program`` by, on a mount by which nobody can write to it.

    That is ``program`` itself where the kernel makes no such mount, or where it is no crun, but a
    script or another program that executes one. It blocks for some milliseconds the first time, and
    when the file has been replaced. A child that is to execute it needs all of this process's
    descriptors until then.
    """
    try:
        now = os.stat(program)
        fd = _held.get(program, -1)
        if fd < 0 or not os.path.samestat(now, os.fstat(fd)):
            fd = _hold(program)
    except (OSError, ValueError):
        return program
    return program if fd < 0 else descriptor_path(fd)


def _hold(program: str) -> int:
    """Return a descriptor of ``program`` on a mount of its own; -1 if it is no crun."""
    while _held:
        os.close(_held.popitem()[1])
    if not _is_crun(program):
        return -1
    fd = read_only_mount(program)
    try:
        # Not a number that something else gets in the child.
        _held[program] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, PASSED_FD + 1)
    finally:
        os.close(fd)
    return _held[program]


def _is_crun(program: str) -> bool:
    """Whether it is one that the kernel executes without an interpreter; raises OSError."""
    place = os.open(program, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):  # to open a FIFO would not return
            return False
        fd = reopen(place, os.O_RDONLY)
    finally:
        os.close(place)
    try:
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as content:
            return content[: len(ELF)] == ELF and content.find(PROTECTS_ITSELF) >= 0
    finally:
        os.close(fd)
