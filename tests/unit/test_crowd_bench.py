"""What the bench of a crowd of tasks says of its figures."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bench.crowd_bench import TOTALS, growth, lines


def row(tasks: int, power: float) -> dict[str, Any]:
    """Return a row whose totals grow with the number of tasks to ``power``."""
    names = ("start_p99_s", "driver_pss", "tasks_cpu", "shutdown_s", "inspect_p99_s")
    return {
        "tasks": tasks,
        "descriptors": 13 * tasks,
        **dict.fromkeys(names, 0.5),
        **dict.fromkeys(TOTALS, 3 * tasks**power),
    }


@pytest.mark.parametrize("power", [0.0, 1.0, 1.7])
def test_growth_is_the_power(power: float) -> None:
    """Of the number of tasks, from the smallest to the largest."""
    found = growth([row(10, power), row(50, 3.0), row(1000, power)])
    assert found == pytest.approx(dict.fromkeys(TOTALS, power))


def test_the_page_says_how_all_grow() -> None:
    """A line for each number of tasks, as wide as its head, and the powers below."""
    text = lines([row(10, 1.0), row(1000, 1.5)])
    table = [line for line in text if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1 and len(table) == 4
    assert table[2].startswith("| 10 |") and table[3].startswith("| 1,000 |")
    assert "From 10 to 1,000 tasks" in text[-2]
    assert all(f"{what} 1.75" in text[-2] for what in TOTALS.values())
