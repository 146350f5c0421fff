"""Nomad's ``java`` driver and Milo side by side on one agent, for docs/benchmarks.md.

``python -m tests.support.private_mounts python -m tests.bench.migrate_bench [--runs N]
[--default-chroot]`` prints the table. Needs root, Nomad, crun and JDKs with javac.
``--default-chroot`` leaves the agent's ``chroot_env`` at Nomad's default, which takes in all of
/usr: gigabytes a task where the client's data directory is on another file system than that.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from tests.bench import machine
from tests.bench.memory_bench import rollup
from tests.support import artifacts, jars, security_chroot
from tests.support.agent import Agent, agent
from tests.support.jobs import job_file
from tests.support.nomad import Job, hcl
from tests.support.waiting import wait_for

DRIVERS = ("java", "milo")
MEMORY_MB = 512
CLOCK = {"jar_path": "local/clock.jar", "args": ["100000000", "0"]}
"""Prints the time at which its main method runs, and then nothing for a day."""
PROBE = {"jar_path": "local/parity.jar"}
MIB = 1 << 20


def measure(one: Agent, url: str, runs: int) -> dict[str, dict[str, Any]]:
    """Run the same jobs with each driver in turns; medians, in seconds and bytes."""
    rows: dict[str, list[dict[str, float]]] = {driver: [] for driver in DRIVERS}
    for _ in range(runs):
        for driver in DRIVERS:
            rows[driver].append(once(one, url, driver))
    result: dict[str, dict[str, Any]] = {}
    for driver, found in rows.items():
        result[driver] = {key: statistics.median(row[key] for row in found) for key in found[0]}
        result[driver] |= told(one, url, driver)
    return result


def once(one: Agent, url: str, driver: str) -> dict[str, float]:
    """Start one task, look at it while it waits, and stop it."""
    job = one.nomad.run(text(driver, CLOCK, f"{url}/clock.jar"))
    job.wait_logs("tick 0 ", timeout_s=300)
    printed_ms = int(job.logs().split()[2])
    [received] = [event for event in job.task()["Events"] if event["Type"] == "Received"]
    base = one.base / "data/alloc" / job.allocation()
    used, own, files = disk(base)
    result = {
        "start_s": printed_ms / 1000 - received["Time"] / 1e9,
        "disk_bytes": used,
        "own_bytes": own,
        "files": files,
        "helper_bytes": helper_bytes(driver, job),
    }
    job.stop()
    one.purge()
    return result


def told(one: Agent, url: str, driver: str) -> dict[str, str]:
    """Return what the JVM of a task sees."""
    job = one.nomad.run(text(driver, PROBE, f"{url}/parity.jar"))
    job.wait_state("dead", 300)
    lines = job.logs().decode().splitlines()
    found = dict(line.partition(" ")[::2] for line in lines)
    return {"heap_bytes": found["heap"], "java": found["property.java.home"]}


def text(driver: str, config: dict[str, Any], artifact: str) -> str:
    """Return a job file."""
    return job_file(driver=driver, config=config, artifact=artifact, memory=MEMORY_MB, cpu=200)


def disk(base: Path) -> tuple[int, int, int]:
    """Return the bytes below an allocation's directory, those that it alone has, and the files.

    Nomad makes hard links of the chroot's files where it can.
    """
    seen: set[int] = set()
    used = own = 0
    device = base.stat().st_dev
    for directory, names, files in os.walk(base):
        names[:] = [name for name in names if os.lstat(f"{directory}/{name}").st_dev == device]
        for path in (directory, *(f"{directory}/{name}" for name in files)):
            found = os.lstat(path)
            if found.st_ino not in seen and found.st_dev == device:
                seen.add(found.st_ino)
                used += found.st_blocks * 512
                own += 0 if found.st_nlink > 1 and path != directory else found.st_blocks * 512
    return used, own, len(seen)


def helper_bytes(driver: str, job: Job) -> int:
    """Return the proportional memory (PSS) of the process that looks after the job's JVM."""

    def helpers() -> list[int]:
        jvms = [pid for pid in processes() if job.allocation() in environment(pid)]
        return [parent(pid) for pid in jvms if name(pid) == "java"]

    [pid] = wait_for("the JVM's parent", helpers)
    return rollup(pid)["Pss"]


def node_bytes(one: Agent) -> int:
    """Return the memory of Milo's driver and spawner: once for all tasks of a node."""
    assert one.process is not None
    drivers = [pid for pid in children(one.process.pid) if name(pid) == "milo"]
    found = [*drivers, *(child for pid in drivers for child in children(pid))]
    return sum(rollup(pid)["Pss"] for pid in found)


def children(pid: int) -> list[int]:
    """Return the ids of a process's children."""
    return [child for child in processes() if parent(child) == pid]


def processes() -> list[int]:
    """Return the ids of all processes."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def environment(pid: int) -> str:
    """Return a process's environment; empty when it has ended."""
    return _read(f"/proc/{pid}/environ")


def name(pid: int) -> str:
    """Return a process's name; empty when it has ended."""
    return _read(f"/proc/{pid}/comm").strip()


def parent(pid: int) -> int:
    """Return the id of a process's parent; 0 when it has ended."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[1]) if fields else 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def table(found: dict[str, dict[str, Any]], node: int) -> str:
    """Return the table of Markdown."""
    java, milo = (found[driver] for driver in DRIVERS)
    rows = [
        ("Start: task received to `main`", *(f"{row['start_s']:.2f} s" for row in (java, milo))),
        (
            "Disk: size of the task's directories",
            *(f"{row['disk_bytes'] / MIB:,.2f} MiB" for row in (java, milo)),
        ),
        (
            "of which no hard links to the host's files",
            *(f"{row['own_bytes'] / MIB:,.2f} MiB" for row in (java, milo)),
        ),
        ("Files and directories in it", *(f"{row['files']:,.0f}" for row in (java, milo))),
        (
            f"Largest heap in a task of {MEMORY_MB} MiB",
            *(f"{int(row['heap_bytes']) / MIB:,.0f} MiB" for row in (java, milo)),
        ),
        (
            "Memory of the task's helper process (PSS)",
            *(f"{row['helper_bytes'] / MIB:.1f} MiB" for row in (java, milo)),
        ),
        ("Memory of the driver, once a node (PSS)", "in the agent", f"{node / MIB:.1f} MiB"),
        ("JDK without a word in the job", java["java"], milo["java"]),
    ]
    lines = ["|  | `java` | `milo` |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def main() -> None:
    """Measure, and print the page's table with the machine it is of."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.migrate_bench")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--default-chroot", action="store_true")
    options = parser.parse_args()
    chroot = ""
    if not options.default_chroot:
        entries = security_chroot.entries().items()
        lines = "".join(f"{hcl(path)} = {hcl(inside)}\n" for path, inside in entries)
        chroot = f"chroot_env {{\n{lines}}}\n"
    base = Path(tempfile.mkdtemp(prefix="milo-bench-"))
    load = machine.load_average()
    try:
        jars.build_all(base)
        with artifacts.serve(base) as url, agent("migrate", client=chroot) as one:
            found = measure(one, url, options.runs)
            node = node_bytes(one)
    finally:
        shutil.rmtree(base)
    print("\n".join(f"- {key}: {value}" for key, value in machine.machine().items()))
    print(f"- Load average before: {load:.2f}")
    print(f"- chroot_env: {'the default' if options.default_chroot else 'the JDK and a shell'}\n")
    print(table(found, node))


if __name__ == "__main__":
    main()
