"""The flight recording of a task that has died, as the JDK's own tool reads it."""

from __future__ import annotations

import calendar
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import trio

from milo.core.config.plugin_options import PluginOptions
from tests.integration.test_black_box import started
from tests.integration.test_milo_commands import milo
from tests.support.driver_rig import DriverRig, Task, open_rig
from tests.support.java_homes import all_homes
from tests.support.waiting import SCALE, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

HOMES = [home for home in all_homes() if os.path.exists(f"{home}/bin/jfr")]
SLACK_S = 3 * SCALE
"""Between what the JVM last flushed, each second, and its death."""


async def dumped(rig: DriverRig, task: Task, target: Path) -> None:
    """Run ``milo dump jfr``."""
    done = await milo(rig, "dump", "jfr", task.request.alloc_id, str(target))
    assert done.returncode == 0, done.stderr


def tool(home: str, *words: str) -> str:
    """Return what the JDK's ``jfr`` prints."""
    done = subprocess.run([f"{home}/bin/jfr", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def last_event_s(home: str, path: Path) -> float:
    """Return when, in Unix time, the last look at the processors was recorded."""
    printed = tool(home, "print", "--json", "--events", "jdk.CPULoad", str(path))
    stamps = re.findall(r'"startTime": "(\d\d\d\d-\d\d-\d\dT\d\d:\d\d:\d\d)', printed)
    return calendar.timegm(time.strptime(max(stamps), "%Y-%m-%dT%H:%M:%S"))


def data(task: Task) -> Path:
    return Path(task.request.shared_dir, "data")


async def flushed(task: Task) -> None:
    """Wait until the JVM has recorded for some seconds."""

    def is_long() -> bool:
        found = list(data(task).glob("*.recording/*/*.jfr"))
        return bool(found) and found[0].read_bytes()[64:65] not in (b"", b"\xff", *STATES)

    await trio.to_thread.run_sync(wait_for, "some flushes", is_long)


STATES = (b"\0", b"\1", b"\2", b"\3")


@pytest.mark.parametrize("home", HOMES, ids=os.path.basename)
async def test_a_killed_jvm_has_recorded_its_last_seconds(
    jar_dir: Path, tmp_path: Path, home: str
) -> None:
    """The tool of its JDK reads what it has left; after DestroyTask, too."""
    target = tmp_path / "a.jfr"
    async with open_rig(PluginOptions(java_home=home)) as rig:
        task = rig.task(jar_dir / "clock.jar", flight_recorder=True)
        pid = await started(rig, task, b"tick 1")
        await flushed(task)
        os.kill(pid, signal.SIGKILL)
        died_s = time.time()
        await rig.registry.wait(task.id)
        await task.read()
        assert b"Started recording" not in task.out.text
        await rig.registry.destroy(task.id, force=False)
        await dumped(rig, task, target)
        assert died_s - SLACK_S < last_event_s(home, target) < died_s + 1
        (chunk,) = data(task).glob("*.recording/*/*.jfr")
        assembled = tmp_path / "assembled.jfr"
        tool(home, "assemble", str(chunk.parent), str(assembled))
        ours = target.read_bytes()
        theirs = bytearray(assembled.read_bytes())
        assert theirs[64] != 0  # what the tool itself then refuses to read
        theirs[64] = 0
        assert ours == theirs[: len(ours)]


@pytest.mark.parametrize(
    ("jar", "args", "code", "signal_number"),
    [("native-hog.jar", [], 0, 9), ("dies.jar", ["segv"], 0, 6), ("dies.jar", ["exit"], 3, 0)],
    ids=["OOM kill", "crash", "exit"],
)
async def test_however_it_died(
    jar_dir: Path, tmp_path: Path, jar: str, args: list[str], code: int, signal_number: int
) -> None:
    """After the kernel's kill, a crash, and an exit that was no success there is a recording."""
    target = tmp_path / "a.jfr"
    home = HOMES[-1]
    async with open_rig(PluginOptions(java_home=home)) as rig:
        task = rig.task(
            jar_dir / jar,
            args=args,
            flight_recorder=True,
            memory_mb=160,
            jvm_options=["-XX:MaxDirectMemorySize=4g"],
        )
        await rig.registry.start(task.request)
        result = await rig.registry.wait(task.id)
        assert (result.exit_code, result.signal) == (code, signal_number)
        done = await milo(rig, "dump", "jfr", task.request.alloc_id, str(target))
        if result.oom_killed and done.returncode:
            # It was killed before the first second was over.
            assert b"no part of it is complete" in done.stderr
            return
        assert done.returncode == 0, done.stderr
        assert "jdk.JVMInformation" in tool(home, "summary", str(target))


async def test_the_running_one_is_fetched(jar_dir: Path, tmp_path: Path) -> None:
    """At once: it has been recorded already. And it goes on."""
    target = tmp_path / "a.jfr"
    async with open_rig(PluginOptions(java_home=HOMES[0])) as rig:
        task = rig.task(jar_dir / "clock.jar", flight_recorder=True)
        await started(rig, task, b"tick 1")
        for _ in range(2):
            await dumped(rig, task, target)
            assert "jdk.JVMInformation" in tool(HOMES[0], "summary", str(target))
            target.unlink()
        await rig.registry.stop(task.id, "SIGTERM", 30)
        assert (await rig.registry.wait(task.id)).exit_code == 143
        assert [path.suffix for path in data(task).iterdir() if path.is_file()] == [".jfr"]


async def test_of_a_restarted_task_it_is_said_whose_it_is(jar_dir: Path, tmp_path: Path) -> None:
    """By its allocation it is the running JVM's, and by the id that is named the last one's."""
    target = tmp_path / "a.jfr"
    async with open_rig(PluginOptions(java_home=HOMES[0])) as rig:
        first = rig.task(jar_dir / "dies.jar", args=["exit"], flight_recorder=True)
        alloc_id = first.request.alloc_id
        await rig.registry.start(first.request)
        await rig.registry.wait(first.id)
        await rig.registry.destroy(first.id, force=False)
        (first.local / "dies.jar").unlink()
        again = rig.task(jar_dir / "clock.jar", alloc_id=alloc_id, flight_recorder=True)
        await started(rig, again, b"tick 1")
        done = await milo(rig, "dump", "jfr", alloc_id, str(target))
        said = f"Wrote {target}, of the running JVM\n"
        assert done.stdout.decode().startswith(said), done.stderr
        assert "clock.jar" in tool(HOMES[0], "print", "--events", "jdk.JVMInformation", str(target))
        target.unlink()
        done = await milo(rig, "dump", "jfr", done.stdout.decode().split()[-1], str(target))
        assert done.returncode == 0, done.stderr
        assert "dies.jar" in tool(HOMES[0], "print", "--events", "jdk.JVMInformation", str(target))
        done = await milo(rig, "post-mortem", "--json", alloc_id)
        assert json.loads(done.stdout)["exit_code"] == 3
        assert b"Nomad has restarted the task since" in done.stderr


async def test_its_options_are_the_users_to_choose(jar_dir: Path) -> None:
    """A recording of the job's own is the only one, and the start event says so."""
    async with open_rig() as rig:
        task = rig.task(
            jar_dir / "clock.jar",
            flight_recorder=True,
            jvm_options=["-XX:StartFlightRecording=filename=/alloc/data/own.jfr"],
        )
        await started(rig, task, b"tick 1")
        found = lambda: any("leaves it to the option" in text for text in rig.texts(task))  # noqa: E731
        await trio.to_thread.run_sync(wait_for, "the start event", found)
        await rig.registry.stop(task.id, "SIGTERM", 30)
        await rig.registry.wait(task.id)
        assert [path.name for path in data(task).iterdir()] == ["own.jfr"]
