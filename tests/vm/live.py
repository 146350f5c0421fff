"""A plugin for pytest that tells each outcome at once: a run that is cut short tells them too.

``MILO_VM_OUTCOMES`` names the file that gets a line of JSON when a test begins, and another with
its outcome: see `tests.vm.results`.
"""

from __future__ import annotations

import json
import os
import time

import pytest

OUTCOMES = os.environ.get("MILO_VM_OUTCOMES") or os.devnull
_reports: list[pytest.TestReport] = []
"""Those of the test that runs: of its set-up, of itself, of what follows."""


def pytest_runtest_logstart(nodeid: str) -> None:
    """Say which test begins, and when: the machine's own clock since it was started."""
    print(f"\n[{time.monotonic():.0f} s] {nodeid} ", end="", flush=True)
    _reports.clear()
    _note({"test": nodeid})


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Show the end of a failure's text."""
    _reports.append(report)
    if report.failed:
        print(f"\n{report.nodeid}: {report.when} failed\n{report.longreprtext[-3000:]}", flush=True)


def pytest_runtest_logfinish(nodeid: str) -> None:
    """Note how the test ended: the first of its reports that did not pass says it."""
    worst = next((one for one in _reports if one.failed), None) or next(
        (one for one in _reports if one.skipped), _reports[-1]
    )
    reason = ""
    if worst.skipped and isinstance(worst.longrepr, tuple):
        reason = worst.longrepr[2].removeprefix("Skipped: ")
    elif worst.failed:
        crash = getattr(worst.longrepr, "reprcrash", None)
        reason = (crash.message if crash else worst.longreprtext).strip().partition("\n")[0]
    seconds = round(sum(one.duration for one in _reports), 1)
    _note({"test": nodeid, "outcome": worst.outcome, "seconds": seconds, "reason": reason})


def _note(line: dict[str, object]) -> None:
    with open(OUTCOMES, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
