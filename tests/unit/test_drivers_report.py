"""The section of the page of benchmarks that has Milo beside Nomad's java and raw_exec drivers."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.bench import drivers_report, report
from tests.bench.drivers_report import (
    first_table,
    kept_column,
    on_page,
    percentile,
    section,
    spread,
)
from tests.bench.drivers_runs import BULKS, DRIVERS, LINE, check_lines, delays, mains, wait_main
from tests.bench.report import COMPARISON, SCRAPES, STARTS

MIB = 1 << 20
OLD = f"""\
# Benchmarks

## Memory

figures
{STARTS}
first
{COMPARISON}
The default `chroot_env`: 2026-11-24, load 7 to 8.

| measured | `java`, default `chroot_env` | `milo` |
| --- | ---: | ---: |
| Start: task received to `main` | 17.5 s | 0.42 s |
| Disk: size of the task's directories | 6,027 MiB | 0.07 MiB |

### More

| measured | x |
| --- | --- |
| Start: task received to `main` | 1 s |
{SCRAPES}
scraped
"""


def task(main_s: float, **more: float) -> dict[str, float]:
    """What one start, restart and stop tell."""
    times = {"byte_s": main_s + 0.1, "restart_s": 2 * main_s, "stop_s": 0.3, "kill_s": 0.1}
    return {"main_s": main_s, **times, "disk_bytes": MIB, "own_bytes": 0, "files": 15, **more}


def results(**parts: Any) -> dict[str, Any]:
    """What a run returns: `java` takes 1, 2 and 9 s to start, the others a tenth of that."""
    ten = {"task_pss": 20 * MIB, "parent_pss": 19 * MIB, "node_pss": 43 * MIB}
    ten |= {"logmon_pss": 12 * MIB}
    output = {
        str(size): {"bytes_per_s": 250e6, "driver_cpu": 0.5, "logmon_cpu": 1.25} for size in BULKS
    }
    agent: dict[str, Any] = {"ready_s": 4.0}
    agent |= {driver: {"told_s": 4.5, "same": driver != "java"} for driver in DRIVERS}
    found = {
        "machine": dict.fromkeys(
            ("Date", "Processors", "Memory", "System", "cgroups", "Milo", "crun"), "some"
        ),
        "load": 0.12,
        "load_after": 1.5,
        "loaded": {},
        "nomad": "2.0.5",
        "java": "25",
        "tasks": {
            driver: [task(took * (1 if driver == "java" else 0.1)) for took in (9.0, 1.0, 2.0)]
            for driver in DRIVERS
        },
        "heap": dict.fromkeys(DRIVERS, 344 * MIB),
        "agents": [agent, {**agent, "java": {"told_s": 6.0, "same": True}}],
        "output": {driver: [output] for driver in DRIVERS},
        "delays": {key: [0.001 * number for number in range(1, 101)] for key in DRIVERS},
        "ten": {driver: {**ten, "delays_s": [0.02, 0.05]} for driver in DRIVERS},
        "default": None,
        "kept": {},
    }
    return {**found, **parts}


def lines(page: str = "", **parts: Any) -> list[str]:
    """Return the lines of the section of such a run."""
    return section(results(kept=kept_column(page), **parts), page).splitlines()


def test_each_driver_has_its_medians_and_its_slowest() -> None:
    """Of the starts, the restarts and the stops."""
    found = lines()
    assert "| to `main` | 2.00 s | 9.00 s | 0.20 s | 0.90 s | 0.20 s | 0.90 s |" in found
    row = "| `alloc restart` to the next `main` | 4.00 s | 18.00 s | 0.40 s | 1.80 s |"
    assert f"{row} 0.40 s | 1.80 s |" in found


def test_a_jvm_that_was_started_anew_is_named() -> None:
    """Beside how long the agent took to tell of each task again."""
    [row] = [line for line in lines() if line.startswith("| restart of the agent")]
    assert row.split(" | ")[1:] == [
        "5.25 s, the same JVM 1 of 2 times",
        "6.00 s",
        *("4.50 s, the same JVM", "4.50 s"),
        *("4.50 s, the same JVM", "4.50 s |"),
    ]


def test_memory_counts_what_is_once_a_node() -> None:
    """Milo's driver and spawner, with what ten tasks have; Nomad's drivers are in the agent."""
    found = lines()
    assert "| once a node | in the agent | in the agent | 43.00 MiB |" in found
    assert "| all of it with 10 tasks | 200 MiB | 200 MiB | 243 MiB |" in found
    assert "| Nomad's log collector, a task | 12.00 MiB | 12.00 MiB | 12.00 MiB |" in found


def test_output_has_a_row_for_each_size_and_number_of_tasks() -> None:
    """With what it cost, and milliseconds of a line's way."""
    found = lines()
    cells = ["8 KiB", *3 * ["250 MB/s"], *3 * ["0.50"], *3 * ["1.25"]]
    assert f"| {' | '.join(cells)} |" in found
    assert "| 1 | 1,000 | p50 | 50.0 | 50.0 | 50.0 |" in found
    assert "| 1 | 1,000 | p99 | 99.0 | 99.0 | 99.0 |" in found
    assert "| 10 | 100 | max | 50.0 | 50.0 | 50.0 |" in found


def test_every_table_says_how_it_was_measured() -> None:
    """In the first words of its part; the first lines tell the load."""
    found = section(results(), "")
    head, *parts = found.split("\n### ")
    assert head.startswith(f"{COMPARISON.strip()}\n\nLoad average before: 0.12, after: 1.50.\n")
    assert len(parts) == 6
    for part in parts:
        assert part.split("\n\n")[1].startswith("How it was measured: ")
        assert sum(line.startswith("| ---") for line in part.splitlines()) == 1
    assert max(len(line) for line in found.splitlines() if not line.startswith("|")) <= 100
    busy = section(results(loaded={"start": 0.9}), "")
    assert "**LOADED: others used" in busy.split("\n\n")[1]


