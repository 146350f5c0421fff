"""A task's resource use, sampled at an interval."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import AsyncGenerator
from contextlib import closing
from typing import Final

import trio

from milo.core.report import TaskUsage
from milo.host import stats

MIN_INTERVAL_S: Final = 0.1
"""Nobody gets samples more often than that; Nomad's default is one a second."""

_core_mhz = functools.cache(stats.core_mhz)


async def follow_usage(
    task_id: str, cgroup_path: str, interval_s: float, ended: trio.Event
) -> AsyncGenerator[TaskUsage, None]:
    """Yield the use of a task now and then every ``interval_s`` seconds, until ``ended``.

    ``cgroup_path`` is the container's, relative to the hierarchy's root. The first sample
    has no percentages: they need a second one, which comes after half an interval at the
    earliest and one and a half at the latest.
    """
    mhz = _core_mhz()
    before: stats.Sample | None = None
    with closing(stats.Meter(stats.locate(cgroup_path))) as meter:
        while not ended.is_set():
            now = meter.sample()
            cpu, memory = stats.usage(before, now, mhz)
            before = now
            yield TaskUsage(task_id=task_id, timestamp_s=time.time(), cpu=cpu, memory=memory)
            with trio.move_on_at(_next_tick(trio.current_time(), interval_s)):
                await ended.wait()


def _next_tick(now_s: float, interval_s: float) -> float:
    """Return when the next sample is due: the same time for all tasks with one interval.

    Then the process wakes up once an interval and not once for every task, and what it sends
    leaves in one piece, to which the other side answers only once.
    """
    interval_s = max(interval_s, MIN_INTERVAL_S)
    return math.ceil((now_s + interval_s / 2) / interval_s) * interval_s
