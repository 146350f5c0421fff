"""The full form of the virtual machine: which tests each machine gets, and what is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.matrix.run import outcome
from tests.vm import long, results
from tests.vm.long import At

AT = At("6.1.0-1-amd64", "abc1234")
CHOSEN = ["tests/a.py::one", "tests/a.py::two", "tests/b.py::three"]


@pytest.fixture(autouse=True)
def own_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of this test's own."""
    monkeypatch.setattr(results, "FILE", tmp_path / "results.json")


@pytest.fixture
def machines(tmp_path: Path) -> Callable[..., list[list[str]]]:
    """Runs with machines that do what the test says, and returns what each was given."""

    def run(*acts: tuple[int | None, list[str]], counting: tuple[str, ...] = ()) -> list[list[str]]:
        """Each of ``acts`` has a machine's status, and how its tests end: else they only begin."""
        outcomes = tmp_path / "outcomes"
        given: list[list[str]] = []
        following = iter(acts)

        def boot(tests: list[str]) -> int | None:
            given.append(tests)
            status, ends = next(following)
            lines = []
            for test, end in zip(tests, ends, strict=False):
                lines.append(json.dumps({"test": test}))
                if end != "begun":
                    ended = {"test": test, "outcome": end, "seconds": 2.5, "reason": ""}
                    lines.append(json.dumps(ended))
            outcomes.write_text("".join(f"{line}\n" for line in lines))
            return status

        report = tmp_path / "reports/vm.xml"
        given.append([str(long.run(CHOSEN, AT, list(counting), boot, outcomes, report))])
        return given

    return run


def test_report(machines: Callable[..., list[list[str]]], tmp_path: Path) -> None:
    """`./dev matrix` reads it as one of pytest's, with the commit of each result."""
    machines((1, ["passed", "failed", "skipped"]))
    cell = outcome(tmp_path / "reports/vm.xml", ("tests/a.py", "tests/b.py::three"), "")
    assert (cell.passed, cell.failed, cell.skipped) == (1, 1, 1)
    assert cell.commit == AT.commit
    assert cell.seconds == 8


def ends() -> dict[str, str]:
    return {test: one.outcome for test, one in results.load()[AT.kernel].items()}


def test_all_in_one_machine(machines: Callable[..., list[list[str]]]) -> None:
    """One that skips is no fault; one that failed is."""
    assert machines((0, ["passed", "skipped", "passed"])) == [CHOSEN, ["0"]]
    assert machines((1, ["passed", "failed", "passed"])) == [CHOSEN, ["1"]]
    assert [ends()[test] for test in CHOSEN] == ["passed", "failed", "passed"]


def test_a_machine_whose_time_is_over(machines: Callable[..., list[list[str]]]) -> None:
    """The test that was interrupted is the next one's first; twice, and it counts as hung."""
    given = machines((2, ["passed", "begun"]), (2, ["begun"]), (0, ["passed"]))
    assert given == [CHOSEN, CHOSEN[1:], CHOSEN[2:], ["1"]]
    assert [ends()[test] for test in CHOSEN] == ["passed", "hung", "passed"]


def test_a_machine_that_hangs(machines: Callable[..., list[list[str]]]) -> None:
    """The test that ran counts as hung, and a fresh machine goes on behind it."""
    assert machines((None, ["begun"]), (0, ["passed"] * 2)) == [CHOSEN, CHOSEN[1:], ["1"]]


def test_a_machine_that_begins_no_test(machines: Callable[..., list[list[str]]]) -> None:
    """There is not a second one."""
    assert machines((None, [])) == [CHOSEN, ["70"]]


def test_resume(machines: Callable[..., list[list[str]]]) -> None:
    """What has a result of a commit that counts is not run again; of another it is."""
    assert machines((None, ["passed"]), (0, ["failed", "passed"]))[-1] == ["1"]
    assert machines(counting=("abc1234",)) == [["1"]]
    assert machines((0, ["passed"] * 3), counting=("fff0000",)) == [CHOSEN, ["0"]]
