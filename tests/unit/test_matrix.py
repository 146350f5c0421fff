"""The matrix of compatibility: its tables name what there is, and its page is what was run."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import attrs
import pytest

from tests.matrix import limits, page, results, run
from tests.matrix.limits import LIMITS, LOST
from tests.matrix.parts import DIMENSIONS
from tests.matrix.results import Cell
from tests.matrix.table import Feature, Part
from tests.support import commits, nomads, pythons
from tests.vm import results as vm

ROOT = Path(__file__).parents[2]
GREEN = Cell(2, 0, 1, 31, "2026-11-26", "abc1234", "skipped `test_x`: none")
SKIPPED = Cell(0, 0, 1, 31, "2026-11-26", "abc1234", "skipped `test_x`: none")
RED = Cell(2, 1, 0, 31, "2026-11-26", "abc1234", "`test_x`: AssertionError")


def test_every_named_test_exists() -> None:
    """Each id names a file of tests, or a function in one."""
    for dimension in DIMENSIONS:
        for test in (test for feature in dimension.features for test in feature.tests):
            path, _, function = test.partition("::")
            text = (ROOT / path).read_text()
            wanted = function.partition("[")[0]
            assert (
                re.search(rf"def {wanted}\(", text)
                if wanted
                else "scenarios(" in text or ("def test_" in text)
            ), test


def test_the_page_shows_what_was_run() -> None:
    """Nobody has edited the page: `./dev matrix -- --page` writes it anew."""
    assert page.FILE.read_text() == page.text(results.load())


def test_cells() -> None:
    """Green, red with its limit, and not run; each that was tried with its figures."""
    cells = {"exec": GREEN, "errors": RED, "volumes": SKIPPED}
    shown = page.text({("nomad", "2.0.5", name): cell for name, cell in cells.items()})
    for name, word in {
        "scenarios": "not run",
        "exec": "green",
        "errors": r"\*\*red\*\*",
        "volumes": "skipped",
    }.items():
        assert re.search(rf"^\| {name} \|( not run \|)+ {word} \|$", shown, re.MULTILINE)
    assert re.search(r"^- 2\.0\.5, errors: .*`test_x`: AssertionError", shown, re.MULTILINE)
    assert (
        "| 2.0.5 | exec | 2 | 0 | 1 | 31 | 2026-11-26 | abc1234 | skipped `test_x`: none |" in shown
    )


def test_the_page_begins_with_the_versions_that_were_tried() -> None:
    """Each once and in order, and none of which a cell is red."""
    parts = ("2.0.5", "1.10.5", "1.8.4"), ("25 packaged", "8 archive", "25 jlinked")
    cells = {("nomad", part, "exec"): GREEN for part in parts[0]}
    cells |= {("java", part, "heap"): GREEN for part in parts[1]}
    shown = page.text(cells | {("nomad", "1.8.4", "errors"): RED})
    assert "| Nomad | 1.6 to 2.0 | 1.10.5, 2.0.5 |" in shown
    assert "| Java | 8 to 25, a JDK or a JRE | 8, 25 |" in shown


def test_a_run_leaves_other_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what was tried is replaced."""
    monkeypatch.setattr(results, "FILE", tmp_path / "cells.json")
    first, second = ("nomad", "2.0.5", "exec"), ("nomad", "1.6.10", "exec")
    results.store({first: GREEN})
    results.store({second: RED})
    results.store({second: GREEN})
    assert results.load() == {first: GREEN, second: GREEN}
    assert json.loads((tmp_path / "cells.json").read_text())["nomad"]["2.0.5"]["exec"]


def test_limits_are_of_red_cells() -> None:
    """A limit that no longer holds is taken out."""
    cells = results.load()
    assert [key for key in LIMITS if key in cells and cells[key].green] == []


@pytest.mark.skipif(not (commits.ROOT / ".git").exists(), reason="no clone, but a copy")
def test_cells_are_of_commits_in_the_history() -> None:
    """Else nobody could look at what was tried: a rebase makes another commit of one."""
    noted = {
        one.strip().removesuffix("+")
        for commit in (*_of_cells(), *_of_machines())
        for one in commit.split(",")
    }
    assert commits.strangers(noted) == sorted(LOST & noted)
    assert noted >= LOST


def _of_cells() -> list[str]:
    return [cell.commit for cell in results.load().values()]


def _of_machines() -> list[str]:
    return [one.commit for tests in vm.load().values() for one in tests.values()]


