"""The life-cycle table, without a process."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo.core.lifecycle import (
    FINAL,
    TRANSITIONS,
    Happening,
    IllegalTransitionError,
    Phase,
    advance,
)

ORDINARY = [
    (Happening.STARTED, Phase.RUNNING),
    (Happening.STOP_REQUESTED, Phase.STOPPING),
    (Happening.CONTAINER_EXITED, Phase.DRAINING),
    (Happening.DRAINED, Phase.EXITED),
]


def test_an_ordinary_life() -> None:
    """A task that is started, stopped and drained ends as exited."""
    phase = Phase.CREATING
    for happening, expected in ORDINARY:
        phase = advance(phase, happening)
        assert phase is expected


def test_a_start_that_fails() -> None:
    """A failed start is final."""
    assert advance(Phase.CREATING, Happening.START_FAILED) in FINAL


@pytest.mark.parametrize("phase", list(Phase))
def test_a_stop_is_always_allowed(phase: Phase) -> None:
    """Nomad may ask for a stop at any time, and again."""
    advance(phase, Happening.STOP_REQUESTED)


@pytest.mark.parametrize(
    ("phase", "happening"),
    [
        (Phase.RUNNING, Happening.STARTED),
        (Phase.CREATING, Happening.CONTAINER_EXITED),
        (Phase.EXITED, Happening.DRAINED),
        (Phase.RUNNING, Happening.DRAINED),
    ],
)
def test_nonsense_is_refused(phase: Phase, happening: Happening) -> None:
    """What cannot happen raises, and says what and when."""
    with pytest.raises(IllegalTransitionError, match=phase.value) as caught:
        advance(phase, happening)
    assert (caught.value.phase, caught.value.happening) == (phase, happening)


@given(st.lists(st.sampled_from(Happening)))
def test_no_way_leads_out_of_the_end(happenings: list[Happening]) -> None:
    """Whatever happens in whatever order, a final phase stays, and running comes only once."""
    phase, runs = Phase.CREATING, 0
    for happening in happenings:
        try:
            following = advance(phase, happening)
        except IllegalTransitionError:
            continue
        assert phase not in FINAL or following is phase
        runs += following is Phase.RUNNING
        phase = following
    assert runs <= 1


def test_the_table_is_complete() -> None:
    """Every phase has its row."""
    assert set(TRANSITIONS) == set(Phase)
