"""What every suite shares: a place where crun works on hosts with hybrid cgroups, and JARs."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from milo import proc
from tests.support import jars, private_mounts, turns, waiting


@pytest.hookimpl(tryfirst=True)  # before pytest-timeout takes its option
def pytest_configure(config: pytest.Config) -> None:
    """Leave behind a hybrid host's cgroup v2 mount, and signals that the caller ignored.

    A job in the background of a shell ignores Ctrl-C, and so would each command of a test. All
    this holds for this process and its children only.
    """
    if config.pluginmanager.hasplugin("timeout") and config.getoption("timeout") is None:
        config.option.timeout = waiting.scaled(float(config.getini("timeout")))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    if os.geteuid() == 0:
        private_mounts.enter_if_hybrid()
        if turns.IS_SHARED:
            private_mounts.enter()
    if measuring := os.environ.get("COVERAGE_PROCESS_CONFIG"):
        _measure_spawners(measuring)


def _measure_spawners(config: str) -> None:
    """Let coverage see spawners that are executed: their environment is made from nothing.

    Coverage's own patches do this for all of exec's family, but not for posix_spawn.
    """
    spawn = os.posix_spawn

    def measured(path: str, argv: list[str], env: Mapping[str, str], **options: Any) -> int:
        if path == sys.executable:
            env = {**env, "COVERAGE_PROCESS_CONFIG": config}
        return spawn(path, argv, env, **options)

    os.posix_spawn = measured  # type: ignore[assignment]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let a test that is marked `alone` have the machine to itself."""
    with turns.taken(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.fixture(autouse=True)
def not_a_subreaper() -> Iterator[None]:
    """What a test makes of this process is undone: other tests' orphans are not its children.

    A zombie of theirs, which nobody here reaps, would keep its PID namespace's process 1 alive.
    """
    yield
    proc.prctl(proc.PR_SET_CHILD_SUBREAPER, 0)


@pytest.fixture(scope="session")
def jar_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with all test JARs, compiled for this run; skips where javac is missing.

    In the virtual machine they were compiled outside (``MILO_JARS``).
    """
    if (compiled := os.environ.get("MILO_JARS")) and os.path.isdir(compiled):
        return Path(compiled)
    if reason := jars.missing_tools():
        pytest.skip(reason)
    if not turns.IS_SHARED:
        directory = tmp_path_factory.mktemp("jars")
        jars.build_all(directory)
        return directory
    # The first of the processes that share this run compiles for all.
    directory = tmp_path_factory.getbasetemp().parent / "jars"
    with open(directory.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            with tempfile.TemporaryDirectory(dir=directory.parent) as unfinished:
                jars.build_all(Path(unfinished))
                shutil.copytree(unfinished, directory)
    return directory


@pytest.fixture
def jdks() -> Iterator[Path]:
    """A directory for JDKs. One below /tmp would be mounted inside of the task's own /tmp."""
    path = Path(tempfile.mkdtemp(prefix="milo-test-", dir="/opt"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)
