"""The outcomes in docs/compatibility.json. A run replaces only the cells that it has tried."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import attrs

FILE = Path(__file__).parents[2] / "docs/compatibility.json"
Key = tuple[str, str, str]
"""Dimension, part, feature."""


@attrs.frozen
class Cell:
    """How the tests of one feature ended on one part."""

    passed: int
    failed: int
    skipped: int
    seconds: int
    date: str
    """ISO 8601, UTC."""
    commit: str
    """Abbreviated; with a ``+`` when the tree was changed."""
    reason: str = ""
    """Which test failed first and with what words, why tests were skipped, or what was met."""

    @property
    def green(self) -> bool:
        """Whether something passed and nothing failed."""
        return self.passed > 0 and self.failed == 0

    @property
    def red(self) -> bool:
        """Whether something failed."""
        return self.failed > 0


def load() -> dict[Key, Cell]:
    """Return the cells that were ever tried."""
    if not FILE.exists():
        return {}
    return {
        (dimension, part, feature): Cell(**cell)
        for dimension, parts in json.loads(FILE.read_text()).items()
        for part, features in parts.items()
        for feature, cell in features.items()
    }


def store(cells: dict[Key, Cell]) -> None:
    """Add these cells to the file, or replace them there, also while another run does the same."""
    directory = os.open(FILE.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        tree: dict[str, dict[str, dict[str, object]]] = {}
        for (dimension, part, feature), cell in {**load(), **cells}.items():
            tree.setdefault(dimension, {}).setdefault(part, {})[feature] = attrs.asdict(cell)
        FILE.write_text(json.dumps(tree, indent=1, sort_keys=True) + "\n")
    finally:
        os.close(directory)
