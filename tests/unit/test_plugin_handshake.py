"""go-plugin's handshake, without a process of its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from milo.plugin import handshake
from milo.plugin.greeter import SETTINGS, Greeter


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({handshake.COOKIE_NAME: ""}, False),
        ({handshake.COOKIE_NAME: "something else"}, False),
        ({handshake.COOKIE_NAME: handshake.COOKIE_VALUE}, True),
    ],
)
def test_only_nomads_cookie_makes_it_a_plugin(environ: dict[str, str], expected: bool) -> None:
    """The variable must be there with exactly Nomad's value."""
    assert handshake.is_plugin_start(environ) is expected


def test_socket_is_private_accepts_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    """A client can connect before anything serves, and removing leaves the base directory bare."""
    opened = handshake.open_plugin_socket({handshake.SOCKET_DIR_NAME: str(tmp_path)})
    try:
        assert Path(opened.directory).stat().st_mode & 0o7777 == 0o700
        assert opened.handshake_line() == f"1|2|unix|{opened.path}|grpc|\n"
        assert os.path.isabs(opened.path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(opened.path)
    finally:
        opened.listener.close()
        opened.remove()
    opened.remove()
    assert list(tmp_path.iterdir()) == []


def test_tmpdir_is_the_second_choice(tmp_path: Path) -> None:
    """Without go-plugin's own variable the socket lies where temporary files do."""
    opened = handshake.open_plugin_socket({"TMPDIR": str(tmp_path)})
    opened.listener.close()
    assert Path(opened.directory).parent == tmp_path
    opened.remove()


def test_a_path_too_long_for_a_socket_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    """Linux allows 108 bytes; beyond that the directory is removed again."""
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    with pytest.raises(OSError, match="too long"):
        handshake.open_plugin_socket({handshake.SOCKET_DIR_NAME: str(deep)})
    assert list(deep.iterdir()) == []


def test_sockets_of_killed_plugins_are_removed(tmp_path: Path) -> None:
    """A later plugin removes the directory of one that was killed, and of no other."""
    environ = {handshake.SOCKET_DIR_NAME: str(tmp_path)}
    killed = handshake.open_plugin_socket(environ)
    living = handshake.open_plugin_socket(environ)
    (tmp_path / "milo-of-somebody-else").mkdir()
    (tmp_path / "milo-0123456789ab").symlink_to(tmp_path / "elsewhere")
    killed.listener.close()
    handshake.remove_stale(str(tmp_path))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {
        os.path.basename(living.directory),
        "milo-of-somebody-else",
        "milo-0123456789ab",
    }
    living.listener.close()
    living.remove()


Early = tuple[handshake.PluginSocket, Greeter, socket.socket]


@pytest.fixture
def early(tmp_path: Path) -> Iterator[Early]:
    """A plugin's socket, its greeter, and a client that has been greeted."""
    opened = handshake.open_plugin_socket({handshake.SOCKET_DIR_NAME: str(tmp_path)})
    with opened.listener, socket.socket(socket.AF_UNIX) as client:
        greeter = Greeter(opened.listener)
        client.connect(opened.path)
        assert client.recv(100) == SETTINGS
        yield opened, greeter, client
    opened.remove()


def test_whoever_comes_early_is_greeted_until_the_server_is_there(early: Early) -> None:
    """After that, connections wait in the socket's queue for the server to accept them."""
    opened, greeter, client = early
    (greeted,) = greeter.end()
    with greeted:
        assert not greeted.getblocking()
        greeted.send(b"later")
        assert client.recv(100) == b"later"
    with socket.socket(socket.AF_UNIX) as late:
        late.connect(opened.path)
        opened.listener.accept()[0].close()


def test_a_greeter_that_cannot_accept_leaves_it_to_the_server(early: Early) -> None:
    """It ends by itself then, and those who came before are there."""
    opened, greeter, _ = early
    opened.listener.shutdown(socket.SHUT_RDWR)
    (greeted,) = greeter.end()
    greeted.close()
