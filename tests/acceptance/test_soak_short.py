"""The short form of the soak, a test of the tool; `nox -s soak` is the long one."""

from __future__ import annotations

import pytest

from tests.soak.report import table
from tests.soak.run import run
from tests.support.agent import missing
from tests.support.jars import missing_tools


def test_a_short_soak_works() -> None:
    """Tasks come and go, logs rotate, the agent is restarted both ways, and nothing grows."""
    if reason := missing() or missing_tools():
        pytest.skip(reason)
    outcome = run(1.5, cycle_s=5, restart_s=25)
    print(table(outcome.figures))
    assert not outcome.problems, outcome.problems
    assert outcome.tasks >= 6 and outcome.restarts >= 2 and outcome.rotations >= 2
    assert all(figure.points for figure in outcome.figures)
