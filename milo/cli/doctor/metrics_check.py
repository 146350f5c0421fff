"""The check of `milo doctor` of the block ``metrics``: who has its port, and who reaches it.

The address may be what a false agent says: only what is this host's own is connected to, and what
answers there is bounded.
"""

from __future__ import annotations

import contextlib
import socket
from ipaddress import ip_address
from typing import Final

import attrs

from milo import proc
from milo.cli.doctor.finding import Finding, Verdict, ok
from milo.core.config.plugin_options import Metrics, split_address

CHECK: Final = "metrics"
TIMEOUT_S: Final = 5.0
MAX_ANSWER_BYTES: Final = 256 * 1024
"""Of whoever has the port; the driver's own figures are at the beginning of its page."""
OWN: Final = b"\nmilo_build_info{"
OPEN_PORTS: Final = 1024
"""From here on any user may listen, as ip_unprivileged_port_start is by default."""


@attrs.frozen
class Port:
    """What is known of the address that figures are to be served at."""

    problem: str = ""
    """Why nobody can listen there; empty otherwise."""
    is_taken: bool = False
    serves_figures: bool = False
    """Whether who has it answers as Milo does."""
    users: frozenset[int] = frozenset()
    """Of those who listen at that port, at whatever address; empty where it is not known."""


def look_at_port(metrics: Metrics) -> Port:
    """Return who has the port, which is asked for its figures if anybody has it."""
    if not metrics.address:
        return Port()
    host, number = split_address(metrics.address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as trial:
        try:
            trial.bind((host, 0))
        except OSError as exc:
            return Port(problem=exc.strerror or str(exc))
    port = int(number)
    try:
        connection = socket.create_connection((host, port), TIMEOUT_S)
    except ConnectionRefusedError:
        return Port()
    except OSError as exc:
        return Port(problem=exc.strerror or str(exc))
    with connection:
        serves = OWN in _answer(connection, metrics.address)
    return Port(is_taken=True, serves_figures=serves, users=frozenset(proc.listening_users(port)))


def check_metrics(metrics: Metrics, port: Port) -> list[Finding]:
    """The verdicts on the block; none where it is not set."""
    address = metrics.address
    if not address:
        return []
    if port.problem:
        return [
            Finding(
                CHECK,
                Verdict.FAILED,
                f"figures cannot be served at {address}: {port.problem}",
                "Set metrics.address in the plugin's configuration to an address of this host's",
            )
        ]
    strangers = sorted(port.users - {0}) if 0 not in port.users else []
    if port.is_taken and (strangers or not port.serves_figures):
        who = f"a program of user {strangers[0]}" if strangers else "another program"
        return [
            Finding(
                CHECK,
                Verdict.FAILED,
                f"{who} listens at {address}, and Prometheus takes what it says for Milo's figures",
                "End it, or set metrics.address to a free port below 1024",
            )
        ]
    findings = []
    host, number = split_address(address)
    if not ip_address(host).is_loopback:
        findings.append(
            Finding(
                CHECK,
                Verdict.WARNING,
                f"figures are served at {address}: whoever reaches it learns the names of all "
                "namespaces, jobs and tasks, without a password",
                'Set metrics.address to "127.0.0.1:494", or have a firewall let Prometheus alone '
                "through",
            )
        )
    if int(number) >= OPEN_PORTS:
        findings.append(
            Finding(
                CHECK,
                Verdict.WARNING,
                f"any task in the host's network can take port {number} while no plugin runs, as "
                "when the agent is restarted",
                "Set metrics.address to a port below 1024, such as 494",
            )
        )
    served = "served at" if port.is_taken else "to be served at"
    return findings or [ok(CHECK, f"{served} {address}")]


def _answer(connection: socket.socket, address: str) -> bytes:
    """Return the beginning of what an HTTP server says of its figures; empty if nothing."""
    data = b""
    with contextlib.suppress(OSError):
        connection.settimeout(TIMEOUT_S)
        connection.sendall(f"GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
        while len(data) < MAX_ANSWER_BYTES and OWN not in data:
            part = connection.recv(MAX_ANSWER_BYTES)
            if not part:
                break
            data += part
    return data
