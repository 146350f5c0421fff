"""What a chaos run works on: an agent, the tasks on it, and when all of it is well."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from random import Random

import attrs

from milo.core.records import TaskRecord
from tests.chaos import processes
from tests.chaos.plan import Plan
from tests.support.agent import Agent
from tests.support.jobs import job_file
from tests.support.nomad import Job
from tests.support.waiting import wait_for

WELL_S = 60.0
"""How long the recovery from one fault may take before the run counts as failed."""
FILE_MB = 64
EXPECTED_S = 1800
"""For which the log files are made to last at the task's rate."""
VICTIM_SHARE = 10
"""The task that is stopped again and again prints so many times less than a steady one."""


@attrs.frozen
class Subject:
    """One task that prints, and where its output goes."""

    job: Job
    alloc: str
    driver: str
    directory: Path
    """The allocation's, on the host."""

    @property
    def logs(self) -> Path:
        """Where Nomad writes the log files."""
        return self.directory / "alloc/logs"

    @property
    def report(self) -> Path:
        """What the program itself wrote down: see ChaosLines.java."""
        return self.directory / "app/local/chaos.log"

    def runs(self) -> bool:
        """Whether the program has been started."""
        return self.report.exists() and "start" in self.report.read_text()

    def fifo(self, stream: str) -> Path:
        """Return the FIFO of ``stdout`` or ``stderr``."""
        return self.logs / f".app.{stream}.fifo"

    def position(self, stream: str) -> tuple[int, int]:
        """Return number and size of the newest log file of a stream."""
        numbers = [int(path.suffix[1:]) for path in self.logs.glob(f"app.{stream}.*")]
        newest = max(numbers, default=0)
        try:
            return newest, (self.logs / f"app.{stream}.{newest}").stat().st_size
        except OSError:
            return newest, 0


