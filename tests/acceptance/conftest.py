"""A real Nomad agent for all acceptance tests, and an HTTP server with the test JARs."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.support import artifacts
from tests.support.agent import Agent, agent, missing
from tests.support.cluster import Cluster, cluster
from tests.support.jobs import job_file
from tests.support.nomad import Job, Nomad

OF_CONFIG = ("args", "jvm_options", "dump_on_kill")
RunJar = Callable[..., Job]
LONGEST = (
    *("test_soak_short.py", "test_chaos_short.py", "test_cluster.py", "test_cluster_services.py"),
    *("test_symptoms.py", "test_first_steps.py", "test_frameworks.py", "test_java_parity.py"),
)
"""The files that take longest: begun last, one of them would go on when all else has ended."""
IN_VM = "MILO_IN_VM" in os.environ
"""Whether this is the virtual machine of `tests/vm`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the `LONGEST` files first; all else keeps its order."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def jar_url(jar_dir: Path) -> Iterator[str]:
    """The base URL under which the test JARs are served."""
    with artifacts.serve(jar_dir) as url:
        yield url


@pytest.fixture(scope="session")
def dev_agent() -> Iterator[Agent]:
    """The dev agent that most tests share; at the end nothing of it may be left."""
    if reason := missing():
        pytest.skip(f"NO ACCEPTANCE TEST IS RUN: {reason}")
    # Where an agent takes a minute to start, one that keeps its state serves both ways.
    with agent("shared", dev=not IN_VM) as one:
        yield one


@pytest.fixture
def lasting_agent(dev_agent: Agent) -> Iterator[Agent]:
    """An agent that keeps its state, to be ended and started again."""
    if not dev_agent.dev:
        yield dev_agent
        dev_agent.purge()
        return
    with agent("lasting", dev=False) as one:
        yield one


@pytest.fixture
def nomad(dev_agent: Agent) -> Iterator[Nomad]:
    """The shared agent's client; the test's jobs are stopped and forgotten afterwards."""
    yield dev_agent.nomad
    dev_agent.note_allocations()
    for job in dev_agent.nomad.get("/v1/jobs"):
        dev_agent.nomad.cli("job", "stop", "-purge", "-detach", job["ID"])


@pytest.fixture
def run_jar(nomad: Nomad, jar_url: str) -> RunJar:
    """Run a test JAR by its name: ``run_jar("hello.jar", args=["x"], kind="service")``.

    ``args``, ``jvm_options`` and ``dump_on_kill`` go to the task's config, everything else to
    `job_file`.
    """

    def run(jar: str, **options: object) -> Job:
        config = {
            "args": [],
            **{key: options.pop(key) for key in OF_CONFIG if key in options},
        }
        return nomad.run(
            job_file(config=config, artifact=f"{jar_url}/{jar}", **options)  # type: ignore[arg-type]
        )

    return run


@pytest.fixture(scope="module")
def world() -> Iterator[Cluster]:
    """The cluster that all tests of a module share."""
    if reason := missing():
        pytest.skip(reason)
    with cluster() as one:
        yield one


@pytest.fixture
def town(world: Cluster) -> Iterator[Cluster]:
    """The cluster with both clients ready; the test's jobs are forgotten afterwards."""
    world.wait_ready()
    yield world
    world.purge()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the agents logged during a test that failed."""
    report = yield
    funcargs = getattr(item, "funcargs", {})
    for one in funcargs.values():
        if isinstance(one, Agent):
            key = f"agent log {one.log}"
            if call.when == "setup":
                item.stash.setdefault(_STARTS, {})[key] = one.log_size()
            elif report.failed:
                start = item.stash.get(_STARTS, {}).get(key, 0)
                report.sections.append((key, one.tail(start)))
    return report


_STARTS = pytest.StashKey[dict[str, int]]()
