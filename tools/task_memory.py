"""What a task process holds in memory, page by page: ``python -m tools.task_memory [PID...]``.

Needs root. A task process begins as a copy of its spawner, with which it shares all pages, and the
kernel copies a page when somebody writes to it. So each of its pages is one of these:

- shared: in proportional memory it counts for a part, by the number of its users;
- copied: the task process has written to it. Compared with the spawner's page, word by word, it
  is the same again; or only small numbers differ, which are mostly CPython's counts of references;
  or more differs;
- new: the spawner has no such page.

Without process ids it takes all task processes that have a spawner. It prints the mean of them.
"""

from __future__ import annotations

import argparse
import contextlib
import struct
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs

KIB: Final = 1024
PAGE: Final = 4096
PRESENT: Final = 1 << 63
FILE: Final = 1 << 61
"""A file's page, or one of shared memory."""
EXCLUSIVE: Final = 1 << 56
"""Mapped by nobody else. Documentation/admin-guide/mm/pagemap.rst of the kernel."""
KERNEL: Final = 1 << 63
"""Here and above are the kernel's addresses."""
SMALL: Final = 1 << 32
"""No address is below."""

OBJECTS: Final = "Python's objects (pymalloc), `.bss` of libraries"
HEAP: Final = "the C library's heap (malloc)"
DATA: Final = "`.data` of the interpreter and its libraries"
STACK: Final = "stack"
CODE: Final = "programs and libraries, read only"
OTHER: Final = "other"
KINDS: Final = (OBJECTS, HEAP, DATA, STACK, CODE, OTHER)
COPIED: Final = ("same again", "counts", "more")
NEW: Final = "new"
SHARED: Final = "shared"
STATES: Final = (*COPIED, NEW, SHARED)


@attrs.frozen
class Mapping:
    """One mapping of a process's, with its proportional memory as the kernel sums it up."""

    start: int
    end: int
    kind: str
    pss_bytes: int


@attrs.define
class Account:
    """Bytes of one process, or of several."""

    pss: Counter[str] = attrs.field(factory=Counter)
    """Proportional memory by kind."""
    pages: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    """All pages by kind and state."""

    def add(self, other: Account) -> None:
        """Add what another process has."""
        self.pss += other.pss
        self.pages += other.pages


class Process:
    """The pages of a process, as the kernel shows them to root."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._frames = Path(f"/proc/{pid}/pagemap").open("rb", buffering=0)  # noqa: SIM115
        self._memory = Path(f"/proc/{pid}/mem").open("rb", buffering=0)  # noqa: SIM115

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._frames.close()
        self._memory.close()

    def entries(self, start: int, end: int) -> tuple[int, ...]:
        """Return the entry of /proc/<pid>/pagemap of each page between two addresses."""
        self._frames.seek(start // PAGE * 8)
        count = (end - start) // PAGE
        return struct.unpack(f"={count}Q", self._frames.read(count * 8))

    def words(self, address: int) -> tuple[int, ...] | None:
        """Return what is in a page that is no file's; None when there is no such."""
        (entry,) = self.entries(address, address + PAGE)
        if not entry & PRESENT or entry & FILE:
            return None
        self._memory.seek(address)
        return struct.unpack(f"={PAGE // 8}Q", self._memory.read(PAGE))

    def mappings(self) -> Iterator[Mapping]:
        """Yield its mappings, lowest first."""
        kind, start, end = OTHER, 0, 0
        for line in Path(f"/proc/{self.pid}/smaps").read_text().splitlines():
            first, _, rest = line.partition(" ")
            if first == "Pss:" and end < KERNEL:
                yield Mapping(start, end, kind, int(rest.split()[0]) * KIB)
            elif not first.endswith(":"):
                start, end = (int(number, 16) for number in first.split("-"))
                permissions, _, _, _, *name = rest.split(maxsplit=4)
                kind = _kind(permissions, "".join(name).strip())


def _kind(permissions: str, name: str) -> str:
    if name in ("[heap]", "[stack]"):
        return HEAP if name == "[heap]" else STACK
    if name.startswith("/") and permissions.endswith("p"):
        return DATA if "w" in permissions else CODE
    return OBJECTS if not name and permissions == "rw-p" else OTHER


def account(pid: int, spawner: int) -> Account:
    """Say of each page of ``pid`` what became of it since ``spawner`` forked it.

    Raises:
        OSError: one of both has ended, or this is not root.
    """
    found = Account()
    with Process(pid) as own, Process(spawner) as before:
        for mapping in own.mappings():
            found.pss[mapping.kind] += mapping.pss_bytes
            for index, entry in enumerate(own.entries(mapping.start, mapping.end)):
                if entry & PRESENT:
                    page = mapping.start + index * PAGE
                    found.pages[mapping.kind, state(page, entry, own, before)] += PAGE
    return found


def state(address: int, entry: int, own: Process, before: Process) -> str:
    """Return which of `STATES` a page is in; ``entry`` is that of /proc/<pid>/pagemap."""
    if entry & FILE or not entry & EXCLUSIVE:
        return SHARED
    now, then = own.words(address), before.words(address)
    if now is None or then is None:
        return NEW
    differing = [pair for pair in zip(now, then, strict=True) if pair[0] != pair[1]]
    if not differing:
        return COPIED[0]
    return COPIED[1] if all(max(pair) < SMALL for pair in differing) else COPIED[2]


def task_processes() -> dict[int, int]:
    """Return the spawner of every task process that has one."""
    names, parents = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                head, _, tail = (entry / "stat").read_text().rpartition(")")
                names[int(entry.name)] = head.partition("(")[2]
                parents[int(entry.name)] = int(tail.split()[1])
    return {
        pid: parents[pid]
        for pid, name in names.items()
        if name == "milo-task" and names.get(parents[pid]) == "milo-spawner"
    }


def table(total: Account, count: int) -> str:
    """Return a Markdown table of the mean of ``count`` processes, in KiB."""
    head = ["KiB a task process", "proportional", *(f"copied: {one}" for one in COPIED)]
    rows = [[*head, "new", "shared, whole"], ["---", *["---:"] * (len(head) + 1)]]
    for kind in KINDS:
        sizes = [total.pss[kind], *(total.pages[kind, state] for state in STATES)]
        rows.append([kind, *(f"{size / count / KIB:,.0f}" for size in sizes)])
    sums = [sum(total.pss.values())]
    sums += [sum(total.pages[kind, state] for kind in KINDS) for state in STATES]
    rows.append(["**all**", *(f"{size / count / KIB:,.0f}" for size in sums)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and for how many processes it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pid", type=int, nargs="*", help="task processes; default: all")
    spawners = task_processes()
    pids = parser.parse_args(arguments).pid or list(spawners)
    if not pids or not set(pids) <= set(spawners):
        parser.error("no task process with a spawner" if not pids else f"of {pids} not all are one")
    total = Account()
    for pid in pids:
        total.add(account(pid, spawners[pid]))
    sys.stdout.write(f"The mean of {len(pids)} task processes:\n\n{table(total, len(pids))}")


if __name__ == "__main__":
    main()
