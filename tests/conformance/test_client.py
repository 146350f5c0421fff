"""What Nomad's client and its driver do together, on a real agent."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.support.agent import Agent
from tests.support.lines import Lines
from tests.support.nomad import Job, hcl, stdout_of
from tests.support.waiting import wait_for

_numbers = count(1)
SERIAL = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]


@attrs.frozen
class Tasks:
    """Jobs of several tasks, of which each runs a shell script in a JVM."""

    client: Agent
    jar_url: str

    def submit(self, kind: str, group: str, tasks: Mapping[str, str | tuple[str, str]]) -> Job:
        """Submit a job of scripts, each alone or with more text for its task's block."""
        lines = [f'job "conformance-{next(_numbers)}" {{', f'type = "{kind}"', 'group "g" {', group]
        lines += ['restart {\nattempts = 0\nmode = "fail"\n}']
        lines += ["reschedule {\nattempts = 0\nunlimited = false\n}"]
        for name, task in tasks.items():
            script, more = (task, "") if isinstance(task, str) else task
            config = {"args": [script], "jvm_options": SERIAL}
            lines += [f'task "{name}" {{', 'driver = "milo"', "config {"]
            lines += [f"{key} = {hcl(value)}" for key, value in config.items()]
            lines += ["}", "resources {\ncpu = 100\nmemory = 96\n}"]
            lines += [f'artifact {{\nsource = "{self.jar_url}/shell.jar"\n}}']
            lines += [more, "}"]
        return self.client.nomad.run("\n".join([*lines, "}", "}"]) + "\n")

    def batch(self, group: str = "", **tasks: str | tuple[str, str]) -> Job:
        """Run scripts to their end."""
        job = self.submit("batch", group, tasks)
        wait_for("every task to end", lambda: self._all(job, "dead"), 60)
        return job

    def states(self, job: Job) -> dict[str, Any]:
        """Return the tasks' states by their names."""
        for alloc in job.allocations()[:1]:
            return alloc["TaskStates"] or {}
        return {}

    def _all(self, job: Job, state: str) -> bool:
        states = self.states(job)
        return bool(states) and all(one["State"] == state for one in states.values())

    def kinds(self, job: Job, task: str) -> list[str]:
        """Return the types of a task's events, without those that the driver adds."""
        events = self.states(job)[task]["Events"]
        return [event["Type"] for event in events if event["Type"] != "Driver"]

    def printed(self, job: Job, task: str, last: str) -> str:
        """Return a task's stdout, once it holds ``last``, the line that the task prints last."""

        def shown() -> str:
            text = self.client.nomad.cli("alloc", "logs", "-task", task, job.allocation())
            return text if f"{last}\n" in text else ""

        return wait_for(f"{last!r} in the log of {task}", shown)


@pytest.fixture
def tasks(client: Agent, jar_url: str) -> Iterator[Tasks]:
    """Run jobs; they are forgotten at the end."""
    yield Tasks(client, jar_url)
    client.note_allocations()
    for job in client.nomad.get("/v1/jobs"):
        client.nomad.cli("job", "stop", "-purge", "-detach", job["ID"])


def test_hooks_run_in_their_order(tasks: Tasks) -> None:
    """Tasks before, beside and after the main one are Milo's too, and share a directory."""
    hook = 'lifecycle {{\nhook = "{}"\nsidecar = false\n}}'
    note = "echo {} >> /alloc/data/order"
    job = tasks.batch(
        before=(note.format("before"), hook.format("prestart")),
        main=note.format("main") + "; until grep -q beside /alloc/data/order; do sleep 0.1; done",
        beside=(note.format("beside"), hook.format("poststart")),
        after=(note.format("after") + "; cat /alloc/data/order", hook.format("poststop")),
    )
    assert tasks.printed(job, "after", "after").split() == ["before", "main", "beside", "after"]
    assert not any(state["Failed"] for state in tasks.states(job).values())


