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


def check_names(key: str, sysctls: dict[str, str]) -> dict[str, str]:
    """Return the block ``sysctl``, each of it belonging to some namespace.

    Raises:
        ConfigError: a name of the whole host, or no name.
    """
    for name, value in sysctls.items():
        within = f"{key}.{name[:60]}"
        # crun makes a path of the name; slashes and empty parts have no place in it.
        if not re.fullmatch(r"[a-z]+(\.[A-Za-z0-9_:@-]+)+", name):
            raise ConfigError(within, "it is not the name of a sysctl", EXPECTED)
        if "\n" in value:
            raise ConfigError(within, "its value has more than one line", "one line")
        if not (name in IPC_NAMES or name.startswith((IPC_PREFIX, NET_PREFIX))):
            raise ConfigError(within, "it belongs to the whole host", EXPECTED)
    return sysctls


def check_ipc(sysctls: Mapping[str, str]) -> None:
    """Refuse those of the IPC namespace, for a task that shares the host's.

    Raises:
        ConfigError: naming the first.
    """
    for name in sysctls:
        if not name.startswith(NET_PREFIX):
            raise ConfigError(
                f"sysctl.{name[:60]}",
                'with ipc_mode = "host" it would change the host',
                'ipc_mode = "private"',
            )


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
