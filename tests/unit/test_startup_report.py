"""The section of first and second starts on the page of benchmarks, and what is drawn of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bench import report, startup_report

COMPARED = f"{report.COMPARISON}\n| | `java` |\n"
PAGE = f"# Benchmarks\n\n## Memory\n\nfigures\n{COMPARED}"
MIB = 1 << 20


def row(
    second_s: float, *, release: str = "25", app: str = "JRuby", ends: bool = True
) -> dict[str, Any]:
    """The starts of one application, which take 2 s without an archive; each way has two."""
    ways = {"plain": 2.0, "first": 3.0, "second": second_s}
    starts = {way: [(took / 2, took), (took / 2, took)] for way, took in ways.items()}
    return {"app": app, "release": release, "ends": ends, **starts}


def results(**parts: Any) -> dict[str, Any]:
    """What a run returns that has measured ``parts``."""
    machine = dict.fromkeys(("Date", "Processors", "cgroups", "Milo", "crun"), "some")
    state = {"load": 0.12, "load_after": 1.5, "others": [0.02, 0.04], "machine": machine}
    found = {"notes": [], "starts": [], "driver": [], "memory": [], "javas": {"25": "25.0.3"}}
    return {**state, **found, **parts}


def lines(**parts: Any) -> list[str]:
    """Return the lines of the section of such a run."""
    return startup_report.section(results(**parts)).splitlines()


@pytest.mark.parametrize(
    ("release", "second_s", "words"),
    [
        ("25", 1.5, "| <= -25 % | -25.0 % | met |"),
        ("25", 1.501, "| <= -25 % | -25.0 % | **not met** |"),
        ("21", 1.7, "| <= -10 % | -15.0 % | met |"),
        ("17", 1.9, "| <= -10 % | -5.0 % | **not met** |"),
        ("17", 2.5, "| <= -10 % | +25.0 % | **not met** |"),
    ],
)
def test_a_second_start_meets_its_target_or_not(release: str, second_s: float, words: str) -> None:
    """By a quarter on Java 25, by a tenth on others; nothing is rounded in its favour."""
    found = lines(starts=[row(second_s, release=release)])
    assert f"| JRuby, Java {release}: second start until ready {words}" in found


def test_the_first_line_tells_the_load() -> None:
    """And whether others used the machine meanwhile."""
    assert lines()[3].startswith("Load average before: 0.12, after: 1.50. The machine was quiet: ")
    busy = lines(others=[0.02, 0.11, 0.4])[3]
    assert "**The machine was not quiet, and the figures mean little**" in busy
    assert "others used 11% of the processors (median; at most 40%)" in busy


def test_each_application_has_its_figures() -> None:
    """One that ends has one row; a server has its first byte and its first answer."""
    page = PAGE[:14] + startup_report.section(
        results(starts=[row(1.0), row(1.5, app="WireMock", ends=False)])
    )
    found = startup_report.read(page)
    assert [(one["application"], one["until"], one["second start"]) for one in found] == [
        ("JRuby", "ready", "1.00 s"),
        ("WireMock", "first byte", "0.75 s"),
        ("WireMock", "ready", "1.50 s"),
    ]
    assert found[0]["`java -jar`"] == "2.00 s"
    assert found[0]["first start"] == "3.00 s"
    assert found[0]["second, against `java -jar`"] == "-50.0 %"
    assert startup_report.read(PAGE) == []


def test_both_drivers_are_compared() -> None:
    """Until the first byte and until ready."""
    starts = {"java": [(1.0, 2.0)], "milo": [(0.5, 1.5)]}
    found = lines(driver=[{"app": "JRuby", "release": "25", **starts}])
    assert "| JRuby | 25 | first byte | 1.00 s | 0.50 s | -50.0 % | 1 |" in found
    assert "| JRuby | 25 | ready | 2.00 s | 1.50 s | -25.0 % | 1 |" in found


def test_memory_has_a_row_for_each_java() -> None:
    """And an empty cell for what was not measured."""
    rows = [
        {"app": "WireMock", "instances": 10, "release": release, "way": way, "jvms_pss": 640 * MIB}
        for release, way in (("17", "no archive"), ("17", "archive"), ("25", "no archive"))
    ]
    found = lines(memory=rows)
    assert "| Java | no archive | archive |" in found
    assert "| 17 | 640 MiB | 640 MiB |" in found
    assert "| 25 | 640 MiB |  |" in found
    assert any("10 instances of WireMock that have answered" in line for line in found)


def test_what_was_not_measured_is_named() -> None:
    """With the reason, on one line; a run that has measured nothing claims nothing."""
    found = lines(notes=["Quarkus: mvn cannot\nbuild it"])
    assert "Not measured: Quarkus: mvn cannot build it" in found
    assert not any("met" in line.split() for line in found)


def test_what_was_not_measured_for_one_reason_is_one_sentence() -> None:
    """Each start of a driver fails for the same reason, and is not named on a line of its own."""
    notes = [f"app {number} by the driver milo: no archive" for number in range(15)]
    found = [line for line in lines(notes=[*notes, "memory: none"]) if "Not measured" in line]
    assert found == [
        "Not measured: app 0 by the driver milo, app 1 by the driver milo, app 2 by the driver "
        "milo and 12 more: no archive",
        "Not measured: memory: none",
    ]


def test_the_rest_of_the_page_stays() -> None:
    """The section is put before the last one, and in the place of its own the next time."""
    first = startup_report.section(results(starts=[row(1.0)]))
    second = startup_report.section(results(starts=[row(1.9)]))
    once = startup_report.put(PAGE, first)
    assert once == f"# Benchmarks\n\n## Memory\n\nfigures\n{first}{COMPARED}"
    assert startup_report.put(once, second) == f"{PAGE[: -len(COMPARED)]}{second}{COMPARED}"
    assert startup_report.put("# Benchmarks\n", first) == f"# Benchmarks\n{first}"


def test_a_new_page_keeps_what_other_benches_have_measured() -> None:
    """The starts and the comparison with the java driver, in this order."""
    section = startup_report.section(results(starts=[row(1.0)]))
    page = startup_report.put(PAGE, section)
    assert report.kept(page) == section + COMPARED
    assert report.kept(PAGE) == COMPARED
    assert report.kept("# Benchmarks\n") == ""
