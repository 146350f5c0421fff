"""How much memory a JVM needs beside its heap, and the largest heap that a limit bears.

As root, ``python -m tests.bench.heap_bench`` runs tests/jars/HeapFiller.java in a memory cgroup
of its own, for each JDK and each size of docs/memory.md: with Milo's default heap, and then with
others, until the largest one that is not killed is known. Takes some 20 minutes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from milo import cgroup_files
from milo.core.cgroup import Mode
from milo.core.java.heap import MIB, default_heap_bytes
from tests.support import jars
from tests.support.java_homes import all_homes

GROUP = "milo-heap-bench"
SAMPLE_S = 0.03
CHURN_S = 4


@attrs.frozen
class Case:
    """One application, and the sizes of heap to try for it, all in MiB."""

    limit: int
    threads: int
    classes: int
    direct: int
    lowest: int
    highest: int
    step: int


CASES = (
    Case(128, 50, 1500, 2, 40, 100, 4),
    Case(128, 200, 500, 0, 40, 100, 4),
    Case(512, 50, 1500, 8, 320, 480, 8),
    Case(512, 200, 6000, 16, 320, 480, 8),
    Case(4096, 50, 6000, 64, 3500, 3980, 40),
    Case(4096, 200, 6000, 64, 3500, 3980, 40),
)


@attrs.frozen
class Run:
    """What became of one JVM."""

    survived: bool
    peak_mib: int
    """Of what the kernel cannot take back: anonymous memory and its own."""


@contextlib.contextmanager
def group(limit_mib: int) -> Iterator[Path]:
    """Make a cgroup with this memory limit, and remove it."""
    hierarchy = cgroup_files.detect()
    directory = Path(hierarchy.directory("memory", GROUP) or "")
    v2 = hierarchy.mode is Mode.V2
    directory.mkdir()
    try:
        (directory / ("memory.max" if v2 else "memory.limit_in_bytes")).write_text(
            str(limit_mib * MIB)
        )
        yield directory
    finally:
        directory.rmdir()


def run(home: str, jar: Path, case: Case, heap_mib: int) -> Run:
    """Run the application with this heap at the case's limit."""
    words = [f"{home}/bin/java", f"-Xmx{heap_mib}m", "-jar", str(jar)]
    words += [str(number) for number in (case.threads, case.classes, case.direct, CHURN_S)]
    with group(case.limit) as directory:
        # A shell that joins the group and becomes the JVM.
        shell = ["sh", "-c", f'echo $$ > {directory}/cgroup.procs && exec "$@"', "sh", *words]
        with subprocess.Popen(shell, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            peak = 0
            while process.poll() is None:
                peak = max(peak, firm_bytes(directory))
                time.sleep(SAMPLE_S)
            assert process.stdout is not None
            output = process.stdout.read()
    return Run(b"alive" in output, peak // MIB)


def firm_bytes(directory: Path) -> int:
    """Return the memory in a group that cannot be reclaimed."""
    stat = cgroup_files.read_keyed(str(directory), "memory.stat")
    if "anon" in stat:
        return stat["anon"] + stat.get("kernel", stat.get("slab_unreclaimable", 0))
    kernel = directory / "memory.kmem.usage_in_bytes"
    return stat["rss"] + (int(kernel.read_text()) if kernel.exists() else 0)


def largest(home: str, jar: Path, case: Case) -> int:
    """Return the largest heap, in steps, with which the application was not killed."""
    good, bad = case.lowest, case.highest
    while bad - good > case.step:
        middle = (good + bad) // 2 // case.step * case.step
        middle = good + case.step if middle <= good else middle
        if middle >= bad:
            break
        if run(home, jar, case, middle).survived:
            good = middle
        else:
            bad = middle
    return good


def main() -> None:
    """Print the table of docs/memory.md."""
    if os.geteuid() != 0:
        raise SystemExit("Error: a memory cgroup needs root")
    with tempfile.TemporaryDirectory() as name:
        jars.build(Path(name), [jars.SOURCES / "HeapFiller.java"])
        jar = Path(name) / "heap-filler.jar"
        print("| task | JDK | threads | classes | direct | default | used | largest |")
        print("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        for case in CASES:
            for home in all_homes():
                heap = default_heap_bytes(case.limit * MIB) // MIB
                result = run(home, jar, case, heap)
                used = f"{result.peak_mib}" if result.survived else "killed"
                print(
                    f"| {case.limit} | {os.path.basename(home)} | {case.threads} | "
                    f"{case.classes} | {case.direct} | {heap} | {used} | "
                    f"{largest(home, jar, case)} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
