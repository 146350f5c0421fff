"""Measures everything side by side, holds it to its targets, and writes docs/benchmarks.md.

``python -m tests.bench.run [--quick] [--only PART...] [--output FILE] [--json FILE]``. Needs
root, crun, a JDK with javac, and cc. ``--quick`` tries the code: short runs whose figures mean
little, so that they go to standard output unless ``--output`` is given.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import trio

from milo.host.java.finder import JavaFinder
from tests.bench import machine, memory_bench, pump_bench, report, start_bench
from tests.bench.plugin_host import AGENT_PATH, install, open_host
from tests.support import jars

ROOT = Path(__file__).parents[2]
PARTS = ("pump", "latency", "handshake", "start", "memory")


def measure(parts: list[str], *, quick: bool) -> dict[str, Any]:
    """Run the benches ``parts`` and return their results by name."""
    results: dict[str, Any] = {"quick": quick, "load": machine.load_average()}
    base = Path(tempfile.mkdtemp(prefix="milo-bench-"))
    base.chmod(0o755)
    state = Path(tempfile.mkdtemp(prefix="milo-bench-", dir=machine.memory_file_system()))
    try:
        results["machine"] = machine.machine()
        tool = pump_bench.build_tool(str(base))
        if "pump" in parts:
            say("pump: throughput")
            seconds, rounds = (0.3, 1) if quick else (2.0, 5)
            results["pump"] = pump_bench.compare_throughput(tool, seconds=seconds, rounds=rounds)
        if "latency" in parts:
            results["latency"] = latencies(
                tool, seconds=1 if quick else 5, rounds=1 if quick else 3
            )
        if not {"handshake", "start", "memory"} & set(parts):
            return results
        launcher = install(base / "plugins")
        if "handshake" in parts:
            say("plugin: handshake")
            results["handshake"] = start_bench.handshake(launcher, base, times=5 if quick else 20)
        java = trio.run(JavaFinder().find, "", {"PATH": AGENT_PATH})[0]
        results["machine"]["Java"] = f"{java.version} ({java.home})"
        results["machine"]["State directory"] = f"on {state.parent}"
        jars.build_all(base / "jars")
        results |= asyncio.run(with_plugin(launcher, base, state, java.home, parts, quick))
    finally:
        shutil.rmtree(base)
        shutil.rmtree(state)
    return results


def latencies(tool: str, *, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Measure the delay through the pump; medians of ``rounds``, with and without in turns.

    100 streams are measured at 1,000 lines a second each, and at as many in all.
    """
    rows = []
    for pumps, lines_per_s in ((1, 1000), (10, 1000), (100, 10), (100, 1000)):
        say(f"pump: latency, {pumps} streams, {lines_per_s} lines/s each")
        runs: dict[str, list[dict[str, float]]] = {"none": [], "pump": []}
        for _ in range(rounds):
            for way, found in runs.items():
                found.append(
                    pump_bench.latency(
                        tool, pumps, lines_per_s=lines_per_s, seconds=seconds, pumped=way == "pump"
                    )
                )
        for way, found in runs.items():
            medians = {key: statistics.median(run[key] for run in found) for key in found[0]}
            rows.append({"pumps": pumps, "lines_per_s": lines_per_s, "way": way, **medians})
    return rows


async def with_plugin(
    launcher: Path, base: Path, state: Path, java: str, parts: list[str], quick: bool
) -> dict[str, Any]:
    """Run the benches that need a plugin process, each with a new one."""
    results: dict[str, Any] = {}
    if "start" in parts:
        say("tasks: start to first byte")
        async with open_host(launcher, base, state / "start") as host:
            results["start"] = await start_bench.starts(
                host, base / "jars/hello.jar", java, times=5 if quick else 40
            )
    if "memory" in parts:
        say("tasks: memory")
        async with open_host(launcher, base, state / "memory") as host:
            counts, idle_s = ((0, 2, 4), 2.0) if quick else ((0, 10, 100), 10.0)
            results["memory"] = await memory_bench.footprints(
                host, base / "jars/clock.jar", counts=counts, idle_s=idle_s
            )
    return results


def say(text: str) -> None:
    """Tell on standard error what is being measured."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measure and write the report; a target that is missed is no failure of the run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short runs, to try the code")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--output", type=Path, help="default: docs/benchmarks.md if complete")
    parser.add_argument("--json", type=Path, help="write all figures there as well")
    options = parser.parse_args()
    results = measure(options.only, quick=options.quick)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))
    text = report.render(results)
    output = options.output
    if output is None and not options.quick and len(options.only) == len(PARTS):
        output = ROOT / "docs/benchmarks.md"
    if output is None:
        print(text)
        return
    output.write_text(text)
    print("\n".join(report.target_lines(results)))
    say(f"written: {output}")


if __name__ == "__main__":
    main()
