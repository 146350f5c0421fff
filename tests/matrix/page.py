"""docs/compatibility.md, made of docs/compatibility.json."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.matrix.limits import LIMITS
from tests.matrix.parts import DIMENSIONS
from tests.matrix.results import Cell, Key, load
from tests.matrix.table import Dimension

FILE = Path(__file__).parents[2] / "docs/compatibility.md"
HEAD = """\
# Compatibility

Written by `./dev matrix` from what it has run. A cell is green when tests ran and all passed, red
when one failed, skipped when no test applies, and otherwise "not run". The command tries the parts
that it finds on the machine and leaves the other cells as they are.
"""


def write() -> None:
    """Write the page."""
    FILE.write_text(text(load()))


def text(cells: dict[Key, Cell]) -> str:
    """Return the page for these cells."""
    return "\n".join([HEAD, *(line for one in DIMENSIONS for line in _table(one, cells))])


def _table(dimension: Dimension, cells: dict[Key, Cell]) -> Iterator[str]:
    tried = [part for name, part, _ in cells if name == dimension.name]
    parts = sorted({*dimension.wanted, *tried}, key=_natural)
    features = dimension.features
    yield f"## {dimension.title}\n"
    yield f"{dimension.means}\n"
    yield f"| | {' | '.join(feature.name for feature in features)} |"
    yield "| --- |" + " --- |" * len(features)
    for part in parts:
        shown = [_word(cells.get((dimension.name, part, feature.name))) for feature in features]
        yield f"| {part} | {' | '.join(shown)} |"
    yield ""
    yield from (f"- {feature.name}: {feature.means}" for feature in features)
    yield ""
    known = [
        (part, feature.name, cells[key])
        for part in parts
        for feature in features
        if (key := (dimension.name, part, feature.name)) in cells
    ]
    red = [(part, name, cell) for part, name, cell in known if cell.red]
    if red:
        yield "Red, and what follows:\n"
        for part, name, cell in red:
            limit = LIMITS.get((dimension.name, part, name), "A fault that is not yet understood.")
            yield f"- {part}, {name}: {limit} ({cell.reason})"
        yield ""
    if known:
        yield "| part | tried | passed | failed | skipped | seconds | date | commit | |"
        yield "| --- |" + " --- |" * 8
        for part, name, cell in known:
            counts = f"{cell.passed} | {cell.failed} | {cell.skipped}"
            when = f"{cell.seconds} | {cell.date} | {cell.commit}"
            yield f"| {part} | {name} | {counts} | {when} | {'' if cell.red else cell.reason} |"
        yield ""


def _word(cell: Cell | None) -> str:
    if cell is None:
        return "not run"
    return "green" if cell.green else "**red**" if cell.red else "skipped"


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key by which 1.10.5 follows 1.8.4."""
    words = re.findall(r"\d+|\D+", name)
    return [(int(word), "") if word.isdigit() else (-1, word) for word in words]
