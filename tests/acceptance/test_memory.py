"""The heap, the start event, heap dumps and the share of the CPU, under a real agent."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from milo import cgroup_files
from milo.core.cgroup import Mode
from tests.acceptance.conftest import RunJar
from tests.support.jobs import job_file
from tests.support.nomad import Job, Nomad
from tests.support.waiting import wait_for


def event(job: Job, words: str) -> str:
    """Return the first event of the job's task that holds ``words``, once it is there."""
    return wait_for(
        f"an event with {words!r}",
        lambda: next((text for text in job.events() if words in text), ""),
    )


def test_start_is_told_and_weighed(run_jar: RunJar) -> None:
    """One event says which Java, heap, collector and processors; Nomad's group has the weight."""
    job = run_jar("jvm-view.jar", args=["600"], kind="service", memory=256, cpu=300)
    text = event(job, "Runs on Java")
    assert re.search(r"heap up to \d+ MiB, set by default, for a task of 256 MiB", text), text
    assert "collector Serial" in text
    assert "processor" in text
    hierarchy = cgroup_files.detect()
    if hierarchy.mode is Mode.V2:
        pattern, expected = "nomad.slice/*.slice/{}.app.scope/cpu.weight", 29
    else:
        pattern, expected = "nomad/{}.app*/cpu.shares", 300
    root = Path(hierarchy.directory("cpu", "/") or "")
    files = list(root.glob(pattern.format(job.allocation())))
    assert [cgroup_files.parse_number(file.read_bytes()) for file in files] == [expected]


def test_memory_killer_tells_its_figures(nomad: Nomad, jar_url: str) -> None:
    """A task that is killed for its memory has an event with what it used and its limit."""
    options = ["-Xmx32m", "-XX:MaxDirectMemorySize=4g"]
    job = nomad.run(
        job_file(artifact=f"{jar_url}/native-hog.jar", config={"jvm_options": options}, memory=150)
    )
    assert "its limit of 150 MiB" in event(job, "(OOM)")


def test_heap_dump_is_kept(nomad: Nomad, jar_url: str) -> None:
    """heap_percent and heap_dump_on_oom are taken; the dump is in the allocation's data."""
    job = nomad.run(
        job_file(
            artifact=f"{jar_url}/hog.jar",
            config={"heap_percent": 20, "heap_dump_on_oom": True},
            memory=128,
        )
    )
    job.wait_state("dead")
    assert "heap_percent = 20, for a task of 128 MiB" in event(job, "Runs on Java")
    found = re.search(
        r"heap dump of \d+ MiB to (/alloc/data/app-\S+\.hprof)", event(job, "heap dump")
    )
    assert found, job.events()
    listing = nomad.cli("alloc", "fs", job.allocation(), "alloc/data")
    assert found[1].rpartition("/")[2] in listing


# All agents of a host share Nomad's groups for reserved cores.
@pytest.mark.alone
def test_reserved_cores_are_the_tasks_own(nomad: Nomad, jar_url: str) -> None:
    """With ``cores = 1`` the JVM sees one processor, and may run on no other."""
    job = nomad.run(job_file(artifact=f"{jar_url}/probe.jar").replace("cpu = 100", "cores = 1", 1))
    job.wait_state("dead")
    assert job.exit_code() == 0, job.events()
    lines = job.logs().decode().splitlines()
    assert "processors 1" in lines, lines
