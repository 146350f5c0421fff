"""What a task sees and may do with a real agent, beside Nomad's own drivers, against a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import IN_VM
from tests.support import security_chroot, security_probe, security_table
from tests.support.agent import Agent, agent, missing
from tests.support.java_homes import all_homes
from tests.support.jobs import job_file
from tests.support.nomad import Job, hcl
from tests.support.waiting import wait_for

LOCAL_JAR = f"local/{security_probe.JAR}"
COLUMNS: dict[str, tuple[str, dict[str, object]]] = {
    "milo_host": ("milo", {"rootfs": "host"}),
    "milo_minimal": ("milo", {"rootfs": "minimal"}),
    "nomad_java": ("java", {"jar_path": LOCAL_JAR}),
    "raw_exec": ("raw_exec", {"command": "java", "args": ["-jar", LOCAL_JAR]}),
}


@pytest.fixture(scope="module")
def probed_agent() -> Iterator[Agent]:
    """An agent with something to hide in its environment, and a small chroot for `java`."""
    if reason := missing():
        pytest.skip(f"NO ACCEPTANCE TEST IS RUN: {reason}")
    entries = {} if IN_VM else security_chroot.entries()
    lines = "".join(f"{hcl(path)} = {hcl(inside)}\n" for path, inside in entries.items())
    chroot = f"chroot_env {{\n{lines}}}\n" if lines else ""
    env = {security_probe.CANARY: "1"}
    milo = {"java_home": all_homes()[0]} if all_homes() else {}
    with agent("security", dev=False, milo=milo, env=env, client=chroot) as one:
        yield one


@pytest.fixture(scope="module")
def secrets(probed_agent: Agent, jar_url: str) -> Iterator[dict[str, Path]]:
    """Places that no task may read: the agent's, the driver's and another allocation's."""
    base = probed_agent.base
    neighbour = probed_agent.nomad.run(
        job_file(kind="service", artifact=f"{jar_url}/clock.jar", config={"args": ["1000", "0"]})
    )
    neighbour.wait_state("running")
    token = task_dir(probed_agent, neighbour) / "secrets/token"
    security_probe.plant(token, 0o644)
    in_state = probed_agent.state_dir / "token"
    security_probe.plant(in_state)
    yield {
        "agent-configuration": probed_agent.config,
        "nomad-client-state": base / "data/client",
        "nomad-server-state": base / "data/server",
        "state-directory": probed_agent.state_dir,
        "planted-in-state": in_state,
        "other-allocation": token,
    }
    in_state.unlink()


def task_dir(one: Agent, job: Job) -> Path:
    """Return the task's own directory on the host."""
    return one.base / "data/alloc" / job.allocation() / "app"


def probe(
    one: Agent, secrets: dict[str, Path], jar_url: str, driver: str, config: dict[str, object]
) -> list[str]:
    """Return what the probe prints as a task, and with Milo then in ``alloc exec`` as well."""
    assert one.process is not None
    milo = driver == "milo"
    with security_probe.host(one.base, secrets, one.process.pid) as host:
        env = host.environment(passive=driver == "raw_exec", stay=milo)
        block = "\n".join(["env {", *(f"{name} = {hcl(text)}" for name, text in env.items()), "}"])
        text = job_file(
            kind="service" if milo else "batch",
            driver=driver,
            config=config,
            artifact=f"{jar_url}/{security_probe.JAR}",
            task=block,
            cpu=500,
            memory=256,
        )
        job = one.nomad.run(text)
        wait_for("the task to have begun", lambda: job.task().get("State") in ("running", "dead"))
        try:
            security_probe.let_go(task_dir(one, job) / "local")
            told = [job.wait_logs("probe end")]
        except (AssertionError, OSError) as error:
            raise AssertionError(f"{error}; {job.events()} {job.logs('-stderr')!r}") from error
        if milo:
            words = ("java", "-jar", f"/{LOCAL_JAR}", "once")
            told.append(one.nomad.cli("alloc", "exec", "-t=false", job.allocation(), *words))
            job.stop()
        return told


@pytest.mark.parametrize("column", COLUMNS)
def test_security_table(
    column: str, probed_agent: Agent, secrets: dict[str, Path], jar_url: str
) -> None:
    """Every fact that a task finds about its confinement is the table's, no more and no less.

    What ``nomad alloc exec`` runs in a task of Milo's finds the same.
    """
    driver, config = COLUMNS[column]
    if driver == "java" and IN_VM:
        pytest.skip("its chroot is copied file by file, over a slow file system")
    for text in probe(probed_agent, secrets, jar_url, driver, config):
        security_table.check(
            security_probe.parse(text),
            column,
            hierarchy=security_probe.hierarchy(),
            agent=security_probe.agents_limits(),
        )
