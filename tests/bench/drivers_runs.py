"""One task, and ten, with Nomad's ``java`` and ``raw_exec`` drivers and with Milo on one agent.

The application is tests/jars/OutputLoad.java. Its lines carry the time at which they were printed;
all times of one machine's clock, in seconds since the epoch.
"""

from __future__ import annotations

import concurrent.futures
import re
import time
import urllib.error
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from milo import proc
from tests.bench.memory_bench import cpu_s, rollup
from tests.bench.task_processes import beside, collectors, disk, jvms, once_a_node
from tests.support.agent import Agent
from tests.support.jobs import job_file
from tests.support.nomad import Job
from tests.support.waiting import scaled, wait_for

DRIVERS = ("java", "raw_exec", "milo")
JAR = "local/output-load.jar"
JVM_OPTIONS = ("-XX:+UseSerialGC", "-Xmx256m")
"""So that it is one JVM with all drivers: by itself it chooses by the memory that it is shown."""
SMALL_JVM = ("-XX:+UseSerialGC", "-Xmx16m", "-XX:TieredStopAtLevel=1")
MEMORY_MB, SMALL_MB = 512, 128
ALONE_MHZ, MANY_MHZ = 1000, 50
"""What one task asks for of the processors, and what each of many does."""
LINE = 120
"""The length of a line, in bytes."""
BULKS = {LINE: 400_000, 8192: 1_500_000, 65536: 1_500_000}
"""How many lines are printed as fast as can be, by the size of the writes."""
PACES = {1: 1000, 10: 100}
"""How many lines a second each task prints, by the number of tasks."""
PACED_S = 4
TASKS = 10
SETTLE_S = 2.0
"""After the last of the tasks has started."""
START_S = 120
PAUSE_S = 0.001
"""Between two looks at a log file."""
MAIN = re.compile(rb"^main (\d+) (\d+)\n", re.MULTILINE)


@attrs.frozen
class Place:
    """Where it is measured."""

    agent: Agent
    url: str
    """Of the JAR's directory."""
    home: str
    """The JDK, which each driver uses."""

    def text(
        self,
        driver: str,
        phases: Sequence[str] = (),
        *,
        options: Sequence[str] = JVM_OPTIONS,
        count: int = 1,
        memory: int = MEMORY_MB,
        log_mb: int = 10,
    ) -> str:
        """Return a job file: ``count`` tasks of ``memory`` MiB with log files of ``log_mb``."""
        config: dict[str, object] = {
            "jar_path": JAR,
            "jvm_options": list(options),
            "args": list(phases),
        }
        if driver == "raw_exec":
            words = [*options, "-jar", JAR, *phases]
            config = {"command": f"{self.home}/bin/java", "args": words}
        return job_file(
            driver=driver,
            config=config,
            artifact=f"{self.url}/output-load.jar",
            memory=memory,
            cpu=ALONE_MHZ if count == 1 else MANY_MHZ,
            task=f"logs {{\nmax_files = 2\nmax_file_size = {log_mb}\n}}\n",
            group=f"count = {count}\nephemeral_disk {{\nsize = {2 * log_mb + 50}\n}}\n",
        )

    def directory(self, alloc: str) -> Path:
        """Return an allocation's directory."""
        return self.agent.base / "data/alloc" / alloc

    def log(self, alloc: str) -> Path:
        """Return the log file of an allocation's task."""
        return self.directory(alloc) / "alloc/logs/app.stdout.0"

    def go(self, alloc: str, phase: int) -> None:
        """Have a task begin a phase; the first one is 1."""
        (self.directory(alloc) / f"app/local/go-{phase}").touch()

    @contextmanager
    def running(self, text: str, count: int = 1) -> Iterator[tuple[Job, list[str]]]:
        """Run a job while the context lasts: the job, and its allocations' ids."""
        job = self.agent.nomad.submit(text)
        try:
            yield job, wait_for("allocations", lambda: _ids(job, count), START_S, pause_s=0.01)
        finally:
            self.agent.nomad.delete(f"/v1/job/{job.id}")
            wait_for("the job's end", lambda: _has_ended(job), START_S)


def _ids(job: Job, count: int) -> list[str]:
    found = [str(alloc["ID"]) for alloc in job.allocations()]
    return found if len(found) == count else []


def _has_ended(job: Job) -> bool:
    return all(
        alloc["ClientStatus"] in ("complete", "failed", "lost") for alloc in job.allocations()
    )


def mains(log: Path) -> list[tuple[float, int]]:
    """Return when the main method of each JVM began that wrote the log, and its largest heap."""
    if not log.exists():
        return []
    with log.open("rb") as file:
        found = MAIN.findall(file.read(1 << 16))
    return [(int(us) / 1e6, int(heap)) for us, heap in found]


def wait_main(log: Path, times: int = 1) -> tuple[float, int]:
    """Return the ``times``-th of `mains` when it is there."""
    wait_for("the main method", lambda: len(mains(log)) >= times, START_S, pause_s=PAUSE_S)
    return mains(log)[times - 1]


