"""Why cells are red, and what follows for users: one sentence a cell, shown on the page."""

from __future__ import annotations

from tests.matrix.results import Key

LIMITS: dict[Key, str] = {}
LOST = {"2748dec", "593429d", "7fd0369", "9ad1821"}
"""Commits that results note and the history has no more: those tests are to be run again."""


def is_lost(commits: str) -> bool:
    """Return whether the history has lost one of these commits, noted as ``abc1234+, def5678``."""
    return any(one.strip().removesuffix("+") in LOST for one in commits.split(","))
