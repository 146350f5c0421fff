"""tests/conformance/README.md names the test that holds each behaviour; here that it is whole."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
TEXT = (TESTS / "conformance/README.md").read_text()
HELD, NOT_HELD = TEXT.split("## Not held")


def functions(folder: Path) -> set[str]:
    """Return the names of the tests below a folder."""
    sources = (path.read_text() for path in folder.rglob("test_*.py"))
    return {name for source in sources for name in re.findall(r"def (test_\w+)\(", source)}


def rows(text: str) -> list[str]:
    """Return the rows of the tables, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [line for line in lines if not line.startswith(("| ---", "| behaviour |"))]


def test_every_named_test_exists() -> None:
    """A behaviour whose test was renamed or removed is found here."""
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert named <= functions(TESTS), named - functions(TESTS)


def test_every_test_of_the_folder_is_named() -> None:
    """No test of the folder holds a behaviour that the table does not have."""
    own = functions(TESTS / "conformance")
    assert own and all(f"`{name}`" in HELD for name in own)


def test_every_behaviour_is_held_or_has_a_reason() -> None:
    """Each row ends with a test, or with why there is none."""
    assert len(rows(HELD)) > 50
    for row in rows(HELD):
        assert "`test_" in row.rstrip("| ").rpartition("|")[2], row
    for row in rows(NOT_HELD):
        assert len(row.rstrip("| ").rpartition("|")[2].split()) > 3, row


def test_a_difference_is_on_the_migration_page() -> None:
    """Each difference names a row of the page that users read."""
    page = (TESTS.parent / "docs/migrate-from-java.md").read_text()
    differences = [row for row in rows(HELD) if "**Differs**" in row]
    assert len(differences) >= 8
    for row in differences:
        name = re.search(r"\*\*Differs\*\* \((.+?)\):", row)
        assert name and re.search(rf"^\| {re.escape(name[1])}[ ,]", page, re.MULTILINE), row
