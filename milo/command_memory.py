"""The words of a command that are too long for a message, in memory that its receiver may trust.

The driver writes them into a memfd and seals it, so that they are whole and stay as they are; the
task process gets its descriptor beside the request (`milo.core.control.Exec`).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from typing import Final

from milo.core.container.exec_limits import MAX_TOTAL_BYTES
from milo.errors import ControlError

SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def pack(words: Sequence[str]) -> int:
    """Return a descriptor of ``words``, each with a NUL behind it. The caller closes it.

    Raises:
        ControlError: a word holds a NUL itself, or what is no text.
        OSError: no memory is left.
    """
    if any("\0" in word for word in words):
        raise ControlError("Error: A word of the command holds a NUL character")
    try:
        data = b"".join(word.encode() + b"\0" for word in words)
    except UnicodeEncodeError as exc:
        raise ControlError(f"Error: A word of the command is not valid Unicode: {exc}") from exc
    fd = os.memfd_create("milo-command", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        while data:
            data = data[os.write(fd, data) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


def unpack(fd: int) -> tuple[str, ...]:
    """Return the words behind ``fd``, which stays the caller's.

    Raises:
        ControlError: it is no sealed memory, holds more than any kernel passes on, or no text.
    """
    try:
        sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS == SEALS
    except OSError:
        sealed = False
    size = os.fstat(fd).st_size
    if not sealed or size > MAX_TOTAL_BYTES:
        raise ControlError("Error: The command came in no sealed memory of at most 6 MiB")
    data = b""
    while len(data) < size:
        data += os.pread(fd, size - len(data), len(data))
    try:
        return tuple(data.decode().split("\0")[:-1])
    except UnicodeDecodeError as exc:
        raise ControlError(f"Error: A word of the command is not valid Unicode: {exc}") from exc
