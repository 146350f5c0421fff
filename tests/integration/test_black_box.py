"""What is left of a JVM that is killed: its threads' last words."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from milo.core.config.plugin_options import PluginOptions
from milo.process_signals import is_halted
from tests.support import scripted_java
from tests.support.driver_rig import DriverRig, Task, open_rig
from tests.support.java_homes import all_homes
from tests.support.waiting import scaled, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

TOLD = "; what its threads were doing then is in its log"
STUCK = ["600000"]
"""stubborn.jar: a shutdown hook that takes ten minutes."""


async def started(rig: DriverRig, task: Task, words: bytes = b"running") -> int:
    """Start a task that prints ``words``, and return its process."""
    await rig.registry.start(task.request)
    await trio.to_thread.run_sync(task.out.wait_for, words)
    return int((await rig.registry.inspect(task.id)).attributes["container_pid"])


async def stop(rig: DriverRig, task: Task, timeout_s: float = 2.0, *, told: bool = False) -> float:
    """Stop a task that does not end by itself; return how long that took."""
    begun_s = time.monotonic()
    await rig.registry.stop(task.id, "SIGTERM", timeout_s)
    took_s = time.monotonic() - begun_s
    assert (await end(rig, task)).endswith("by SIGKILL (signal 9)" + TOLD * told)
    return took_s


async def end(rig: DriverRig, task: Task) -> str:
    """Return what is told of a task that SIGKILL has ended, its output being complete."""
    result = await rig.registry.wait(task.id)
    assert (result.exit_code, result.signal) in ((0, 9), (-1, 0))  # a successor cannot know
    await trio.to_thread.run_sync(task.out.wait_end)
    return result.message


def notes(rig: DriverRig) -> str:
    """Return what the task process of the only task has written down."""
    (directory,) = rig.state_dir.iterdir()
    return (directory / "task.log").read_text()


@pytest.mark.parametrize("home", all_homes(), ids=os.path.basename)
async def test_the_log_says_why_it_did_not_stop(jar_dir: Path, home: str) -> None:
    """Before the SIGKILL the JVM prints its threads, within the kill timeout, and it is told."""
    async with open_rig(PluginOptions(java_home=home)) as rig:
        task = rig.task(jar_dir / "stubborn.jar", args=STUCK)
        await started(rig, task)
        assert 2 <= await stop(rig, task, told=True) < 8
        text = task.out.text.decode()
        assert text.index("asked to end") < text.index("Full thread dump")
        assert "at Stubborn.lambda$main$0(" in text and "JNI global refs" in text


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"dump_on_kill": False}, ""),
        ({"jvm_options": ["-Xrs"]}, ""),
        ({"jvm_options": ["@/local/options"]}, "SIGQUIT would end the application"),
    ],
    ids=["off", "-Xrs", "-Xrs out of Milo's sight"],
)
async def test_a_jvm_that_prints_none_is_not_ended_by_it(
    jar_dir: Path, config: dict[str, Any], said: str
) -> None:
    """It has all of its kill timeout, and is ended by the SIGKILL."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar", args=STUCK, **config)
        (task.local / "options").write_text("-XX:VMOptionsFile=/local/more\n")
        (task.local / "more").write_text("-XX:+ReduceSignalUsage\n")
        await rig.registry.start(task.request)
        await trio.to_thread.run_sync(task.out.wait_for, b"running")
        begun_s = time.monotonic()
        await rig.registry.stop(task.id, "SIGNULL", 2.0)
        assert time.monotonic() - begun_s >= 2
        assert TOLD not in await end(rig, task)
        assert b"thread dump" not in task.out.text
        assert said in notes(rig)


async def test_a_halted_jvm_is_not_asked(jar_dir: Path) -> None:
    """One that was halted would not answer; it is killed in time all the same."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar", args=STUCK)
        pid = await started(rig, task)
        os.kill(pid, signal.SIGSTOP)
        await trio.to_thread.run_sync(wait_for, "the halt", lambda: is_halted(pid))
        assert 2 <= await stop(rig, task) < 8
        assert b"thread dump" not in task.out.text
        assert "the application is halted" in notes(rig)


async def test_what_is_no_jvm_yet_is_not_ended_by_it(jar_dir: Path, tmp_path: Path) -> None:
    """A launcher that has not come to its JVM would be ended before its time."""
    home = scripted_java.make(tmp_path / "jdk", "trap '' TERM; echo running; sleep 4011; exit 1")
    async with open_rig(PluginOptions(java_home=str(home))) as rig:
        task = rig.task(jar_dir / "hello.jar")
        await started(rig, task)
        assert 2 <= await stop(rig, task) < 8
        assert "SIGQUIT would end the application" in notes(rig)


async def test_a_successor_asks_too(jar_dir: Path) -> None:
    """What was decided of the JVM outlives the task process that decided it."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "stubborn.jar", args=STUCK)
        await started(rig, task)
        os.kill(await rig.supervisor(task), signal.SIGKILL)
        found = lambda: any("taken over" in text for text in rig.texts(task))  # noqa: E731
        await trio.to_thread.run_sync(wait_for, "the successor", found)
        begun_s = time.monotonic()
        await rig.registry.stop(task.id, "SIGTERM", 2.0)
        assert 2 <= time.monotonic() - begun_s < scaled(8)
        assert TOLD in await end(rig, task)
        assert b"at Stubborn.lambda$main$0(" in task.out.text


async def test_a_dump_that_nobody_reads_holds_up_no_kill(jar_dir: Path) -> None:
    """The log is full and its reader slow: the SIGKILL comes in time."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "volume.jar", readers=False, args=["67108864"])
        await rig.registry.start(task.request)
        begun_s = time.monotonic()
        await rig.registry.stop(task.id, "SIGNULL", 2.0)
        assert 2 <= time.monotonic() - begun_s < scaled(12)
