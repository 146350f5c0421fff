"""plugin.GRPCStdio: forwards what the plugin prints, which is nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio

from milo.wire import plugin


class StdioService(plugin.GrpcStdioBase):
    """Milo logs on stderr alone, and its stdout is /dev/null after the handshake."""

    async def stream_stdio(self, request: plugin.Empty) -> AsyncIterator[plugin.StdioData]:
        """Stay open and silent: were it refused, the agent would log a warning at each start."""
        await trio.sleep_forever()
        yield plugin.StdioData()  # makes this a generator
