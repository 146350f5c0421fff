"""Tries Milo on the parts that this machine has, and writes docs/compatibility.md.

    ./dev matrix -- [--dimension NAME] [--part NAME] [--feature NAME] [--today N] [--dry]
    ./dev matrix -- --page

Each of the first three may be repeated and leaves out all others of its kind. ``--today N`` takes N
of the cells that are green and cheap and need no download, others each day, and ``--dry`` writes
nothing. The exit status is 1 when a cell is red
without a limit in `tests.matrix.limits`.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import attrs

from tests.matrix import page
from tests.matrix.limits import LIMITS
from tests.matrix.parts import DIMENSIONS
from tests.matrix.results import Cell, Key, load, store
from tests.matrix.table import Feature, Part, this_python
from tests.support import commits

ROOT = Path(__file__).parents[2]
LOGS = ROOT / ".nox/matrix"
Try = tuple[Key, Part, Feature]
CHEAP_S = 60
"""What a cell may have taken to be chosen by ``--today``."""
REASON_CHARS = 300


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="./dev matrix --")
    parser.add_argument("--dimension", action="append", choices=[one.name for one in DIMENSIONS])
    parser.add_argument("--part", action="append")
    parser.add_argument("--feature", action="append")
    parser.add_argument("--today", type=int, metavar="N")
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--page", action="store_true", help="write the page anew and try nothing")
    options = parser.parse_args()
    if options.page:
        page.write()
        return 0
    chosen = [
        (key, part, feature)
        for key, part, feature in _possible(options.dimension, options.today is None)
        if (not options.part or part.name in options.part)
        and (not options.feature or feature.name in options.feature)
    ]
    if options.today is not None:
        chosen = of_today(chosen, options.today)
    if not chosen:
        print("There is nothing to try here. NOMAD_BINS names Nomads; see CONTRIBUTING.md.")
    bad = 0
    for together in _runs(chosen):
        cells = _try(together)
        if not options.dry:
            store(cells)
            page.write()
        for key, cell in cells.items():
            said = f"{cell.passed} passed, {cell.failed} failed, {cell.skipped} skipped"
            word = "green" if cell.green else "RED" if cell.red else "skipped"
            print(f"{' / '.join(key)}: {word}, {said}, {cell.seconds} s {cell.reason}", flush=True)
            bad += cell.red and key not in LIMITS
    return 1 if bad else 0


def _runs(chosen: list[Try]) -> list[list[Try]]:
    """Return what each run of pytest tries: one cell, or all of a part where that is cheaper."""
    shared = {one.name for one in DIMENSIONS if one.together}
    groups: dict[Key, list[Try]] = {}
    for key, part, feature in chosen:
        name = (*key[:2], "all") if key[0] in shared else key
        groups.setdefault(name, []).append((key, part, feature))
    return list(groups.values())


def _possible(names: list[str] | None, download: bool) -> Iterator[Try]:
    for dimension in (one for one in DIMENSIONS if not names or one.name in names):
        for part in dimension.find(download):
            for feature in dimension.features:
                if not feature.needs or feature.needs in part.env:
                    yield (dimension.name, part.name, feature.name), part, feature


def of_today(cells: list[Try], count: int) -> list[Try]:
    """Return ``count`` of the cells that are known to be green and cheap, in turn by the date."""
    known = load()
    cheap = [one for one in cells if (cell := known.get(one[0])) and _is_cheap(cell)]
    start = datetime.datetime.now(datetime.UTC).date().toordinal() * count
    return [cheap[(start + index) % len(cheap)] for index in range(min(count, len(cheap)))]


def _is_cheap(cell: Cell) -> bool:
    return cell.green and cell.seconds <= CHEAP_S


def _try(together: list[Try]) -> dict[Key, Cell]:
    """Run the tests of these cells, all of one part, and return how each cell ended."""
    LOGS.mkdir(parents=True, exist_ok=True)
    key, part, _ = together[0]
    name = "-".join(key if len(together) == 1 else key[:2])
    log = LOGS / f"{re.sub('[^a-zA-Z0-9.]+', '-', name)}.log"
    commit = commits.current()
    # The directory of the logs is seen on the machines of other releases, too.
    with tempfile.TemporaryDirectory(dir=LOGS) as temporary, log.open("wb") as output:
        report = Path(temporary) / "report.xml"
        try:
            python = this_python() if together[0][2].outside else part.python()
            command = [*python, *part.command, f"--junitxml={report}"]
            command += [test for _, _, feature in together for test in feature.tests]
            env = {**os.environ, "MILO_FULL": "1", **part.env}
            subprocess.run(
                command, cwd=ROOT, env=env, stdout=output, stderr=output, timeout=part.limit_s
            )
            words = f"pytest made no report; see {log.relative_to(ROOT)}"
        except RuntimeError as error:
            words = f"it cannot be had: {_first_line(str(error))}"
        except subprocess.TimeoutExpired:
            words = f"it took more than {part.limit_s} s"
        cells = {}
        for key, _, feature in together:
            cell = outcome(report, feature.tests, words)
            reason = cell.reason or part.notes.get(feature.name, "")
            cells[key] = attrs.evolve(cell, commit=cell.commit or commit, reason=reason)
    return cells


def outcome(report: Path, tests: tuple[str, ...], otherwise: str) -> Cell:
    """Return how these tests ended; without a report that is one failure.

    The commit is empty unless the report names it (`tests.vm.results`).
    """
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    if not report.exists():
        return Cell(0, 1, 0, 0, date, "", otherwise)
    passed = failed = skipped = 0
    seconds = 0.0
    reasons: list[str] = []
    of: set[str] = set()
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = case.get("name", "")
        if not any(_names(test, case.get("classname", ""), name) for test in tests):
            continue
        seconds += float(case.get("time", 0))
        of |= {case.get("commit", "")} - {""}
        bad = [*case.iter("failure"), *case.iter("error")]
        left_out = case.find("skipped")
        if bad:
            failed += 1
            reasons.insert(0, f"`{name}`: {_first_line(bad[0].get('message', ''))}")
        elif left_out is not None:
            skipped += 1
            reasons.append(f"skipped `{name}`: {left_out.get('message', '')}")
        else:
            passed += 1
    if not passed + failed + skipped:
        return Cell(0, 1, 0, 0, date, "", "no test was run")
    first = reasons[0] if reasons else ""
    return Cell(passed, failed, skipped, round(seconds), date, ", ".join(sorted(of)), first)


def _names(test: str, module: str, name: str) -> bool:
    """Return whether an id of pytest's names a case of a report."""
    path, _, function = test.partition("::")
    return path.removesuffix(".py").replace("/", ".") == module and (
        not function or function in (name, name.partition("[")[0])
    )


def _first_line(message: str) -> str:
    """Return the start of a failure's message, as text that cannot spoil a table."""
    line = message.strip().partition("\n")[0][:REASON_CHARS]
    return line.replace("|", "/").replace("<", "&lt;")


if __name__ == "__main__":
    sys.exit(main())