def event_s(job: Job, kind: str) -> float:
    """Return when the last event of a kind happened to the job's task, as soon as it is known."""

    def found() -> list[int]:
        return [event["Time"] for event in job.task().get("Events", ()) if event["Type"] == kind]

    return wait_for(f"the event {kind}", found, START_S)[-1] / 1e9


def start_and_stop(place: Place, driver: str) -> dict[str, float]:
    """Start a task, restart it, and stop it: seconds, and bytes on the disk."""
    nomad = place.agent.nomad
    with place.running(place.text(driver)) as (job, [alloc]):
        log = place.log(alloc)
        wait_for("output", lambda: log.exists() and log.stat().st_size, START_S, pause_s=PAUSE_S)
        byte_s = time.time()
        main_s, _ = wait_main(log)
        received_s = event_s(job, "Received")
        used, own, files = disk(place.directory(alloc))
        job.wait_state("running", START_S)
        asked_s = time.time()
        nomad.put(f"/v1/client/allocation/{alloc}/restart", {"TaskName": "app"})
        again_s = wait_main(log, 2)[0] - asked_s
        wait_for("the restart to be known", lambda: _started_s(job) > asked_s, START_S)
        asked_s = time.time()
    killed_s = event_s(job, "Killed")
    return {
        "main_s": main_s - received_s,
        "byte_s": byte_s - received_s,
        "restart_s": again_s,
        "stop_s": killed_s - asked_s,
        "kill_s": killed_s - event_s(job, "Killing"),
        "disk_bytes": used,
        "own_bytes": own,
        "files": files,
    }


def _started_s(job: Job) -> float:
    """Return when a running task was started the last time; 0 if it does not run."""
    task = job.task()
    started = [event["Time"] for event in task.get("Events", ()) if event["Type"] == "Started"]
    return started[-1] / 1e9 if started and task.get("State") == "running" else 0.0


def heap_bytes(place: Place, driver: str) -> int:
    """Return the largest heap that a JVM chooses of which nothing is said."""
    with place.running(place.text(driver, options=())) as (_, [alloc]):
        return wait_main(place.log(alloc))[1]


def ten(place: Place, driver: str) -> dict[str, Any]:
    """Run ten tasks: their memory while they wait, and then the delays of their lines.

    Returns, in bytes of proportional memory, task_pss (all that the driver has beside the JVM),
    parent_pss (of it the JVM's parent), node_pss, logmon_pss (a task); and delays_s.
    """
    pace = PACES[TASKS]
    text = place.text(
        driver,
        [f"paced:{pace}:{pace * PACED_S}"],
        options=SMALL_JVM,
        count=TASKS,
        memory=SMALL_MB,
    )
    with place.running(text, TASKS) as (_, allocs):
        logs = [place.log(alloc) for alloc in allocs]
        for log in logs:
            wait_main(log)
        time.sleep(SETTLE_S)
        found = _memory(place, allocs)
        starts = [log.stat().st_size for log in logs]
        for alloc in allocs:
            place.go(alloc, 1)
        return {**found, "delays_s": delays(logs, starts, pace * PACED_S)}


def _memory(place: Place, allocs: list[str]) -> dict[str, float]:
    running = jvms(allocs)
    assert len(running) == len(allocs), (len(running), len(allocs))
    own = [beside(jvm) for jvm in running.values()]
    memory = {pid: rollup(pid)["Pss"] for pids in own for pid in pids}
    logs = [rollup(pid)["Pss"] for pid in collectors(place.agent)]
    return {
        "task_pss": sum(memory.values()) / len(allocs),
        "parent_pss": sum(memory[pids[0]] for pids in own) / len(allocs),
        "node_pss": sum(rollup(pid)["Pss"] for pid in once_a_node(place.agent)),
        "logmon_pss": sum(logs) / len(logs),
    }


def delays(logs: Sequence[Path], starts: Sequence[int], lines: int) -> list[float]:
    """Return how long each line took until it was in its log file, in seconds.

    ``lines`` is how many each log gets, from the byte on that ``starts`` has for it. Raises
    AssertionError when a line is missing, or comes out of order.
    """
    found: list[float] = []
    rests = [b""] * len(logs)
    counts = [0] * len(logs)
    deadline = time.monotonic() + scaled(START_S)
    files = [log.open("rb", buffering=0) for log in logs]
    try:
        for file, start in zip(files, starts, strict=True):
            file.seek(start)
        while min(counts) < lines:
            assert time.monotonic() < deadline, f"lines are missing: {counts} of {lines} each"
            for index, file in enumerate(files):
                if data := file.read(1 << 20):
                    now = time.time()
                    *whole, rests[index] = (rests[index] + data).split(b"\n")
                    for line in whole:
                        assert int(line[17:29]) == counts[index], line
                        counts[index] += 1
                        found.append(now - int(line[:16]) / 1e6)
            time.sleep(PAUSE_S / 2)
    finally:
        for file in files:
            file.close()
    return found


