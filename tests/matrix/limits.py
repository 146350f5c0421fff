"""Why cells are red, and what follows for users: one sentence a cell, shown on the page."""

from __future__ import annotations

from tests.matrix.results import Key

_RULE = (
    "No limit of Milo's: the test that failed is a rule for this project's own source, which"
    " milo/cli/dump.py broke in every Python at that commit."
)

LIMITS: dict[Key, str] = {
    ("python", "3.12", "unit"): _RULE,
    ("python", "3.13", "unit"): (
        f"{_RULE} The other one, of a successor that is killed at once, passed alone afterwards:"
        " the machine was busy."
    ),
    ("python", "3.14", "unit"): (
        "The plugin did not start: trio-asyncio 0.16 cannot be imported there by itself. It starts"
        " since; `tests/integration/test_plugin_wire.py` and the bridge's unit tests passed there."
        " The suite was not run again."
    ),
}
LOST = {"30a2690", "62c0b5c", "9eb9f57", "cf2804a", "e4c4d4f"}
"""Commits that cells note and the history has no more: those cells are to be tried again."""
