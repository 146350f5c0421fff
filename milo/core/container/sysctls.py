"""A job's ``sysctl`` block: only what belongs to the container's own namespaces. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from milo.errors import ConfigError

IPC_NAMES: Final = (
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
)
"""Those of an IPC namespace (ipc_namespaces(7)); docker and podman allow the same."""

IPC_PREFIX: Final = "fs.mqueue."
NET_PREFIX: Final = "net."

EXPECTED: Final = f"one of {', '.join(IPC_NAMES)}, {IPC_PREFIX}* or {NET_PREFIX}*"


def check_sysctls(sysctls: Mapping[str, str], *, ipc_mode: str) -> None:
    """Refuse what is not the container's own; the network is left to `check_network`.

    Raises:
        ConfigError: a name of the whole host, or of the IPC namespace with ``ipc_mode`` host.
    """
    for name, value in sysctls.items():
        key = f"sysctl.{name[:60]}"
        # crun makes a path of the name; slashes and empty parts have no place in it.
        if not re.fullmatch(r"[a-z]+(\.[A-Za-z0-9_:@-]+)+", name):
            raise ConfigError(key, "it is not the name of a sysctl", EXPECTED)
        if "\n" in value:
            raise ConfigError(key, "its value has more than one line", "one line")
        if name in IPC_NAMES or name.startswith(IPC_PREFIX):
            if ipc_mode == "host":
                raise ConfigError(
                    key, 'with ipc_mode = "host" it would change the host', 'ipc_mode = "private"'
                )
        elif not name.startswith(NET_PREFIX):
            raise ConfigError(key, "it belongs to the whole host", EXPECTED)


def check_network(sysctls: Mapping[str, str], network_mode: str) -> None:
    """Refuse ``net.*`` in the host's network.

    Raises:
        ConfigError: ``network_mode`` (of `milo.core.launch.Network`) is host.
    """
    for name in sysctls:
        if name.startswith(NET_PREFIX) and network_mode == "host":
            raise ConfigError(
                f"sysctl.{name[:60]}",
                "the task is in the host's network and would change that",
                'a network block with mode = "bridge" or "none" in the group',
            )