def output(place: Place, driver: str) -> dict[str, Any]:
    """Run one task that prints at a pace, and then as fast as it can by writes of each size.

    Returns delays_s, and for each size of `BULKS` what `_bulk` does.
    """
    pace = PACES[1]
    phases = [f"paced:{pace}:{pace * PACED_S}"]
    phases += [f"bulk:{size}:{lines}" for size, lines in BULKS.items()]
    log_mb = (sum(BULKS.values()) + pace * PACED_S) * LINE // 1_000_000 + 10
    with place.running(place.text(driver, phases, log_mb=log_mb)) as (_, [alloc]):
        log = place.log(alloc)
        wait_main(log)
        [jvm] = jvms([alloc]).values()
        own = beside(jvm)
        start = log.stat().st_size
        place.go(alloc, 1)
        found: dict[str, Any] = {"delays_s": delays([log], [start], pace * PACED_S)}
        for phase, (size, lines) in enumerate(BULKS.items(), 2):
            begin = {"phase": phase, "lines": lines}
            found[str(size)] = _bulk(place, alloc, own, **begin)
        return found


def _bulk(place: Place, alloc: str, own: list[int], *, phase: int, lines: int) -> dict[str, float]:
    """Have a phase printed; raises AssertionError when its log is not what was printed.

    Returns bytes_per_s from the first write until all is in the log file, and the processor
    seconds a GB of the driver's processes (driver_cpu) and of Nomad's collector (logmon_cpu).
    """
    log = place.log(alloc)
    start = log.stat().st_size
    logs = collectors(place.agent)
    before = sum(map(cpu_s, own)), sum(map(cpu_s, logs))
    place.go(alloc, phase)
    size = lines * LINE
    end = start + size
    wait_for("all output", lambda: log.stat().st_size >= end, START_S, pause_s=PAUSE_S)
    done_s = time.time()
    after = sum(map(cpu_s, own)), sum(map(cpu_s, logs))
    with log.open("rb") as file:
        file.seek(start)
        began_s = int(file.read(16)) / 1e6
        file.seek(start)
        check_lines(file.read(), lines)
    gigabytes = size / 1e9
    return {
        "bytes_per_s": size / (done_s - began_s),
        "driver_cpu": (after[0] - before[0]) / gigabytes,
        "logmon_cpu": (after[1] - before[1]) / gigabytes,
    }


def check_lines(data: bytes, lines: int) -> None:
    """Raise AssertionError unless ``data`` is what a phase of so many lines prints, and no more."""
    assert len(data) == lines * LINE, (len(data), lines * LINE)
    filler = b"." * (LINE - 30) + b"\n"
    # The first line alone has its time.
    step = 100_000
    for first in range(0, lines, step):
        numbers = range(first, min(first + step, lines))
        wanted = b"".join(b"%016d %012d%s" % (0, number, filler) for number in numbers)
        found = data[first * LINE : (first + len(numbers)) * LINE]
        skipped = 0 if first else 16
        assert found[skipped:] == wanted[skipped:], f"other bytes after line {first}"


def agent_restart(place: Place) -> dict[str, Any]:
    """Stop and start the agent under a task of each driver.

    Returns ready_s, seconds from the agent's exec until its node was ready; and for each driver
    how long it took until the agent told of the task's use again, and whether the JVM is the same.
    """
    agent = place.agent
    jobs = {driver: agent.nomad.submit(place.text(driver)) for driver in DRIVERS}
    allocs = {driver: job.allocation(START_S) for driver, job in jobs.items()}
    for alloc in allocs.values():
        wait_main(place.log(alloc))
        wait_for("its use", lambda alloc=alloc: _is_told(agent, alloc), START_S)  # type: ignore[misc]
    before = {alloc: _identity(pid) for alloc, pid in jvms(list(allocs.values())).items()}
    agent.stop()
    with concurrent.futures.ThreadPoolExecutor(len(DRIVERS)) as pool:
        began = time.monotonic()

        def told_s(alloc: str) -> float:
            wait_for("its use", lambda: _is_told(agent, alloc), START_S, pause_s=0.02)
            return time.monotonic() - began

        told = {driver: pool.submit(told_s, alloc) for driver, alloc in allocs.items()}
        agent.start()
        found: dict[str, Any] = {"ready_s": time.monotonic() - began}
        found |= {driver: {"told_s": future.result()} for driver, future in told.items()}
    after = {alloc: _identity(pid) for alloc, pid in jvms(list(allocs.values())).items()}
    for driver, alloc in allocs.items():
        found[driver]["same"] = alloc in after and after[alloc] == before[alloc]
    for job in jobs.values():
        agent.nomad.delete(f"/v1/job/{job.id}")
    for job in jobs.values():
        wait_for("the job's end", lambda job=job: _has_ended(job), START_S)  # type: ignore[misc]
    return found


def _identity(pid: int) -> tuple[int, int | None]:
    return pid, proc.start_ticks(pid)


def _is_told(agent: Agent, alloc: str) -> bool:
    """Whether the client has had the task's use from its driver since it was started."""
    try:
        found = agent.nomad.get(f"/v1/client/allocation/{alloc}/stats")
    except (OSError, urllib.error.HTTPError):
        return False
    return any((found.get("Tasks") or {}).values())
