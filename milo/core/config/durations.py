"""Durations in Go's notation, which Nomad uses everywhere."""

from __future__ import annotations

import re

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # the micro sign
    "\u03bcs": 1_000,  # the Greek letter mu
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = re.compile(r"([0-9]*)(?:(\.)([0-9]*))?([^0-9.]*)", re.DOTALL)
_MAX_NS = 2**63 - 1
"""Go's time.Duration is a signed 64-bit count of nanoseconds, some 292 years."""
_MAX_LENGTH = 200


def parse_duration(text: str) -> float:
    """Return the seconds of a Go duration: ``30s``, ``1m30s``, ``1.5h``, ``-2ms``, ``0``.

    The rules are those of Go's time.ParseDuration (https://pkg.go.dev/time#ParseDuration):
    an optional sign, then decimal numbers each with a unit, of which only ``0`` needs none.

    Raises `ValueError`, whose text says what is wrong with ``text``.
    """
    if len(text) > _MAX_LENGTH:
        raise ValueError("it is too long for a duration")
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0.0
    if not rest:
        raise ValueError("it holds no number")
    total_ns = 0
    while rest:
        match = _PART.match(rest)
        assert match is not None  # every part of the pattern may be empty
        whole, _, fraction, unit = match[1], match[2], match[3] or "", match[4]
        if not whole and not fraction:
            raise ValueError("a number is missing")
        if not unit:
            raise ValueError('it has no unit, such as "s" or "m"')
        if unit not in _UNITS_NS:
            raise ValueError(f"{unit!r} is no unit")
        total_ns += int((whole or "0") + fraction) * _UNITS_NS[unit] // 10 ** len(fraction)
        if total_ns > _MAX_NS:
            raise ValueError("it is longer than 292 years")
        rest = rest[match.end() :]
    return sign * total_ns / 1e9
