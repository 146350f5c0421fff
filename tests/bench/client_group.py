"""The control group that an agent, its plugin and Milo's task processes are in on a client.

systemd gives its services no share of the processors each, but all together one, as soon as Nomad
has turned the controller on. In a group that has a share, a priority counts among the processes of
the group; in the root group it counts within each session alone, and each task process is a session
of its own (autogroup; sched(7)).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from milo import cgroup_files
from milo.core.cgroup import Mode
from tests.support.cgroups import hand_on
from tests.support.waiting import wait_for

NAME: Final = "milo-bench"
PROCESSES: Final = "cgroup.procs"


@contextmanager
def as_on_a_client() -> Iterator[None]:
    """Be in such a group with what is started meanwhile; in none where there is no controller."""
    root = _root()
    if root is None:
        yield
        return
    group = root / NAME
    group.mkdir(exist_ok=True)
    (group / PROCESSES).write_text(str(os.getpid()))
    try:
        yield
    finally:
        # Whoever is moved may just have forked, and a process that ends is in it to its very end.
        wait_for("the group of the bench to be empty", lambda: _is_removed(group, root))


def _is_removed(group: Path, root: Path) -> bool:
    for pid in (group / PROCESSES).read_text().split():
        with suppress(ProcessLookupError):
            (root / PROCESSES).write_text(pid)
    try:
        group.rmdir()
    except OSError:
        return False
    return True


def leave() -> None:
    """Take this process out of it."""
    if (root := _root()) is not None:
        (root / PROCESSES).write_text(str(os.getpid()))


def _root() -> Path | None:
    """Return the directory of the root group that has the processors, where there is one."""
    hierarchy = cgroup_files.detect()
    directory = hierarchy.directory("cpu", "/")
    if directory is None or not (root := Path(directory)).is_dir():
        return None
    if hierarchy.mode is Mode.V2:
        hand_on(root, "cpu")
    return root
