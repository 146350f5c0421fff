"""A CSI plugin for tests: its volumes are directories of the host's, published by bind mounts.

    python -m tests.support.csi_plugin DIRECTORY

Nomad's raw_exec runs it and names its socket in CSI_ENDPOINT. It has what a plugin of the type
``node`` needs. Source of names and numbers: the Container Storage Interface, csi.proto of 1.9.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import betterproto
from grpclib.const import Cardinality, Handler
from grpclib.server import Server, Stream


@dataclass
class Nothing(betterproto.Message):
    """A request or an answer of which no field matters here."""


@dataclass
class PluginInfo(betterproto.Message):
    """GetPluginInfoResponse."""

    name: str = betterproto.string_field(1)
    vendor_version: str = betterproto.string_field(2)


@dataclass
class NodeInfo(betterproto.Message):
    """NodeGetInfoResponse."""

    node_id: str = betterproto.string_field(1)


@dataclass
class Publish(betterproto.Message):
    """NodePublishVolumeRequest."""

    volume_id: str = betterproto.string_field(1)
    target_path: str = betterproto.string_field(4)
    readonly: bool = betterproto.bool_field(6)


@dataclass
class Unpublish(betterproto.Message):
    """NodeUnpublishVolumeRequest."""

    volume_id: str = betterproto.string_field(1)
    target_path: str = betterproto.string_field(2)


Answer = Callable[[Any], betterproto.Message]
Calls = Mapping[str, tuple[type[betterproto.Message], Answer]]


class Service:
    """Calls of one gRPC service, each with its request and what answers it."""

    def __init__(self, name: str, calls: Calls):
        self._name = name
        self._calls = calls

    def __mapping__(self) -> dict[str, Handler]:
        """Return what grpclib serves."""
        return {
            f"/csi.v1.{self._name}/{call}": Handler(
                _answering(answer), Cardinality.UNARY_UNARY, request, betterproto.Message
            )
            for call, (request, answer) in self._calls.items()
        }


def _answering(answer: Answer) -> Callable[[Stream[Any, Any]], Awaitable[None]]:
    async def handle(stream: Stream[Any, Any]) -> None:
        await stream.send_message(answer(await stream.recv_message()))

    return handle


def main() -> None:
    """Serve until a signal ends it."""
    store = Path(sys.argv[1])

    def publish(request: Publish) -> Nothing:
        target = Path(request.target_path)
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--bind", store / request.volume_id, target], check=True)
        if request.readonly:
            subprocess.run(["mount", "-o", "remount,bind,ro", target], check=True)
        return Nothing()

    def unpublish(request: Unpublish) -> Nothing:
        target = Path(request.target_path)
        if target.exists():
            subprocess.run(["umount", target], check=True)
            target.rmdir()
        return Nothing()

    def nothing(request: Nothing) -> Nothing:
        return Nothing()

    identity: Calls = {
        "GetPluginInfo": (Nothing, lambda _: PluginInfo("mini.test", "1")),
        "GetPluginCapabilities": (Nothing, nothing),
        "Probe": (Nothing, nothing),
    }
    node: Calls = {
        "NodeGetCapabilities": (Nothing, nothing),
        "NodeGetInfo": (Nothing, lambda _: NodeInfo("here")),
        "NodePublishVolume": (Publish, publish),
        "NodeUnpublishVolume": (Unpublish, unpublish),
    }
    asyncio.run(_serve([Service("Identity", identity), Service("Node", node)]))


async def _serve(services: list[Service]) -> None:
    server = Server(services)
    await server.start(path=os.environ["CSI_ENDPOINT"].removeprefix("unix://"))
    await server.wait_closed()


if __name__ == "__main__":
    main()
