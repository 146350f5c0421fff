"""Which commit of the project stands here: what was measured or tried is noted with it."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def current() -> str:
    """Return this tree's commit, abbreviated; with a ``+`` when a file differs from it.

    Pages and results that the tests themselves write do not count.
    """
    written = (":!docs/compatibility.*", ":!tests/vm/results.*")
    changed = _git("status", "--porcelain", "--", *written)
    return _git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def since(oldest: str) -> list[str]:
    """Return that commit and all after it, abbreviated."""
    later = _git("rev-list", "--abbrev-commit", f"{oldest}..HEAD").split()
    return [_git("rev-parse", "--short", oldest), *later]


def strangers(known: set[str]) -> list[str]:
    """Return which of these commits, abbreviated, are not in this tree's history."""
    mine = _git("rev-list", "HEAD").split()
    return sorted(one for one in known if not any(each.startswith(one) for each in mine))


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()
