"""The page that `nox -s bench` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bench import report

MIB = 1 << 20


def results(**parts: Any) -> dict[str, Any]:
    """What a run returns that has measured ``parts``."""
    head = {"quick": False, "load": 0.1, "machine": {"Kernel": "6.1"}, "loaded": {}, "took_s": {}}
    return {**head, **parts}


def memory(
    tasks: int,
    *,
    driver_rss: float = 0,
    task_pss: float = 0,
    marginal: float = 0,
    python: str = "3.11",
) -> Any:
    """One row of the memory bench."""
    row = dict.fromkeys(
        ("driver_pss", "spawner_pss", "jvm_pss", "all_pss", "driver_cpu", "task_cpu"), 0.0
    )
    own = {"driver_rss": driver_rss, "task_pss": task_pss, "marginal_pss": marginal}
    return {"python": python, "tasks": tasks, "idle_s": 10.0, **row, **own}


@pytest.mark.parametrize(("median_s", "word"), [(0.17, "met"), (0.171, "**not met**")])
def test_a_target_is_met_or_missed_in_plain_words(median_s: float, word: str) -> None:
    """The page says for each figure whether its target was met, a miss included."""
    found = dict.fromkeys(("p99_s", "cpu_s", "interpreter_s"), 0.01)
    page = report.render(results(handshake={"times": 20, "median_s": median_s, **found}))
    row = f"| Exec to handshake line, median of 20 | <= 170 ms | {median_s * 1e3:.1f} ms | {word} |"
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


def page_with(task_mib: float) -> str:
    """Return a page whose task processes have ``task_mib`` at 10 tasks."""
    rows = [memory(0, driver_rss=40 * MIB), memory(10, task_pss=int(task_mib * MIB), marginal=MIB)]
    return report.render(results(memory=rows))


def test_a_task_process_that_grows_by_a_tenth_fails_the_run() -> None:
    """Compared with the page that the last run wrote, at the same number of tasks."""
    before = page_with(5.0)
    for size, count in ((5.4, 0), (5.6, 1)):
        rows = [memory(10, task_pss=int(size * MIB), marginal=0)]
        assert len(report.growth(results(memory=rows), before)) == count
    rows = [memory(100, task_pss=90 * MIB, marginal=0)]
    assert report.growth(results(memory=rows), before) == [], "the page says nothing of 100"
    rows = [memory(10, task_pss=90 * MIB, marginal=0, python="3.13")]
    assert report.growth(results(memory=rows), before) == [], "nor of another Python"
    assert report.growth(results(), before) == []


def test_the_page_of_the_project_has_what_a_run_is_compared_with() -> None:
    """Of 10 tasks and of 100, with and without immortal objects."""
    page = (Path(__file__).parents[2] / "docs/benchmarks.md").read_text()
    for python in ("3.11", "3.13"):
        rows = [memory(count, task_pss=99 * MIB, python=python) for count in (10, 100)]
        ten, hundred = report.growth(results(memory=rows), page)
        assert "99.0 MiB" in ten and f"At 100 tasks with Python {python} " in hundred


def test_every_table_says_how_it_was_measured() -> None:
    """In the first words of its section, and how long each part has taken in the first table."""
    times = dict.fromkeys(("p99_s", "cpu_s", "interpreter_s", "median_s"), 0.01)
    of_pump = {"bytes_per_s": 1.0, "cpu_s_per_gib": 1.0, "of_none": 1.0, "cpu_of_loop": 1.0}
    steps = dict.fromkeys(("start_task", "first_byte", "jvm_alone", *report.STEPS), times)
    page = report.render(
        results(
            pump=[{"write_bytes": size, "way": "pump", **of_pump} for size in (120, 65536)],
            latency=[latency("none", 1000.0), latency("pump", 998.0)],
            handshake={"times": 20, **times},
            start={"times": 40, **steps},
            rpc={"tasks": 100, **dict.fromkeys(report.RPC_PHASES, rpc(0.05))},
            memory=[memory(0)],
            took_s={"pump": 61.0, "latency": 5.4},
        )
    )
    _, *sections = page.split("\n## ")
    names = [section.partition("\n")[0] for section in sections]
    assert names[0] == "Targets" and len(names) == 7
    for section in sections[1:]:
        assert section.split("\n\n")[1].startswith("How it was measured: ")
    assert "| Minutes taken | 1:06: pump 1:01, latency 0:05 |" in page.splitlines()


def rpc(p99_s: float, longest_step: Any = None) -> dict[str, Any]:
    """What the RPC bench tells of one of its phases."""
    shares = {"client_waited": 0.1, "driver_waited": 0.8, "driver_worked": 0.1}
    times = dict.fromkeys(("seconds", "p50_s", "max_s", "worked_p99_s", "worked_max_s"), 0.01)
    return {**times, **shares, "p99_s": p99_s, "calls": 99, "longest_step": longest_step}


def test_rpcs_under_load_have_a_target_each() -> None:
    """While many start, while they run, and while they stop; the longest step is told."""
    phases = {"start": rpc(0.05), "rest": rpc(0.049), "stop": rpc(0.01, {"cpu_s": 0.0121})}
    found = results(rpc={"tasks": 100, **phases})
    assert [target.met for target in report.targets(found)] == [False, True, True]
    cells = ("while 100 tasks stop at once", "0.0", "99", *(5 * ("10.0",)), "80%", "12.1")
    assert f"| {' | '.join(cells)} |" in report.render(found).splitlines()


def latency(way: str, sent_per_s: float) -> dict[str, Any]:
    """One row of the latency bench, 1,000 lines a second having been asked for."""
    delays = dict.fromkeys(("p50_ms", "p99_ms", "p999_ms", "max_ms"), 0.5)
    row = {"pumps": 10, "lines_per_s": 1000, "way": way, "cpu_share": 1.5}
    return {**row, **delays, "sent_per_s": sent_per_s}


def test_a_pace_that_was_not_kept_is_on_the_page() -> None:
    """A row of 1,000 lines a second that had 138 says so; a percent less is all of them."""
    page = report.render(results(latency=[latency("none", 998.0), latency("pump", 138.2)]))
    cells = [line.split(" | ")[1] for line in page.splitlines() if line.startswith("| 10 |")]
    assert cells == ["1,000", "1,000 (got 138)"]
