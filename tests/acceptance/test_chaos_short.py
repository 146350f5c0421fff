"""The short form of the chaos run; `nox -s chaos` is the long one."""

from __future__ import annotations

import random

import attrs
import pytest

from tests.chaos.plan import SHORT
from tests.chaos.run import run, summary, table
from tests.support.agent import missing
from tests.support.jars import missing_tools


def test_no_fault_costs_a_byte_or_a_restart() -> None:
    """Each fault at least once, at random: no line is lost, repeated or out of order, no JVM lost.

    The seed is printed; `nox -s chaos -- --short --seed N` repeats a run, and judges the
    application's stalls too, for which a machine has to have little else to do.
    """
    if reason := missing() or missing_tools():
        pytest.skip(reason)
    plan = attrs.evolve(SHORT, seed=random.SystemRandom().randrange(1 << 32))
    outcome = run(plan, "chaos-short")
    print(table(summary(outcome)))
    assert not outcome.broken, f"seed {plan.seed}: " + "; ".join(outcome.broken)
