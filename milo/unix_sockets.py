"""What unix sockets carry besides bytes: descriptors, the peer's user, a socket's path.

The driver and the task process both use it, because they may not import each other.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Iterable
from typing import Final, Protocol

# linux/netlink.h, linux/sock_diag.h, linux/unix_diag.h
NETLINK_SOCK_DIAG: Final = 4
SOCK_DIAG_BY_FAMILY: Final = 20
NLM_F_REQUEST: Final = 1
UDIAG_SHOW_NAME: Final = 1
UNIX_DIAG_NAME: Final = 0
ANY_STATE: Final = 0xFFFFFFFF
NO_COOKIE: Final = 0xFFFFFFFF
_NETLINK_HEADER: Final = struct.Struct("=IHHII")
_UNIX_DIAG_REQUEST: Final = struct.Struct("=BBHIIIII")
_UNIX_DIAG_MESSAGE: Final = struct.Struct("=BBBxIII")
_CREDENTIALS: Final = struct.Struct("=iII")
"""struct ucred; unix(7)."""
_ATTRIBUTE: Final = struct.Struct("=HH")
MAX_ANSWER_BYTES: Final = 4096
BACKLOG: Final = 16


def passed_descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors in what recvmsg(2) received beside a packet: SCM_RIGHTS, unix(7)."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def passing(fds: Iterable[int]) -> list[tuple[int, int, array.array[int]]]:
    """Return what sendmsg(2) takes to pass descriptors beside a packet: SCM_RIGHTS, unix(7)."""
    packed = array.array("i", fds)
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)] if packed else []


class PeerSocket(Protocol):
    """A connected unix socket, of the standard library or of Trio."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        """As `socket.socket.getsockopt`."""


def has_roots_peer(sock: PeerSocket) -> bool:
    """Whether the other side is root's, or this process's own user's: SO_PEERCRED, unix(7).

    Of a server it counts who called listen(2), of a client who called connect(2). The mode of
    the socket's directory is the first guard, this the second.
    """
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(raw)
    return uid in (0, os.geteuid())


def close_all(fds: Iterable[int]) -> None:
    """Close all of ``fds``."""
    for fd in fds:
        os.close(fd)


def close_all_but(keep: Iterable[int], below: int) -> None:
    """Close the descriptors of this process that are less than ``below``, and not in ``keep``.

    One system call for each gap, close_range(2), where the kernel has that (Linux 5.9).
    """
    first = 0
    for fd in (*sorted(keep), below):
        if first < fd:  # of (0, 0) Python 3.11 makes a range to the highest number there is
            os.closerange(first, fd)
        first = fd + 1


def listen(path: str) -> socket.socket:
    """Return a SEQPACKET socket that listens at ``path``, for this user alone; raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.bind(path)
        os.chmod(path, 0o600)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def bound_socket(path: str) -> tuple[int, int, int] | None:
    """Return what tells the socket at ``path`` from one that is bound there later; None: none."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


def socket_path(inode: int) -> str:
    """Return the path that a unix socket was bound to; empty when it has none.

    ``inode`` is its number in `milo.proc.descriptors`. Only sockets of this network namespace are
    found, and none by a kernel that is built without CONFIG_UNIX_DIAG. The kernel answers with the
    very bytes (sock_diag(7)), while a line of /proc/net/unix may be forged: whoever binds a socket
    to an abstract name can put a line feed into it, and what looks like another line after that.
    """
    request = _UNIX_DIAG_REQUEST.pack(
        socket.AF_UNIX, 0, 0, ANY_STATE, inode, UDIAG_SHOW_NAME, NO_COOKIE, NO_COOKIE
    )
    length = _NETLINK_HEADER.size + len(request)
    header = _NETLINK_HEADER.pack(length, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 1, 0)
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    try:
        with socket.socket(socket.AF_NETLINK, kind, NETLINK_SOCK_DIAG) as sock:
            sock.send(header + request)
            answer = sock.recv(MAX_ANSWER_BYTES)
    except OSError:
        return ""
    length, number, *_ = _NETLINK_HEADER.unpack_from(answer)
    at = _NETLINK_HEADER.size + _UNIX_DIAG_MESSAGE.size
    while number == SOCK_DIAG_BY_FAMILY and at + _ATTRIBUTE.size <= length:
        size, attribute = _ATTRIBUTE.unpack_from(answer, at)
        if attribute == UNIX_DIAG_NAME:
            name = answer[at + _ATTRIBUTE.size : at + size]
            return os.fsdecode(name.split(b"\0")[0])  # that of an abstract name is empty
        at += max(size + 3 & ~3, _ATTRIBUTE.size)
    return ""
