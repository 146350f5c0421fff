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
    find: Callable[[], list[Part]]
    """Look for the parts on this machine."""


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
