"""What is counted of each task at one moment, for `milo.plugin.metrics`.

Nothing is counted while nobody asks. What the kernel counts is taken from Nomad's last sample of
the task, where there is a fresh one, and else read; everything else each task process is asked for
once, all of them at the same time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from typing import Final

import attrs
import trio

from milo import cgroup_files
from milo.core.control import Status
from milo.core.java.jvm_figures import JvmFigures
from milo.core.records import StreamCounters, TaskNames
from milo.errors import ControlError
from milo.host.managed import ManagedTask
from milo.host.stats import sampling
from milo.host.task_state import Running

PATIENCE_S: Final = 0.5
"""A task process that answers later, since it is stuck or stopped, has no figures this time."""
FRESH_NS: Final = 2_000_000_000
"""As old may a sample for Nomad be that is used again."""


@attrs.frozen
class TaskFigures:
    """One task that runs. None is what is not known."""

    namespace: str
    names: TaskNames
    sample: sampling.Sample
    memory_limit_bytes: int | None
    process_restarts: int
    """How often another task process has taken over, since this driver knows the task."""
    start_s: dict[str, float]
    """Seconds of each step of its start, as far as this driver has heard of them."""
    streams: dict[str, StreamCounters] = attrs.field(factory=dict)
    """By ``stdout`` and ``stderr``."""
    jvm: JvmFigures | None = None


@attrs.frozen
class _Place:
    """What stays as it is while a task runs."""

    source: sampling.Source
    memory_limit_bytes: int | None


class Figures:
    """Collects the figures of tasks, as often as it is asked to."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}

    async def collect(self, tasks: Iterable[ManagedTask]) -> list[TaskFigures]:
        """Return the figures of those ``tasks`` that run, within `PATIENCE_S`."""
        running = [task for task in tasks if isinstance(task.state, Running)]
        answers: dict[str, Status] = {}
        with trio.move_on_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                for task in running:
                    nursery.start_soon(_ask, task, answers)
        places, self._places = self._places, {}
        found = []
        for task in running:
            started = task.started
            if started is None or not isinstance(task.state, Running):
                continue  # it has ended meanwhile
            place = places.get(task.task_id) or _place(started.cgroup_path)
            self._places[task.task_id] = place
            found.append(_figures(task, place, answers.get(task.task_id)))
            await trio.lowlevel.checkpoint()  # RPCs come first
        return found


async def _ask(task: ManagedTask, answers: dict[str, Status]) -> None:
    with contextlib.suppress(ControlError):
        answers[task.task_id] = await task.connection.require().status(figures=True)


def _place(cgroup_path: str) -> _Place:
    limit = cgroup_files.memory_limit_bytes(cgroup_path) or None
    return _Place(sampling.locate(cgroup_path), limit)


def _figures(task: ManagedTask, place: _Place, status: Status | None) -> TaskFigures:
    sample = task.last_sample
    if sample is None or time.monotonic_ns() - sample.taken_ns > FRESH_NS:
        sample = sampling.sample(place.source)
    return TaskFigures(
        namespace=task.launch.namespace,
        names=task.launch.names,
        sample=sample,
        memory_limit_bytes=place.memory_limit_bytes,
        process_restarts=task.process_restarts,
        start_s=task.start_s,
        streams={} if status is None else {"stdout": status.stdout, "stderr": status.stderr},
        jvm=None if status is None else status.jvm,
    )
