"""Waiting for conditions, with a deadline and a useful last word.

Every bound on time in tests is written for an ordinary machine, and goes through `scaled`, which
makes it longer on a slower one, and where the processor itself is emulated (`tests/vm`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

import trio

from tests.support.machine_speed import time_scale

SCALE = time_scale()
"""By how much this machine is slower than those for which the tests' bounds were written."""

T = TypeVar("T")


def scaled(bound_s: float) -> float:
    """Return a bound on time as it is on this machine."""
    return bound_s * SCALE


def fail_after(bound_s: float) -> contextlib.AbstractContextManager[trio.CancelScope]:
    """As `trio.fail_after`, `scaled`."""
    return trio.fail_after(scaled(bound_s))


def move_on_after(bound_s: float) -> trio.CancelScope:
    """As `trio.move_on_after`, `scaled`."""
    return trio.move_on_after(scaled(bound_s))


def wait_for(
    what: str, probe: Callable[[], T | None], timeout_s: float = 30.0, *, pause_s: float = 0.05
) -> T:
    """Call ``probe`` until what it returns is true, and return that.

    Raises AssertionError naming ``what`` and the last value when ``timeout_s``, scaled, have
    passed. Between two calls there are ``pause_s``, and no less than the first of them took: a
    probe that runs a program would keep a processor busy otherwise.
    """
    limit_s = scaled(timeout_s)
    deadline = time.monotonic() + limit_s
    while True:
        began = time.monotonic()
        value = probe()
        if value:
            return value
        now = time.monotonic()
        if now > deadline:
            raise AssertionError(f"waited {limit_s:g} s for {what}; last seen: {value!r}")
        time.sleep(max(pause_s, now - began))
