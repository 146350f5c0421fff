"""A task's resource use, sampled at an interval."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import closing
from typing import Final

import trio

from milo import proc
from milo.core.report import TaskUsage
from milo.host.stats import sampling

MIN_INTERVAL_S: Final = 0.1
"""Nobody gets samples more often than that; Nomad's default is one a second."""

_core_mhz = functools.cache(proc.core_mhz)


class Ticks:
    """Wakes up all that wait for samples with the same interval at the same time.

    Then the process wakes up once an interval and not once for every task, and what it sends
    leaves in one piece, to which the other side answers only once. Nothing runs while nobody
    waits: the first to wait for a moment sleeps, the others wait for that one.
    """

    def __init__(self) -> None:
        self._coming: dict[float, trio.Event] = {}

    async def wait_next(self, interval_s: float) -> None:
        """Return after ``interval_s``, give or take the half of it when called the first time."""
        interval_s = max(interval_s, MIN_INTERVAL_S)
        at_s = math.ceil((trio.current_time() + interval_s / 2) / interval_s) * interval_s
        while trio.current_time() < at_s:
            coming = self._coming.get(at_s)
            if coming is not None:
                await coming.wait()
                continue
            coming = self._coming[at_s] = trio.Event()
            try:
                await trio.sleep_until(at_s)
            finally:
                # When this one is cancelled, another one sleeps on.
                del self._coming[at_s]
                coming.set()


async def follow_usage(
    task_id: str,
    cgroup_path: str,
    interval_s: float,
    ended: trio.Event,
    ticks: Ticks,
    keep: Callable[[sampling.Sample], None] = lambda _: None,
) -> AsyncGenerator[TaskUsage, None]:
    """Yield the use of a task now and then every ``interval_s`` seconds, until ``ended``.

    ``cgroup_path`` is the container's, relative to the hierarchy's root. The first sample
    has no percentages: they need a second one, which comes after half an interval at the
    earliest and one and a half at the latest. The end is noticed when the next one is due.
    ``keep`` gets each sample before anything is made of it.
    """
    mhz = _core_mhz()
    before: sampling.Sample | None = None
    with closing(sampling.Meter(sampling.locate(cgroup_path))) as meter:
        while not ended.is_set():
            now = meter.sample()
            keep(now)
            cpu, memory = sampling.usage(before, now, mhz)
            before = now
            yield TaskUsage(task_id, time.time(), cpu, memory)
            await ticks.wait_next(interval_s)
