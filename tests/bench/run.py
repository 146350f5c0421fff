"""Measures everything side by side, holds it to its targets, and writes docs/benchmarks.md.

``python -m tests.bench.run [--quick] [--only PART...] [--output FILE] [--json FILE]``. Needs
root, crun, a JDK with javac, and cc. ``--quick`` tries the code: short runs whose figures mean
little, so that they go to standard output unless ``--output`` is given.

Before each part it waits for a machine that has nothing else to do. Where there is none, the first
line of the report says LOADED. It fails, and writes no report, when a task process has 10 % more
memory than docs/benchmarks.md says.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from milo.host.java.finder import JavaFinder
from tests.bench import (
    crowd_bench,
    machine,
    memory_bench,
    pump_bench,
    quiet,
    report,
    rpc_bench,
    start_bench,
    stepped_plugin,
)
from tests.bench.plugin_host import AGENT_PATH, install, open_host
from tests.support import jars, pythons

PAGE = Path(__file__).parents[2] / "docs/benchmarks.md"
PARTS = ("pump", "latency", "handshake", "start", "rpc", "memory", "crowd")


class Parts:
    """The parts of one run, one after the other, each on a quiet machine if there is one."""

    def __init__(self, wanted: list[str], waiting: quiet.Quiet) -> None:
        self._wanted = wanted
        self._waiting = waiting
        self.took_s: dict[str, float] = {}
        """What each one has taken, without the wait."""

    def wants(self, *names: str) -> bool:
        """Whether one of these is measured in this run."""
        return not set(names).isdisjoint(self._wanted)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Wait for a quiet machine, and take the time of the block."""
        self._waiting.wait(name)
        if name in self._waiting.loaded:
            say(f"LOADED: others use {self._waiting.loaded[name]:.0%} of the processors")
        say(f"{name}: begins")
        began_s = time.monotonic()
        yield
        self.took_s[name] = time.monotonic() - began_s
        say(f"{name}: took {self.took_s[name]:.1f} s")


def measure(wanted: list[str], *, quick: bool) -> dict[str, Any]:
    """Run the benches ``wanted`` and return their results by name."""
    results: dict[str, Any] = {"quick": quick, "load": machine.load_average()}
    waiting = quiet.Quiet()
    parts = Parts(wanted, waiting)
    base = Path(tempfile.mkdtemp(prefix="milo-bench-"))
    base.chmod(0o755)
    state = Path(tempfile.mkdtemp(prefix="milo-bench-", dir=machine.memory_file_system()))
    try:
        results["machine"] = machine.machine()
        results |= _without_plugin(base, parts, quick)
        if parts.wants("handshake", "start", "rpc", "memory", "crowd"):
            launcher = install(base / "plugins")
            if parts.wants("handshake"):
                with parts.part("handshake"):
                    results["handshake"] = start_bench.handshake(
                        launcher, base, times=5 if quick else 20
                    )
            java = trio.run(JavaFinder().find, "", {"PATH": AGENT_PATH})[0]
            results["machine"]["Java"] = f"{java.version} ({java.home})"
            results["machine"]["State directory"] = f"on {state.parent}"
            jars.build_all(base / "jars")
            results |= asyncio.run(with_plugin(launcher, base, state, java.home, parts, quick))
        if parts.wants("crowd"):
            with parts.part("crowd"):
                counts = (2, 4) if quick else crowd_bench.COUNTS
                results["crowd"] = crowd_bench.run(counts)
    finally:
        shutil.rmtree(base)
        shutil.rmtree(state)
    return {**results, "loaded": waiting.loaded, "took_s": parts.took_s}


def _without_plugin(base: Path, parts: Parts, quick: bool) -> dict[str, Any]:
    results: dict[str, Any] = {}
    if parts.wants("pump", "latency"):
        tool = pump_bench.build_tool(str(base))
    if parts.wants("pump"):
        seconds, rounds = (0.3, 1) if quick else (1.6, 5)
        with parts.part("pump"):
            results["pump"] = pump_bench.compare_throughput(tool, seconds=seconds, rounds=rounds)
    if parts.wants("latency"):
        seconds, rounds = (1.0, 1) if quick else (5.0, 3)
        with parts.part("latency"):
            results["latency"] = latencies(tool, seconds=seconds, rounds=rounds)
    return results


