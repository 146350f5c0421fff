"""What there is of Milo at one moment of a soak: processes, files, mounts and cgroups."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import attrs

from milo.proc import start_ticks
from tests.support import leftovers
from tests.support.agent import Agent

KINDS = {"milo": "plugin", "milo-spawner": "spawner", "milo-task": "task process"}
"""What is weighed, by the name that the kernel shows."""


@attrs.frozen
class Process:
    """One process of Milo's own."""

    name: str
    life: tuple[int, int]
    """Process id and start time: which process it is."""
    memory_bytes: int
    """Resident and anonymous: what the process itself has written, shared with others or not."""
    descriptors: int
    threads: int


@attrs.frozen
class Census:
    """All that is counted at one moment."""

    at_s: float
    processes: tuple[Process, ...]
    state_directories: int
    state_bytes: int
    mounts: int
    cgroups: int


def take(agent: Agent, began_s: float) -> Census:
    """Count what belongs to ``agent``, at a time in seconds after ``began_s`` (monotonic)."""
    sizes = []
    for path in agent.state_dir.rglob("*"):
        with contextlib.suppress(OSError):
            sizes.append(path.stat().st_size)
    return Census(
        at_s=time.monotonic() - began_s,
        processes=tuple(_processes(agent.base)),
        state_directories=len(list(agent.state_dir.iterdir())),
        state_bytes=sum(sizes),
        mounts=len(leftovers.mounts(agent.base)),
        cgroups=len(leftovers.cgroups(agent.allocations)),
    )


def _processes(base: Path) -> list[Process]:
    found = []
    for line in leftovers.processes(base):
        _, pid, name, *_ = line.split()
        if name.startswith("milo"):
            with contextlib.suppress(OSError):
                found.append(_weigh(int(pid), name))
    return found


def _weigh(pid: int, name: str) -> Process:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return Process(
        name=name,
        life=(pid, start_ticks(pid) or 0),
        memory_bytes=int(status["RssAnon"].split()[0]) << 10,
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        threads=int(status["Threads"]),
    )
