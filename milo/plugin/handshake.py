"""go-plugin's handshake: the cookie, the socket, and the one line on stdout.

Imported before everything slow, so it imports next to nothing itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat

# Source: Nomad, plugins/base/plugin.go (Handshake).
COOKIE_NAME = "NOMAD_PLUGIN_MAGIC_COOKIE"
COOKIE_VALUE = "e4327c2e01eabfd75a8a67adb114fb34a757d57eee7728d857a8cec6e91a7255"

# go-plugin's core protocol, and Nomad's application protocol on top of it.
CORE_PROTOCOL = 1
APP_PROTOCOL = 2

# Source: go-plugin, constants.go (EnvUnixSocketDir).
SOCKET_DIR_NAME = "PLUGIN_UNIX_SOCKET_DIR"


def is_plugin_start(environ: dict[str, str] | os._Environ[str] = os.environ) -> bool:
    """Whether Nomad started this process as a plugin."""
    return environ.get(COOKIE_NAME) == COOKIE_VALUE


class PluginSocket:
    """The listening unix socket, in a directory that only this user can enter."""

    def __init__(self, directory: str, listener: socket.socket) -> None:
        self.directory = directory
        self.path: str = listener.getsockname()
        self.listener = listener

    def handshake_line(self) -> str:
        """The line that tells the agent where to connect."""
        return f"{CORE_PROTOCOL}|{APP_PROTOCOL}|unix|{self.path}|grpc|\n"

    def remove(self) -> None:
        """Remove the socket and its directory from disk. Never raises."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        with contextlib.suppress(OSError):
            os.rmdir(self.directory)


def open_plugin_socket(environ: dict[str, str] | os._Environ[str] = os.environ) -> PluginSocket:
    """Make a private directory (0700) with a listening socket in it.

    Below ``PLUGIN_UNIX_SOCKET_DIR``, else ``TMPDIR``, else ``/tmp``. Raises `OSError` when the
    place is not writable, or its path too long for a socket (108 bytes, unix(7)).
    """
    directory = os.path.join(socket_base(environ), f"milo-{os.urandom(6).hex()}")
    os.mkdir(directory, 0o700)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(os.path.join(directory, "s"))
        listener.listen(128)
    except OSError:
        listener.close()
        os.rmdir(directory)
        raise
    listener.setblocking(False)
    return PluginSocket(directory, listener)


def socket_base(environ: dict[str, str] | os._Environ[str] = os.environ) -> str:
    """Where the directories of plugins' sockets are made."""
    base = environ.get(SOCKET_DIR_NAME) or environ.get("TMPDIR") or "/tmp"  # noqa: S108
    return os.path.abspath(base)


def remove_stale(base: str) -> None:
    """Remove the socket directories below ``base`` of this user's plugins that were killed.

    A socket that nobody listens on refuses connections, and no plugin listens on it again.
    """
    for entry in os.scandir(base):
        # Looked at without opening: the place may be everybody's.
        if not re.fullmatch(r"milo-[0-9a-f]{12}", entry.name):
            continue
        with contextlib.suppress(OSError):
            found = entry.stat(follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                continue
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.setblocking(False)
                try:
                    probe.connect(os.path.join(entry.path, "s"))
                except ConnectionRefusedError:
                    os.unlink(os.path.join(entry.path, "s"))
                    os.rmdir(entry.path)


def announce(plugin_socket: PluginSocket) -> None:
    """Write the handshake line, then give stdout away for good.

    go-plugin reads the first line alone, and treats whatever may follow as noise at best.
    """
    os.write(1, plugin_socket.handshake_line().encode())
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
