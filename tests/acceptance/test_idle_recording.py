"""A service that is stopped while its JVM writes a startup archive, asked for that by jcmd."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from milo.core.java.startup_cache import ARCHIVE
from milo.process_signals import is_halted
from milo.task.java.startup_place import STAGING
from tests.support.agent import MILO, Agent, agent, missing
from tests.support.jobs import job_file
from tests.support.nomad import Job
from tests.support.waiting import scaled, wait_for

JDK = Path("/usr/lib/jvm/java-17-openjdk-amd64")
HALF_BYTES = 1_000_000
JCMD = f"""\
#!/bin/sh
head -c {HALF_BYTES} /dev/zero > "$4"
kill -STOP "$1"
exec sleep 600
"""
"""What a dump looks like in its middle: half an archive, and a JVM that does nothing else."""
IN_A_HURRY = f"""\
#!{sys.executable}
import milo.task.java.idle_recording as idle
from milo.entry import main
idle.UP_S, idle.LOOK_S = 0.5, 0.5
main()
"""
KILL_TIMEOUT_S = 3.0
MORE_S = 20.0
"""For a busy machine. A recording itself may take 120 s."""


@attrs.define
class HastyAgent(Agent):
    """One whose plugin does not wait two minutes before it has a JVM asked."""

    def start(self) -> None:
        """Put another launcher into the place of the one that was installed."""
        plugin = self.plugin_dir / MILO.name
        plugin.unlink()
        plugin.write_text(IN_A_HURRY)
        plugin.chmod(0o755)
        super().start()


@pytest.fixture
def jdk() -> Iterator[Path]:
    """A JDK whose jcmd does not come back."""
    if not (JDK / "bin/jcmd").exists():
        pytest.skip(f"there is no JDK at {JDK}")
    with tempfile.TemporaryDirectory(prefix="milo-jdk-", dir="/opt") as directory:
        Path(directory).chmod(0o755)
        home = Path(directory, "jdk")
        shutil.copytree(JDK, home, ignore_dangling_symlinks=True)
        (home / "bin/jcmd").write_text(JCMD)
        yield home


def test_a_stop_while_an_archive_is_written(jdk: Path, jar_url: str) -> None:
    """It takes its kill_timeout and no more, and no one uses half an archive."""
    if reason := missing():
        pytest.skip(reason)
    text = job_file(
        name="idle",
        kind="service",
        config={"args": ["1000", "0"], "startup_cache": "auto", "java_home": str(jdk)},
        artifact=f"{jar_url}/clock.jar",
        task=f'kill_timeout = "{KILL_TIMEOUT_S:g}s"\n',
        memory=512,
        attempts=1,
    )
    with agent("idle", make=HastyAgent, milo={"java_home": str(jdk)}) as one:
        job = one.nomad.run(text)
        job.wait_logs("tick 1 ")
        # A JVM is recorded while it runs only after one that was killed.
        os.kill(jvm(one), signal.SIGKILL)
        archive = wait_for("half an archive", lambda: half(one, job), 60)
        wait_for("the JVM to stand still", lambda: is_halted(jvm(one)))
        job.stop()
        assert seconds_of_stop(job) < KILL_TIMEOUT_S + scaled(MORE_S)
        assert not archive.exists()
        assert not list(one.base.glob("cache/*/*.archive*"))

        logged = one.log_size()
        again = one.nomad.run(text)
        wait_for("its next start", lambda: "for its next start" in one.tail(logged, 1 << 22))
        assert "Starts with its" not in one.tail(0, 1 << 24)
        again.stop()


def jvm(one: Agent) -> int:
    """Return the process of the one task that runs."""
    [record] = one.state_dir.glob("*/task.json")
    return int(json.loads(record.read_bytes())["container"]["pid"])


def half(one: Agent, job: Job) -> Path | None:
    """Return the file with half an archive, once it is that."""
    places = (one.base / "data/alloc" / job.allocation() / STAGING).glob("app.*")
    files = [place / Path(ARCHIVE).name for place in places]
    written = [file for file in files if file.exists() and file.stat().st_size == HALF_BYTES]
    return written[0] if written else None


def seconds_of_stop(job: Job) -> float:
    """Return how long the task was being stopped, as Nomad tells it."""
    times: dict[str, Any] = {event["Type"]: event["Time"] for event in job.task()["Events"]}
    return float(times["Killed"] - times["Killing"]) / 1e9
