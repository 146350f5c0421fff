"""How fast this machine is, so that bounds on time can be those of an ordinary one."""

from __future__ import annotations

import os
import statistics
import time
from typing import Final

SCALE_NAME: Final = "MILO_TIME_SCALE"
ORDINARY_NS: Final = 30.0
"""A round of `_count` on the machine that the tests' bounds were written on (2026-11)."""
ROUNDS: Final = 100_000
TIMES: Final = 9
MAX_SLOWNESS: Final = 10.0
"""Nothing can be said of a machine that is slower still, and each bound holds something."""


def slowness() -> float:
    """Return by how much this machine is slower now than an ordinary one: 1 if it is not.

    It differs from hour to hour on a machine that is shared with others. Takes 30 to 100 ms.
    """
    times_ns = []
    for _ in range(TIMES):
        began_ns = time.perf_counter_ns()
        _count(ROUNDS)
        times_ns.append(time.perf_counter_ns() - began_ns)
    return round(min(MAX_SLOWNESS, max(1.0, statistics.median(times_ns) / ROUNDS / ORDINARY_NS)), 1)


def time_scale() -> float:
    """Return `slowness`, measured once for this process and all that it starts.

    ``MILO_TIME_SCALE`` in the environment says it without being measured.
    """
    if not (known := os.environ.get(SCALE_NAME)):
        known = os.environ[SCALE_NAME] = str(slowness())
    return float(known)


def _count(rounds: int) -> int:
    total = 0
    for number in range(rounds):
        total += number
    return total
