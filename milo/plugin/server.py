"""grpclib's server on the plugin's socket, asyncio being confined to it by trio-asyncio.

Imported only after the handshake line is out: it costs more than everything before.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import trio
import trio_asyncio

from milo.plugin.base_service import BaseService
from milo.plugin.broker_service import BrokerService
from milo.plugin.controller_service import ControllerService
from milo.plugin.driver_service import DriverService
from milo.plugin.handshake import remove_stale, socket_base
from milo.plugin.health_service import HealthService
from milo.plugin.http2 import UnlimitedServer
from milo.plugin.rpc import Service, StatusDetails, bridged
from milo.plugin.stdio_service import StdioService

if TYPE_CHECKING:
    from milo.host.registry import Registry

# How long a shutdown's answer may take to leave; go-plugin's host waits 2 s for the end.
_LAST_ANSWER_S = 0.05

# What HashiCorp's service unit gives the agent (LimitNOFILE), and so its plugins.
_OPEN_FILES = 65536


async def serve(
    listener: socket.socket, registry: Registry, end_process: Callable[[], NoReturn]
) -> NoReturn:
    """Serve every service on ``listener`` until a shutdown is asked for, then ``end_process``.

    Calls that are still pending then are never answered, which is why the process ends without
    unwinding: any answer but a broken connection to a WaitTask makes Nomad destroy the task.
    Cancelling closes every connection.
    """
    _raise_file_limit()
    ended = trio.Event()
    base = BaseService(registry)
    services: list[Service] = [
        base,
        DriverService(registry, ended),
        BrokerService(),
        StdioService(),
        ControllerService(ended),
        HealthService(),
    ]
    async with trio.open_nursery() as nursery, trio_asyncio.open_loop():
        await nursery.start(registry.run)
        nursery.start_soon(_end_unused, base, ended)
        server = UnlimitedServer(
            [bridged(service) for service in services], status_details_codec=StatusDetails()
        )
        await trio_asyncio.aio_as_trio(server.start)(sock=listener)
        with contextlib.suppress(OSError):
            remove_stale(socket_base())
        await ended.wait()
        await trio.sleep(_LAST_ANSWER_S)
        end_process()


async def _end_unused(base: BaseService, ended: trio.Event) -> None:
    """End a plugin without options when the agent that started it ends.

    Nomad before 2.0 ends at once when a plugin refuses its options, and leaves the plugin's process
    behind. No other agent comes for one that has never run a task. Without pidfds (Linux before
    5.3) it stays.
    """
    try:
        agent = os.pidfd_open(os.getppid())
    except OSError:
        return
    try:
        await trio.lowlevel.wait_readable(agent)
    finally:
        os.close(agent)
    if not base.configured:
        ended.set()


def _raise_file_limit() -> None:
    """Let this process have as many descriptors as under Nomad's own service unit.

    An agent started from a shell leaves its plugins 1024: enough for some 75 tasks, each of
    which takes 5, and 8 more while its statistics are asked for.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
