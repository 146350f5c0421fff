"""Starts with Nomad's java driver, and second starts with Milo, on one agent and in turns.

Times are those since Nomad's client has received the task, as its event says: with its directories,
the java driver's chroot among them, and the artifact from this machine. Milo's archives are those
that the other starts of the bench have left, as of the same job.
"""

from __future__ import annotations

import concurrent.futures
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.bench.startup_apps import (
    JVM_OPTIONS,
    READY_S,
    App,
    NotReadyError,
    free_port,
    wait_answer,
)
from tests.bench.startup_runs import MEMORY_MB, SCRATCH, USED, Start, kept_job
from tests.support import artifacts, security_chroot
from tests.support.agent import Agent, agent, missing
from tests.support.jobs import job_file
from tests.support.nomad import Job, hcl
from tests.support.waiting import scaled, wait_for

DRIVERS = ("java", "milo")
PRINTED_MS = re.compile(rb"^(\d{13})$", re.MULTILINE)
"""When an application was at its second line, of those that end by themselves."""


def compare(
    base: Path, apps: list[App], homes: dict[str, str], rounds: int, results: dict[str, Any]
) -> None:
    """Add a row for each application and JDK to ``results``, or a note why there is none.

    ``base`` has the cache with the archives.
    """
    notes = results["notes"]
    if reason := missing():
        notes.append(f"the java driver: {reason}")
        return
    with artifacts.serve(base / "apps") as url:
        for app in apps:
            words = ("tar", "-C", app.directory, "-cf", base / f"apps/{app.directory.name}.tar")
            subprocess.run([*words, "."], check=True)
        for release, home in homes.items():
            try:
                with _agent(home, base / "cache") as one:
                    for app in apps:
                        _add(one, url, app, release, home, rounds, results)
            except Exception as error:  # the section says that it is missing
                notes.append(f"the java driver on Java {release}: {str(error)[:500]}")


def _agent(home: str, cache: Path) -> Any:
    """Return an agent whose java driver has that JDK, and a chroot of little more."""
    lines = (
        f"{hcl(path)} = {hcl(inside)}\n"
        for path, inside in security_chroot.entries(f"{home}/bin/java").items()
    )
    # The driver takes the first java of its PATH.
    env = {"PATH": f"{home}/bin:{os.environ['PATH']}"}
    chroot = f"chroot_env {{\n{''.join(lines)}}}\n"
    keys = {"cache_dir": str(cache), "java_home": home}
    return agent("startup", client=chroot, env=env, milo=keys)


def _add(
    one: Agent,
    url: str,
    app: App,
    release: str,
    home: str,
    rounds: int,
    results: dict[str, Any],
) -> None:
    row: dict[str, Any] = {"app": app.name, "release": release}
    row |= {driver: [] for driver in DRIVERS}
    for _ in range(rounds):
        for driver in DRIVERS:
            try:
                start = once(one, url, app, driver, home)
            except Exception as error:  # the section says that it is missing
                results["notes"].append(
                    f"{app.name} on Java {release} by the driver {driver}: {str(error)[:500]}"
                )
                return
            row[driver].append((start.first_byte_s, start.ready_s))
    results["driver"].append(row)


def once(one: Agent, url: str, app: App, driver: str, home: str) -> Start:
    """Start the application once as a job, and stop it when it is ready."""
    port = free_port()
    known = {alloc["ID"] for alloc in one.nomad.get("/v1/allocations")}
    logged = one.log_size()
    job = one.nomad.run(_text(url, app, driver, home, port))
    try:
        [alloc] = wait_for(
            "an allocation",
            lambda: [a["ID"] for a in job.allocations() if a["ID"] not in known],
            pause_s=0.01,
        )
        first, ready = _watch(one, job, app, alloc, port)
        # The client tells of its events a few times in a second.
        began = wait_for("the task's first event", lambda: _received_s(job), pause_s=0.05)
        if driver == "milo":
            wait_for("the use of the archive", lambda: USED in one.tail(logged, 1 << 22), 5)
        return Start(first - began, ready - began)
    finally:
        one.nomad.cli("job", "stop", "-purge", "-detach", job.id)
        wait_for("the job's end", lambda: _all_ended(one), 60)


def _watch(one: Agent, job: Job, app: App, alloc: str, port: int) -> tuple[float, float]:
    """Return when there was a first byte in Nomad's log file, and when it was ready."""
    log = one.base / f"data/alloc/{alloc}/alloc/logs/app.stdout.0"
    looked = time.monotonic()

    def ended() -> str:
        nonlocal looked
        if time.monotonic() - looked < 1:
            return ""
        looked = time.monotonic()
        return _failure(job)

    def answered() -> float:
        wait_answer(port, app.answers, ended)
        return time.time()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        ready = pool.submit(answered) if app.answers else None
        deadline = time.monotonic() + scaled(READY_S)
        while not (log.exists() and log.stat().st_size):
            if time.monotonic() > deadline or (ready is None and ended()):
                raise NotReadyError(f"no output: {_failure(job)}")
            time.sleep(0.002)
        first = time.time()
        if ready is not None:
            return first, ready.result()
    found = wait_for("the time in the output", lambda: PRINTED_MS.search(log.read_bytes()))
    assert found is not None
    # It was at its first line just before; the log file came later.
    return first, int(found[1]) / 1000


def _received_s(job: Job) -> float | None:
    times = [event["Time"] for event in job.task().get("Events", ()) if event["Type"] == "Received"]
    return times[0] / 1e9 if times else None


def _failure(job: Job) -> str:
    """Say how the job's task has failed; nothing if it has not."""
    task = job.task()
    if task.get("State") != "dead" or not task.get("Failed"):
        return ""
    shown = job.logs("-stderr").decode(errors="replace")[-1000:]
    return f"{'; '.join(job.events())}: {shown}"


def _all_ended(one: Agent) -> bool:
    return all(
        alloc["ClientStatus"] in ("complete", "failed", "lost")
        for alloc in one.nomad.get("/v1/allocations")
    )


def _text(url: str, app: App, driver: str, home: str, port: int) -> str:
    name = app.directory.name
    args, env = app.words(port, SCRATCH)
    config = {
        "jar_path": f"local/{name}/{app.jar}",
        "args": args,
        "jvm_options": list(JVM_OPTIONS),
    }
    if driver == "milo":
        config |= {"java_home": home, "startup_cache": "auto"}
    blocks = f'artifact {{\nsource = "{url}/{name}.tar"\ndestination = "local/{name}"\n}}\n'
    if env:
        blocks += f"env {{\n{''.join(f'{key} = {hcl(env[key])}{chr(10)}' for key in env)}}}\n"
    job = kept_job(app, home) if driver == "milo" else "beside"
    return job_file(name=job, driver=driver, config=config, task=blocks, memory=MEMORY_MB, cpu=1000)
