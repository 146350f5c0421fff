"""What the documentation shows, to be tried word by word."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the blocks of a page, in order: the language and the text of each."""
    return _BLOCK.findall((DOCS / page).read_text())


def jobs(page: str) -> list[str]:
    """Return the complete job files of a page."""
    return [text for kind, text in blocks(page) if kind == "hcl" and text.startswith("job ")]
