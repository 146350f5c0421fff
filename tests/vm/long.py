"""The full form: as many machines as it takes, and each test's result kept as it comes.

A machine is ended when its time is over or nothing was printed for too long; the next one goes on
with what has no result yet.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import attrs

from tests.support import commits
from tests.vm import results
from tests.vm.results import HUNG, Result

COLLECT_S = 300


@attrs.frozen
class At:
    """What results are noted with."""

    kernel: str
    commit: str


Boot = Callable[[list[str]], int | None]
"""Runs pytest with these words in a new machine; returns its exit status, None if there is none."""


def collected(words: list[str]) -> list[str]:
    """Return the ids of the tests that pytest finds for ``words``, in its order."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *words],
        cwd=commits.ROOT,
        env={**os.environ, "MILO_IN_VM": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COLLECT_S,
    )
    if done.returncode != 0:
        raise SystemExit(f"vm: pytest finds no tests\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return [line for line in done.stdout.splitlines() if line.startswith("tests/") and "::" in line]


def run(
    chosen: list[str], at: At, counting: list[str], boot: Boot, outcomes: Path, report: Path
) -> int:
    """Run the tests that are chosen and report how all of them ended; 1 when one did not pass.

    Those that have a result of a commit of ``counting`` with this kernel are not run again.
    ``outcomes`` is where `tests.vm.live` writes in the machine that ``boot`` runs.
    """
    known = {
        test: result
        for test, result in results.load().get(at.kernel, {}).items()
        if result.commit in counting
    }
    while left := [test for test in chosen if test not in known]:
        print(f"vm: {len(chosen) - len(left)} tests have a result, {len(left)} have none")
        outcomes.unlink(missing_ok=True)
        status = None
        try:
            status = boot(left)
        finally:
            new, running = results.read(outcomes, at.commit)
            results.store(at.kernel, new)
        if not running and not new:
            print(f"vm: no test was begun; the machine's status is {status}", flush=True)
            return 70
        if running and (status is None or not new):
            new[running] = Result(HUNG, 0, "the machine was ended", at.commit, results.today())
            results.store(at.kernel, new)
        known |= new
    ended = {test: known[test] for test in chosen}
    results.report(report, ended)
    return _tell(ended)


def _tell(ended: dict[str, Result]) -> int:
    bad = {test: one for test, one in ended.items() if one.outcome not in ("passed", "skipped")}
    for test, one in bad.items():
        print(f"{one.outcome.upper()} {test}: {one.reason[:300]}")
    counts = Counter(one.outcome for one in ended.values())
    failed = len(bad)
    print(f"{counts['passed']} passed, {failed} failed, {counts['skipped']} skipped", flush=True)
    return 1 if bad else 0
