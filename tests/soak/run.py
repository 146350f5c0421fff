"""The soak: a real agent for an hour, tasks that come and go, and figures that must not grow.

``nox -s soak -- --minutes 60`` or ``python -m tests.soak.run``. Ends with status 1 when a figure
grows, when a run of an hour cannot tell, or when a task that should run on was started again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import attrs

from tests.chaos import faults
from tests.chaos.account import Account, read_files
from tests.chaos.plan import Plan
from tests.chaos.world import World
from tests.soak.census import Census, take
from tests.soak.report import Figure, failures, figures, processes_by_name, table
from tests.support import artifacts, jars, leftovers
from tests.support.agent import ROOT, agent
from tests.support.jobs import job_file

REPORTS = ROOT / ".nox/soak"
RATE = 40_000
"""Bytes a second on each stream of a steady task: its log is rotated every half minute."""
LOG_FILES, LOG_FILE_MB = 3, 1
RESTARTS = ("agent stop",) * 2 + ("agent kill",) * 10
"""How the agent is restarted, in turn. After a kill the plugin lives on: so it gets old enough to
show what it gains."""
IDLE_THREAD_S = 11.0
"""After so long without work, Trio's threads have ended: what is counted then are threads to stay,
and not how long ago a task was started."""
RUNTIME_OPTIONS = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx16m"]


class SoakWorld(World):
    """As in a chaos run, but with logs that are rotated away."""

    def log_limits(self, rate: int) -> tuple[int, int]:
        """Keep little of the log, whatever the rate."""
        return LOG_FILES, LOG_FILE_MB


@attrs.define
class Soak:
    """One run, as it goes on."""

    world: World
    jar_url: str
    samples: list[Census] = attrs.field(factory=list)
    tasks: int = 0
    """That came and went."""
    restarts: int = 0
    """Of the agent."""
    problems: list[str] = attrs.field(factory=list)

    def come_and_go(self) -> None:
        """Stop a task, start another, run one to its end and a command in one; forget the dead."""
        world, nomad = self.world, self.world.agent.nomad
        world.victim.job.stop()
        nomad.cli("job", "stop", "-purge", "-detach", world.victim.job.id)
        world.victim = world.run("milo", world.plan.rate)
        world.victim.job.wait_state("running")  # the JVM prints before the agent knows
        words = ("alloc", "exec", "-i=false", "-t=false", world.victim.alloc, "/bin/echo", "here")
        if (printed := nomad.cli(*words)) != "here\n":
            self.problems.append(f"a command in a task printed {printed!r} instead of 'here'")
        job = nomad.run(
            job_file(config={"jvm_options": RUNTIME_OPTIONS}, artifact=f"{self.jar_url}/hello.jar")
        )
        if job.wait_state("dead")["Failed"]:
            self.problems.append(f"a task that should succeed failed: {job.events()}")
        world.agent.note_allocations()
        nomad.cli("job", "stop", "-purge", "-detach", job.id)
        alive = {subject.alloc for subject in (*world.living, world.raw)}
        nomad.collect(lambda: world.agent.directories() - alive)
        self.tasks += 2

    def restart(self, how: str) -> None:
        """Restart the agent, and wait until all is well again."""
        done = faults.do(self.world, how)
        if done.problem:
            raise AssertionError(f"{how}: {done.problem}")
        self.restarts += 1

    def sample(self) -> None:
        """Count what there is now."""
        self.world.wait_flow()
        self.samples.append(take(self.world.agent, self._began_s))

    def finish(self) -> None:
        """Look at what became of the tasks that ran all the time."""
        for subject in self.world.steady:
            if restarts := self.world.restarts(subject):
                self.problems.append(f"a steady task was restarted {restarts} times")
            if (starts := subject.report.read_text().count("start ")) != 1:
                self.problems.append(f"a steady task's JVM was started {starts} times")
            for stream in ("stdout", "stderr"):
                self.problems += _broken_log(subject.logs, stream)

    _began_s: float = attrs.field(factory=time.monotonic)


def _broken_log(logs: Path, stream: str) -> list[str]:
    """Say where lines are missing in what rotation has left of a log."""
    files = sorted(logs.glob(f"app.{stream}.*"), key=lambda path: int(path.suffix[1:]))
    if int(files[0].suffix[1:]) == 0:
        return [f"{stream} was never rotated away"]
    text = b"".join(read_files(files)).partition(b"\n")[2].rpartition(b"\n")[0] + b"\n"
    account = Account(text[:1].decode(), expected=int(text[2:14]))
    account.read([text])
    return [] if account.clean else [f"{stream} after {len(files)} files: {account}"]


@attrs.frozen
class Outcome:
    """All of a run."""

    took_s: float
    tasks: int
    restarts: int
    rotations: int
    """Log files of a steady task's stdout that there have been."""
    samples: list[Census]
    figures: list[Figure]
    problems: list[str]