def test_the_page_marks_what_ran_at_a_lost_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the table, beside the commit, and of a version that has nothing else; no other cell."""
    monkeypatch.setattr(limits, "LOST", {"abc1234"})
    new = attrs.evolve(GREEN, commit="def5678")
    cells = {
        ("nomad", "2.0.5", "exec"): GREEN,
        ("nomad", "2.0.5", "errors"): attrs.evolve(RED, commit="def5678, abc1234+"),
        ("nomad", "2.0.5", "stats"): new,
        ("nomad", "1.6.10", "exec"): GREEN,
        ("nomad", "1.8.4", "exec"): GREEN,
        ("nomad", "1.8.4", "stats"): new,
    }
    shown = page.text(cells)
    assert "| Nomad | 1.6 to 2.0 | 1.6.10 †, 1.8.4 |" in shown
    assert re.search(r"^\| exec \| green † \| green † \|.* green † \|$", shown, re.MULTILINE)
    assert re.search(r"^\| errors \|.* \*\*red\*\* † \|$", shown, re.MULTILINE)
    assert re.search(r"^\| stats \| not run \| green \|.* green \|$", shown, re.MULTILINE)
    assert "| 2026-11-26 | abc1234 † |" in shown
    assert "| 2026-11-26 | def5678 |" in shown


def test_the_page_counts_tests_of_machines_at_a_lost_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They count as what they were, and in a column of their own."""
    monkeypatch.setattr(limits, "LOST", {"abc1234"})
    old = vm.Result("passed", 1.0, "", "abc1234+", "2026-11-26")
    new = attrs.evolve(old, commit="def5678")
    monkeypatch.setattr(vm, "load", lambda: {"6.1": {"a::b": old, "a::c": new}})
    monkeypatch.setattr(vm, "counts", lambda: {"6.1": 3})
    assert "| 6.1 | 3 | 2 | 0 | 0 | 1 | 1 | abc1234+, def5678 |" in page.text({})


def test_report(tmp_path: Path) -> None:
    """Each cell has its own cases; failures come before skips; no report is a failure."""
    report = tmp_path / "report.xml"
    late = run.outcome(report, ("tests/t.py",), "it took too long")
    assert (late.failed, late.reason) == (1, "it took too long")
    report.write_text(
        '<testsuites><testsuite><testcase classname="tests.t" name="a[x]" time="1.6"/>'
        '<testcase classname="tests.t" name="b"><skipped message="no"/></testcase>'
        '<testcase classname="tests.t" name="c" time="2"><error message="x | y&#10;more"/>'
        '</testcase><testcase classname="tests.u" name="a"/></testsuite></testsuites>'
    )
    whole = run.outcome(report, ("tests/t.py",), "")
    assert (whole.passed, whole.failed, whole.skipped, whole.seconds) == (1, 1, 1, 4)
    assert whole.reason == "`c`: x / y"
    assert run.outcome(report, ("tests/t.py::a",), "").green
    assert run.outcome(report, ("tests/t.py::a[y]",), "").red


def test_nomads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are sorted as versions; NOMAD_BINS names nothing else; PATH is searched without it."""
    for version in ("1.10.5", "1.8.4"):
        file = tmp_path / f"nomad-{version}"
        file.write_text(f"#!/bin/sh\necho Nomad v{version}-dev\n")
        file.chmod(0o755)
    old, new = str(tmp_path / "nomad-1.8.4"), str(tmp_path / "nomad-1.10.5")
    monkeypatch.setenv("NOMAD_BINS", os.pathsep.join([new, old]))
    assert list(nomads.found().items()) == [("1.8.4", old), ("1.10.5", new)]
    monkeypatch.delenv("NOMAD_BINS")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert {"1.8.4", "1.10.5"} <= set(nomads.found())
    monkeypatch.setenv("NOMAD_BINS", "/bin/true")
    with pytest.raises(RuntimeError, match="is no Nomad"):
        nomads.found()


def test_cells_of_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only cells that were green and cheap are chosen, no more than there are, each once."""
    dear = attrs.evolve(GREEN, seconds=run.CHEAP_S + 1)
    known = {name: ("nomad", "2.0.5", name) for name in ("exec", "errors", "stats", "signals")}
    outcomes = zip(known.values(), (GREEN, RED, dear, GREEN), strict=True)
    monkeypatch.setattr(run, "load", lambda: dict(outcomes))
    part = Part("2.0.5", {})
    possible = [(key, part, Feature(name, "", ())) for name, key in known.items()]
    chosen = [key for key, _, _ in run.of_today(possible, 5)]
    assert sorted(chosen) == [known["exec"], known["signals"]]
    assert run.of_today([], 1) == []


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git here")
def test_a_part_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cell is red with the reason; what looks at it from outside runs here."""

    def nowhere() -> tuple[str, ...]:
        raise RuntimeError("debootstrap: no such suite")

    monkeypatch.setattr(run, "LOGS", run.ROOT / ".nox/matrix-test")
    part = Part("99, /usr", {}, python=nowhere)
    key = ("python", "99, /usr", "unit")
    [cell] = run._try([(key, part, Feature("unit", "", ("tests/unit/test_x.py",)))]).values()
    assert cell.red and cell.reason == "it cannot be had: debootstrap: no such suite"
    here = Feature("set-up", "", ("tests/unit/test_text.py",), outside=True)
    [cell] = run._try([(key, part, here)]).values()
    assert cell.green


def test_pythons_that_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name on PATH that starts none, as pyenv leaves them, is passed over."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    for place, text in (("python3.12", "exit 127"), ("versions/3.12.1/bin/python", "echo 3.12")):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    assert pythons.found() == {"3.12": f"{tmp_path}/versions/3.12.1/bin/python"}
