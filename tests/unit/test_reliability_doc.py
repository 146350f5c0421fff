"""Pages that name the test which holds each promise; here that the tests exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/reliability.md").read_text()


@pytest.mark.parametrize("page", ["reliability.md", "production.md"])
def test_every_named_test_exists(page: str) -> None:
    """A promise whose test was renamed or removed is found here."""
    text = (ROOT / "docs" / page).read_text()
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    functions = set(re.findall(r"def (test_\w+)\(", sources))
    files = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    named = set(re.findall(r"`(test_\w+)`", text))
    assert named and named <= functions, f"no such test: {named - functions}"
    named_files = set(re.findall(r"`(test_\w+\.py)`", text))
    assert named_files <= files, f"no such file: {named_files - files}"


def test_every_promise_has_its_test() -> None:
    """No row of the tables is without a test, or the chaos run, in its last column."""
    promised = TEXT.partition("## The long chaos run")[0]  # after that come figures
    rows = [line for line in promised.splitlines() if line.startswith("| ") and "---" not in line]
    promises = [row for row in rows if not row.startswith("| what happens")]
    assert len(promises) > 30
    for row in promises:
        held_by = row.rstrip("| ").rpartition("|")[2]
        assert "`test_" in held_by or "chaos" in held_by, row
