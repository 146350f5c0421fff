"""Asks a running Nomad agent over HTTP.

Any user can listen at the address while the agent is down. So all answers together have one
deadline, each has a maximum size and depth, a redirect is not followed (it would get the token),
and the type of every value is checked.
"""

from __future__ import annotations

import http.client
import io
import os
import socket
import ssl
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import SplitResult, quote, urlsplit

import trio

from milo.cli.doctor import agent_config
from milo.cli.doctor.agent_config import mapping, text
from milo.cli.doctor.agent_verdicts import AgentAnswer
from milo.cli.doctor.json_text import parse_json
from milo.errors import MiloError

DEFAULT_ADDRESS: Final = "http://127.0.0.1:4646"
DEADLINE_S: Final = 5.0
"""For all requests together, with the look-up of the host's name."""
MAX_ANSWER_BYTES: Final = 4 << 20
"""Of one answer with its headers; an agent with many plugins and devices sends some 100 KiB."""
SHOWN_CHARS: Final = 200
"""Of what another server says."""


class AgentError(MiloError):
    """No usable answer; the text is the reason."""

    def __init__(self, problem: str, *, refused: bool = False) -> None:
        self.refused = refused
        super().__init__(problem)


def ask_agent(address: str) -> AgentAnswer:
    """As `ask`, where no event loop runs."""
    return trio.run(ask, address)


async def ask(address: str) -> AgentAnswer:
    """Return what the agent at ``address`` says, or why it says nothing, within `DEADLINE_S`.

    As Nomad's own command does, NOMAD_TOKEN and the variables for TLS are used.
    """
    try:
        return await _ask(address)
    except AgentError as exc:
        return AgentAnswer(address, str(exc), refused=exc.refused)
    except trio.TooSlowError:
        return AgentAnswer(address, f"it did not answer within {DEADLINE_S:g} s")
    except (OSError, ValueError, trio.BrokenResourceError) as exc:
        return AgentAnswer(address, _reason(exc))


def _reason(exc: BaseException) -> str:
    """Return why there is no connection. Trio says that something failed; the cause says what."""
    while isinstance(inner := exc.__cause__, Exception):
        exc = inner.exceptions[0] if isinstance(inner, ExceptionGroup) else inner
    if isinstance(exc, OSError) and not isinstance(exc, ssl.SSLError | socket.gaierror):
        return os.strerror(exc.errno) if exc.errno else str(exc)
    return getattr(exc, "strerror", None) or str(exc)


async def _ask(address: str) -> AgentAnswer:
    url = urlsplit(address)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise AgentError("only http:// and https:// addresses are asked")
    with trio.fail_after(DEADLINE_S):
        own = await _get(url, "/v1/agent/self")
        node_id = text(mapping(mapping(own.get("stats")).get("client")).get("node_id"))
        node = await _get(url, f"/v1/node/{quote(node_id, safe='')}") if node_id else {}
    config = mapping(own.get("config"))
    name = text(mapping(node.get("Attributes")).get("unique.hostname")) or text(node.get("Name"))
    return AgentAnswer(
        address=address,
        version=text(mapping(config.get("Version")).get("Version")),
        config=agent_config.from_api(config, f"the running agent ({address})"),
        driver=mapping(mapping(node.get("Drivers")).get("milo")),
        is_client=bool(node_id),
        here=not name or name == socket.gethostname(),
        node=name,
    )


async def _get(url: SplitResult, path: str) -> Mapping[str, Any]:
    """Return the JSON object that GET ``path`` answers.

    Raises:
        AgentError: it answers something else.
        OSError, trio.BrokenResourceError: there is no connection, or it broke.
    """
    try:
        received = io.BytesIO(await _receive(url, path))
        # In the place of the socket that it would read from.
        response = http.client.HTTPResponse(SimpleNamespace(makefile=lambda _: received))  # type: ignore[arg-type]
        response.begin()
        body = response.read()
    except http.client.HTTPException as exc:
        raise AgentError("it does not answer like a Nomad agent") from exc
    if response.status in (301, 302, 303, 307, 308):
        where = response.getheader("Location", "")[:SHOWN_CHARS]
        raise AgentError(f"it redirects to {where}, which is not followed")
    if response.status != http.HTTPStatus.OK:
        words = body[:SHOWN_CHARS].decode(errors="replace").strip()
        raise AgentError(
            words or f"it answers with status {response.status}",
            refused=response.status in (401, 403),
        )
    try:
        found = parse_json(body.decode())
    except ValueError as exc:
        raise AgentError(f"it does not answer like a Nomad agent: {exc}") from exc
    if not isinstance(found, dict):
        raise AgentError("it does not answer like a Nomad agent")
    return found


async def _receive(url: SplitResult, path: str) -> bytearray:
    """Send a request on a connection of its own, and return what comes until its end."""
    secure = url.scheme == "https"
    assert url.hostname
    port = url.port or (443 if secure else 80)
    lines = [
        f"GET {quote(url.path.rstrip('/'), safe='/%')}{path} HTTP/1.1",
        f"Host: {url.netloc.rpartition('@')[2]}",
        "Connection: close",
    ]
    if token := os.environ.get("NOMAD_TOKEN", "").strip():
        lines.append(f"X-Nomad-Token: {token}")
    received = bytearray()
    stream: trio.abc.Stream = await trio.open_tcp_stream(url.hostname, port)
    async with stream:
        if secure:
            stream = trio.SSLStream(
                stream, _tls(), server_hostname=url.hostname, https_compatible=True
            )
        await stream.send_all("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
        while part := await stream.receive_some(1 << 16):
            received += part
            if len(received) > MAX_ANSWER_BYTES:
                raise AgentError(f"its answer is longer than {MAX_ANSWER_BYTES >> 20} MiB")
    return received


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context(
        cafile=os.environ.get("NOMAD_CACERT") or None, capath=os.environ.get("NOMAD_CAPATH") or None
    )
    certificate, key = os.environ.get("NOMAD_CLIENT_CERT"), os.environ.get("NOMAD_CLIENT_KEY")
    if certificate and key:
        context.load_cert_chain(certificate, key)
    return context
