"""What the node says of the driver, while crun and Java come and go."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import milo
from tests.support.agent import Agent, agent, missing
from tests.support.jobs import job_file
from tests.support.nomad import Nomad
from tests.support.waiting import wait_for

PERIOD_S = 30
"""How long a change on the host may take to be seen."""
SEEN_S = 5
"""From the driver's report to the servers' answer: a client sends updates once a second."""
NO_JAVA = "Error: No Java runtime found on host. Please install Java to use Milo driver."


def test_attributes(nomad: Nomad) -> None:
    """`nomad node status -json` shows the driver, its version, crun's and the default Java's."""
    attributes = nomad.node()["Attributes"]
    crun = subprocess.run(["crun", "--version"], capture_output=True, text=True, check=True)
    assert attributes["driver.milo"] == "1"
    assert attributes["driver.milo.version"] == milo.__version__
    assert attributes["driver.milo.crun.version"] == crun.stdout.split()[2]
    assert int(attributes["driver.milo.java.version"].split(".")[0]) >= 8


def test_healthy(nomad: Nomad) -> None:
    """The driver is detected and healthy, in the API and in `nomad node status -self`'s words."""
    wait_for("the driver", lambda: nomad.driver("milo").get("Healthy"))
    assert nomad.driver("milo")["Detected"]
    assert "milo" in nomad.cli("node", "status", "-verbose", str(nomad.node()["ID"]))


@pytest.fixture(scope="module")
def crun_link(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path that the bare agent's driver knows crun by."""
    link = tmp_path_factory.mktemp("crun") / "crun"
    link.symlink_to(shutil.which("crun") or "/usr/bin/crun")
    return link


@pytest.fixture(scope="module")
def bare_agent(crun_link: Path) -> Iterator[Agent]:
    """An agent in a mount namespace of its own, from which tests take crun and Java away."""
    if reason := missing():
        pytest.skip(f"NO ACCEPTANCE TEST IS RUN: {reason}")
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "JAVA_HOME": ""}
    with agent("bare", milo={"crun_path": str(crun_link)}, env=env, own_mounts=True) as one:
        yield one


def wait_health(one: Agent, healthy: bool) -> str:
    """Wait until the driver's health is as given, within one period; return what it says."""

    def probe() -> bool:
        return bool(one.nomad.driver("milo").get("Healthy")) == healthy

    wait_for(f"the driver to be healthy={healthy}", probe, PERIOD_S + SEEN_S, pause_s=0.2)
    return str(one.nomad.driver("milo")["HealthDescription"])


def test_crun_goes_and_comes(bare_agent: Agent, crun_link: Path) -> None:
    """Without crun the driver is unhealthy and says what to install; healthy when it is back.

    Nomad keeps the attribute of a driver that is there, and places nothing on it.
    """
    target = crun_link.readlink()
    wait_health(bare_agent, True)
    crun_link.unlink()
    try:
        said = wait_health(bare_agent, False)
        attributes = bare_agent.nomad.node()["Attributes"]
        assert (attributes["driver.milo"], attributes["driver.milo.version"]) == (
            "1",
            milo.__version__,
        )
        assert bare_agent.nomad.driver("milo")["Detected"]
    finally:
        crun_link.symlink_to(target)
    assert str(crun_link) in said
    assert "Install" in said
    wait_health(bare_agent, True)


def test_java_goes_and_comes(bare_agent: Agent, jar_url: str) -> None:
    """Without Java the driver says so, as does a task placed before; healthy when it is back."""
    elsewhere = [*Path("/opt").glob("*jdk*"), *Path("/usr/local").glob("openjdk*")]
    if elsewhere or Path("/opt/java").exists():
        pytest.skip("this host has a Java outside of /usr/lib/jvm, which the test does not hide")
    wait_health(bare_agent, True)
    bare_agent.in_mounts("mount", "-t", "tmpfs", "none", "/usr/lib/jvm")
    job = bare_agent.nomad.run(job_file(artifact=f"{jar_url}/hello.jar"))
    try:
        # The driver still counts as healthy for up to a period, so the task is placed.
        assert NO_JAVA in job.wait_event("Driver Failure")
        assert wait_health(bare_agent, False) == NO_JAVA
    finally:
        bare_agent.in_mounts("umount", "/usr/lib/jvm")
    wait_health(bare_agent, True)
    again = bare_agent.nomad.run(job_file(artifact=f"{jar_url}/hello.jar"))
    again.wait_state("dead")
    assert again.exit_code() == 0