def test_the_default_chroot_is_kept_until_it_is_measured_again() -> None:
    """Its column, and when it was measured; what was not measured then has no figure."""
    found = lines(OLD)
    assert "The default `chroot_env`: 2026-11-24, load 7 to 8." in found
    start = "| Start: task received to `main` |"
    assert f"{start} 17.5 s | 2.00 s | 0.20 s | 0.20 s |" in found
    assert "| Restart: asked for to the next `main` |  | 4.00 s | 0.40 s | 0.40 s |" in found
    again = lines(OLD, default={**task(15.0), "heap_bytes": 6028 * MIB})
    assert f"{start} 15.00 s | 2.00 s | 0.20 s | 0.20 s |" in again
    assert "The default `chroot_env`: some, load 0.12." in again
    assert "The default `chroot_env`: not measured." in lines()


def test_the_rest_of_the_page_stays() -> None:
    """The section replaces itself alone, and the other benches keep it."""
    text = section(results(kept=kept_column(OLD)), OLD)
    page = on_page(OLD, text)
    assert page == f"{OLD.partition(COMPARISON)[0]}\n{text.rstrip()}\n{SCRAPES}\nscraped\n"
    assert on_page(page, text) == page
    assert kept_column(page)["Disk: size of the task's directories"] == "6,027 MiB"
    assert report.kept(page) == page[page.index(STARTS) :]
    without = on_page(f"# Benchmarks\n{SCRAPES}\nscraped\n", text)
    assert without == f"# Benchmarks\n\n{text.rstrip()}\n{SCRAPES}\nscraped\n"
    assert on_page("# Benchmarks\n", text) == f"# Benchmarks\n\n{text.rstrip()}\n"


def test_other_pages_get_the_rows_that_they_have() -> None:
    """In their table of that head alone, and no row more."""
    page = on_page(OLD, section(results(kept=kept_column(OLD)), OLD))
    start = "Start: task received to `main`"
    other = f"text\n\n| measured | old |\n| --- | --- |\n| {start} | old |\n| Own | 1 |\n\n"
    apart = f"| what | old |\n| --- | --- |\n| {start} | old |\n"
    rows = {name: f"| {' | '.join([name, *cells])} |" for name, cells in first_table(page).items()}
    changed = other.replace("| measured | old |", rows["measured"])
    changed = changed.replace(f"| {start} | old |", rows[start])
    assert spread(other + apart, page) == changed + apart
    assert spread(changed, page) == changed


@pytest.mark.parametrize(
    ("percent", "value"), [(50, 2.0), (75, 3.0), (76, 4.0), (99, 4.0), (100, 4.0), (1, 1.0)]
)
def test_percentiles_are_values_that_were_measured(percent: float, value: float) -> None:
    """The least one that so many per cent do not exceed."""
    assert percentile([4.0, 2.0, 1.0, 3.0], percent) == value


def bulk(count: int) -> bytes:
    """Return what the application prints as fast as it can."""
    filler = b"." * 90 + b"\n"
    return b"".join(
        b"%016d %012d%s" % (0 if number else 99, number, filler) for number in range(count)
    )


def test_output_is_compared_byte_for_byte() -> None:
    """A byte that is another one is found anywhere, and so are bytes that are missing."""
    whole = bulk(100_002)
    check_lines(whole, 100_002)
    for place in (17, LINE + 3, len(whole) - 1):
        with pytest.raises(AssertionError):
            check_lines(whole[:place] + b"x" + whole[place + 1 :], 100_002)
    with pytest.raises(AssertionError):
        check_lines(whole[:-LINE], 100_002)


def test_delays_are_those_of_each_line(tmp_path: Path) -> None:
    """Though they come in pieces, from the place on that a log had; no line may be missing."""
    logs = [tmp_path / "a", tmp_path / "b"]
    sent = int((time.time() - 5) * 1e6)
    written = [b"%016d %012d....\n" % (sent, number) for number in range(3)]
    for log in logs:
        log.write_bytes(b"main 1 2\n" + written[0] + written[1][:20])

    def rest() -> None:
        for log in logs:
            with log.open("ab") as file:
                file.write(written[1][20:] + written[2])

    timer = threading.Timer(0.05, rest)
    timer.start()
    found = delays(logs, [9, 9], 3)
    timer.join()
    assert len(found) == 6
    assert 5 <= min(found) <= max(found) < 60
    logs[0].write_bytes(written[1])
    with pytest.raises(AssertionError):
        delays(logs[:1], [0], 1)


def test_each_start_is_seen_in_the_log(tmp_path: Path) -> None:
    """When its main method began, and the largest heap; a line must be whole."""
    log = tmp_path / "log"
    assert mains(log) == []
    log.write_bytes(b"main 1500000 64\n0000 line\nmain 2500000 128\nmain 35")
    assert mains(log) == [(1.5, 64), (2.5, 128)]
    assert wait_main(log, 2) == (2.5, 128)


def test_the_page_of_the_project_has_the_section() -> None:
    """Where it is, other benches keep it and the site draws it."""
    page = (Path(__file__).parents[2] / "docs/benchmarks.md").read_text()
    assert page.count(COMPARISON) == 1
    assert first_table(page)[drivers_report.MEASURED][0] == drivers_report.DEFAULT
    assert COMPARISON in report.kept(page)
