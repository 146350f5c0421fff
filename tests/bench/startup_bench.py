"""First and second starts with a startup archive, beside ``java -jar`` and Nomad's java driver.

``python -m tests.bench.startup_bench [--quick] [--help]`` writes a section of docs/benchmarks.md.
Needs root, crun, JDKs with javac, and Maven for what no one here wrote; the java driver needs
Nomad. What is not to be had is named in the section. A machine that does other work is waited for,
and then refused, unless ``--busy`` is given, which the section says.

Times are from the StartTask call, or from the exec, to the first byte of output and until the
application is ready, in turns. A first start is one that records.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import attrs

from tests.bench import machine, startup_agent, startup_memory, startup_report
from tests.bench.plugin_host import PluginHost, install, open_host
from tests.bench.startup_apps import MAKERS, App, java_homes, java_version, make
from tests.bench.startup_runs import Start, alone, first_start, kept_start, second_start

PAGE = Path(__file__).parents[2] / "docs/benchmarks.md"
FIGURES = Path(__file__).parents[2] / ".nox/startup-bench.json"
PARTS = ("starts", "java-driver", "memory")
LEAST_ROUNDS, MOST_ROUNDS, ROUNDS_S = 3, 9, 22
"""How many starts of each kind, unless the command line says: what time there is decides."""
QUIET_SHARE = 0.1
"""Of all processors: what others may use of them."""
WAIT_S = 300
"""So long a machine is waited for, unless the command line says."""


@attrs.frozen
class Wanted:
    """What is to be measured."""

    parts: list[str]
    apps: list[str]
    javas: list[str]
    rounds: int
    agent_rounds: int
    instances: int
    wait_s: float
    busy: bool
    off: bool


@attrs.frozen
class Run:
    """What the measurements of one run share."""

    launcher: Path
    base: Path
    state: Path
    apps: list[App]
    homes: dict[str, str]
    """By the release of the JDK."""
    wanted: Wanted
    results: dict[str, Any]

    def host(self, home: str) -> AbstractAsyncContextManager[PluginHost]:
        """Be the agent of a plugin process whose java_home is ``home``."""
        return open_host(self.launcher, self.base, self.state, java_home=home)


def measure(wanted: Wanted) -> dict[str, Any]:
    """Measure, and return what `startup_report` writes."""
    notes: list[str] = []
    results: dict[str, Any] = {"notes": notes, "starts": [], "driver": [], "memory": []}
    base = Path(tempfile.mkdtemp(prefix="milo-bench-"))
    base.chmod(0o755)
    state = Path(tempfile.mkdtemp(prefix="milo-bench-", dir=machine.memory_file_system()))
    try:
        homes = java_homes(wanted.javas, notes)
        apps = make(wanted.apps, base / "apps", notes)
        launcher = install(base / "plugins")
        share = settle(0 if wanted.busy else wanted.wait_s)
        if share > QUIET_SHARE and not wanted.busy:
            sys.exit(
                f"others use {share:.0%} of the processors (load average "
                f"{machine.load_average():.2f}), so that figures would mean little; --busy "
                "measures all the same, and says so"
            )
        began = time.monotonic()
        results |= {"load": machine.load_average(), "others": [share]}
        results["machine"] = machine.machine()
        results["javas"] = {release: java_version(home) for release, home in homes.items()}
        run = Run(launcher, base, state / "s", apps, homes, wanted, results)
        if "starts" in wanted.parts:
            asyncio.run(starts(run))
        if "java-driver" in wanted.parts:
            say("java driver")
            startup_agent.compare(base, apps, homes, wanted.agent_rounds, results)
        if "memory" in wanted.parts:
            asyncio.run(memory(attrs.evolve(run, state=state / "m")))
    finally:
        shutil.rmtree(base, ignore_errors=True)
        shutil.rmtree(state, ignore_errors=True)
    results["load_after"] = machine.load_average()
    results["took_s"] = time.monotonic() - began
    return results


def settle(wait_s: float) -> float:
    """Wait until others leave the processors, and return the share that they use at last."""
    share = machine.busy_share(3)
    waited = 3.0
    while share > QUIET_SHARE and waited < wait_s:
        share = machine.busy_share(5)
        waited += 5
    return share


async def starts(run: Run) -> None:
    """Measure the starts of each application on each JDK, with a plugin process for each of these.

    An operator's java_home is the JDK, which may lie anywhere.
    """
    for release, home in run.homes.items():
        async with run.host(home) as host:
            for app in run.apps:
                # Nothing of the bench runs now, or but the end of the last start.
                run.results["others"].append(min(machine.busy_share(0.4) for _ in range(2)))
                try:
                    found = await in_turns(host, app, home, run.wanted.rounds, off=run.wanted.off)
                except Exception as error:  # the section says that it is missing
                    run.results["notes"].append(f"{app.name} on Java {release}: {str(error)[:500]}")
                    say(run.results["notes"][-1])
                    continue
                row = {"app": app.name, "release": release, "ends": not app.answers}
                row |= {way: list(map(attrs.astuple, times)) for way, times in found.items()}
                run.results["starts"].append(row)
                say(startup_report.short(row))
    order = [app.name for app in run.apps]
    run.results["starts"].sort(key=lambda row: order.index(row["app"]))


async def in_turns(
    host: PluginHost, app: App, home: str, rounds: int, *, off: bool
) -> dict[str, list[Start]]:
    """Return the starts of each way; before them, one that makes the archive.

    So many as ``rounds`` says; 0 leaves that to the time that they take.
    """
    found: dict[str, list[Start]] = {"plain": [], "first": [], "second": []}
    if off:
        found["off"] = []
    await kept_start(host, app, home)
    began = time.monotonic()
    for done in range(rounds or MOST_ROUNDS):
        if not rounds and done >= LEAST_ROUNDS and time.monotonic() - began > ROUNDS_S:
            break
        found["plain"].append(await asyncio.to_thread(alone, app, home))
        found["first"].append(await first_start(host, app, home))
        found["second"].append(await second_start(host, app, home))
        if off:
            found["off"].append(await first_start(host, app, home, cache="off"))
    return found


async def memory(run: Run) -> None:
    """Measure the memory of several instances of one application."""
    one = next((app for app in run.apps if app.name == startup_memory.APP), None)
    if one is None:
        run.results["notes"].append(f"memory: {startup_memory.APP} is not among the applications")
        return
    for release in startup_memory.JAVAS:
        if release not in run.homes:
            continue
        for way in startup_memory.WAYS:
            say(f"memory: {run.wanted.instances} of {one.name}, Java {release}, {way}")
            async with run.host(run.homes[release]) as host:
                try:
                    row = await startup_memory.instances(
                        host, one, run.homes[release], way, run.wanted.instances
                    )
                except Exception as error:  # the section says that it is missing
                    run.results["notes"].append(
                        f"memory on Java {release}, {way}: {str(error)[:500]}"
                    )
                    continue
            run.results["memory"].append({"app": one.name, "release": release, "way": way, **row})


def say(text: str) -> None:
    """Tell on standard error what is being measured."""
    print(text, file=sys.stderr, flush=True)


def _wanted(options: argparse.Namespace) -> Wanted:
    rounds = options.rounds or (1 if options.quick else 0)
    return Wanted(
        options.parts,
        options.only,
        options.java,
        rounds,
        options.agent_rounds,
        options.instances or (2 if options.quick else 10),
        options.wait,
        options.busy,
        options.off,
    )


def main() -> None:
    """Measure, and write the section; a target that is missed is no failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one start of each, to try the code")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--agent-rounds", type=int, default=1)
    parser.add_argument("--instances", type=int, default=0)
    parser.add_argument("--java", nargs="+", default=["17", "21", "25"], metavar="RELEASE")
    parser.add_argument("--only", nargs="+", choices=list(MAKERS), default=list(MAKERS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--wait", type=float, default=WAIT_S, metavar="SECONDS")
    parser.add_argument("--busy", action="store_true", help="measure on a busy machine as well")
    parser.add_argument("--off", action="store_true", help="also containers without an archive")
    parser.add_argument("--output", type=Path, help="default: docs/benchmarks.md if complete")
    parser.add_argument("--json", type=Path, default=FIGURES)
    options = parser.parse_args()
    results = measure(_wanted(options))
    options.json.parent.mkdir(exist_ok=True)
    options.json.write_text(json.dumps(results, indent=2))
    section = startup_report.section(results)
    complete = options.parts == list(PARTS) and options.only == list(MAKERS) and not options.quick
    output = options.output or (PAGE if complete else None)
    if output is None:
        print(section)
        return
    output.write_text(startup_report.put(output.read_text() if output.exists() else "", section))
    say(f"written: {output}, measured in {results['took_s'] / 60:.0f} minutes")


if __name__ == "__main__":
    main()
