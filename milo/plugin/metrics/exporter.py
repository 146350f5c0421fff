"""Serves the figures where the plugin's configuration says so, and nowhere else.

Nothing here fails an RPC: a port that is taken is waited for, since at the start of an agent the
plugin of the last one may still have it.
"""

from __future__ import annotations

import logging
import math
import socket
from typing import TYPE_CHECKING, Final

import trio

from milo.core.config.plugin_options import Metrics, split_address
from milo.plugin.calls import Calls
from milo.plugin.metrics.web import Body, WebServer

if TYPE_CHECKING:
    from milo.host.figures import TaskFigures
    from milo.host.registry import Registry
    from milo.plugin.metrics.page import Renderer

FIRST_PAUSE_S: Final = 0.5
MAX_PAUSE_S: Final = 10.0
KEPT_S: Final = 1.0
"""So long figures are served again: tasks are asked once a second at most, whoever asks here."""
AGAIN_S: Final = 60.0
"""Between two warnings: whoever has the port is asked for the figures in the driver's place."""
BACKLOG: Final = 16

_log = logging.getLogger(__name__)


class Exporter:
    """Runs beside the gRPC server; see `run`."""

    def __init__(self, registry: Registry, calls: Calls) -> None:
        self._registry = registry
        self._calls = calls
        self._wanted = Metrics()
        self._changed = trio.Event()
        self._making = trio.Lock()
        self._renderer: Renderer | None = None
        self._figures: list[TaskFigures] = []
        self._taken_at = -math.inf
        self._pages: dict[str, bytes] = {}
        """Of these figures, by content type."""

    def configure(self, wanted: Metrics) -> None:
        """Serve at ``wanted.address`` from now on, which may be nowhere."""
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()
            self._changed = trio.Event()

    async def run(self) -> None:
        """Serve what is wanted until cancelled. Raises nothing."""
        while True:
            changed = self._changed
            async with trio.open_nursery() as nursery:
                if self._wanted.address:
                    nursery.start_soon(self._serve, self._wanted.address)
                await changed.wait()
                nursery.cancel_scope.cancel()

    async def _serve(self, address: str) -> None:
        pause_s, told, told_at = FIRST_PAUSE_S, "", -math.inf
        while True:
            try:
                with _listening(address) as sock:
                    pause_s, told = FIRST_PAUSE_S, ""
                    _log.info("figures are served at %s", address)
                    await WebServer(self._page).serve(trio.SocketListener(sock))
            except OSError as exc:
                words = exc.strerror or str(exc)
                if words != told or trio.current_time() - told_at >= AGAIN_S:
                    _log.warning(
                        "figures cannot be served at %s, and it is tried again: %s", address, words
                    )
                    told, told_at = words, trio.current_time()
            except Exception:
                _log.exception("serving figures failed, and is tried again")
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    async def _page(self, accept: str) -> Body:
        """Return the page in the format that ``accept`` asks for."""
        from milo.plugin.metrics import page  # slow to load, and only where it is wanted

        wants_open = "application/openmetrics-text" in accept
        kind = page.OPEN_METRICS if wants_open else page.PLAIN_TEXT
        async with self._making:
            if trio.current_time() - self._taken_at > KEPT_S:
                self._figures = await self._registry.figures()
                self._taken_at = trio.current_time()
                self._pages.clear()
            data = self._pages.get(kind, b"")
            if not data:
                self._renderer = self._renderer or page.Renderer()
                driver = page.Driver(self._calls, self._registry.spawner_restarts)
                data = await self._renderer.render(kind, self._figures, driver)
                self._pages[kind] = data
        return Body(kind, data)


def _listening(address: str) -> trio.socket.SocketType:
    """Return a socket that listens at ``address``. Raises OSError."""
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, int(port)))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return trio.socket.from_stdlib_socket(sock)
