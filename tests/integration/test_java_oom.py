"""Java's OutOfMemoryError among the output of real JVMs, and the kernel's OOM kill beside it."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from milo.core.records import short_id
from tests.support.driver_rig import DriverRig, Task, open_rig
from tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

HEAP = "java.lang.OutOfMemoryError: Java heap space"
SMALL_HEAP = ["-Xmx32m", "-XX:+UseSerialGC"]
MIB = 1 << 20

T = TypeVar("T")


def sightings(rig: DriverRig, task: Task) -> list[str]:
    """The events so far that tell of the error."""
    return [text for text in rig.texts(task) if text.startswith("The application's")]


def told(rig: DriverRig, task: Task, words: str, times: int = 1) -> str:
    """Return the last of the events with ``words``, of which there are ``times``, or nothing."""
    found = [text for text in rig.texts(task) if words in text]
    return found[-1] if len(found) >= times else ""


async def event(rig: DriverRig, task: Task, words: str, times: int = 1) -> str:
    """Wait for events with ``words``; return the last of them."""
    what = f"{times} of {words!r}"
    return await until(what, lambda: told(rig, task, words, times))


async def until(what: str, probe: Callable[[], T | None]) -> T:
    """As `wait_for`, beside the driver."""
    return await trio.to_thread.run_sync(wait_for, what, probe)


async def test_an_uncaught_error_is_named(jar_dir: Path) -> None:
    """It is told as it appears, with advice that fits, and again with the exit code it led to."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "java-oom.jar", args=["uncaught"], jvm_options=SMALL_HEAP)
        await rig.registry.start(task.request)
        result = await rig.registry.wait(task.id)
        assert (result.exit_code, result.oom_killed) == (1, False)
        more = f"more: milo post-mortem {short_id(task.id)}"
        assert (
            result.message == f"Task failed with exit code 1; its output had named {HEAP}; {more}"
        )
        await event(rig, task, "The application's")
        (text,) = sightings(rig, task)
        assert text.startswith(f"The application's stderr names {HEAP} (heap of the JVM, not")
        assert (await rig.registry.inspect(task.id)).attributes["java_oom"] == HEAP


async def test_a_caught_error_is_told_while_the_task_goes_on(jar_dir: Path) -> None:
    """Once, however often it comes again; a successor of the task's process sees it too."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "java-oom.jar", args=["caught"], jvm_options=SMALL_HEAP)
        await rig.registry.start(task.request)
        await event(rig, task, f"stderr names {HEAP}")
        await trio.to_thread.run_sync(lambda: task.err.wait_for(b"caught java.lang.Out"))
        os.kill(await rig.supervisor(task), signal.SIGKILL)
        await event(rig, task, "taken over")
        await event(rig, task, f"stderr names {HEAP}", times=2)
        length = task.err.length
        await until("more of the same", lambda: task.err.length > length + 200)
        assert len(sightings(rig, task)) == 2
        await rig.registry.stop(task.id, "SIGTERM", 10)
        await rig.registry.wait(task.id)
        assert (await rig.registry.inspect(task.id)).attributes["java_oom"] == HEAP


async def test_exit_on_out_of_memory_is_named(jar_dir: Path) -> None:
    """What -XX:+ExitOnOutOfMemoryError prints on stdout is seen, and its exit code explained."""
    async with open_rig() as rig:
        options = [*SMALL_HEAP, "-XX:+ExitOnOutOfMemoryError"]
        task = rig.task(jar_dir / "java-oom.jar", args=["uncaught"], jvm_options=options)
        await rig.registry.start(task.request)
        result = await rig.registry.wait(task.id)
        assert result.exit_code == 3
        assert HEAP in result.message and "-XX:+ExitOnOutOfMemoryError" in result.message
        assert "stdout" in await event(rig, task, "The application's")


async def test_the_kernels_kill_is_another_thing(jar_dir: Path) -> None:
    """A task beyond its memory limit is killed by the kernel, and no Java error is named."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "native-hog.jar", jvm_options=["-XX:MaxDirectMemorySize=4g"])
        await rig.registry.start(task.request)
        result = await rig.registry.wait(task.id)
        assert (result.signal, result.oom_killed) == (9, True)
        assert "killed by the kernel" in result.message and "java.lang" not in result.message
        assert sightings(rig, task) == []
        assert "java_oom" not in (await rig.registry.inspect(task.id)).attributes


async def test_an_error_after_much_output_is_named(jar_dir: Path) -> None:
    """50 MB in large writes, which pass unseen, do not hide the stack trace at their end."""
    async with open_rig() as rig:
        args = ["uncaught", str(50 * MIB)]
        task = rig.task(jar_dir / "java-oom.jar", args=args, jvm_options=SMALL_HEAP)
        await rig.registry.start(task.request)
        result = await rig.registry.wait(task.id)
        assert f"exit code 1; its output had named {HEAP}" in result.message
        await trio.to_thread.run_sync(task.err.wait_end)
        assert task.err.length > 50 * MIB


async def test_the_stream_arrives_byte_for_byte(jar_dir: Path) -> None:
    """Writes of all sizes arrive unchanged; a name in two writes is found, and is no failure."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "java-oom.jar", args=["mixed", str(8 * MIB)])
        await rig.registry.start(task.request)
        assert (await rig.registry.wait(task.id)).exit_code == 0
        await trio.to_thread.run_sync(task.out.wait_end)
        pattern = bytes(range(251))
        sent = (pattern * (8 * MIB // 251 + 1))[: 8 * MIB]
        sent += b"java.lang.OutOfMemoryError: Metaspace\n"
        assert task.out.length == len(sent)
        assert task.out.digest.hexdigest() == hashlib.sha256(sent).hexdigest()
        await event(rig, task, "Task completed successfully; its output had named java.lang.Out")
        (text,) = sightings(rig, task)
        assert text.startswith("The application's stdout names java.lang.OutOfMemoryError: Meta")
        assert "MaxMetaspaceSize" in text
