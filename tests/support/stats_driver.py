"""A plugin process whose tasks are nothing but cgroups, for what TaskStats cost and whether they
are right: real but for the tasks, which no JVM and no task process stand behind.

As a program, it is that plugin: ``python -m tests.support.stats_driver FILE``, the file being a
JSON object of task ids to cgroup paths.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from milo import cgroup_files
from milo.core import cgroup
from milo.core.cgroup import Hierarchy
from milo.plugin.handshake import COOKIE_NAME, COOKIE_VALUE

if TYPE_CHECKING:
    from milo.host.registry import Registry
    from milo.spawner_process import SpawnerProcess

ROOT = Path(__file__).parents[2]
CONTROLLERS = ("cpu", "cpuacct", "memory")


def hierarchy() -> Hierarchy:
    """Return what this process sees of the cgroup file systems."""
    return cgroup_files.detect()


_SLEEP = 'for list; do echo $$ > "$list"; done; exec sleep infinity'


@attrs.frozen
class Group:
    """One cgroup of this test's own, in every controller that TaskStats read."""

    path: str
    directories: dict[str, Path]
    """By controller; on v2 all the same."""

    def start_sleeper(self) -> subprocess.Popen[bytes]:
        """Start a process that does nothing, in the group from its beginning."""
        lists = [directory / "cgroup.procs" for directory in sorted(set(self.directories.values()))]
        return subprocess.Popen(["sh", "-c", _SLEEP, "sh", *lists])


@contextmanager
def open_groups(count: int) -> Iterator[list[Group]]:
    """Make ``count`` empty cgroups; afterwards they must be empty again, and are removed."""
    found = hierarchy()
    parent = f"/milo-stats-{os.getpid()}"
    made: list[Path] = []
    try:
        _make(found, parent, made)
        _delegate(found, parent)
        groups = []
        for number in range(count):
            directories = _make(found, f"{parent}/{number}", made)
            groups.append(Group(f"{parent}/{number}", directories))
        yield groups
    finally:
        for directory in reversed(made):
            with contextlib.suppress(FileNotFoundError):  # by the test itself
                directory.rmdir()


def _make(found: Hierarchy, path: str, made: list[Path]) -> dict[str, Path]:
    directories = {}
    for controller in CONTROLLERS:
        name = found.directory(controller, path)
        assert name is not None, f"no controller {controller}"
        directories[controller] = directory = Path(name)
        if not directory.exists():
            directory.mkdir()
            made.append(directory)
    return directories


def _delegate(found: Hierarchy, parent: str) -> None:
    """On v2 a group has only the controllers that its parents pass on."""
    if found.mode is cgroup.Mode.V2:
        for path in ("", parent):
            directory = found.directory("", path)
            Path(f"{directory}/cgroup.subtree_control").write_text("+cpu +memory")


@contextmanager
def sleepers(groups: list[Group]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run a process that does nothing in each of ``groups``."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for group in groups:
            processes.append(group.start_sleeper())
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextmanager
def open_driver(tasks: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a driver with these tasks, ids to cgroup paths; yield it and its socket."""
    with tempfile.TemporaryDirectory(prefix="milo-", dir="/tmp") as name:
        base = Path(name)
        (base / "tasks.json").write_text(json.dumps(tasks))
        with (base / "stderr").open("wb") as stderr:
            driver = subprocess.Popen(
                [sys.executable, "-m", __name__, base / "tasks.json"],
                cwd=ROOT,
                env={COOKIE_NAME: COOKIE_VALUE, "PLUGIN_UNIX_SOCKET_DIR": name},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        assert driver.stdout is not None
        try:
            line = driver.stdout.readline().decode()
            assert line, (base / "stderr").read_text()
            yield driver, line.split("|")[3]
            assert driver.poll() is None, (base / "stderr").read_text()
            logged = (base / "stderr").read_text()
            assert '"error"' not in logged, logged
        finally:
            driver.terminate()
            driver.wait()
            driver.stdout.close()


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, all its threads included; proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_files(pid: int) -> list[str]:
    """Return what the descriptors of a process are of."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            found.append(os.readlink(link))
    return found


def _make_registry(spawner: SpawnerProcess) -> Registry:
    from milo.core.control import Started
    from milo.core.records import ProcessId
    from milo.host.managed import ManagedTask
    from milo.host.registry import Registry
    from milo.host.spawner_client import SpawnerClient
    from tests.support.launches import make_launch

    registry = Registry(SpawnerClient(spawner))
    for task_id, path in json.loads(Path(sys.argv[1]).read_text()).items():
        launch = make_launch(task_id=task_id)
        task = ManagedTask(launch, on_event=lambda *_: None, on_log=lambda *_: None)
        task.take(Started(ProcessId(0, 0), "", path, 0.0))
        registry._tasks[task_id] = task
    return registry


if __name__ == "__main__":
    from milo.plugin.main import run_plugin

    run_plugin(make_registry=_make_registry)
