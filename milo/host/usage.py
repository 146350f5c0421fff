"""A task's resource use, sampled at an interval."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

import trio

from milo.core.report import TaskUsage
from milo.host import stats


async def follow_usage(
    task_id: str, cgroup_path: str, interval_s: float, ended: trio.Event
) -> AsyncGenerator[TaskUsage, None]:
    """Yield the use of a task now and then every ``interval_s`` seconds, until ``ended``.

    ``cgroup_path`` is the container's, relative to the hierarchy's root. The first sample
    has no percentages: they need a second one.
    """
    where = stats.locate(cgroup_path)
    mhz = stats.core_mhz()
    before: stats.Sample | None = None
    while not ended.is_set():
        now = stats.sample(where)
        cpu, memory = stats.usage(before, now, mhz)
        before = now
        yield TaskUsage(task_id=task_id, timestamp_s=time.time(), cpu=cpu, memory=memory)
        with trio.move_on_after(interval_s):
            await ended.wait()
