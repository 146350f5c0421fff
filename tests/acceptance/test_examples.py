"""The job files in ``examples/`` run as they are."""

from __future__ import annotations

import urllib.parse
from functools import partial
from pathlib import Path

import pytest

from tests.support.nomad import Job, Nomad
from tests.support.waiting import wait_for

EXAMPLES = Path(__file__).parents[2] / "examples"
SHOWN = {
    "hello": "Goodbye.",
    "streaming-service": "Processing...",
    "options": "env.GREETING hello",
    "graceful-stop": "running",
    "web-service": "listening on",
    "debug": "Processing...",
    "log-rotation": "out 999",
    "migrated-from-java": "property migrated",
}
"""A line that each example's application prints."""

OTHERS = {"java-versions", "periodic"}
"""Examples with a test of their own, since they have more than one task or job."""


def run_example(nomad: Nomad, jar_url: str, name: str) -> Job:
    """Run an example with the tests' JARs."""
    return nomad.run_file(EXAMPLES / f"{name}.nomad.hcl", "-detach", f"-var=url={jar_url}")


def test_every_example_is_tested() -> None:
    """No example is without a test."""
    names = {path.name.removesuffix(".nomad.hcl") for path in EXAMPLES.glob("*.hcl")}
    assert names == set(SHOWN) | OTHERS


@pytest.mark.parametrize("name", SHOWN)
def test_example_runs(nomad: Nomad, jar_url: str, name: str) -> None:
    """An example's job file is accepted, and its application prints what it should."""
    run_example(nomad, jar_url, name).wait_logs(SHOWN[name])


def test_graceful_stop(nomad: Nomad, jar_url: str) -> None:
    """The example of a graceful stop ends as its comment says."""
    job = run_example(nomad, jar_url, "graceful-stop")
    job.wait_logs("running")
    job.stop()
    job.wait_log(b"running\nasked to end\nended in peace\n")


def test_web_service(nomad: Nomad, jar_url: str) -> None:
    """Nomad's own health check of the service succeeds."""
    job = run_example(nomad, jar_url, "web-service")
    job.wait_logs("listening on")

    def healthy() -> bool:
        checks = nomad.get(f"/v1/client/allocation/{job.allocation()}/checks")
        return any(check["Status"] == "success" for check in checks.values())

    wait_for("a successful health check", healthy, 60)
    job.wait_logs("served /health")
    job.stop()
    assert job.wait_logs("stopped\n").endswith("stopped\n")


def test_debug(nomad: Nomad, jar_url: str) -> None:
    """The garbage collector's log and the recording are where the example says."""
    job = run_example(nomad, jar_url, "debug")
    job.wait_logs("Processing...")
    data = "alloc/data/"
    assert "gc.log" in nomad.cli("alloc", "fs", job.allocation(), data)
    command = ("jcmd", "2", "JFR.dump", "filename=/alloc/data/now.jfr")
    nomad.cli("alloc", "exec", "-t=false", "-task", "app", job.allocation(), *command)
    assert "now.jfr" in nomad.cli("alloc", "fs", job.allocation(), data)


def test_java_versions(nomad: Nomad, jar_url: str) -> None:
    """Each task runs on the Java that it asks for."""
    if not nomad.node()["Attributes"].get("driver.milo.java.17"):
        pytest.skip("this host has no Java 17, which the example is about")
    job = run_example(nomad, jar_url, "java-versions")
    job.allocation()
    for name, words in (("on-17", "Runs on Java 17"), ("on-17-or-later", "Runs on Java")):
        wait_for(f"{words!r} of {name}", partial(told, job, name, words), 60)


def told(job: Job, task: str, words: str) -> bool:
    """Whether an event of one of the job's tasks has these words by now."""
    (allocation,) = job.allocations()
    events = (allocation["TaskStates"] or {}).get(task, {}).get("Events", [])
    return any(words in event["DisplayMessage"] for event in events)


def test_periodic(nomad: Nomad, jar_url: str) -> None:
    """A periodic job can be run at once, and its run prints what it should."""
    path = EXAMPLES / "periodic.nomad.hcl"
    nomad.cli("job", "run", "-detach", f"-var=url={jar_url}", str(path))
    nomad.cli("job", "periodic", "force", "-detach", "nightly")

    def run() -> str | None:
        jobs = nomad.get("/v1/jobs", prefix="nightly/")
        return next((str(job["ID"]) for job in jobs), None)

    Job(nomad, urllib.parse.quote(wait_for("the run", run), safe="")).wait_logs("Goodbye.")
