"""In which cgroups a process is, and groups of cgroup v2 that hand on their controllers."""

from __future__ import annotations

from pathlib import Path


def groups_of(pid: int) -> dict[str, str]:
    """Return controller to path of a process; v2's entry has the key ``""``; cgroups(7)."""
    found: dict[str, str] = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(","), path)
    return found


def hand_on(directory: Path, *controllers: str) -> None:
    """Give a v2 group's children those of ``controllers`` that the kernel has.

    One in user mode, see `tests.vm.user_mode`, has no cpusets.
    """
    there = (directory / "cgroup.controllers").read_text().split()
    words = [f"+{name}" for name in controllers if name in there]
    (directory / "cgroup.subtree_control").write_text(" ".join(words))
