"""What the matrix is made of: dimensions, their parts, and the features that are tried on each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import attrs

UNIT = Path(__file__).parents[1] / "unit"


def this_python() -> tuple[str, ...]:
    """Return the interpreter that runs this."""
    return (sys.executable,)


@attrs.frozen
class Part:
    """One real thing that Milo may meet, such as one Nomad, found on this machine."""

    name: str
    """As the page shows it; a version where parts differ by that."""
    env: dict[str, str]
    """What the tests are told, so that they use this part."""
    notes: dict[str, str] = attrs.Factory(dict)
    """By the name of a feature, what its cell says when nothing else has to be said."""
    python: Callable[[], tuple[str, ...]] = this_python
    """Make the part when it is first tried, and return the words that run its Python.

    Raises RuntimeError with the reason when it cannot be had.
    """

    command: tuple[str, ...] = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
    """Python's arguments that run tests whose ids follow, and make a report of pytest's."""
    limit_s: int = 5400
    """How long that may take; all unit tests take a quarter of an hour on two cores, and an hour
    beside much other work."""


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
    outside: bool = False
    """Whether its tests run in this machine's Python, and look at the part from outside."""


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
    not_here: str = ""
    """Why parts that are wanted were not had, for the page."""


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


def _in_a_cluster(name: str, means: str, *tests: str, file: str = "test_cluster") -> Feature:
    return Feature(name, means, tuple(f"tests/acceptance/{file}.py::{test}" for test in tests))


def _of_services(name: str, means: str, *tests: str) -> Feature:
    return _in_a_cluster(name, means, *tests, file="test_cluster_services")


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
        "a client dies or falls silent and comes back; with `disconnect { lost_after }`, or "
        "`max_client_disconnect` before Nomad 1.8, and without",
        "test_death_of_a_client",
    ),
    _in_a_cluster("dispatch", "200 short batch jobs are dispatched at once", "test_dispatch"),
    _in_a_cluster(
        "system", "a system, a sysbatch and a periodic job", "test_system_and_periodic_jobs"
    ),
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
    _of_services(
        "checks",
        "checks by TCP and HTTP wait for a JVM that starts slowly, and restart one that is mute",
        "test_a_deployment_waits_for_a_slow_start",
        "test_a_service_that_never_answers_is_restarted",
    ),
    _of_services(
        "revert",
        "a rolling update to a bad version is taken back",
        "test_a_bad_version_is_taken_back",
    ),
    _of_services("pools", "jobs of one node pool and of all", "test_node_pools"),
    _of_services(
        "volumes",
        "a sticky dynamic host volume keeps its task and its data; a CSI volume of a plugin that "
        "needs nothing from outside",
        "test_a_dynamic_host_volume_keeps_its_task",
        "test_a_csi_volume",
    ),
)


def _distribution(name: str, means: str, *tests: str) -> Feature:
    file = "tests/matrix/test_distribution.py"
    return Feature(name, means, tuple(f"{file}::{test}" for test in tests), outside=True)


CONTAINERS = Feature(
    "containers",
    "the container: its start and end, its root file system, its limits",
    (
        "tests/integration/test_container.py",
        "tests/integration/test_rootfs.py",
        "tests/integration/test_limits.py",
    ),
)
SECCOMP = Feature(
    "seccomp", "the filter as the kernel has it", ("tests/integration/test_seccomp_filter.py",)
)
WITHOUT_ROOT = Feature(
    "without root",
    "`milo run` and the other commands as an ordinary user",
    ("tests/integration/test_rootless.py",),
)
HOST_MODULES = (
    *("access", "brought", "bundle", "cgroup", "doctor", "elf", "etc_files", "fifo", "files"),
    *("java_discovery", "layout", "libraries", "plugin_handshake", "preparer", "proc", "pump"),
    *("rootless", "userns", "walk"),
)
"""Those that meet the host's files, programs and kernel."""

