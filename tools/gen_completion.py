"""Write milo/cli/completions/: what `milo completion` prints, from the command's own parser.

Usage: python tools/gen_completion.py [DIRECTORY]. The wheel also puts them where shells look.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import shtab

from milo.cli.parser import SHELLS, build_parser

ROOT: Final = Path(__file__).resolve().parent.parent
TARGET: Final = ROOT / "milo/cli/completions"
DIRECTORIES: Final = ("DIR", "HOME", "PLUGIN_DIR")
FILES: Final = ("APP.JAR", "PATH", "FILE")
"""What an argument's metavar says of it."""


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from actions(command)


def script(shell: str) -> str:
    """Return the script for ``shell``; the same parser gives the same text."""
    parser = build_parser()
    for action in actions(parser):
        if action.metavar in DIRECTORIES:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return shtab.complete(parser, shell).rstrip() + "\n"


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    target.mkdir(exist_ok=True)
    for shell in SHELLS:
        (target / f"milo.{shell}").write_text(script(shell), encoding="utf-8")
