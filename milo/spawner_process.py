"""Forks the spawner from the plugin, before anything of Milo's own is imported.

What the spawner needs it imports itself, on another processor, while the plugin gives its handshake
line and imports what serves. Only Trio and msgspec, which both need, are imported before, so that
they share the pages. There is no event loop and no thread yet.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket

import attrs


@attrs.frozen
class SpawnerProcess:
    """What `fork_spawner` leaves in the driver."""

    pid: int
    sock: socket.socket
    """SEQPACKET. `milo.spawner` says what is asked over it."""


def fork_spawner() -> SpawnerProcess:
    """Fork the spawner from this process, which may run no event loop and no thread yet.

    Raises:
        OSError: no socket or no process can be made.
    """
    # Modules leave next to nothing to collect, and what is frozen is not looked through again.
    gc.disable()
    import msgspec  # noqa: F401
    import trio  # noqa: F401

    gc.freeze()
    gc.enable()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            ours.close()
            _be_spawner(theirs)
        os._exit(0)
    theirs.close()
    return SpawnerProcess(pid, ours)


def _be_spawner(sock: socket.socket) -> None:
    # Whoever keeps the plugin's stderr open hides its death from the agent.
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    if null > 2:
        os.close(null)
    gc.disable()
    from milo.spawner import serve

    gc.freeze()
    gc.enable()
    serve(sock)
