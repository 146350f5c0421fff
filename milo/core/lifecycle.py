"""The life cycle of one task, as a table. Nothing here does I/O.

The task process consults the table before it acts. So an impossible order of events (a second
start, an exit before a start) raises an error instead of leaking a container. The driver, which
knows less of a task, has a table of its own: `milo.host.task_state`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, TypeVar


class Phase(enum.StrEnum):
    """Where a task is. The value is what ``milo ps`` and InspectTask show."""

    CREATING = "creating"
    """Checks, bundle, ``crun create``: no application code has run."""
    RUNNING = "running"
    STOPPING = "stopping"
    """A stop was asked for; the container has its signal, SIGKILL follows at the deadline."""
    DRAINING = "draining"
    """The container is gone; its last output is on its way."""
    EXITED = "exited"
    FAILED = "failed"
    """It never started."""


class Happening(enum.StrEnum):
    """What can happen to a task."""

    STARTED = "started"
    START_FAILED = "start failed"
    STOP_REQUESTED = "stop requested"
    CONTAINER_EXITED = "container exited"
    DRAINED = "drained"


TRANSITIONS: Final[dict[Phase, dict[Happening, Phase]]] = {
    Phase.CREATING: {
        Happening.STARTED: Phase.RUNNING,
        Happening.START_FAILED: Phase.FAILED,
        # A stop may overtake the start; the start then ends in a failure.
        Happening.STOP_REQUESTED: Phase.CREATING,
    },
    Phase.RUNNING: {
        Happening.STOP_REQUESTED: Phase.STOPPING,
        Happening.CONTAINER_EXITED: Phase.DRAINING,
    },
    Phase.STOPPING: {
        # A second, more urgent stop is allowed.
        Happening.STOP_REQUESTED: Phase.STOPPING,
        Happening.CONTAINER_EXITED: Phase.DRAINING,
    },
    Phase.DRAINING: {
        Happening.STOP_REQUESTED: Phase.DRAINING,
        Happening.DRAINED: Phase.EXITED,
    },
    Phase.EXITED: {Happening.STOP_REQUESTED: Phase.EXITED},
    Phase.FAILED: {Happening.STOP_REQUESTED: Phase.FAILED},
}

FINAL: Final = frozenset({Phase.EXITED, Phase.FAILED})


class IllegalTransitionError(Exception):
    """Something happened that cannot happen in this phase: a bug in Milo."""

    def __init__(self, phase: enum.StrEnum, happening: enum.StrEnum) -> None:
        self.phase = phase
        self.happening = happening
        super().__init__(f"{happening.value!r} cannot happen while a task is {phase.value!r}")


_Phase = TypeVar("_Phase", bound=enum.StrEnum)
_Happening = TypeVar("_Happening", bound=enum.StrEnum)


def follow(
    table: Mapping[_Phase, Mapping[_Happening, _Phase]], phase: _Phase, happening: _Happening
) -> _Phase:
    """Return the phase that follows by ``table``.

    Raises:
        IllegalTransitionError: the table has no such transition.
    """
    try:
        return table[phase][happening]
    except KeyError:
        raise IllegalTransitionError(phase, happening) from None


def advance(phase: Phase, happening: Happening) -> Phase:
    """Return the task process's phase that follows; raises as `follow`."""
    return follow(TRANSITIONS, phase, happening)
