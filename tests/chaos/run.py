"""The chaos run: a real agent, tasks that print, faults at random, and an account of each line.

``nox -s chaos -- --seed 7 --plugin-kills 100`` or ``python -m tests.chaos.run``; the options
are `Plan`'s fields. Ends with status 1 when a promise is broken.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from tests.chaos.faults import Done, do
from tests.chaos.plan import SHORT, Plan
from tests.chaos.verdict import (
    LOSING,
    Result,
    Timeline,
    broken_promises,
    longer_stalls,
    read_results,
)
from tests.chaos.world import World, now_ms
from tests.support import artifacts, jars, leftovers
from tests.support.agent import ROOT, agent

REPORTS = ROOT / ".nox/chaos"


@attrs.frozen
class Outcome:
    """All of a run."""

    plan: Plan
    took_s: float
    done: list[Done]
    results: list[Result]
    steady: set[str]
    broken: list[str]
    """Promises about output and processes that were not kept, a sentence each."""
    slow: list[str]
    """The same about stalls: a host that is busy with other work can break those alone."""


def run(plan: Plan, name: str, say: Callable[[str], None] = print) -> Outcome:
    """Do what ``plan`` says, on an agent whose log is kept as ``.nox/agents/NAME.log``.

    Raises AssertionError when something is left behind at the end.
    """
    began_s = time.monotonic()
    say(f"seed {plan.seed}")
    names = plan.faults(random.Random(plan.seed))
    java = shutil.which("java") or "java"
    with tempfile.TemporaryDirectory() as directory:
        jars.build(Path(directory), [jars.SOURCES / "ChaosLines.java"])
        with artifacts.serve(Path(directory)) as url, agent(name, dev=False) as one:
            try:
                done, results, steady = _run(World(one, url, java, plan), names, say)
            except BaseException:
                leftovers.kill(one.base)
                raise
    timeline = Timeline(done)
    return Outcome(
        plan=plan,
        took_s=time.monotonic() - began_s,
        done=done,
        results=results,
        steady=steady,
        broken=broken_promises(results, done, timeline),
        slow=longer_stalls(results, steady, timeline),
    )


def _run(
    world: World, names: list[str], say: Callable[[str], None]
) -> tuple[list[Done], list[Result], set[str]]:
    """Do the faults; return them, what became of each task, and the steady tasks' allocations."""
    done = []
    for number, fault in enumerate(names, 1):
        world.agent.note_allocations()
        done.append(do(world, fault))
        last = done[-1]
        say(f"{number}/{len(names)} {fault}: {last.took_s:.1f} s {last.problem}")
        if last.problem:
            break
    if world.agent.process is None:
        world.agent.start()
    if done and done[-1].problem:
        say("\n".join(world.describe(subject) for subject in world.living))
    steady = {subject.alloc for subject in world.steady}
    return done, _end(world), steady


def _end(world: World) -> list[Result]:
    """Stop every task and account for what it printed."""
    subjects = [*world.living, world.raw, *world.former]
    for subject in subjects:
        subject.job.stop()
    return read_results(
        (
            (subject, world.restarts(subject), subject.alloc in world.restarted)
            for subject in subjects
        ),
        now_ms(),
    )


# ---- what is shown ----------------------------------------------------------------------


def summary(outcome: Outcome) -> dict[str, object]:
    """Return the figures of a run, for the table and the JSON file."""
    milo = [one for one in outcome.results if one.driver == "milo"]
    once = [account for one in milo if one.report.starts == 1 for account in one.accounts]
    timeline = Timeline(outcome.done)
    gaps = [(timeline.loser(gap), gap) for account in once for gap in account.gaps]
    ours = timeline.longest_stalls(one for one in outcome.results if one.alloc in outcome.steady)
    raw = timeline.longest_stalls(one for one in outcome.results if one.driver == "raw_exec")
    kinds = Counter(one.name for one in outcome.done)
    return {
        "plan": attrs.asdict(outcome.plan),
        "took_s": round(outcome.took_s, 1),
        "tasks": len(milo),
        "lines": sum(account.lines for account in once),
        "bytes": sum(account.read_bytes for account in once),
        "lost_bytes_unexcused": sum(gap.lost_bytes for cause, gap in gaps if cause is None),
        "lost_bytes_in": {
            name: [
                gap.lost_bytes for cause, gap in gaps if cause is not None and cause.name == name
            ]
            for name in LOSING
        },
        "repeated": sum(account.repeated for account in once),
        "out_of_order": sum(account.out_of_order for account in once),
        "jvm_restarts": sum(one.report.starts - 1 for one in milo if not one.may_restart),
        "refused_writes": sum(len(one.report.refused_ms) for one in milo),
        "faults": {
            name: {
                "done": kinds[name],
                "recovery_s_median": _median([o.took_s for o in outcome.done if o.name == name]),
                "recovery_s_max": max(
                    (o.took_s for o in outcome.done if o.name == name), default=0
                ),
                "stall_ms_milo": round(ours.get(name, 0.0), 1),
                "stall_ms_raw_exec": round(raw.get(name, 0.0), 1),
            }
            for name in [*sorted(kinds), "between faults"]
        },
        "broken": outcome.broken + outcome.slow,
    }


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0


def table(figures: dict[str, object]) -> str:
    """Return the figures for people."""
    rows = ["fault                  done  recovery s: median     max  stall ms: milo  raw_exec"]
    faults = figures["faults"]
    assert isinstance(faults, dict)
    for name, one in faults.items():
        rows.append(
            f"{name:22} {one['done']:4}  {one['recovery_s_median']:18.1f}"
            f"  {one['recovery_s_max']:6.1f}"
            f"  {one['stall_ms_milo']:14.1f}  {one['stall_ms_raw_exec']:8.1f}"
        )
    rows += [
        f"{key}: {value}"
        for key, value in figures.items()
        if key not in ("faults", "plan", "broken")
    ]
    broken = figures["broken"]
    assert isinstance(broken, list)
    rows += [f"BROKEN: {text}" for text in broken] or ["Every promise was kept"]
    return "\n".join(rows)


def main(words: Sequence[str] | None = None) -> int:
    """Run what the command line says and return the exit status."""
    parser = argparse.ArgumentParser(description="Chaos run of the driver under a real agent")
    parser.add_argument("--short", action="store_true", help="start from the short form's plan")
    for field in attrs.fields(Plan):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int)
    given = vars(parser.parse_args(words))
    plan = SHORT if given.pop("short") else Plan()
    if given["seed"] is None:
        given["seed"] = random.SystemRandom().randrange(1 << 32)
    plan = attrs.evolve(plan, **{key: value for key, value in given.items() if value is not None})
    outcome = run(plan, f"chaos-{plan.seed}", lambda text: print(text, flush=True))
    figures = summary(outcome)
    REPORTS.mkdir(parents=True, exist_ok=True)
    path = REPORTS / f"{plan.seed}.json"
    path.write_text(json.dumps(figures, indent=1) + "\n")
    print(table(figures))
    print(f"written to {path}")
    return 1 if outcome.broken or outcome.slow else 0


if __name__ == "__main__":
    sys.exit(main())
