"""The matrix of compatibility: its tables name what there is, and its page is what was run."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import attrs
import pytest

from tests.matrix import page, results, run
from tests.matrix.limits import LIMITS
from tests.matrix.parts import DIMENSIONS
from tests.matrix.results import Cell
from tests.matrix.table import Feature, Part
from tests.support import nomads

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
    assert re.search(
        r"^\| 2\.0\.5 \| not run \| green \|.*\*\*red\*\* \| skipped \|", shown, re.MULTILINE
    )
    assert re.search(r"^- 2\.0\.5, errors: .*`test_x`: AssertionError", shown, re.MULTILINE)
    assert (
        "| 2.0.5 | exec | 2 | 0 | 1 | 31 | 2026-11-26 | abc1234 | skipped `test_x`: none |" in shown
    )


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
