"""How the bench of RPCs under load counts what its processes have written down."""

from __future__ import annotations

from tests.bench.rpc_bench import Sample, phase_of
from tests.bench.stepped_plugin import Step


def step(ended_at_s: float, cpu_s: float) -> Step:
    """One long step of the driver's loop."""
    return Step(ended_at_s, seconds=1.0, cpu_s=cpu_s, name="a task", where=[])


def test_a_phase_has_the_calls_and_steps_that_ended_in_it() -> None:
    """The slowest hundredth says how much of its time was waited for a processor."""
    quick = [Sample(10 + n / 100, 0.01, 0.001, 0.002, 0.003) for n in range(198)]
    slow = [Sample(11.99, 1.0, 0.1, 0.7, 0.02), Sample(11.99, 1.0, 0.1, 0.9, 0.04)]
    other = [Sample(9.9, 5.0, 5.0, 5.0, 5.0), Sample(12.1, 5.0, 5.0, 5.0, 5.0)]
    steps = [step(9.0, 0.5), step(10.5, 0.02), step(11.0, 0.03), step(13.0, 0.5)]
    found = phase_of([*other, *quick, *slow], steps, 10.0, 12.0)
    assert (found["calls"], found["seconds"], found["max_s"]) == (200, 2.0, 1.0)
    assert (found["p50_s"], found["p99_s"]) == (0.01, 1.0)
    assert (found["worked_p99_s"], found["worked_max_s"]) == (0.02, 0.04)
    assert abs(found["driver_waited"] - 0.8) < 1e-9 and abs(found["client_waited"] - 0.1) < 1e-9
    assert found["longest_step"]["cpu_s"] == 0.03


def test_a_phase_without_a_long_step_has_none() -> None:
    """No step was as long as is written down."""
    found = phase_of([Sample(1.0, 0.5, 0.0, 0.0, 0.0)], [step(3.0, 0.1)], 0.0, 2.0)
    assert found["longest_step"] is None
