"""A plugin for pytest that shows each failure at once: a run that is cut short shows them too."""

from __future__ import annotations

import time

import pytest


def pytest_runtest_logstart(nodeid: str) -> None:
    """Say which test begins, and when: the machine's own clock since it was started."""
    print(f"\n[{time.monotonic():.0f} s] {nodeid} ", end="", flush=True)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Show the end of a failure's text."""
    if report.failed:
        print(f"\n{report.nodeid}: {report.when} failed\n{report.longreprtext[-3000:]}", flush=True)
