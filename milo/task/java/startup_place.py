"""The directories in which JVMs record: each is made for one start, and cleared without a search.

Whatever else the application leaves in one is Nomad's to remove, with the allocation: a tenant's
files may be any number, and somebody else may go on making them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from typing import Final

from milo import walk
from milo.core.java.startup_cache import ARCHIVE, CONFIGURATION
from milo.core.launch import Launch
from milo.errors import PathError
from milo.task.root.volumes import enter_or_make
from milo.walk import Held, Kind

STAGING: Final = ".milo-startup"
"""In the allocation's directory, so that its disk is the one that a task can fill."""
MAX_LEFT: Final = 1000
"""So many directories of earlier starts are looked at."""
WRITTEN: Final = tuple(map(os.path.basename, (ARCHIVE, CONFIGURATION)))


def make_place(launch: Launch, owner: tuple[int, int]) -> str:
    """Make the directory for what the JVM records, of the task's user and nobody else.

    What a task process that was killed has left of the task's earlier starts is cleared. Raises
    `PathError`: the file system refuses.
    """
    task = launch.task_name
    with _staging(launch, enter_or_make) as staging:
        for name, _ in staging.names(MAX_LEFT)[0]:
            # No token has a dot, but another task's name may begin with this one's.
            if name.rpartition(".")[0] == task:
                _clear(staging, name)
        name = f"{task}.{secrets.token_hex(8)}"
        staging.make_directory(name, 0o700, owner).close()
    return f"{launch.alloc_dir}/{STAGING}/{name}"


def clear_place(launch: Launch, place: str) -> None:
    """Remove what a JVM has written into ``place``, and that itself if nothing else is there."""
    with contextlib.suppress(PathError), _staging(launch, Held.enter) as staging:
        _clear(staging, os.path.basename(place))


@contextlib.contextmanager
def _staging(launch: Launch, enter: Callable[[Held, str, Kind], Held]) -> Iterator[Held]:
    """Open the directory of all of the allocation's places, by a way to ``enter`` it."""
    with (
        walk.hold_directory(launch.alloc_dir) as alloc,
        enter(alloc, STAGING, Kind.DIRECTORY) as staging,
    ):
        yield staging


def _clear(staging: Held, name: str) -> None:
    with contextlib.suppress(PathError), staging.enter(name, Kind.DIRECTORY) as place:
        for written in WRITTEN:
            with contextlib.suppress(PathError):
                place.remove(written)
    with contextlib.suppress(PathError):
        staging.remove(name, directory=True)
