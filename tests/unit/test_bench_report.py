"""The page that `nox -s bench` writes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bench import report

MIB = 1 << 20


def results(**parts: Any) -> dict[str, Any]:
    """What a run returns that has measured ``parts``."""
    return {"quick": False, "load": 0.1, "machine": {"Kernel": "6.1"}, **parts}


def memory(tasks: int, *, driver_rss: float = 0, task_pss: float = 0, marginal: float = 0) -> Any:
    """One row of the memory bench."""
    row = dict.fromkeys(
        ("driver_pss", "spawner_pss", "jvm_pss", "all_pss", "driver_cpu", "task_cpu"), 0.0
    )
    own = {"driver_rss": driver_rss, "task_pss": task_pss, "marginal_pss": marginal}
    return {"tasks": tasks, **row, **own}


@pytest.mark.parametrize(("median_s", "word"), [(0.3, "met"), (0.301, "**not met**")])
def test_a_target_is_met_or_missed_in_plain_words(median_s: float, word: str) -> None:
    """The page says for each figure whether its target was met, a miss included."""
    found = dict.fromkeys(("p99_s", "cpu_s", "interpreter_s"), 0.01)
    page = report.render(results(handshake={"times": 20, "median_s": median_s, **found}))
    row = f"| Exec to handshake line, median of 20 | <= 300 ms | {median_s * 1e3:.1f} ms | {word} |"
    assert row in page.splitlines()


def test_memory_is_judged_by_the_larger_of_both_figures() -> None:
    """A task's own pages and what all processes gained count, whichever is more."""
    rows = [memory(0, driver_rss=40 * MIB), memory(10, task_pss=2 * MIB, marginal=6 * MIB)]
    driver, task = report.targets(results(memory=rows))
    assert driver.met
    assert (task.met, task.measured) == (False, "6.0 MiB")


def test_what_was_not_measured_is_not_on_the_page() -> None:
    """A run of some parts renders without the others, and claims nothing of them."""
    page = report.render(results())
    assert "Throughput" not in page and "not met" not in page
    assert "| Kernel | 6.1 |" in page
