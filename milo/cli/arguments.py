"""Values of arguments that several commands take."""

from __future__ import annotations

import os
import re
from typing import Final

from milo.core.config.durations import parse_duration
from milo.core.config.sizes import parse_size
from milo.core.config.values import shown
from milo.errors import ConfigError, MiloError

_NUMBER: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?", re.ASCII)
MIB: Final = 1 << 20
MAX_WAIT_S = 366 * 24 * 3600.0
"""Longer than anybody waits; what passes it is a slip of the keyboard."""


class NoWorkingDirectoryError(MiloError):
    """A path is relative to a directory that somebody has removed."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        super().__init__(
            f"Error: {path!r} is a relative path, but the working directory cannot be found: "
            f"{problem}. Change to another directory, or give an absolute path"
        )


class WrongValueError(ConfigError):
    """What was typed can be no value of its option, whatever the host is like: exit status 2."""


def size_of(argument: str, text: str, least: int) -> int:
    """Return the bytes of a size with a unit, at least ``least``; raises `WrongValueError`.

    A bare number is refused: in a job, ``memory = 512`` is in megabytes and ``shm_size = "512"``
    in bytes.
    """
    low = f"{least >> 20}m" if least >= 1 << 20 else f"{least >> 10}k"
    expected = f'a size of at least {low}, such as "512m" or "2g"'
    try:
        size = parse_size(text)
    except ValueError as error:
        raise WrongValueError(argument, f"{shown(text)}: {error}", expected) from error
    if size < least:
        raise WrongValueError(argument, f"got {shown(text)}", expected)
    return size


def seconds_of(argument: str, text: str, least: float = 0.0, most: float = MAX_WAIT_S) -> float:
    """Return the seconds of a duration as Go writes them; a bare number counts seconds.

    Raises `WrongValueError`.
    """
    expected = 'a duration such as "500ms", "10s" or "1m30s", or a number of seconds'
    try:
        seconds = parse_duration(f"{text}s" if _NUMBER.fullmatch(text) else text)
    except ValueError as error:
        raise WrongValueError(argument, f"{shown(text)}: {error}", expected) from error
    if not least <= seconds <= most:
        raise WrongValueError(argument, f"got {shown(text)}", f"{least:g}s to {most:g}s")
    return seconds


def absolute(path: str) -> str:
    """Return ``path`` as an absolute one.

    Raises:
        NoWorkingDirectoryError: it is relative, and the working directory was removed.
    """
    try:
        return os.path.abspath(path)
    except OSError as exc:
        raise NoWorkingDirectoryError(path, exc.strerror or str(exc)) from exc


def is_text(value: str) -> bool:
    """Whether ``value``, from the command line or a file's name, is valid UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
