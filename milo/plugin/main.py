"""The plugin process: its steps, in the order that a fast start and the spawner need.

Nomad starts every plugin about three times at each start of its agent, and waits for the handshake
line each time. So that line is printed before anything is imported that is needed only for
serving; the agent's first connection is only greeted meanwhile. The spawner is forked earlier,
before there is an event loop or a thread, and imports the task code by itself.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from milo.plugin.handshake import PluginSocket, announce, is_plugin_start, open_plugin_socket

if TYPE_CHECKING:
    from milo.host.registry import Registry
    from milo.spawner_process import SpawnerProcess

ForkSpawner = Callable[[], "SpawnerProcess"]
MakeRegistry = Callable[["SpawnerProcess"], "Registry"]


def run_plugin(
    fork_spawner: ForkSpawner | None = None, make_registry: MakeRegistry | None = None
) -> NoReturn:
    """Be the plugin until the agent lets go of it; the process ends inside.

    Ends with code 1, and the reason on stderr, when this was not started by Nomad or no
    socket or process can be made; with 0 after a shutdown that the agent asked for, or
    SIGTERM. Never answers what is pending then. The end of the agent alone changes nothing:
    the next agent connects to the same socket again.

    The parameters stand in for the spawner and the registry in tests.
    """
    # An agent in the foreground shares its terminal's Ctrl-C with its plugins. A handler
    # that does nothing, and not SIG_IGN, which every task would inherit.
    signal.signal(signal.SIGINT, _ignore)
    if not is_plugin_start():
        _fail("milo is a Nomad plugin, which Nomad's agent starts. Try milo --help.")
    try:
        spawner = (fork_spawner or _fork_spawner)()
        plugin_socket = open_plugin_socket()
    except OSError as error:
        _fail(f"milo cannot start: {error}")
    end_process = _ending(plugin_socket)
    signal.signal(signal.SIGTERM, lambda *_: end_process())
    try:
        announce(plugin_socket)
        _serve(plugin_socket, spawner, make_registry or _make_registry, end_process)
    except BaseException as error:
        plugin_socket.remove()
        _log_end(error)
        os._exit(1)


def _serve(
    plugin_socket: PluginSocket,
    spawner: SpawnerProcess,
    make_registry: MakeRegistry,
    end_process: Callable[[], NoReturn],
) -> NoReturn:
    from milo.plugin.greeter import Greeter

    greeter = Greeter(plugin_socket.listener)

    from milo.plugin.hclog import setup_logging

    setup_logging()

    import trio

    from milo.plugin.server import serve

    trio.run(serve, plugin_socket.listener, greeter, make_registry(spawner), end_process)
    end_process()


def _fork_spawner() -> SpawnerProcess:
    from milo.spawner_process import fork_spawner

    return fork_spawner()


def _make_registry(spawner: SpawnerProcess) -> Registry:
    from milo.host.registry import Registry
    from milo.host.spawner_client import SpawnerClient

    return Registry(SpawnerClient(spawner))


def _ending(plugin_socket: PluginSocket) -> Callable[[], NoReturn]:
    """What ends this process at once: nothing is unwound, so nothing pending is answered."""

    def end_process() -> NoReturn:
        plugin_socket.remove()
        os._exit(0)

    return end_process


def _ignore(_number: int, _frame: FrameType | None) -> None:
    pass


def _fail(text: str) -> NoReturn:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
    os._exit(1)


def _log_end(error: BaseException) -> None:
    import logging

    logging.getLogger(__name__).critical("the plugin ends", exc_info=error)
