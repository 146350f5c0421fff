"""Nomad as a service whose unit is like HashiCorp's, restarted and upgraded under a task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from milo.core.records import TaskRecord
from tests.acceptance.test_agent_restart import numbers
from tests.acceptance.test_upgrade import record
from tests.support import nomads
from tests.support.agent import agent, missing
from tests.support.jobs import job_file
from tests.support.nomad import Job
from tests.systemd.service import Service, show

OLDER, NEWER = "1.11.3", "2.0.5"


@pytest.fixture
def service() -> Iterator[Service]:
    """The older Nomad as a service, with Milo; at the end nothing of it may be left."""
    if reason := missing():
        pytest.skip(reason)
    found = nomads.found()
    if absent := {OLDER, NEWER} - set(found):
        pytest.skip(f"there is no Nomad {' and no '.join(sorted(absent))} here")
    with agent("service", dev=False, make=Service, nomad=found[OLDER]) as one:
        assert isinstance(one, Service)
        yield one


def test_a_task_outlives_its_service(service: Service, jar_url: str) -> None:
    """Restarted, upgraded, killed, stopped and started: the same JVM, and no gap in its log."""
    config = {"args": ["50", "0"]}
    job = service.nomad.run(
        job_file(kind="service", config=config, artifact=f"{jar_url}/clock.jar")
    )
    job.wait_logs("tick 10 ")
    before = record(service.state_dir)
    has_nothing_of_the_service(before)
    for change in (upgrade, Service.restart, Service.kill, stop_and_start):
        agent_pid = show("MainPID")
        print(f"{change.__name__}: of {agent_pid}", flush=True)
        change(service)
        assert show("MainPID") not in (agent_pid, "0")
        assert show("ActiveState") == "active"
        newest = max(numbers(job.logs()))
        job.wait_logs(f"tick {newest + 20} ")
        assert record(service.state_dir) == before
        has_nothing_of_the_service(before)
    ends_well(job)


def upgrade(service: Service) -> None:
    """As a package does it, with a restart at its end."""
    service.install(nomads.found()[NEWER])
    service.restart()
    assert service.nomad.node()["Attributes"]["nomad.version"] == NEWER


def stop_and_start(service: Service) -> None:
    """For a while there is no agent; the task is left alone."""
    service.stop()
    # An agent that SIGINT ends without leaving the cluster ends with status 1.
    assert show("ActiveState") in ("inactive", "failed")
    assert show("MainPID") == "0"
    service.start()


def ends_well(job: Job) -> None:
    """The task was never restarted, ends by its signal, and no line of it is missing."""
    job.stop()
    assert job.task()["Restarts"] == 0
    assert job.exit_code() == 130  # SIGINT, as kill_signal is by default
    seen = numbers(job.logs())
    assert seen == list(range(len(seen)))


def jvm(task: TaskRecord) -> int:
    assert task.container is not None
    return task.container.pid


def has_nothing_of_the_service(task: TaskRecord) -> None:
    """It has nothing of the service's: neither its score, nor its socket, nor its cgroup."""
    place = Path(f"/proc/{jvm(task)}")
    assert (place / "oom_score_adj").read_text() == "0\n"
    assert (place / "cgroup").read_text().startswith("0::/nomad.slice/")
    # The kernel shows of a forked process what the plugin was started with, whatever it has.
    assert b"NOTIFY_SOCKET" not in (place / "environ").read_bytes()
    assert Path(f"/proc/{show('MainPID')}/oom_score_adj").read_text() == "-1000\n"
