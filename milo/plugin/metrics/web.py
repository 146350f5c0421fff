"""A web server that has one page, for few clients that ask seldom: Prometheus, and curl.

Whoever reaches its port may be hostile. So requests, clients and time are bounded, and nothing of
a request is kept or logged. HTTP/1.1 is that of RFC 9112, one request a connection.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import attrs
import trio

MAX_CLIENTS: Final = 8
"""At once. One more takes the place of the one that is waited for longest; else it gets 503."""
MAX_HEAD_BYTES: Final = 8 * 1024
REQUEST_S: Final = 5.0
ANSWER_S: Final = 10.0
PATH: Final = "/metrics"

_log = logging.getLogger(__name__)


@attrs.frozen
class Body:
    """What a page holds."""

    content_type: str
    data: bytes


Page = Callable[[str], Awaitable[Body]]
"""Returns the page for what the client's ``Accept`` says."""


class WebServer:
    """Serves ``page`` at `PATH` to whoever connects."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._clients = 0
        self._awaited: dict[trio.CancelScope, None] = {}
        """What waits for a client to ask, or to read; the longest waiting first."""

    async def serve(self, listener: trio.SocketListener) -> None:
        """Serve until cancelled."""
        await trio.serve_listeners(self._contained, [listener])

    async def _contained(self, stream: trio.SocketStream) -> None:
        self._clients += 1
        try:
            with trio.move_on_after(REQUEST_S + ANSWER_S):
                await self._converse(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has gone
        except Exception:
            _log.exception("a request for figures failed")
        finally:
            self._clients -= 1
            with trio.CancelScope(shield=True):
                # At once: what was not sent by now will not be.
                await trio.aclose_forcefully(stream)

    async def _converse(self, stream: trio.SocketStream) -> None:
        if self._clients > MAX_CLIENTS:
            if not self._awaited:
                text = f"{MAX_CLIENTS} clients are served\n"
                await self._send(stream, "503 Service Unavailable", text)
                return
            # Who asks at once and reads is never the longest.
            longest = next(iter(self._awaited))
            del self._awaited[longest]
            longest.cancel()
        head: bytes | None = None
        with self._awaiting(REQUEST_S):
            head = await _head(stream)
        if head is None:
            await self._send(stream, "408 Request Timeout", "")
            return
        if len(head) > MAX_HEAD_BYTES:
            await self._send(stream, "431 Request Header Fields Too Large", "")
            return
        method, path, accept = parse(head)
        if method not in ("GET", "HEAD"):
            await self._send(stream, "405 Method Not Allowed", "Only GET and HEAD are answered\n")
        elif path != PATH:
            await self._send(stream, "404 Not Found", f"The figures are at {PATH}\n")
        else:
            body = await self._page(accept)
            await self._send(stream, "200 OK", body, with_body=method == "GET")

    @contextlib.contextmanager
    def _awaiting(self, seconds: float) -> Iterator[None]:
        """Wait for a client for so long at most, and not where others need its place."""
        with trio.move_on_after(seconds) as scope:
            self._awaited[scope] = None
            try:
                yield
            finally:
                self._awaited.pop(scope, None)

    async def _send(
        self, stream: trio.SocketStream, status: str, body: Body | str, *, with_body: bool = True
    ) -> None:
        if isinstance(body, str):
            body = Body("text/plain; charset=utf-8", body.encode())
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: {body.content_type}\r\n"
            f"Content-Length: {len(body.data)}\r\nConnection: close\r\n\r\n"
        ).encode()
        with self._awaiting(ANSWER_S):
            await stream.send_all(head + (body.data if with_body else b""))
            await stream.send_eof()


async def _head(stream: trio.SocketStream) -> bytes:
    """Return a request's head, or the little more than `MAX_HEAD_BYTES` that came of it."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) <= MAX_HEAD_BYTES:
        data = await stream.receive_some(MAX_HEAD_BYTES)
        if not data:
            raise trio.BrokenResourceError
        head += data
    return head


def parse(head: bytes) -> tuple[str, str, str]:
    """Return a request's method, path and ``Accept``; empty texts for what is no request."""
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return "", "", ""
    accept = ""
    for line in lines:
        name, _, value = line.partition(":")
        if name.lower() == "accept":
            accept = value.strip()
    return words[0], words[1].partition("?")[0], accept
