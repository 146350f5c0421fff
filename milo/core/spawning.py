"""What driver, spawner and task process say to each other of forks, and of keeping tasks.

None of the three may import another. `milo.spawner` serves the driver's requests, and
`milo.task.keeper` tells what a keeper is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

SPAWNED_FD: Final = 3
"""Where a spawner that is executed finds its socket."""

MAX_REQUEST_BYTES: Final = 4096
"""A mode and a path: what a spawner is asked for, and orders of a task process that stands by."""
MAX_DESCRIPTORS: Final = 16
"""With one request; the kernel drops what is more."""

# ---- the modes of a task process, see `milo.task.main.main` ----

RUN: Final = "run"
"""How each mode begins that starts an application. A request for it is void when the driver has
died or given up meanwhile: the start has failed, and nobody would know of the application."""
RUN_KEPT: Final = f"{RUN}:kept"
"""Runs a task, and gets a keeper."""
CLEAN: Final = "clean"
"""Removes what a task left whose own process is gone."""
ADOPT: Final = "adopt:"
"""Goes on with such a task. The names of its descriptors follow."""
LOCK: Final = "lock"
"""The name of the state directory's lock among the descriptors of a successor."""

TAKEN: Final = b"taken"
"""What one that stands by says to an order, before it does anything for it."""
TAKEN_TIMEOUT_S: Final = 0.5
"""How long that may take. Whoever stands by may have been killed or stopped without having ended
yet: nobody can tell that from outside. It takes 0.1 ms."""

# ---- between a keeper and who is kept ----

KEEP: Final = "keep"
"""Of a driver: be the keeper of the task whose state directory follows. Of a task process: keep
the descriptors whose names follow."""
END_OF_PATH: Final = "\0"
"""Behind the path of a driver's `KEEP`. An older Milo's spawner, which a driver executes where
Milo's files were replaced by older ones, takes that for a task to start: it finds no such path."""
RELEASE: Final = "release"
"""Of a task process: it wants no successor any more."""
FILTER: Final = "filter"
"""Of a task process: crun has compiled a filter, see `milo.task.oci.filters`. Its key follows."""
LISTENER: Final = "listener"
"""The name of the control socket among the descriptors, which are otherwise the streams'."""
LOCK_TIMEOUT_S: Final = 1.0
"""How long the lock of a process that dies may outlive its socket: they are closed in turn, and
children that it has just forked have both until they execute something. A process that holds
it longer serves the task."""


def adopt_mode(names: Iterable[str]) -> str:
    """Return the mode of a successor that gets the lock and the descriptors ``names``."""
    return ADOPT + ",".join((LOCK, *names))


def adopted_names(mode: str) -> list[str]:
    """Return the names of what a successor of ``mode`` gets; an older Milo's gives it no lock."""
    return mode.removeprefix(ADOPT).split(",")


def is_kept(mode: str) -> bool:
    """Whether a task process of this mode gets a keeper.

    Not that of an older Milo's plugin, which has a newer one's spawner where Milo's files were
    replaced while it ran: such a plugin asks for a successor without a lock.
    """
    return mode == RUN_KEPT or (mode.startswith(ADOPT) and LOCK in adopted_names(mode))
