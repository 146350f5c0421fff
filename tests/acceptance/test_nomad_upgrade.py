"""The agent is replaced by a newer Nomad while tasks run."""

from __future__ import annotations

import os

import attrs
import pytest

from tests.acceptance.test_agent_restart import numbers
from tests.acceptance.test_upgrade import record
from tests.support import nomads
from tests.support.agent import agent, missing
from tests.support.jobs import job_file
from tests.support.waiting import wait_for


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_task_outlives_the_upgrade_of_nomad(jar_url: str, end: str) -> None:
    """The newer Nomad has the same JVM and its log without a gap, and can stop it."""
    if reason := missing():
        pytest.skip(reason)
    newer = os.environ.get("NOMAD_NEXT")
    if not newer:
        pytest.skip("NOMAD_NEXT names no newer Nomad")
    with agent("nomad-upgrade", dev=False) as one:
        nomad = one.nomad
        config = {"args": ["50", "0"]}
        job = nomad.run(job_file(kind="service", config=config, artifact=f"{jar_url}/clock.jar"))
        job.wait_logs("tick 10 ")
        before = record(one.state_dir)
        {"stop": one.stop, "kill": one.kill}[end]()
        one.nomad = attrs.evolve(nomad, binary=newer)
        one.start()
        version = nomads.version_of(newer)
        wait_for(
            "the newer Nomad", lambda: one.nomad.node()["Attributes"]["nomad.version"] == version
        )
        newest = max(numbers(job.logs()))
        job.wait_logs(f"tick {newest + 20} ")
        assert record(one.state_dir) == before
        job.stop()
        assert job.task()["Restarts"] == 0
        assert job.exit_code() == 130  # SIGINT, as kill_signal is by default
        seen = numbers(job.logs())
        assert seen == list(range(len(seen)))
