"""Signals: the names that Nomad's users write, as numbers, and numbers as names."""

from __future__ import annotations

import re
import signal
from functools import cache
from typing import Final

from milo.errors import ConfigError

NO_SIGNAL: Final = 0
"""Stands for a signal where none is to be sent."""

_REAL_TIME = re.compile(r"RT(MIN|MAX)(?:([+-])(\d{1,2}))?")
_EXPECTED = 'the name of a signal, such as "SIGTERM", or its number'


def parse_signal(name: str, key: str = "signal") -> int:
    """Return the number of the signal ``name``: ``SIGTERM``, ``sigint``, ``TERM`` or ``15``.

    Nomad passes on what the job or the command line says, unchecked. Its own drivers send SIGINT
    for a name that they do not know; here that is an error. SIGNULL (0), which Nomad lists among
    the signals, delivers nothing and is refused.

    Raises `ConfigError` for ``key`` when there is no such signal.
    """
    text = name.strip().upper()
    if text.isascii() and text.isdigit() and len(text) <= 3:
        number = int(text)
    else:
        number = _by_name(text.removeprefix("SIG"))
    if number not in _valid():
        raise ConfigError(key, f"{name[:40]!r} is no signal of this host", _EXPECTED)
    return number


@cache
def _valid() -> frozenset[int]:
    """Return all signals. To make this set takes Python longer than a stop takes a driver else."""
    return frozenset(signal.valid_signals())


def signal_name(number: int) -> str:
    """Return the name of a signal, e.g. ``SIGKILL`` or ``SIGRTMIN+3``; never raises."""
    if signal.SIGRTMIN < number < signal.SIGRTMAX:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _by_name(name: str) -> int:
    """Return the number of a name without its ``SIG``; 0 when there is none."""
    match = _REAL_TIME.fullmatch(name)
    if match is None:
        found = signal.Signals.__members__.get("SIG" + name)
        return int(found) if found is not None else 0
    base = signal.SIGRTMIN if match[1] == "MIN" else signal.SIGRTMAX
    distance = int(match[3] or 0) * (-1 if match[2] == "-" else 1)
    number = base + distance
    return number if signal.SIGRTMIN <= number <= signal.SIGRTMAX else 0
