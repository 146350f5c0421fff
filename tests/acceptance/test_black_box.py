"""What there is of a task that was killed, under a real agent: its recording and its account."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from milo.core.records import SHORT_ID_CHARS
from tests.acceptance.test_ended_tasks import milo
from tests.support.agent import Agent
from tests.support.java_homes import all_homes
from tests.support.jobs import job_file
from tests.support.waiting import wait_for

TOOLS = [f"{home}/bin/jfr" for home in all_homes() if os.path.exists(f"{home}/bin/jfr")]


@pytest.mark.skipif(not TOOLS, reason="no JDK here has the tool jfr")
def test_a_task_that_was_killed(dev_agent: Agent, jar_url: str, tmp_path: Path) -> None:
    """Its last seconds can be read, and how it ended; after its job was stopped, too."""
    config = {"args": [], "flight_recorder": True}
    job = dev_agent.nomad.run(
        job_file(kind="service", config=config, artifact=f"{jar_url}/clock.jar", memory=256)
    )
    job.wait_logs("tick 1 ")

    def recorded() -> bool:
        """Whether the JVM has flushed what it recorded, some times."""
        data = dev_agent.base / "data/alloc" / job.allocation() / "alloc/data"
        found = data.glob("*.recording/*/*.jfr")
        return any(b"\1" < path.read_bytes()[64:65] < b"\xff" for path in found)

    wait_for("a recording", recorded)
    dev_agent.nomad.cli("alloc", "signal", "-s", "SIGKILL", job.allocation())
    job.wait_state("dead")
    event = job.wait_event("more: milo post-mortem ")
    named = event.rpartition("post-mortem ")[2][:SHORT_ID_CHARS]
    job.stop()
    target = tmp_path / "a.jfr"
    assert milo(dev_agent, "dump", "jfr", job.allocation(), str(target))[0] == 0
    summary = subprocess.run([TOOLS[-1], "summary", str(target)], capture_output=True, check=True)
    assert b"jdk.JVMInformation" in summary.stdout
    status, shown = milo(dev_agent, "post-mortem", "--json", named)
    found = json.loads(shown)
    assert found["allocation"] == job.allocation()
    assert (status, found["signal"], found["successful"]) == (0, 9, False)
    assert found["dumps"]["recording"].endswith(".recording") and found["threads"] > 1
