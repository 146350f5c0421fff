"""The pause processes that run on this machine: process 1 of each container."""

from __future__ import annotations

from pathlib import Path

from milo.core.container.pause_program import NAME
from milo.proc import start_ticks


def pause_processes(state_dir: Path | str) -> list[int]:
    """Return the ids of the living pause processes whose tasks lie at or below ``state_dir``."""
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                words = (directory / "cmdline").read_bytes().split(b"\0")
                name = (directory / "comm").read_text().strip()
            except OSError:
                continue
            place = words[1].decode() if len(words) > 1 else ""
            below = f"{place}/".startswith(f"{state_dir}/")
            if name == NAME and below and start_ticks(int(directory.name)) is not None:
                found.append(int(directory.name))
    return found
