"""The self-contained file as a plugin, and its replacement by a newer one under a running task."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from milo.core.records import TASK_FILE, TaskRecord, decode
from tests.acceptance.conftest import IN_VM
from tests.acceptance.test_agent_restart import numbers
from tests.support import agent, packages
from tests.support.jobs import job_file
from tests.support.waiting import wait_for


@pytest.mark.skipif(IN_VM, reason="the virtual machine has no network to build packages with")
def test_a_task_outlives_the_replacement_of_milo(
    jar_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new Milo has the same JVM and its log without a gap, runs commands in it, and stops it.

    Nothing of the old Milo is on the disk by then.
    """
    if reason := agent.missing():
        pytest.skip(reason)
    file = packages.executable()
    newer = packages.another_version(file, "99.0.0", tmp_path / "milo")
    cache = tmp_path / "cache"
    monkeypatch.setenv("MILO_CACHE_DIR", str(cache))
    monkeypatch.setattr(agent, "MILO", file)  # its `milo install` puts itself into plugin_dir
    with agent.agent("upgrade", dev=False) as one:
        nomad = one.nomad
        config = {"args": ["50", "0"]}
        job = nomad.run(job_file(kind="service", config=config, artifact=f"{jar_url}/clock.jar"))
        job.wait_logs("tick 10 ")
        before = record(one.state_dir)
        assert version(one) != "99.0.0"
        one.stop()
        shutil.rmtree(cache)
        os.replace(newer, one.plugin_dir / "milo")
        one.start()
        wait_for("the new driver", lambda: version(one) == "99.0.0")
        newest = max(numbers(job.logs()))
        job.wait_logs(f"tick {newest + 20} ")
        said = nomad.cli("alloc", "exec", "-t=false", job.allocation(), "cat", "/proc/2/comm")
        assert said == "java\n"
        assert record(one.state_dir) == before
        job.stop()
        assert job.task()["Restarts"] == 0
        assert job.exit_code() == 130  # SIGINT, as kill_signal is by default
        seen = numbers(job.logs())
        assert seen == list(range(len(seen)))


def record(state_dir: Path) -> TaskRecord:
    """Return the one task's record: its own process and its JVM."""
    [path] = state_dir.glob(f"*/{TASK_FILE}")
    return decode(path.read_bytes(), TaskRecord, where=str(path))


def version(one: agent.Agent) -> str:
    """Return the driver's version as the node shows it."""
    return str(one.nomad.node()["Attributes"].get("driver.milo.version"))
