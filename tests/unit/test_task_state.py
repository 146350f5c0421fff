"""What a driver knows of a task: the table and its values, without a process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo.core import control
from milo.core.lifecycle import IllegalTransitionError
from milo.core.records import ExitRecord, ProcessId
from milo.host import task_state
from milo.host.task_state import (
    FINAL,
    TRANSITIONS,
    Ended,
    Failed,
    Happening,
    Pending,
    Phase,
    Running,
    TaskState,
)

STARTED = control.Started(
    container=ProcessId(2**22, 1), container_id="milo-x", cgroup_path="/x", started_at_s=7.0
)
FAILED = control.StartFailed(text="Error: no JAR", recoverable=False)
RECORD = ExitRecord(exit_code=3, started_at_s=6.0, ended_at_s=9.0)

STATES: dict[Phase, TaskState] = {
    Phase.STARTING: Pending(),
    Phase.RECOVERING: Pending(started_at_s=5.0),
    Phase.RUNNING: Running(STARTED),
    Phase.STOPPING: Running(STARTED, stop_requested=True),
    Phase.FAILED: Failed(FAILED),
    Phase.ENDED: Ended(RECORD, STARTED, 7.0),
}
CHANGES: dict[Happening, Callable[[TaskState], TaskState]] = {
    Happening.STARTED: lambda state: task_state.started(state, STARTED),
    Happening.START_FAILED: lambda state: task_state.start_failed(state, FAILED),
    Happening.STOP_REQUESTED: task_state.stop_requested,
    Happening.ENDED: lambda state: task_state.ended(state, RECORD),
}


def test_every_phase_has_its_row_and_its_value() -> None:
    """The table and the values know the same phases."""
    assert set(TRANSITIONS) == set(Phase) == set(STATES)
    assert set(CHANGES) == set(Happening)
    assert all(state.phase is phase for phase, state in STATES.items())


@pytest.mark.parametrize("happening", list(Happening))
@pytest.mark.parametrize("phase", list(Phase))
def test_each_change_is_the_tables(phase: Phase, happening: Happening) -> None:
    """A change leads to the phase that the table names, or raises where it names none."""
    following = TRANSITIONS[phase].get(happening)
    if following is None:
        with pytest.raises(IllegalTransitionError, match=phase.value) as caught:
            CHANGES[happening](STATES[phase])
        assert (caught.value.phase, caught.value.happening) == (phase, happening)
    else:
        assert CHANGES[happening](STATES[phase]).phase is following


@given(st.lists(st.sampled_from(Happening)), st.sampled_from([Phase.STARTING, Phase.RECOVERING]))
def test_no_way_leads_out_of_the_end(happenings: list[Happening], first: Phase) -> None:
    """Whatever is heard in whatever order, the first word on the end stays."""
    state = STATES[first]
    for happening in happenings:
        try:
            following = CHANGES[happening](state)
        except IllegalTransitionError:
            continue
        assert state.phase not in FINAL or following is state
        state = following


def test_an_end_keeps_what_was_known_before() -> None:
    """What its process said of the start, and that Nomad had asked for the end."""
    running = task_state.started(Pending(), STARTED)
    stopping = task_state.stop_requested(running)
    again = task_state.started(stopping, STARTED)  # a successor's first word
    assert task_state.ended(again, RECORD) == Ended(RECORD, STARTED, 7.0, stop_requested=True)
    assert task_state.ended(running, RECORD) == Ended(RECORD, STARTED, 7.0)


@pytest.mark.parametrize(
    ("before", "record", "expected"),
    [
        (Pending(started_at_s=5.0), RECORD, 5.0),
        (Pending(started_at_s=0.0), RECORD, 6.0),
        (Pending(), RECORD, 6.0),
        (Pending(), ExitRecord(exit_code=-1, error="lost"), None),
    ],
)
def test_the_start_of_a_task_that_was_not_seen(
    before: Pending, record: ExitRecord, expected: float | None
) -> None:
    """A task that is recovered after its end has its start from the handle or the record."""
    state: Any = task_state.ended(before, record)
    assert (state.started, state.started_at_s) == (None, expected)