def latencies(tool: str, *, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Measure the delay through the pump; medians of ``rounds``, all ways in turns.

    100 streams are measured at 1,000 lines a second each, and at as many in all; the ways that
    only say where the time goes are left out there.
    """
    rows = []
    for pumps, lines_per_s in ((1, 1000), (10, 1000), (100, 10), (100, 1000)):
        say(f"pump: latency, {pumps} streams, {lines_per_s} lines/s each")
        ways = pump_bench.PACED_WAYS if pumps < 100 else ("none", "pump")
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, found in runs.items():
                found.append(
                    pump_bench.latency(
                        tool, pumps, lines_per_s=lines_per_s, seconds=seconds, way=way
                    )
                )
        for way, found in runs.items():
            medians = {key: statistics.median(run[key] for run in found) for key in found[0]}
            rows.append({"pumps": pumps, "lines_per_s": lines_per_s, "way": way, **medians})
    return rows


async def with_plugin(
    launcher: Path, base: Path, state: Path, java: str, parts: Parts, quick: bool
) -> dict[str, Any]:
    """Run the benches that need a plugin process, each with a new one."""
    results: dict[str, Any] = {}
    if parts.wants("start"):
        with parts.part("start"):
            async with open_host(launcher, base, state / "start") as host:
                results["start"] = await start_bench.starts(
                    host, base / "jars/hello.jar", java, times=5 if quick else 40
                )
    if parts.wants("rpc"):
        stepped = stepped_plugin.make(base / "stepped", base / rpc_bench.STEPS)
        with parts.part("rpc"):
            results["rpc"] = await rpc_bench.measure(
                stepped,
                base,
                state / "rpc",
                base / "jars/hello.jar",
                count=10 if quick else 100,
                rest_s=5.0,
            )
    if parts.wants("memory"):
        counts, idle_s = ((0, 2, 4), 2.0) if quick else ((0, 10, 100), 5.0)
        results["memory"] = []
        with parts.part("memory"):
            for release, python in _memory_pythons().items():
                launcher = install(base / f"plugins-{release}", python)
                async with open_host(launcher, base, state / f"memory-{release}") as host:
                    rows = await memory_bench.footprints(
                        host, base / "jars/clock.jar", counts=counts, idle_s=idle_s
                    )
                results["memory"] += [{"python": release, **row} for row in rows]
    return results


def _memory_pythons() -> dict[str, str]:
    """Return this Python, and the newest other one that is here, by release.

    What a task process has of its own depends on it: since 3.12 there are immortal objects.
    """
    own = ".".join(map(str, sys.version_info[:2]))
    measured = {own: sys.executable}
    others = [(release, path) for release, path in pythons.found().items() if release != own]
    for release, path in others[-1:]:
        measured[release] = pythons.environment(path)[0]
    return measured


def say(text: str) -> None:
    """Tell on standard error what is being measured."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measure and write the report; a target that is missed is no failure, but more memory is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short runs, to try the code")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--output", type=Path, help="default: docs/benchmarks.md if complete")
    parser.add_argument("--json", type=Path, help="write all figures there as well")
    options = parser.parse_args()
    results = measure(options.only, quick=options.quick)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))
    if grown := report.growth(results, PAGE.read_text()):
        # The page stays as it is, so that the next run compares with the same.
        sys.exit("\n".join(grown))
    text = report.render(results)
    output = options.output
    if output is None and not options.quick and len(options.only) == len(PARTS):
        output = PAGE
    if output is None:
        print(text)
        return
    if output.exists():
        text += report.kept(output.read_text())
    output.write_text(text)
    if loaded := quiet.warning(results["loaded"]):
        print(loaded)
    print("\n".join(report.target_lines(results)))
    say(f"written: {output}")


if __name__ == "__main__":
    main()
