"""Waits until nobody else uses the processors, so that Milo is measured and not the machine.

A load average still has the bench's own work of the last minute in it. What the kernel counts in
/proc/stat has not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

LIMIT: Final = 0.1
"""The share of all processors that others may use. An agent at rest and a shell need 1 or 2 %."""
WINDOW_S: Final = 1.0
"""One measurement; the first one is also the pause after the part before."""
PATIENCE_S: Final = 60.0
"""How long is waited in all of a run, so that it keeps its bound."""

STAT: Final = Path("/proc/stat")


def busy_share(before: str, after: str) -> float:
    """Return the share of all processors' time that was used between two texts of /proc/stat.

    What the hypervisor gave to others (steal) is used, what waits for a disk is not: proc_stat(5).
    """
    first, second = _times(before), _times(after)
    total = sum(second) - sum(first)
    idle = sum(second[3:5]) - sum(first[3:5])
    return 1 - idle / total if total else 0.0


def _times(text: str) -> list[int]:
    # user nice system idle iowait irq softirq steal; what follows is in user and nice already.
    return [int(word) for word in text.partition("\n")[0].split()[1:9]]


def shares(patience_s: float) -> Iterator[float]:
    """Yield what others use of the processors, measured again and again for ``patience_s``."""
    end_s = time.monotonic() + patience_s
    while True:
        before = STAT.read_text()
        time.sleep(WINDOW_S)
        yield busy_share(before, STAT.read_text())
        if time.monotonic() >= end_s:
            return


class Quiet:
    """Waits before each part of a run, `PATIENCE_S` in all, and knows which began on a busy one."""

    def __init__(self, measure: Callable[[float], Iterable[float]] = shares) -> None:
        self._measure = measure
        self._left_s = PATIENCE_S
        self.loaded: dict[str, float] = {}
        """What others used when a part began that could wait no longer."""

    def wait(self, part: str) -> None:
        """Return once others use less than `LIMIT`, or when there is no more patience."""
        began_s, share = time.monotonic(), 1.0
        # One look is always taken.
        for share in self._measure(max(self._left_s, 0.0)):
            if share <= LIMIT:
                break
        else:
            self.loaded[part] = share
        self._left_s -= time.monotonic() - began_s


def warning(loaded: dict[str, float]) -> str:
    """Return a sentence about a run with parts that began on a busy machine; else nothing."""
    if not loaded:
        return ""
    parts = ", ".join(f"{part} ({share:.0%})" for part, share in loaded.items())
    return (
        f"LOADED: others used the processors when these parts began, and may have later: {parts}. "
        f"Their figures are not those of a machine that has nothing else to do. The limit is "
        f"{LIMIT:.0%}, after {PATIENCE_S:g} s of waiting."
    )
