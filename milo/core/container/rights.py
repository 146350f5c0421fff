"""What Milo itself may do on its host: all that sets an ordinary user apart from root. Pure.

The same code makes both. It looks at a value of this table where the kernel refuses the one what it
grants the other.
"""

from __future__ import annotations

from typing import Final

import attrs

from milo.core.container.userns import Ids, maps


@attrs.frozen
class Rights:
    """What there is for one task; the defaults are root's."""

    ids: Ids | None = None
    """Of the container's user namespace; None is the host's."""
    cgroups: bool = True
    """Whether a container has cgroups of its own, and so limits that the kernel holds it to."""
    sysfs: bool = True
    """Whether /sys can be mounted, which takes rights in its network; else the host's is bound."""
    terminal_group: bool = True
    """Whether terminals can belong to the group that Debian has for them."""
    devices: bool = True
    """Whether there is a say over the host's devices: who owns one, and who opens it."""
    returns: bool = True
    """Whether a process that makes a PID namespace for its children can undo that."""
    limits: bool = True
    """Whether hard limits can be raised, and the OOM score lowered."""


TERMINALS: Final = 5
"""Debian's group of terminals, which crun gives them."""
ROOT: Final = Rights()


def ordinary(ids: Ids, *, cgroups: bool = False) -> Rights:
    """Return what an ordinary user has, with the ``ids`` that his containers are to have.

    ``cgroups``: a part of the hierarchy is his.
    """
    return Rights(
        ids=ids,
        cgroups=cgroups,
        sysfs=False,
        terminal_group=maps(ids.gids, TERMINALS),
        devices=False,
        returns=False,
        limits=False,
    )