DISTRIBUTION_FEATURES = (
    _distribution(
        "demo as a user",
        "on the bare machine, it prints a line for root; after that, it does the rest",
        "test_demo_as_a_user",
    ),
    _distribution(
        "demo as root", "on the bare machine, `./dev demo` does all the set-up", "test_demo_as_root"
    ),
    _distribution(
        "set-up", "`./dev setup` and `.venv/bin/milo` afterwards, at once", "test_set_up_again"
    ),
    Feature(
        "unit",
        "unit tests of the modules that meet the host",
        tuple(f"tests/unit/test_{name}.py" for name in HOST_MODULES),
    ),
    CONTAINERS,
    WITHOUT_ROOT,
    Feature("doctor", "`milo doctor`", ("tests/integration/test_doctor.py",)),
)

PYTHON_FEATURES = (
    Feature(
        "unit",
        "all unit tests but those of how soon a command prints",
        tuple(
            sorted(
                f"tests/unit/{path.name}"
                for path in UNIT.glob("test_*.py")
                if path.name != "test_first_output.py"
            )
        ),
    ),
    Feature(
        "driver",
        "tasks of the driver: life, recovery, streams, exec",
        (
            "tests/integration/test_driver_lifecycle.py",
            "tests/integration/test_driver_recovery.py",
            "tests/integration/test_driver_streams.py",
            "tests/integration/test_exec.py",
        ),
    ),
    CONTAINERS,
)

CRUN_FEATURES = (
    CONTAINERS,
    Feature(
        "privileges",
        "user, capabilities, devices, namespaces, sysctls, user namespaces",
        ("tests/integration/test_privileges.py",),
    ),
    SECCOMP,
    WITHOUT_ROOT,
)


def _integration(name: str, means: str, *files: str) -> Feature:
    return Feature(name, means, tuple(f"tests/integration/{file}.py" for file in files))


def _acceptance(name: str, means: str, *files: str) -> Feature:
    return Feature(name, means, tuple(f"tests/acceptance/{file}.py" for file in files))


KERNEL_FEATURES = (
    _integration("containers", "cgroups, mounts, limits, root file system", "test_container"),
    _integration("limits", "memory, CPU and processes are held", "test_limits", "test_oom_kills"),
    _integration("process 1", "the container's first process, in its ways to end", "test_pause"),
    _integration(
        "security",
        "what a task sees and may do, with user namespaces too",
        "test_security",
        "test_privileges",
    ),
    _integration("attacks", "tasks that try to get out", "test_hostile", "test_brought_attacks"),
    _integration("exec", "commands in a task", "test_exec"),
    _integration("without root", "`milo run` as an ordinary user", "test_rootless"),
    _integration(
        "life", "start, stop, recovery, statistics", "test_driver_lifecycle", "test_driver_recovery"
    ),
    _acceptance("Nomad", "jobs on a real agent", "test_node", "test_tasks", "test_agent_restart"),
    _acceptance(
        "volumes", "host volumes, and directories that groups share", "test_volumes", "test_shares"
    ),
)


def _with_systemd(name: str, means: str, *tests: str) -> Feature:
    return Feature(name, means, tuple(f"tests/systemd/{test}" for test in tests))


SYSTEMD_FEATURES = (
    _with_systemd(
        "service",
        "Nomad as a service with `Type=notify`, `KillMode=process` and `OOMScoreAdjust=-1000`: its"
        " restart, upgrade, death and stop under a running task",
        "test_nomad_service.py",
    ),
    _with_systemd(
        "scope",
        "an ordinary user's task is held to its limits by a transient scope",
        "test_ordinary_user.py::test_limits_by_a_transient_scope",
        "test_ordinary_user.py::test_a_hog_is_killed",
    ),
    _with_systemd(
        "refusals",
        "sysctls that forbid user namespaces are named, with the command that permits them",
        "test_ordinary_user.py::test_a_host_that_forbids_it",
    ),
    _with_systemd(
        "background",
        "`milo run -d` outlives the login of a user who lingers",
        "test_ordinary_user.py::test_what_runs_in_the_background_outlives_the_login",
    ),
    Feature(
        "subordinate ids",
        "another user inside, by `/etc/subuid` and `newuidmap`",
        ("tests/integration/test_rootless.py::test_another_user_by_subordinate_ids",),
    ),
)
