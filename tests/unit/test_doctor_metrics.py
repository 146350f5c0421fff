"""`milo doctor` about the plugin's block ``metrics``: who has the port, and who reaches it."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from milo.cli.doctor.finding import Verdict
from milo.cli.doctor.metrics_check import Port, check_metrics, look_at_port
from milo.core.config.plugin_options import Metrics
from tests.unit.test_doctor import FAILED, OK, WARNING, holds

OWN = Metrics("127.0.0.1:494")


@pytest.mark.parametrize(
    ("metrics", "port", "expected"),
    [
        (Metrics(), Port(), []),
        (OWN, Port(), [(OK, "to be served at 127.0.0.1:494")]),
        (OWN, Port("", True, True, frozenset({0})), [(OK, "served at 127.0.0.1:494")]),
        (Metrics("[::1]:494"), Port(), [(OK, "[::1]:494")]),
        (OWN, Port("Cannot assign requested address"), [(FAILED, "Cannot assign")]),
        (OWN, Port("", True, False, frozenset({0})), [(FAILED, "another program listens at")]),
        # Who can answer as Milo does is not Milo for that.
        (OWN, Port("", True, True, frozenset({1001})), [(FAILED, "a program of user 1001")]),
        (OWN, Port("", True, True, frozenset({0, 1001})), [(OK, "served at")]),
        (Metrics("127.0.0.1:9464"), Port(), [(WARNING, "can take port 9464")]),
        (Metrics("10.0.0.1:494", True), Port(), [(WARNING, "without a password")]),
        (
            Metrics("0.0.0.0:9464", True),
            Port(),
            [(WARNING, "without a password"), (WARNING, "can take port 9464")],
        ),
    ],
)
def test_verdicts(metrics: Metrics, port: Port, expected: list[tuple[Verdict, str]]) -> None:
    """Trouble first: a stranger at the port, then who reaches it and who could take it."""
    found = check_metrics(metrics, port)
    assert len(found) == len(expected)
    for finding, (verdict, words) in zip(found, expected, strict=True):
        assert finding.check == "metrics"
        holds(finding, verdict, words)


def test_nothing_is_looked_at_without_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is connected to."""
    monkeypatch.delattr(socket, "socket")
    assert look_at_port(Metrics()) == Port()


def test_a_free_port() -> None:
    """Nobody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    assert look_at_port(Metrics(address)) == Port()


def test_an_address_of_another_host() -> None:
    """It is not connected to: 192.0.2.1 is nobody's (RFC 5737)."""
    found = look_at_port(Metrics("192.0.2.1:494", True))
    assert found == Port(problem="Cannot assign requested address")


@pytest.fixture(params=["127.0.0.1", "::1"])
def server(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """Somebody who listens."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    try:
        one = socket.create_server((request.param, 0), family=family)
    except OSError:
        pytest.skip(f"this host has no {request.param}")
    with one:
        yield one


@pytest.mark.parametrize(
    ("said", "serves"),
    [
        (b'HTTP/1.1 200 OK\r\n\r\n# X\nmilo_build_info{version="1"} 1.0\n', True),
        (b"SSH-2.0-x\r\n", False),
        (b"", False),
        (b"x" * 1_000_000, False),
    ],
)
def test_who_has_the_port_is_asked(server: socket.socket, said: bytes, serves: bool) -> None:
    """Whether it answers as Milo does, and whose it is; however much it says."""

    def answer() -> None:
        connection = server.accept()[0]
        with connection:
            connection.recv(4096)
            with contextlib.suppress(OSError):  # enough was read
                connection.sendall(said)

    thread = threading.Thread(target=answer)
    thread.start()
    host, port = server.getsockname()[:2]
    found = look_at_port(Metrics(f"[{host}]:{port}" if ":" in host else f"{host}:{port}"))
    thread.join(20)
    assert found == Port("", True, serves, frozenset({os.getuid()}))


def test_who_says_nothing_is_not_waited_for(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port whose owner keeps silent is another program's."""
    monkeypatch.setattr("milo.cli.doctor.metrics_check.TIMEOUT_S", 0.05)
    host, port = server.getsockname()[:2]
    found = look_at_port(Metrics(f"[{host}]:{port}" if ":" in host else f"{host}:{port}"))
    assert (found.is_taken, found.serves_figures) == (True, False)
