"""docs/metrics.md, compared with what a real agent exports for tasks of Milo's."""

from __future__ import annotations

import re
import urllib.error
from pathlib import Path

import pytest

from milo import cgroup_files
from milo.core.cgroup import Mode
from tests.acceptance.conftest import RunJar
from tests.support.agent import agent, missing
from tests.support.jobs import job_file
from tests.support.nomad import Job, Nomad
from tests.support.waiting import wait_for

PAGE = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
LISTED = re.findall(r"^\| `(nomad_client_allocs_\w+)` \|", PAGE, re.MULTILINE)
NOT_HERE = {"nomad_client_allocs_memory_max_allocated"}
"""What only a job with memory_max has."""
NOT_ON_V2 = {
    "nomad_client_allocs_memory_kernel_max_usage",
    "nomad_client_allocs_memory_max_usage",  # since Linux 5.19
    "nomad_client_allocs_memory_kernel_usage",  # since Linux 5.18
}
USED = ("allocated", "usage", "rss")
LABELS = {"host", "namespace", "job", "task_group", "task", "alloc_id"}


def exported(nomad: Nomad) -> dict[str, dict[str, float]]:
    """Return the figures of tasks by their name and then by the name of the job."""
    with nomad.open("/v1/metrics", format="prometheus") as response:
        text = response.read().decode()
    found: dict[str, dict[str, float]] = {}
    for name, labels, value in re.findall(r"^(nomad_client_allocs_\w+)\{(.*)\} (\S+)$", text, re.M):
        pairs = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        assert set(pairs) == LABELS, labels
        found.setdefault(name, {})[pairs["job"]] = float(value)
    return found


def test_the_page_lists_what_the_agent_exports(nomad: Nomad, run_jar: RunJar) -> None:
    """Nothing is missing, and nothing more: of tasks that run, end, fail and are killed."""
    running = run_jar("clock.jar", kind="service", memory=200)
    jobs = {
        "complete": run_jar("hello.jar"),
        "failed": run_jar("exit42.jar", attempts=1),
        "oom_killed": run_jar("hog.jar", jvm_options=["-Xmx1g"]),
    }
    running.wait_state("running")
    for job in jobs.values():
        job.wait_state("dead")
    expected = set(LISTED) - NOT_HERE
    if cgroup_files.detect().mode is Mode.V2:
        expected -= NOT_ON_V2
    found: dict[str, dict[str, float]] = {}

    def probe() -> bool:
        found.update(exported(nomad))
        # Earlier tests' tasks have figures of the same names.
        mine = {f"nomad_client_allocs_{what}": job for what, job in jobs.items()}
        mine["nomad_client_allocs_restart"] = jobs["failed"]
        mine |= {f"nomad_client_allocs_memory_{what}": running for what in USED}
        return expected <= set(found) and all(mine[name].id in found[name] for name in mine)

    try:
        wait_for("all figures", probe, 20)
    except AssertionError:
        assert set(found) >= expected
    assert set(found) <= set(LISTED)
    assert len(LISTED) == len(set(LISTED))
    for what, job in jobs.items():
        # Nomad 2.0.5 counts each end twice.
        assert found[f"nomad_client_allocs_{what}"][job.id] in (1, 2)
    assert found["nomad_client_allocs_restart"][jobs["failed"].id] == 1
    assert found["nomad_client_allocs_memory_allocated"][running.id] == 200 << 20
    usage = found["nomad_client_allocs_memory_usage"][running.id]
    assert found["nomad_client_allocs_memory_rss"][running.id] <= usage <= 200 << 20


def test_the_same_in_json(nomad: Nomad, run_jar: RunJar) -> None:
    """/v1/metrics has the gauges under names with dots."""
    run_jar("clock.jar", kind="service").wait_state("running")

    def names() -> set[str]:
        found = nomad.get("/v1/metrics")
        return {one["Name"].replace(".", "_") for one in found["Gauges"] + found["Counters"]}

    wait_for("a gauge of the task", lambda: "nomad_client_allocs_memory_rss" in names(), 30)


def shows_stats(job: Job) -> bool:
    """Whether ``nomad alloc status -stats`` shows what the job's task uses."""
    return "Memory Stats" in job.nomad.cli("alloc", "status", "-stats", job.allocation())


def test_what_is_needed(jar_url: str) -> None:
    """Without the two settings an agent asks for nothing, shows nothing, and refuses Prometheus."""
    if reason := missing():
        pytest.skip(f"NO ACCEPTANCE TEST IS RUN: {reason}")
    with agent("silent", dev=False, telemetry='collection_interval = "1s"') as one:
        job = one.nomad.run(job_file(artifact=f"{jar_url}/clock.jar", kind="service"))
        job.wait_logs("\n")
        with pytest.raises(urllib.error.HTTPError) as refused:
            exported(one.nomad)
        assert refused.value.code == 415
        assert "Prometheus is not enabled" in refused.value.read().decode()
        assert not shows_stats(job)
        assert "client.allocs.memory" not in str(one.nomad.get("/v1/metrics"))


def test_a_running_task_is_shown(run_jar: RunJar) -> None:
    """With them ``nomad alloc status -stats`` shows the task's memory and CPU."""
    job = run_jar("clock.jar", kind="service")
    job.wait_state("running")
    wait_for("the task's statistics", lambda: shows_stats(job), 20)
