"""The directories of the host that no task may see: Nomad's data and Milo's own state.

They hold other allocations, their secrets and tokens. Where an operator has put them below
/usr or another directory that tasks see, an empty file system hides them there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from milo import walk
from milo.core.container.mounts import Bind, is_inside, parents
from milo.core.launch import Launch
from milo.errors import PathError

NOMAD_PARTS = ("alloc", "alloc_mounts", "client", "host_volumes", "server")
"""What an agent keeps directly in its data_dir (Nomad's configuration reference: data_dir,
client.alloc_dir, alloc_mounts_dir, state_dir, host_volumes_dir)."""


def places(launch: Launch) -> tuple[str, ...]:
    """Return the directories to hide, symlinks resolved, none inside another.

    Nomad's data_dir is known by what lies in it: the directory above ``alloc_dir``'s. It does
    not matter whether it could be read anyway; mostly root alone can.
    """
    allocs = os.path.dirname(launch.alloc_dir)
    data = os.path.dirname(allocs)
    found = {os.path.dirname(launch.state_dir), launch.plugin.state_dir, allocs}
    if _directory(f"{data}/client"):
        found |= {f"{data}/{name}" for name in NOMAD_PARTS}
    real = {path for one in found if (path := _directory(one))}
    return tuple(sorted(path for path in real if not real & {*parents(path)}))


def masks(binds: Iterable[Bind], hidden: Iterable[str]) -> tuple[str, ...]:
    """Return the paths in the container where one of ``hidden`` would be seen.

    The task's own directories lie in hidden ones, and are themselves not touched.
    """
    found = []
    for bind in binds:
        for path in hidden:
            if bind.origin != "task" and path != bind.source and is_inside(path, bind.source):
                found.append(bind.destination.rstrip("/") + path[len(bind.source.rstrip("/")) :])
    return tuple(sorted(found))


def _directory(path: str) -> str:
    """Return the path of a directory without symlinks; empty when there is none."""
    with contextlib.suppress(PathError), walk.follow(path, walk.Kind.DIRECTORY) as held:
        return held.path
    return ""
