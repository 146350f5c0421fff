"""What the matrix is made of: dimensions, their parts, and the features that are tried on each."""

from __future__ import annotations

from collections.abc import Callable

import attrs


@attrs.frozen
class Part:
    """One real thing that Milo may meet, such as one Nomad, found on this machine."""

    name: str
    """As the page shows it; a version where parts differ by that."""
    env: dict[str, str]
    """What the tests are told, so that they use this part."""
    notes: dict[str, str] = attrs.Factory(dict)
    """By the name of a feature, what its cell says when nothing else has to be said."""


@attrs.frozen
class Feature:
    """What is tried on each part."""

    name: str
    means: str
    """One sentence for the page."""
    tests: tuple[str, ...]
    """Pytest's ids."""
    needs: str = ""
    """A variable that `Part.env` must have, else the feature is not tried on the part."""


@attrs.frozen
class Dimension:
    """One kind of part, and so one table of the page."""

    name: str
    title: str
    means: str
    features: tuple[Feature, ...]
    wanted: tuple[str, ...]
    """Parts that have a row even if they were never tried."""
    find: Callable[[bool], list[Part]]
    """Look for the parts on this machine; True: download those that can be."""
    together: bool = False
    """Whether all features of a part are tried by one run of pytest, which shares fixtures."""


NOMAD_FEATURES = (
    Feature(
        "scenarios",
        "a job is submitted, its log followed, its end and exit code shown",
        ("tests/acceptance/test_scenarios.py", "tests/acceptance/test_node.py::test_healthy"),
    ),
    Feature(
        "exec",
        "`nomad alloc exec`, with and without a terminal",
        ("tests/acceptance/test_exec.py",),
    ),
    Feature(
        "recovery",
        "tasks outlive the stop and the kill of their agent",
        ("tests/acceptance/test_agent_restart.py",),
    ),
    Feature(
        "stats", "`nomad alloc status -stats`", ("tests/acceptance/test_tasks.py::test_usage",)
    ),
    Feature(
        "signals",
        "`nomad alloc signal`, `kill_signal`, `kill_timeout`",
        ("tests/acceptance/test_signals.py",),
    ),
    Feature(
        "errors",
        "what is wrong with a job is told in its events",
        ("tests/acceptance/test_errors.py",),
    ),
    Feature(
        "volumes",
        "host volumes, read-only and writable",
        ("tests/acceptance/test_volumes.py",),
    ),
    Feature(
        "limits",
        "memory, CPU, user, restart of a task that failed",
        ("tests/acceptance/test_tasks.py", "tests/acceptance/test_memory.py"),
    ),
    Feature(
        "upgrade",
        "the agent is replaced by the next newer version here while a task runs",
        ("tests/acceptance/test_nomad_upgrade.py",),
        needs="NOMAD_NEXT",
    ),
)


def _one_java(name: str, means: str, *tests: str) -> Feature:
    file = "tests/integration/test_one_java.py"
    return Feature(name, means, tuple(f"{file}::{test}" for test in tests))


JAVA_FEATURES = (
    _one_java("discovery", "Milo finds it and learns its version", "test_discovery"),
    _one_java(
        "choice",
        "a job that names it runs on it; a JAR with newer classes is refused",
        "test_choice",
        "test_newer_classes",
    ),
    _one_java("heap", "the heap follows the task's memory, and the event tells it", "test_heap"),
    _one_java("stop", "SIGINT runs the shutdown hooks; the exit code is exact", "test_stop"),
    _one_java("dump", "threads by SIGQUIT, the heap when it is full", "test_dumps"),
    _one_java("tools", "its `jcmd` works in the task", "test_tools"),
    _one_java("artifact", "the same files as an artifact of the job", "test_artifact"),
)


def _in_a_cluster(name: str, means: str, test: str) -> Feature:
    return Feature(name, means, (f"tests/acceptance/test_cluster.py::{test}",))


CLUSTER_FEATURES = (
    _in_a_cluster(
        "drain",
        "a drained task moves, with its `ephemeral_disk { migrate, sticky }`",
        "test_drain_migrates_the_data",
    ),
    _in_a_cluster(
        "update", "a canary is promoted and rolled out", "test_canary_and_rolling_update"
    ),
    _in_a_cluster(
        "death",
        "a client dies and comes back, with and without `disconnect { lost_after }`",
        "test_death_of_a_client",
    ),
    _in_a_cluster("dispatch", "200 short batch jobs are dispatched at once", "test_dispatch"),
    _in_a_cluster("system", "a system job and a periodic job", "test_system_and_periodic_jobs"),
    _in_a_cluster(
        "ACL",
        "namespaces that permit or forbid the driver, and a token that may not `exec`",
        "test_namespaces_and_tokens",
    ),
    _in_a_cluster(
        "variables",
        "templates with Nomad's variables, and the task's identity",
        "test_variables_and_identity",
    ),
)
