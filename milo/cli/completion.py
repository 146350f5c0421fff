"""``milo completion``: a script with which a shell completes the command's words."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Final

from milo.errors import MiloError

DIRECTORIES: Final = ("DIR", "HOME", "PLUGIN_DIR")
FILES: Final = ("APP.JAR", "PATH")
"""What an argument's metavar says of it."""


class NoCompletionError(MiloError):
    """The package that writes the scripts is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "Error: Shell completion needs the package shtab, which is not installed. "
            "Try: pip install 'nomad-driver-milo[completion]'"
        )


def print_completion(parser: argparse.ArgumentParser, shell: str) -> int:
    """Print a script with which ``shell`` completes what ``parser`` takes; return the exit status.

    Raises:
        NoCompletionError: the extra ``completion`` is not installed.
    """
    try:
        import shtab
    except ImportError as exc:
        raise NoCompletionError from exc
    for action in _actions(parser):
        if action.metavar in DIRECTORIES:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
