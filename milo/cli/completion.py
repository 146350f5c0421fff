"""``milo completion``: a script with which a shell completes the command's words."""

from __future__ import annotations

import os
import sys
from typing import Final

SCRIPTS: Final = os.path.join(os.path.dirname(__file__), "completions")
"""Written by tools/gen_completion.py from the parser."""


def print_completion(shell: str) -> int:
    """Print a script with which ``shell`` completes what ``milo`` takes; return the exit status."""
    with open(os.path.join(SCRIPTS, f"milo.{shell}"), encoding="utf-8") as file:
        sys.stdout.write(file.read())
    return 0
