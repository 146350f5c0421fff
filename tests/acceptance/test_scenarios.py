"""The scenarios of features/streaming.feature: each step is what a user does or sees."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import attrs
import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from tests.support.jobs import job_file
from tests.support.lines import Lines
from tests.support.nomad import Job, Nomad, stdout_of
from tests.support.waiting import wait_for

scenarios("features/streaming.feature")

TOLERANCE_S = 0.7
"""For "every 2 seconds": two cores run the agent, the JVM and these tests."""


@attrs.define
class World:
    """What the steps of one scenario share."""

    nomad: Nomad
    stack: ExitStack
    url: str = ""
    file: Path = Path()
    job: Job | None = None
    lines: Lines | None = None


@pytest.fixture
def world(nomad: Nomad) -> Iterator[World]:
    """A scenario's state; what it started to follow ends with it."""
    with ExitStack() as stack:
        yield World(nomad, stack)


def the_job(world: World) -> Job:
    """Return the scenario's job, which an earlier step has submitted."""
    assert world.job is not None
    return world.job


@given("a host with Java")
def host_with_java() -> None:
    """Java is what the test JARs are compiled with, too."""
    assert shutil.which("java")


@given("a Nomad agent with the driver")
def agent_with_driver(world: World) -> None:
    """The driver is detected and healthy before any job is placed."""
    wait_for("the driver", lambda: world.nomad.driver("milo").get("Healthy"))


@given(parsers.parse("{jar} served over HTTP"))
def jar_served(world: World, jar_url: str, jar: str) -> None:
    """The artifact's URL."""
    world.url = f"{jar_url}/{jar}"


@given("a job file with an artifact block")
def job_file_with_artifact(world: World, tmp_path: Path) -> None:
    """A service, so that ``nomad job run`` watches its deployment as for any user."""
    kind = "service" if "streaming" in world.url else "batch"
    world.file = tmp_path / "app.nomad.hcl"
    world.file.write_text(job_file(kind=kind, artifact=world.url))


@when('the user runs "nomad job run"')
def user_runs_job(world: World) -> None:
    """The whole command: it returns when the deployment is done."""
    world.job = world.nomad.run_file(world.file)


@when("the user waits 5 seconds")
def user_waits() -> None:
    """The scenario's own words."""
    time.sleep(5)


@when('the user runs "nomad alloc logs -f"')
def user_follows(world: World) -> None:
    """The command goes on in the background; its lines are collected as they arrive."""
    process = world.stack.enter_context(the_job(world).follow())
    world.lines = Lines(stdout_of(process))


@when("the task has ended")
def task_ended(world: World) -> None:
    """Nomad says so."""
    the_job(world).wait_state("dead")


@then(parsers.parse('the output shows "{line}"'))
def output_shows(world: World, line: str) -> None:
    """The line arrives."""
    assert world.lines is not None
    world.lines.wait_for(line)


@then(parsers.parse('the output shows a new "{line}" every 2 seconds'))
def output_goes_on(world: World, line: str) -> None:
    """Once what was logged before has been shown, three lines arrive two seconds apart."""
    assert world.lines is not None
    lines = world.lines

    def live_gaps() -> list[float] | None:
        times = [when for when, text in list(lines.arrived) if text == line]
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        live = list(itertools.dropwhile(lambda gap: gap < 1, gaps))
        return live if len(live) >= 4 else None

    # The first live line follows the last old one by anything up to two seconds.
    gaps = wait_for("lines that arrive live", live_gaps)[1:]
    assert all(abs(gap - 2) < TOLERANCE_S for gap in gaps), gaps


@then('the task is "running"')
def task_running(world: World) -> None:
    """In the API and in the words of ``nomad alloc status``."""
    assert the_job(world).task()["State"] == "running"
    shown = world.nomad.cli("alloc", "status", the_job(world).allocation())
    assert 'Task "app" is "running"' in shown


@then("the task has ended well")
def task_well(world: World) -> None:
    """Task dead and not failed, allocation complete, job dead: what the UI calls success."""
    job = the_job(world)
    assert job.task()["Failed"] is False
    assert job.exit_code() == 0
    shown = world.nomad.cli("alloc", "status", job.allocation())
    assert 'Task "app" is "dead"' in shown
    assert "Client Status       = complete" in shown
    assert job.status() == "dead"


@then(parsers.parse("Nomad shows the exit code {code:d}"))
def exit_code_shown(world: World, code: int) -> None:
    """In the API's event and in the words of ``nomad alloc status``."""
    job = the_job(world)
    assert job.exit_code() == code
    assert job.task()["Failed"] is True
    assert f"Exit Code: {code}" in world.nomad.cli("alloc", "status", job.allocation())


@then("the log is exactly")
def log_is(world: World, docstring: str) -> None:
    """Those lines and no other, on stdout; nothing on stderr."""
    job = the_job(world)
    job.wait_log(docstring.encode() + b"\n")
    assert job.logs("-stderr") == b""