def test_events_of_a_success_and_of_a_failure(tasks: Tasks) -> None:
    """A task that ends and one that cannot start have the events that other drivers give."""
    job = tasks.batch(good="true")
    steps = ["Received", "Task Setup", "Downloading Artifacts", "Started", "Terminated"]
    assert tasks.kinds(job, "good") == steps
    job = tasks.batch(bad=("true", 'user = "no-such-person"'))
    assert tasks.kinds(job, "bad")[-2:] == ["Driver Failure", "Not Restarting"]
    assert tasks.states(job)["bad"]["Failed"]


def test_events_of_a_follower(tasks: Tasks) -> None:
    """When a leader has ended its follower is killed, which is no failure."""
    job = tasks.batch(
        leads=("sleep 1", "leader = true"), follows=("sleep 600", 'kill_timeout = "1s"')
    )
    kinds = tasks.kinds(job, "follows")
    assert kinds[-4:] == ["Leader Task Dead", "Killing", "Terminated", "Killed"]
    assert not tasks.states(job)["follows"]["Failed"]


def test_events_of_a_sibling(tasks: Tasks) -> None:
    """When a task fails the others of its group are killed, and only the allocation has failed."""
    job = tasks.batch(fails="sleep 1; exit 3", other=("sleep 600", 'kill_timeout = "1s"'))
    kinds = tasks.kinds(job, "other")
    assert kinds[-4:] == ["Sibling Task Failed", "Killing", "Terminated", "Killed"]
    assert not tasks.states(job)["other"]["Failed"]
    wait_for(
        "the allocation to have failed",
        lambda: [alloc["ClientStatus"] for alloc in job.allocations()] == ["failed"],
    )


def test_host_volumes(tasks: Tasks, volume: Path) -> None:
    """A volume of the host's is the job's to write and outlives it; a read-only one is not."""
    group = "".join(
        f'volume "{name}" {{\ntype = "host"\nsource = "{name}"\nread_only = {read_only}\n}}\n'
        for name, read_only in (("data", "false"), ("fixed", "true"))
    )
    mounts = "".join(
        f'volume_mount {{\nvolume = "{name}"\ndestination = "/srv/{name}"\n}}\n'
        for name in ("data", "fixed")
    )
    script = (
        "cat /srv/data/*; echo $NOMAD_ALLOC_ID > /srv/data/$NOMAD_ALLOC_ID;"
        "cat /srv/fixed/$NOMAD_ALLOC_ID; touch /srv/fixed/x 2>&1; echo ended"
    )
    first = tasks.batch(group, one=(script, mounts))
    second = tasks.batch(group, one=(script, mounts))
    ids = [job.allocation() for job in (first, second)]
    assert (volume / ids[0]).read_text() == f"{ids[0]}\n"
    lines = tasks.printed(second, "one", "ended").splitlines()
    assert lines[:2] == ids
    assert "Read-only file system" in lines[2]


def test_workload_identity(tasks: Tasks) -> None:
    """A task reads its token in the environment and in a file, and talks to the agent with it."""
    ask = (
        'curl -s -i --unix-socket /secrets/api.sock -H "Authorization: Bearer $TOKEN"'
        " http://nomad/v1/agent/self | head -n 1 | cut -d ' ' -f 2"
    )
    script = (
        'test "$NOMAD_TOKEN" = "$(cat /secrets/nomad_token)" && echo same; '
        f"TOKEN=$NOMAD_TOKEN; {ask}; TOKEN=; {ask}"
    )
    job = tasks.batch(asks=(script, "identity {\nenv = true\nfile = true\n}"))
    assert tasks.printed(job, "asks", "401").split() == ["same", "200", "401"]


def test_a_follower_of_the_log_sees_both_streams(tasks: Tasks) -> None:
    """`nomad alloc logs -f` without a choice shows stdout and stderr as they come."""
    script = "while :; do echo to out; sleep 0.4; echo to err >&2; sleep 0.4; done"
    job = tasks.submit("service", "", {"prints": script})
    job.wait_state("running")
    command, env = tasks.client.nomad.command("alloc", "logs", "-f", job.allocation())
    follower = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    lines = Lines(stdout_of(follower))
    try:
        lines.wait_for("to err", times=3)
        lines.wait_for("to out", times=3)
    finally:
        follower.kill()
        follower.communicate()
