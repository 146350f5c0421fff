"""The second start of a job on a real agent, in another allocation with another download."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from urllib.parse import quote

import pytest

from tests.support.agent import Agent
from tests.support.jobs import job_file
from tests.support.nomad import Nomad
from tests.support.waiting import wait_for


@pytest.mark.parametrize("version", ["17", "25"])
def test_the_next_allocation_starts_from_the_archive_of_the_one_before(
    nomad: Nomad, dev_agent: Agent, jar_url: str, version: str
) -> None:
    """The JAR that was downloaded anew is the same, and so the class comes from the archive.

    The agent's log tells it, though a task process says so before there is a driver to hear it.
    """
    if f"driver.milo.java.{version}" not in nomad.node()["Attributes"]:
        pytest.skip(f"this client has no Java {version}")
    text = job_file(
        name=f"again-{version}",
        artifact=f"{jar_url}/hello.jar",
        config={
            "startup_cache": "auto",
            "java_version": version,
            "jvm_options": ["-Xlog:class+load"],
        },
        memory=256,
    )
    sources = []
    for told in ("Records for its next start: ", "Starts with its "):
        logged = dev_agent.log_size()
        job = nomad.run(text)
        job.wait_state("dead", timeout_s=120)
        words = f"{told}{'AOT cache' if version == '25' else 'class-data archive'}"
        wait_for(words, partial(_has_logged, dev_agent, logged, words))
        assert job.exit_code() == 0, job.events()
        lines = [line for line in job.logs().decode().splitlines() if "] Hello source: " in line]
        sources += [line.partition("Hello source: ")[2] for line in lines]
        nomad.cli("job", "stop", "-purge", f"again-{version}")
    assert sources[0].startswith("file:/")
    assert sources[1].startswith("shared objects file")


def test_the_runs_of_a_periodic_job_share_an_archive(nomad: Nomad, jar_url: str) -> None:
    """Each run is a job of its own to Nomad, and one more start of the same application."""
    text = job_file(
        name="nightly",
        artifact=f"{jar_url}/hello.jar",
        config={"startup_cache": "auto", "jvm_options": ["-Xlog:class+load"]},
        memory=256,
    )
    text = text.replace('type = "batch"', 'type = "batch"\nperiodic {\ncrons = ["0 0 1 1 *"]\n}')
    nomad.run(text)
    sources = []
    for runs in (1, 2):
        nomad.cli("job", "periodic", "force", "-detach", "nightly")

        def ended(runs: int = runs) -> list[str]:
            """Return the ids of all runs, once that many are over."""
            found = [job["ID"] for job in nomad.get("/v1/jobs", prefix="nightly/")]
            return found if len(found) == runs and _are_over(nomad, found) else []

        [run, *_] = sorted(wait_for("the run's end", ended, 120), reverse=True)
        [allocation] = nomad.get(f"/v1/job/{quote(run, safe='')}/allocations")
        lines = nomad.cli("alloc", "logs", allocation["ID"]).splitlines()
        sources += [line.partition("Hello source: ")[2] for line in lines if "] Hello " in line]
        wait_for("another second, which names the next run", _next_second(run), 10)
    for run in ended():
        nomad.cli("job", "stop", "-purge", "-detach", run)
    assert sources[0].startswith("file:/")
    assert sources[1].startswith("shared objects file")


def _has_logged(one: Agent, start: int, words: str) -> bool:
    return words in one.tail(start, 1 << 22)


def _are_over(nomad: Nomad, jobs: list[str]) -> bool:
    return all(nomad.get(f"/v1/job/{quote(job, safe='')}")["Status"] == "dead" for job in jobs)


def _next_second(run: str) -> Callable[[], bool]:
    """Return whether Nomad would give another id than ``run`` to a run that begins now."""
    return lambda: time.time() >= int(run.rpartition("-")[2]) + 1
