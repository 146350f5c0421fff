"""An agent whose umask lets nobody read what it downloads, as a hardened service unit has it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.agent import Agent, agent, missing
from tests.support.jobs import job_file

TEMPLATE = """
template {
  destination = "local/words.txt"
  data        = "from a template"
}
"""


@pytest.fixture(scope="module")
def closed() -> Iterator[Agent]:
    """An agent with the umask 077."""
    if reason := missing():
        pytest.skip(f"NO ACCEPTANCE TEST IS RUN: {reason}")
    with agent("umask", umask=0o077) as one:
        yield one


def artifact(jar_url: str, name: str, more: str = "") -> str:
    return f'artifact {{\nsource = "{jar_url}/{name}"\n{more}\n}}\n'


def test_a_jar_that_the_user_cannot_read_is_told_before_the_start(
    closed: Agent, jar_url: str
) -> None:
    """With its mode and owner, and both lines that the job needs."""
    job = closed.nomad.run(job_file(task=artifact(jar_url, "hello.jar")))
    job.wait_state("dead")
    told = "\n".join(job.events())
    assert "User nobody (65534:65534), as whom the task runs, cannot read the JAR" in told
    assert "/local/hello.jar has mode 0600 and belongs to root:root" in told
    assert "chown = true" in told and 'user = "nobody"' in told
    assert "Started" not in told


def test_what_is_told_helps(closed: Agent, jar_url: str) -> None:
    """The task runs, and reads its template and its environment, as under any umask."""
    task = 'user = "nobody"\n' + TEMPLATE + artifact(jar_url, "look.jar", "chown = true")
    config = {
        "args": [
            "read /local/words.txt",
            "write /local/own",
            "write /alloc/data/own",
            "write /tmp/own",
            "write /secrets/own",
            "list /",
        ]
    }
    job = closed.nomad.run(job_file(task=task, config=config))
    job.wait_state("dead")
    assert job.exit_code() == 0, job.events()
    answers = dict(line.split(" -> ") for line in job.logs().decode().splitlines())
    assert answers.pop("read /local/words.txt") == "from a template"
    assert "local" in answers.pop("list /")
    assert set(answers.values()) == {"done"}, answers


def test_a_template_for_root_alone_stays_that(closed: Agent, jar_url: str) -> None:
    """What the application opens by itself is not looked at before the start."""
    template = TEMPLATE.replace("data  ", 'perms = "600"\n  data ')
    task = 'user = "nobody"\n' + template + artifact(jar_url, "look.jar", "chown = true")
    job = closed.nomad.run(job_file(task=task, config={"args": ["read /local/words.txt"]}))
    job.wait_state("dead")
    assert b"AccessDenied" in job.logs()
