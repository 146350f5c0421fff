"""In which cgroups a process is."""

from __future__ import annotations

from pathlib import Path


def groups_of(pid: int) -> dict[str, str]:
    """Return controller to path of a process; v2's entry has the key ``""``; cgroups(7)."""
    found: dict[str, str] = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(","), path)
    return found
