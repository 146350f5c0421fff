"""Reads JSON from elsewhere, up to a depth that is safe for recursive functions."""

from __future__ import annotations

import json
from typing import Any, Final

MAX_DEPTH: Final = 60
"""Blocks and lists inside each other; a real configuration has less than ten."""


def parse_json(text: str) -> Any:
    """Return what ``text`` says.

    Raises:
        ValueError: it is not JSON (then a `json.JSONDecodeError`), or nested too deeply.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    level = [found]
    for _ in range(MAX_DEPTH + 1):
        if not level:
            return found
        level = [inner for value in level for inner in _inside(value)]
    raise _too_deep()


def _inside(value: Any) -> list[Any]:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return list(values)


def _too_deep() -> ValueError:
    return ValueError("it is too deeply nested")
