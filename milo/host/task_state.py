"""What a driver knows of one task: a table of phases, and a frozen value for each. Pure.

The task process knows more (`milo.core.lifecycle`). What the driver knows may be late, because it
may have lost the connection, and it may have to give the task up.
"""

from __future__ import annotations

import enum
from typing import Final

import attrs

from milo.core import control, records
from milo.core.lifecycle import follow


class Phase(enum.StrEnum):
    """How much is known."""

    STARTING = "starting"
    """A task process was asked for; it is not known yet whether the application runs."""
    RECOVERING = "recovering"
    """Another driver has had it started; its task process has not been heard yet."""
    RUNNING = "running"
    STOPPING = "stopping"
    """It runs, and Nomad has asked for its end."""
    FAILED = "failed"
    """It never ran."""
    ENDED = "ended"
    """It has ended, or it is known that nobody will ever know how."""


class Happening(enum.StrEnum):
    """What can become known of a task."""

    STARTED = "started"
    """Also the first word of a task process after a reconnection, and of a successor."""
    START_FAILED = "start failed"
    STOP_REQUESTED = "stop requested"
    ENDED = "ended"


TRANSITIONS: Final[dict[Phase, dict[Happening, Phase]]] = {
    Phase.STARTING: {
        Happening.STARTED: Phase.RUNNING,
        Happening.START_FAILED: Phase.FAILED,
        # So quickly that its start was not heard, or its process died before it could say more.
        Happening.ENDED: Phase.ENDED,
    },
    Phase.RECOVERING: {
        Happening.STARTED: Phase.RUNNING,
        Happening.ENDED: Phase.ENDED,
    },
    Phase.RUNNING: {
        Happening.STARTED: Phase.RUNNING,
        Happening.STOP_REQUESTED: Phase.STOPPING,
        Happening.ENDED: Phase.ENDED,
    },
    Phase.STOPPING: {
        Happening.STARTED: Phase.STOPPING,
        Happening.STOP_REQUESTED: Phase.STOPPING,
        Happening.ENDED: Phase.ENDED,
    },
    # Said again to a driver that connects again, or found out a second way: the first counts.
    Phase.FAILED: {
        Happening.START_FAILED: Phase.FAILED,
        Happening.ENDED: Phase.FAILED,
    },
    Phase.ENDED: {Happening.ENDED: Phase.ENDED},
}

FINAL: Final = frozenset({Phase.FAILED, Phase.ENDED})


@attrs.frozen
class Pending:
    """`Phase.STARTING`, or `Phase.RECOVERING` for a task that another driver has had started."""

    started_at_s: float | None = None
    """Unix time of the start, as Nomad's handle has it; None: nobody knows of one."""

    @property
    def phase(self) -> Phase:
        """Where the task is."""
        return Phase.STARTING if self.started_at_s is None else Phase.RECOVERING


@attrs.frozen
class Running:
    """`Phase.RUNNING` or `Phase.STOPPING`."""

    started: control.Started
    stop_requested: bool = False

    @property
    def phase(self) -> Phase:
        """Where the task is."""
        return Phase.STOPPING if self.stop_requested else Phase.RUNNING

    @property
    def started_at_s(self) -> float:
        """Unix time of the start."""
        return self.started.started_at_s


@attrs.frozen
class Failed:
    """`Phase.FAILED`."""

    told: control.StartFailed
    phase = Phase.FAILED
    started_at_s = None


@attrs.frozen
class Ended:
    """`Phase.ENDED`."""

    record: records.ExitRecord
    started: control.Started | None
    """None when this driver has not seen it run."""
    started_at_s: float | None
    """Unix time of the start; None when the application never ran."""
    stop_requested: bool = False
    phase = Phase.ENDED


TaskState = Pending | Running | Failed | Ended


def started(state: TaskState, told: control.Started) -> TaskState:
    """Return the state after the task process has said that the application runs.

    This and its likes raise `milo.core.lifecycle.IllegalTransitionError` for what cannot
    happen in the phase of ``state``.
    """
    phase = follow(TRANSITIONS, state.phase, Happening.STARTED)
    return Running(told, stop_requested=phase is Phase.STOPPING)


def start_failed(state: TaskState, told: control.StartFailed) -> TaskState:
    """Return the state after the task process has said that the application never ran."""
    follow(TRANSITIONS, state.phase, Happening.START_FAILED)
    return state if isinstance(state, Failed) else Failed(told)


def stop_requested(state: TaskState) -> TaskState:
    """Return the state after Nomad has asked for the task's end."""
    follow(TRANSITIONS, state.phase, Happening.STOP_REQUESTED)
    assert isinstance(state, Running)
    return attrs.evolve(state, stop_requested=True)


def ended(state: TaskState, record: records.ExitRecord) -> TaskState:
    """Return the state after ``record``, which says how the task ended; the first one counts."""
    if follow(TRANSITIONS, state.phase, Happening.ENDED) is state.phase:
        return state
    running = state if isinstance(state, Running) else None
    return Ended(
        record,
        started=None if running is None else running.started,
        started_at_s=state.started_at_s or record.started_at_s or None,
        stop_requested=running is not None and running.stop_requested,
    )
