"""Tasks whose Nomad agent ends and comes back."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.agent import Agent
from tests.support.jobs import job_file
from tests.support.waiting import wait_for

SIGHTING = re.compile(r"^(?P<at>\S+) \[warn\] .*OutOfMemoryError", re.MULTILINE)
"""A line of a task's own log."""
HEARD = re.compile(r"\[WARN\].*OutOfMemoryError.* timestamp=(?P<at>\S+)")
"""The same in the agent's."""


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


def test_what_a_task_tells_meanwhile_comes_to_the_next_agent(
    lasting_agent: Agent, jar_url: str
) -> None:
    """A line of its process waits for the next driver, and bears the time when it was said.

    The event, too, waits until Nomad's client knows the allocation again.
    """
    job = lasting_agent.nomad.run(
        job_file(kind="service", config={"args": ["50", "0"]}, artifact=f"{jar_url}/clock.jar")
    )
    job.wait_logs("tick 1 ")
    [record] = lasting_agent.state_dir.glob("*/task.json")
    jvm = json.loads(record.read_bytes())["container"]["pid"]
    lasting_agent.stop()
    logged = lasting_agent.log_size()
    Path(f"/proc/{jvm}/fd/2").write_bytes(b"java.lang.OutOfMemoryError: Metaspace\n")
    journal = record.with_name("task.log")
    line = wait_for("the line", lambda: SIGHTING.search(journal.read_text()))
    assert line is not None
    second = datetime.fromisoformat(line["at"])
    # The next one says when it is said, which has to be another second.
    wait_for("another second", lambda: datetime.now(UTC) >= second + timedelta(seconds=2))
    lasting_agent.start()
    found = wait_for("the line", lambda: HEARD.search(lasting_agent.tail(logged, 1 << 22)))
    assert found is not None
    assert datetime.fromisoformat(found["at"]) - second < timedelta(seconds=1)
    job.wait_event("OutOfMemoryError", timeout_s=30)
    job.stop()


def numbers(log: bytes) -> list[int]:
    """Return the numbers of the lines that clock.jar has printed."""
    return [int(number) for number in re.findall(rb"^tick (\d+) ", log, re.MULTILINE)]
