"""The committed table of what tasks see and may do: read, compared, and written for people.

``python -m tests.support.security_table`` writes the table of ``docs/security.md`` anew.
``tests/data/security/expected.json`` has an entry for each fact: a value for each column, or one
for each version of cgroups; a list holds values that are all right, for the reason that the entry
gives as ``why``. ``null`` stands for a fact that the probe does not tell there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests/data/security/expected.json"
DOCUMENT = ROOT / "docs/security.md"
BEGIN = "<!-- table: written by python -m tests.support.security_table -->\n"
END = "<!-- end of table -->\n"
UNTOLD = "untold"

Value = str | list[str | None] | dict[str, str | list[str | None] | None] | None


def load() -> dict[str, Any]:
    """Return the table as it is committed."""
    table: dict[str, Any] = json.loads(DATA.read_text())
    return table


def columns() -> dict[str, str]:
    """Return the columns' names with their titles."""
    found: dict[str, str] = load()["columns"]
    return found


def differences(
    facts: Mapping[str, str],
    column: str,
    *,
    hierarchy: str,
    agent: Mapping[str, str],
    left_out: tuple[str, ...] = (),
) -> list[str]:
    """Return a line for each fact that is not as the table says, in either direction.

    ``hierarchy`` is ``v1`` or ``v2``. ``agent`` gives, by fact, what a value ``{agent}`` stands
    for: what the agent itself has. ``left_out`` are beginnings of keys that are not compared.
    """
    table = load()["facts"]
    lines = []
    for key in sorted({*facts, *table}):
        if key.startswith(left_out):
            continue
        told = facts.get(key, UNTOLD)
        if key not in table:
            lines.append(f"{key}: told {told!r}; the table has no such fact")
            continue
        allowed = [
            agent.get(key, value) if value == "{agent}" else value
            for value in _allowed(table[key], column, hierarchy)
        ]
        if told not in allowed:
            words = " or ".join(repr(value) for value in allowed)
            lines.append(f"{key}: told {told!r}; the table says {words}")
    return lines


def _allowed(entry: Mapping[str, Any], column: str, hierarchy: str) -> list[str]:
    value: Value = entry[column]
    if isinstance(value, dict):
        value = value[hierarchy]
    values = value if isinstance(value, list) else [value]
    return [UNTOLD if one is None else one for one in values]


def check(
    facts: Mapping[str, str],
    column: str,
    *,
    hierarchy: str,
    agent: Mapping[str, str],
    left_out: tuple[str, ...] = (),
) -> None:
    """Raise AssertionError with all `differences`, if there are any."""
    found = differences(facts, column, hierarchy=hierarchy, agent=agent, left_out=left_out)
    if found:
        raise AssertionError(
            f"{len(found)} facts of {column} (cgroup {hierarchy}) differ from {DATA.name}:\n"
            + "\n".join(found)
        )


def render() -> str:
    """Return the table in Markdown, one section after the other."""
    table = load()
    heads = list(table["columns"].values())
    parts = []
    for prefix, title in table["sections"].items():
        rows = list(_rows(table, prefix))
        head = ["", *heads, "why not one value"]
        parts.append(f"### {title}\n\n" + "".join(_line(row) for row in [head, None, *rows]))
    return "\n".join(parts)


def _rows(table: Mapping[str, Any], prefix: str) -> Iterator[list[str]]:
    """Yield the rows of one section; facts that are equal in every column share one."""
    merged: dict[tuple[str, ...], list[str]] = {}
    for key, entry in table["facts"].items():
        if key.partition(".")[0] in prefix.split():
            cells = [_cell(entry[column]) for column in table["columns"]]
            cells.append(entry.get("why", ""))
            merged.setdefault(tuple(cells), []).append(key)
    for found, keys in merged.items():
        yield [", ".join(f"`{key}`" for key in keys), *found]


def _cell(value: Value) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{version}: {_cell(one)}" for version, one in value.items())
    if isinstance(value, list):
        return " or ".join(_cell(one) for one in value)
    return "-" if value is None else value.replace("{agent}", "as the agent")


def _line(cells: list[str] | None) -> str:
    if cells is None:
        cells = ["---"] * (len(columns()) + 2)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def document() -> str:
    """Return docs/security.md with the table as the data says."""
    text = DOCUMENT.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin and end, f"{DOCUMENT} has no place for the table"
    return f"{before}{begin}\n{render()}\n{end}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
