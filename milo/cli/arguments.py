"""Values of arguments that several commands take."""

from __future__ import annotations

from milo.core.config.durations import parse_duration
from milo.core.config.sizes import parse_size
from milo.core.config.values import shown
from milo.errors import ConfigError

MAX_WAIT_S = 366 * 24 * 3600.0
"""Longer than anybody waits; what passes it is a slip of the keyboard."""


def size_of(argument: str, text: str, least: int) -> int:
    """Return the bytes of a size with a unit, at least ``least``; raises `ConfigError`.

    A bare number is refused: in a job, ``memory = 512`` is in megabytes and ``shm_size = "512"``
    in bytes.
    """
    low = f"{least >> 20}m" if least >= 1 << 20 else f"{least >> 10}k"
    expected = f'a size of at least {low}, such as "512m" or "2g"'
    try:
        size = parse_size(text)
    except ValueError as error:
        raise ConfigError(argument, f"{shown(text)}: {error}", expected) from error
    if size < least:
        raise ConfigError(argument, f"got {shown(text)}", expected)
    return size


def seconds_of(argument: str, text: str, least: float = 0.0, most: float = MAX_WAIT_S) -> float:
    """Return the seconds of a duration as Go writes them; raises `ConfigError`."""
    expected = 'a duration such as "500ms", "10s" or "1m30s"'
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise ConfigError(argument, f"{shown(text)}: {error}", expected) from error
    if not least <= seconds <= most:
        raise ConfigError(argument, f"got {shown(text)}", f"{least:g}s to {most:g}s")
    return seconds
