"""The options and commands of podman, as a real one tells of them; for docs/podman.md.

``python -m tests.support.podman > tests/data/podman.json`` records those of the podman on PATH.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any, Final

RECORD: Final = Path(__file__).parents[1] / "data/podman.json"
COMMANDS: Final = ("run", "ps", "logs", "exec", "stop", "stats", "version", "rm", "kill")
"""Those of podman that `milo` has by the same name, or by another."""
_OPTION: Final = re.compile(r"^ +(?:(-\w), )?(--[\w-]+)(?: (\S+))?(?: {2,}|$)", re.MULTILINE)
_COMMAND: Final = re.compile(r"^  ([a-z-]+) {2,}", re.MULTILINE)


def recorded() -> dict[str, Any]:
    """Return what `asked` has returned for the podman whose version is in it."""
    found: dict[str, Any] = json.loads(RECORD.read_text())
    return found


def asked() -> dict[str, Any]:
    """Return the version, the commands and their options, with whether each takes a value.

    Raises:
        OSError: there is no podman on PATH.
    """
    return {
        "version": _said("--version").split()[-1],
        "commands": _COMMAND.findall(_said("--help")),
        "options": {command: _options(_said(command, "--help")) for command in COMMANDS},
    }


def _said(*words: str) -> str:
    return subprocess.run(["podman", *words], capture_output=True, text=True, check=True).stdout


def _options(text: str) -> dict[str, bool]:
    """Return the spellings in a help text."""
    return {
        name: bool(value)
        for short, long, value in _OPTION.findall(text)
        for name in (short, long)
        if name
    }


if __name__ == "__main__":
    print(json.dumps(asked(), indent=1, sort_keys=True))
