"""Taking turns where pytest-xdist runs tests side by side: one that measures runs alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

IS_SHARED = "PYTEST_XDIST_WORKER" in os.environ
"""Whether other processes run tests beside those of this one."""
PLACE = Path(__file__).parents[2] / ".nox"


@contextlib.contextmanager
def taken(*, alone: bool) -> Iterator[None]:
    """Hold off the other processes' tests if this one is to be ``alone``, else only such ones.

    Who waits to be alone holds the door, or others would go in before it again and again.
    """
    if not IS_SHARED:
        yield
        return
    PLACE.mkdir(exist_ok=True)
    with open(PLACE / "turns.door", "w") as door, open(PLACE / "turns.room", "w") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            # Also for a child that has been forked and holds the file.
            fcntl.flock(room, fcntl.LOCK_UN)
