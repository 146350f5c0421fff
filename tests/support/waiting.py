"""Waiting for conditions, with a deadline and a useful last word."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(
    what: str, probe: Callable[[], T | None], timeout_s: float = 30.0, *, pause_s: float = 0.05
) -> T:
    """Call ``probe`` until what it returns is true, and return that.

    Raises AssertionError naming ``what`` and the last value when ``timeout_s`` have passed.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s for {what}; last seen: {value!r}")
        time.sleep(pause_s)
