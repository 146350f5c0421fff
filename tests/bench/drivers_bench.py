"""Nomad's ``java`` and ``raw_exec`` drivers and Milo side by side on one agent.

``python -m tests.support.private_mounts python -m tests.bench.drivers_bench [--rounds N]
[--default-chroot] [--output FILE] [--json FILE]`` writes a section of docs/benchmarks.md, and the
rows of its first table that other pages have. Needs root, Nomad, crun and a JDK with javac.
``--default-chroot`` has the java driver also measured with Nomad's own ``chroot_env``, which takes
in all of /usr: gigabytes a task where the client's data directory is on another file system than
that. ``--quick`` tries the code: few repetitions, and no page is written but ``--output``'s.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import trio

from milo.host.java.finder import JavaFinder
from tests.bench import drivers_report, drivers_runs, machine, quiet
from tests.bench.drivers_runs import DRIVERS, Place
from tests.bench.plugin_host import AGENT_PATH
from tests.support import artifacts, jars, security_chroot
from tests.support.agent import Agent, agent
from tests.support.nomad import hcl

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/benchmarks.md"
BESIDE = (ROOT / "README.md", ROOT / "docs/migrate-from-java.md")
"""What has rows of the section's first table."""
ROUNDS, OUTPUT_ROUNDS, AGENT_ROUNDS, DEFAULT_ROUNDS = 8, 3, 3, 2


def measure(rounds: int, *, default_chroot: bool, quick: bool) -> dict[str, Any]:
    """Measure, and return what `drivers_report` writes."""
    began = time.monotonic()
    waiting = quiet.Quiet()
    results: dict[str, Any] = {"load": machine.load_average(), "machine": machine.machine()}
    # By its path of Java, as a client would choose it.
    java = trio.run(JavaFinder().find, "", {"PATH": AGENT_PATH})[0]
    results["java"] = f"{java.version} ({java.home})"
    with tempfile.TemporaryDirectory(prefix="milo-bench-") as directory:
        base = Path(directory)
        base.chmod(0o755)
        jars.build(base, [jars.SOURCES / "OutputLoad.java"])
        with artifacts.serve(base) as url:
            with _agent("drivers", java.home, small=True) as one:
                words = subprocess.run(
                    [one.nomad.binary, "version"], check=True, capture_output=True, text=True
                )
                results["nomad"] = words.stdout.split()[1].removeprefix("v")
                place = Place(one, url, java.home)
                results |= _measure(place, rounds, waiting, quick=quick)
            results["default"] = None
            if default_chroot:
                say("default chroot_env")
                with _agent("drivers-default", java.home, small=False) as one:
                    results["default"] = default(Place(one, url, java.home))
    results["load_after"] = machine.load_average()
    return {**results, "loaded": waiting.loaded, "took_s": time.monotonic() - began}


def _agent(name: str, home: str, *, small: bool) -> AbstractContextManager[Agent]:
    """Return an agent whose java driver has that JDK, which keeps its state.

    With a chroot of little more than the JDK if it is ``small``; else Nomad's own.
    """
    entries = security_chroot.entries(f"{home}/bin/java").items() if small else ()
    lines = "".join(f"{hcl(path)} = {hcl(inside)}\n" for path, inside in entries)
    return agent(
        name,
        dev=False,
        client=f"chroot_env {{\n{lines}}}\n" if small else "",
        # The driver takes the first java of its PATH.
        env={"PATH": f"{home}/bin:{os.environ['PATH']}"},
        milo={"java_home": home},
    )


def _measure(place: Place, rounds: int, waiting: quiet.Quiet, *, quick: bool) -> dict[str, Any]:
    results: dict[str, Any] = {"tasks": {driver: [] for driver in DRIVERS}}
    _begin(waiting, "start")
    for driver in DRIVERS:
        # One that is not counted, which brings files into memory.
        drivers_runs.heap_bytes(place, driver)
    for number in range(rounds):
        # The first of each round is another one each time.
        for driver in _turn(number):
            results["tasks"][driver].append(drivers_runs.start_and_stop(place, driver))
    results["heap"] = {driver: drivers_runs.heap_bytes(place, driver) for driver in DRIVERS}
    place.agent.purge()
    _begin(waiting, "agent")
    agents = range(1 if quick else AGENT_ROUNDS)
    results["agents"] = [drivers_runs.agent_restart(place) for _ in agents]
    _begin(waiting, "output")
    results["output"] = {driver: [] for driver in DRIVERS}
    results["delays"] = {driver: [] for driver in DRIVERS}
    for number in range(1 if quick else OUTPUT_ROUNDS):
        for driver in _turn(number):
            found = drivers_runs.output(place, driver)
            results["delays"][driver] += found.pop("delays_s")
            results["output"][driver].append(found)
    place.agent.purge()
    _begin(waiting, "ten tasks")
    results["ten"] = {driver: drivers_runs.ten(place, driver) for driver in DRIVERS}
    return results


def _turn(number: int) -> tuple[str, ...]:
    first = number % len(DRIVERS)
    return (*DRIVERS[first:], *DRIVERS[:first])


def default(place: Place) -> dict[str, float]:
    """Return what the java driver does with a whole /usr for each task."""
    found = [drivers_runs.start_and_stop(place, "java") for _ in range(DEFAULT_ROUNDS)]
    medians = {key: statistics.median(one[key] for one in found) for key in found[0]}
    return {**medians, "heap_bytes": drivers_runs.heap_bytes(place, "java")}


def _begin(waiting: quiet.Quiet, part: str) -> None:
    waiting.wait(part)
    busy = f", LOADED: others use {waiting.loaded[part]:.0%}" if part in waiting.loaded else ""
    say(f"{part}{busy}")


def say(text: str) -> None:
    """Tell on standard error what is being measured."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measure, and write the section and the rows of it that other pages have."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.drivers_bench")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="starts of each driver")
    parser.add_argument("--default-chroot", action="store_true")
    parser.add_argument("--quick", action="store_true", help="few repetitions, to try the code")
    parser.add_argument("--output", type=Path, help="default: docs/benchmarks.md, if not quick")
    parser.add_argument("--json", type=Path, help="write all figures there as well")
    options = parser.parse_args()
    rounds = 2 if options.quick else options.rounds
    results = measure(rounds, default_chroot=options.default_chroot, quick=options.quick)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))
    before = PAGE.read_text()
    results["kept"] = drivers_report.kept_column(before)
    text = drivers_report.section(results, before)
    if output := options.output or (None if options.quick else PAGE):
        page = drivers_report.on_page(output.read_text() if output.exists() else "", text)
        output.write_text(page)
        for other in BESIDE if output == PAGE else ():
            other.write_text(drivers_report.spread(other.read_text(), page))
    print(text)
    if loaded := quiet.warning(results["loaded"]):
        say(loaded)
    say(f"took {results['took_s'] / 60:.1f} minutes")


if __name__ == "__main__":
    main()
