"""What one check of ``milo doctor`` has found, and the result of all of them."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

import attrs


class Verdict(enum.Enum):
    """What a check came to."""

    OK = "ok"
    WARNING = "warning"
    """It works, with something missing."""
    FAILED = "failed"
    """Tasks fail, or the driver is not used."""
    SKIPPED = "skipped"
    """Not known; the finding says why."""


@attrs.frozen
class Finding:
    """One line of the report."""

    check: str
    verdict: Verdict
    found: str
    fix: str = ""
    """What to do; for every verdict but OK."""


def ok(check: str, found: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding(check, Verdict.OK, found)


def worst(findings: Sequence[Finding]) -> Verdict:
    """Return FAILED, WARNING or OK: what the report comes to."""
    for verdict in (Verdict.FAILED, Verdict.WARNING):
        if any(finding.verdict is verdict for finding in findings):
            return verdict
    return Verdict.OK


def count(findings: Sequence[Finding]) -> Mapping[Verdict, int]:
    """Return how many findings there are of each verdict."""
    return {one: sum(finding.verdict is one for finding in findings) for one in Verdict}
