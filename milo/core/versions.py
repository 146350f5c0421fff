"""Versions of kernels and programs, as numbers that can be compared. Pure.

Java's have a form of their own, `milo.core.java.versions`, and the same numbers.
"""

from __future__ import annotations

import re
from typing import Final

_NUMBERS: Final = re.compile(r"\s*v?([0-9]{1,9}(?:\.[0-9]{1,9}){0,15})", re.ASCII)


def version_numbers(text: str) -> tuple[int, ...]:
    """Return (6, 1, 0) for ``6.1.0-18-amd64``, (1, 14) for ``v1.14-dev``; () for no version.

    Two such are compared as tuples, so that nothing is older than what is no version, and
    6.3 and 6.3.1 are not older than (6, 3).
    """
    match = _NUMBERS.match(text)
    return tuple(map(int, match[1].split("."))) if match else ()
