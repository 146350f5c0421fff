"""plugin.GRPCController: the agent asks the process to end."""

from __future__ import annotations

import trio

from milo.wire import plugin


class ControllerService(plugin.GrpcControllerBase):
    """go-plugin's host calls it when it lets go of a plugin, then waits 2 s and kills."""

    def __init__(self, ended: trio.Event) -> None:
        self._ended = ended

    async def shutdown(self, request: plugin.Empty) -> plugin.Empty:
        """Let the process end; tasks go on."""
        self._ended.set()
        return plugin.Empty()