class World:
    """An agent with steady tasks under Milo and raw_exec, and one that comes and goes."""

    def __init__(self, agent: Agent, jar_url: str, java: str, plan: Plan) -> None:
        self.agent = agent
        self.plan = plan
        # Its own stream of numbers: what the waiting finds must not change the order of faults.
        self.random = Random(plan.seed + 1)
        self._jar_url = jar_url
        self._java = java
        self.steady = [self.run("milo", plan.rate) for _ in range(plan.tasks)]
        self.raw = self.run("raw_exec", plan.rate)
        self.victim = self.run("milo", plan.rate // VICTIM_SHARE)
        self.former: list[Subject] = []
        """Victims that have been stopped."""
        self.task_kills: defaultdict[str, list[float]] = defaultdict(list)
        """When each allocation's task process was killed."""
        self.restarted: set[str] = set()
        """Allocations whose task Nomad may have started twice, as a fault hit its start."""
        self.wait_flow()

    @property
    def living(self) -> list[Subject]:
        """The tasks under Milo that run now."""
        return [*self.steady, self.victim]

    # ---- tasks --------------------------------------------------------------------------

    def submit(self, driver: str, rate: int) -> Job:
        """Submit a job that prints ``rate`` bytes a second on each stream."""
        options = ["-XX:+UseSerialGC", "-Xmx32m"]
        words = [str(rate), str(self.plan.stall_us)]
        config: dict[str, object] = {"args": words, "jvm_options": options}
        if driver == "raw_exec":
            jar = "local/chaos-lines.jar"
            config = {"command": self._java, "args": [*options, "-jar", jar, *words]}
        files, file_mb = self.log_limits(rate)
        return self.agent.nomad.run(
            job_file(
                driver=driver,
                kind="service",
                config=config,
                artifact=f"{self._jar_url}/chaos-lines.jar",
                attempts=20,
                task=f"logs {{\nmax_files = {files}\nmax_file_size = {file_mb}\n}}\n"
                'kill_timeout = "20s"',
                group=f"ephemeral_disk {{\nsize = {files * file_mb + 10}\n}}",
            )
        )

    def log_limits(self, rate: int) -> tuple[int, int]:
        """Return how many log files of how many MB keep all that is printed at ``rate``."""
        return 4 + rate * EXPECTED_S // (FILE_MB << 20), FILE_MB

    def subject(self, job: Job, driver: str) -> Subject:
        """Return the task of a job, once its program runs.

        Nomad's word is not waited for: killed between StartTask and its report of that, the
        agent has the task back, and calls it pending until something else happens to it.
        """
        alloc = job.allocation(WELL_S)
        subject = Subject(job, alloc, driver, self.agent.base / "data/alloc" / alloc)
        wait_for(f"the program of {alloc} to run", subject.runs, WELL_S)
        return subject

    def run(self, driver: str, rate: int) -> Subject:
        """Start a task and wait until it runs."""
        return self.subject(self.submit(driver, rate), driver)

    def replace_victim(self) -> None:
        """Start another task in the place of the victim, which has ended."""
        self.former.append(self.victim)
        self.victim = self.run("milo", self.plan.rate // VICTIM_SHARE)

    # ---- who is there -------------------------------------------------------------------

    def plugin(self, subjects: list[Subject] | None = None) -> int:
        """Wait until one plugin process holds the descriptors of every task; return its id."""
        wanted = self.living if subjects is None else subjects

        def probe() -> int | None:
            for pid in processes.plugins(self.agent):
                if all(self.holds(pid, subject) for subject in wanted):
                    return pid
            return None

        return wait_for("a plugin that holds every task's descriptors", probe, WELL_S, pause_s=0.02)

    def holds(self, plugin: int, subject: Subject) -> bool:
        """Whether a plugin process has all that a successor of the task process would need."""
        files = processes.open_files(plugin)
        record = self.record(subject)
        return record is not None and all(
            {str(subject.fifo(stream)), f"pipe:[{record.pipes.get(stream)}]"} <= files
            for stream in processes.STREAMS
        )

    def record(self, subject: Subject) -> TaskRecord | None:
        """Return what the state directory says of the task."""
        found = processes.task_records(self.agent, subject.alloc)
        return found[0] if found else None

    def task_process(self, subject: Subject) -> int:
        """Return the id of the task's own process, which answers."""

        def probe() -> int | None:
            record = self.record(subject)
            if record is None or not processes.answers(self.agent, record):
                return None
            return record.supervisor.pid

        return wait_for(f"the task process of {subject.alloc}", probe, WELL_S, pause_s=0.02)

    def logmon(self, subject: Subject) -> int:
        """Return the id of the task's log collector."""
        found = wait_for(
            f"a logmon of {subject.alloc}",
            lambda: processes.logmons(subject.fifo("stdout")),
            WELL_S,
            pause_s=0.02,
        )
        return found[0]

    # ---- all is well --------------------------------------------------------------------

    def wait_recovered(self, log_start: int) -> None:
        """Wait until Nomad says, after byte ``log_start`` of its log, that it has every task.

        Killing a plugin earlier than that makes Nomad give the task up, with any driver.
        """

        def probe() -> bool:
            lines = self.agent.tail(log_start, 4 << 20).splitlines()
            recovered = [line for line in lines if "task successfully recovered on driver" in line]
            return all(any(subject.alloc in line for line in recovered) for subject in self.living)

        wait_for("Nomad to recover every task", probe, WELL_S, pause_s=0.05)
        self.plugin()

    def wait_agent(self, since_s: float) -> None:
        """Wait until a restarted agent has sampled every task, since ``since_s``."""
        for subject in [*self.living, self.raw]:
            wait_for(
                f"the agent to sample {subject.alloc}",
                lambda subject=subject: self._sampled_s(subject) > since_s,  # type: ignore[misc]
                WELL_S,
            )
        self.plugin()

    def _sampled_s(self, subject: Subject) -> float:
        try:
            stats = self.agent.nomad.get(f"/v1/client/allocation/{subject.alloc}/stats")
        except OSError:
            return 0.0
        task = (stats.get("Tasks") or {}).get("app") or {}
        return float(task.get("Timestamp") or 0) / 1e9

    def wait_flow(self) -> None:
        """Wait until every stream of every task reaches Nomad's log files."""
        for subject in [*self.living, self.raw]:
            for stream in processes.STREAMS:
                before = subject.position(stream)
                wait_for(
                    f"{stream} of {subject.driver} {subject.alloc} to reach the log",
                    lambda subject=subject, stream=stream, before=before: (  # type: ignore[misc]
                        subject.position(stream) != before
                    ),
                    WELL_S,
                    pause_s=0.02,
                )

    def restarts(self, subject: Subject) -> int:
        """Return how often Nomad has restarted the task."""
        alloc = self.agent.nomad.get(f"/v1/allocation/{subject.alloc}")
        state = (alloc.get("TaskStates") or {}).get("app") or {}
        return int(state.get("Restarts") or 0)

    def describe(self, subject: Subject) -> str:
        """Return the task's events, for a run that failed."""
        alloc = self.agent.nomad.get(f"/v1/allocation/{subject.alloc}")
        events = ((alloc.get("TaskStates") or {}).get("app") or {}).get("Events") or []
        texts = [f"{event['Type']}: {event['DisplayMessage']}" for event in events]
        return json.dumps(texts, indent=1)


def now_ms() -> int:
    """Return the time as the program's lines give it: milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
