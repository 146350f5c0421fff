"""grpclib's server on the plugin's socket, asyncio being confined to it by trio-asyncio.

Imported only after the handshake line is out: it costs more than everything before.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from milo.plugin.base_service import BaseService
from milo.plugin.broker_service import BrokerService
from milo.plugin.calls import Calls
from milo.plugin.controller_service import ControllerService
from milo.plugin.driver_service import DriverService
from milo.plugin.event_loop import open_loop, trio_asyncio
from milo.plugin.handshake import remove_stale, socket_base
from milo.plugin.health_service import HealthService
from milo.plugin.http2 import UnlimitedServer
from milo.plugin.metrics.exporter import Exporter
from milo.plugin.rpc import Service, StatusDetails, bridged
from milo.plugin.stdio_service import StdioService

if TYPE_CHECKING:
    from milo.host.registry import Registry
    from milo.plugin.greeter import Greeter

# How long a shutdown's answer may take to leave; go-plugin's host waits 2 s for the end.
_LAST_ANSWER_S = 0.05

COLLECTION_PERIOD_S: Final = 60.0

NEVER: Final = 1_000_000
"""So many collections of middle-aged objects before Python has a full one by itself."""

# Some of its steps take a millisecond, and it has few: so it is not behind a hundred processes that
# start or end. Ten of these units are nine times the weight; sched(7).
_PRIORITY: Final = -10

# What HashiCorp's service unit gives the agent (LimitNOFILE), and so its plugins.
_OPEN_FILES = 65536


async def serve(
    listener: socket.socket,
    greeter: Greeter,
    registry: Registry,
    end_process: Callable[[], NoReturn],
) -> NoReturn:
    """Serve every service on ``listener`` until a shutdown is asked for, then ``end_process``.

    Takes over those whom the ``greeter`` has accepted there.

    Calls that are still pending then are never answered, which is why the process ends without
    unwinding: any answer but a broken connection to a WaitTask makes Nomad destroy the task.
    Cancelling closes every connection.
    """
    _raise_file_limit()
    raise_priority()
    # What has been imported by now stays: no collection need look at these 50,000 objects.
    gc.freeze()
    ended = trio.Event()
    calls = Calls()
    exporter = Exporter(registry, calls)
    base = BaseService(registry, exporter)
    services: list[Service] = [
        base,
        DriverService(registry, ended),
        BrokerService(),
        StdioService(),
        ControllerService(ended),
        HealthService(),
    ]
    async with trio.open_nursery() as nursery, open_loop():
        await nursery.start(registry.run)
        nursery.start_soon(_end_unused, base, ended)
        nursery.start_soon(collect_garbage)
        nursery.start_soon(exporter.run)
        server = UnlimitedServer(
            [bridged(service, calls) for service in services], status_details_codec=StatusDetails()
        )
        greeted = greeter.end()
        await trio_asyncio.aio_as_trio(server.start)(sock=listener)
        for connection in greeted:
            await trio_asyncio.aio_as_trio(server.take)(connection)
        with contextlib.suppress(OSError):
            remove_stale(socket_base())
        await ended.wait()
        await trio.sleep(_LAST_ANSWER_S)
        end_process()


async def collect_garbage() -> NoReturn:
    """Free, every minute, what ended calls and connections have left.

    Each call of grpclib's leaves some 30 objects that refer to each other, each connection with
    three calls some 300, and only a full collection of Python's finds them all. A driver with a
    few tasks makes so few objects that it has one in an hour; until then its heap grows around it.

    Python has none by itself any more: that would be when much happens, as when a hundred tasks
    stop. It was the longest step there, 15 ms with the objects of a hundred tasks.
    """
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, NEVER)
    while True:
        await trio.sleep(COLLECTION_PERIOD_S)
        gc.collect()


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


def raise_priority() -> None:
    """Let this process answer while others use the processors, and those it starts be as before.

    What it works is little, and every RPC of every task waits for it: with a hundred processes that
    start or end it would be one of a hundred. On a client its task processes are in the same
    control group as it is; the applications are not. Somebody else's choice is left as it is, and
    without the right (CAP_SYS_NICE) so is the priority.
    """
    if os.getpriority(os.PRIO_PROCESS, 0) != 0 or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
        policy = os.SCHED_OTHER | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(0))


def _raise_file_limit() -> None:
    """Let this process have as many descriptors as under Nomad's own service unit.

    An agent started from a shell leaves its plugins 1024: enough for some 75 tasks, each of
    which takes 5, and 8 more while its statistics are asked for.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