def run(
    minutes: float, *, cycle_s: float, restart_s: float, say: Callable[[str], None] = print
) -> Outcome:
    """Soak for ``minutes``: a cycle of tasks every ``cycle_s``, a restart every ``restart_s``.

    Raises AssertionError when something does not become well again, or is left at the end.
    """
    with _world() as (world, url):
        soak = Soak(world, url)
        began_s, how = time.monotonic(), cycle(RESTARTS)
        next_restart_s = restart_s
        while (now_s := time.monotonic() - began_s) < 60 * minutes:
            if now_s >= next_restart_s:
                next_restart_s += restart_s
                soak.restart(next(how))
            soak.come_and_go()
            rest_s = now_s + cycle_s - (time.monotonic() - began_s)
            time.sleep(max(rest_s, min(IDLE_THREAD_S, cycle_s)))
            soak.sample()
            last = soak.samples[-1]
            say(f"{last.at_s:.0f} s: {processes_by_name(last)}, {last.state_bytes} bytes of state")
        took_s = time.monotonic() - began_s
        soak.finish()
        found = figures(soak.samples)
        return Outcome(
            took_s,
            soak.tasks,
            soak.restarts,
            world.steady[0].position("stdout")[0] + 1,
            soak.samples,
            found,
            soak.problems + failures(found, took_s),
        )


@contextmanager
def _world() -> Iterator[tuple[World, str]]:
    java = shutil.which("java") or "java"
    sources = [jars.SOURCES / name for name in ("ChaosLines.java", "Hello.java")]
    with tempfile.TemporaryDirectory() as directory:
        jars.build(Path(directory), sources)
        with artifacts.serve(Path(directory)) as url, agent("soak", dev=False) as one:
            try:
                yield SoakWorld(one, url, java, Plan(rate=RATE, stall_us=10**9)), url
            except BaseException:
                leftovers.kill(one.base)
                raise


def main(words: Sequence[str] | None = None) -> int:
    """Run what the command line says and return the exit status."""
    parser = argparse.ArgumentParser(description="Soak of the driver under a real agent")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--cycle-s", type=float, default=30, help="between rounds of tasks")
    parser.add_argument("--restart-s", type=float, default=300, help="between restarts")
    given = parser.parse_args(words)
    outcome = run(
        given.minutes,
        cycle_s=given.cycle_s,
        restart_s=given.restart_s,
        say=lambda text: print(text, flush=True),
    )
    REPORTS.mkdir(parents=True, exist_ok=True)
    path = REPORTS / f"{time.strftime('%Y-%m-%dT%H%M')}.json"
    path.write_text(json.dumps([attrs.asdict(one) for one in outcome.samples]) + "\n")
    print(table(outcome.figures))
    print(
        f"{outcome.took_s:.0f} s, {len(outcome.samples)} samples, {outcome.tasks} tasks, "
        f"{outcome.restarts} restarts of the agent, {outcome.rotations} log files of one stream"
    )
    for text in outcome.problems:
        print(f"BROKEN: {text}")
    print(f"samples written to {path}")
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
