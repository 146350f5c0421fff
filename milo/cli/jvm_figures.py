"""What the JVMs of tasks count of themselves, asked for by the commands."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Final

import trio

from milo.core.java.jvm_figures import JvmFigures
from milo.errors import ControlError
from milo.host.task_client import TaskClient, observed
from milo.host.tasks import HostTask

PATIENCE_S: Final = 1.0
"""A task process that takes longer is stuck or stopped, and has no figures."""


def jvm_figures(tasks: Iterable[HostTask]) -> dict[str, JvmFigures]:
    """Return the figures by the ids of those ``tasks`` whose JVM and task process tell some."""
    return trio.run(_ask_all, list(tasks))


async def _ask_all(tasks: list[HostTask]) -> dict[str, JvmFigures]:
    found: dict[str, JvmFigures] = {}
    with trio.move_on_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(_ask, task, found)
    return found


async def _ask(task: HostTask, found: dict[str, JvmFigures]) -> None:
    async def status(client: TaskClient) -> None:
        if (jvm := (await client.status(figures=True)).jvm) is not None:
            found[task.id] = jvm

    with contextlib.suppress(ControlError):
        await observed(task.state_dir, status)


def gc_seconds(jvm: JvmFigures | None) -> float | None:
    """Return how long collections have stopped the application in all; None is not known."""
    known = [] if jvm is None else [one.seconds for one in jvm.gc if one.seconds is not None]
    return sum(known) if known else None
