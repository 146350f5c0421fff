"""Tasks whose Nomad agent ends and comes back."""

from __future__ import annotations

import re

import pytest

from tests.support.agent import Agent
from tests.support.jobs import job_file
from tests.support.waiting import wait_for


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_task_outlives_its_agent(lasting_agent: Agent, jar_url: str, end: str) -> None:
    """The next agent has the same JVM, its log without a gap, its figures, and can stop it."""
    nomad = lasting_agent.nomad
    job = nomad.run(
        job_file(kind="service", config={"args": ["50", "0"]}, artifact=f"{jar_url}/clock.jar")
    )
    job.wait_logs("tick 10 ")
    {"stop": lasting_agent.stop, "kill": lasting_agent.kill}[end]()
    lasting_agent.start()
    newest = max(numbers(job.logs()))
    job.wait_logs(f"tick {newest + 20} ")
    alloc = job.allocation()

    def used() -> bool:
        stats = nomad.get(f"/v1/client/allocation/{alloc}/stats")["Tasks"] or {}
        return bool(stats.get("app", {}).get("ResourceUsage", {}).get("MemoryStats", {}).get("RSS"))

    wait_for("the task's figures", used)
    job.stop()
    assert job.task()["Restarts"] == 0
    seen = numbers(job.logs())
    assert seen == list(range(len(seen)))


def numbers(log: bytes) -> list[int]:
    """Return the numbers of the lines that clock.jar has printed."""
    return [int(number) for number in re.findall(rb"^tick (\d+) ", log, re.MULTILINE)]
