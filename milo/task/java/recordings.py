"""The files of flight recordings: whether a Java can make one, and those of earlier starts."""

from __future__ import annotations

import contextlib
import re

from milo import walk
from milo.core.java.flight_recorder import FILE, LIST, REPOSITORY
from milo.core.launch import JavaRuntime, Launch
from milo.errors import PathError
from milo.walk import Held, Kind

KEPT = 2
"""Recordings of earlier starts that stay beside the new one."""
COMMERCIAL = b'BUILD_TYPE="commercial"'
MAX_RELEASE_BYTES = 16 * 1024
MAX_NAMES = 4096
"""So many entries of the directory are looked at."""


def can_record(launch: Launch, java: JavaRuntime) -> bool:
    """Whether a Java brings the recorder along: a JRE or an image of some modules may not."""
    for top in ("", "jre/"):
        with (
            contextlib.suppress(PathError),
            walk.hold(java.home, beneath=launch.alloc_dir, kind=Kind.DIRECTORY) as home,
            home.within(f"{top}lib/jfr", Kind.DIRECTORY) as settings,
        ):
            # Debian's is a symlink to /etc.
            if LIST in (name for name, _ in settings.names(MAX_NAMES)[0]):
                return True
    return False


def is_commercial(launch: Launch, java: JavaRuntime) -> bool:
    """Whether a Java is Oracle's 8, whose recorder wants an option that no other Java knows."""
    with (
        contextlib.suppress(PathError),
        walk.hold(f"{java.home}/release", beneath=launch.alloc_dir, kind=Kind.FILE) as release,
    ):
        return java.major == 8 and COMMERCIAL in release.read(MAX_RELEASE_BYTES)
    return False


def remove_old(launch: Launch, files: str) -> list[str]:
    """Remove all but the last `KEPT` recordings of the task's earlier starts; return their names.

    ``files`` is what the paths of this start's begin with in the container. Whatever cannot be
    removed stays: a task may have put anything there. The application's own files stay, too: only
    Nomad's id of a start makes a name Milo's.
    """
    task = files.rpartition("/")[2].rpartition("-")[0]
    pattern = re.compile(
        rf"{re.escape(task)}-[0-9a-f]{{8}}(?:{re.escape(REPOSITORY)}|{re.escape(FILE)})", re.ASCII
    )
    with (
        contextlib.suppress(PathError),
        walk.hold(
            f"{launch.shared_dir}/data", beneath=launch.alloc_dir, kind=Kind.DIRECTORY
        ) as data,
    ):
        starts: dict[str, float] = {}
        for name, _ in data.names(MAX_NAMES)[0]:
            if pattern.fullmatch(name):
                with contextlib.suppress(PathError), data.enter(name) as found:
                    start = name.removesuffix(REPOSITORY).removesuffix(FILE)
                    at = found.status.st_mtime
                    starts[start] = max(at, starts.get(start, at))
        old = sorted(starts, key=lambda start: starts[start])[:-KEPT]
        return [start for start in old if _remove(data, start)]
    return []


def _remove(data: Held, start: str) -> bool:
    """Remove what a start has left; return whether anything was."""
    removed = False
    with contextlib.suppress(PathError):
        data.remove(f"{start}{FILE}")
        removed = True
    with contextlib.suppress(PathError):
        data.remove_tree(f"{start}{REPOSITORY}")
        removed = True
    return removed
