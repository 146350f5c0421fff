"""The JVM sizes itself by the task, and an event says what it chose."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from milo.core.config.plugin_options import PluginOptions
from milo.core.java.heap import MIB, default_heap_bytes
from milo.core.records import short_id
from milo.core.report import ExitResult
from milo.task.java.jvm import GIVE_UP_S
from tests.support.driver_rig import DriverRig, Task, open_rig
from tests.support.java_homes import all_homes
from tests.support.waiting import move_on_after

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

HOMES = all_homes()
CORES = len(os.sched_getaffinity(0))


async def view(rig: DriverRig, task: Task) -> tuple[int, int, str]:
    """Run the task; return the JVM's largest heap in MiB, its processors, and the start event."""
    await rig.registry.start(task.request)
    await trio.to_thread.run_sync(task.out.wait_for, b"ready")
    text = await event(rig, task, "Runs on Java")
    await rig.registry.destroy(task.id, force=True)
    found = dict(re.findall(r"(\w+)=(\d+)", task.out.text.decode()))
    return int(found["max_mib"]), int(found["processors"]), text


async def event(rig: DriverRig, task: Task, words: str, timeout_s: float = 60) -> str:
    """Return the first event of the task that holds ``words``, once it is there."""
    with move_on_after(timeout_s):
        while not any(words in text for text in rig.texts(task)):  # noqa: ASYNC110
            await trio.sleep(0.02)
    found = [text for text in rig.texts(task) if words in text]
    assert found, rig.texts(task)
    return found[0]


@pytest.mark.parametrize("home", HOMES, ids=os.path.basename)
async def test_heap_follows_the_tasks_memory(jar_dir: Path, home: str) -> None:
    """Without an option of the user's the heap is Milo's default, and one event tells it all."""
    async with open_rig(PluginOptions(java_home=home)) as rig:
        task = rig.task(jar_dir / "jvm-view.jar", args=["600"], memory_mb=512)
        max_mib, processors, text = await view(rig, task)
    expected = default_heap_bytes(512 * MIB) // MIB
    # The Serial collector counts one of its two survivor spaces out.
    assert expected * 0.95 <= max_mib <= expected
    assert processors == CORES
    told = re.search(r"heap up to (\d+) MiB, set by default, for a task of 512 MiB", text)
    assert told and abs(int(told[1]) - expected) <= 2, text
    assert "collector Serial" in text
    assert f"; container milo-{short_id(task.id)}" in text
    assert f"; {CORES} processor" in text
    assert "less than 1792 MiB or 2 processors" in text
    assert "-XX:+UseG1GC" in text
    assert "Milo computed them" not in text


@pytest.mark.parametrize("home", HOMES, ids=os.path.basename)
async def test_hard_limit_is_the_processors(jar_dir: Path, home: str) -> None:
    """A hard limit below one core makes one processor, and the event warns of what follows."""
    async with open_rig(PluginOptions(java_home=home)) as rig:
        task = rig.task(jar_dir / "jvm-view.jar", args=["600"], cpu_hard_limit=True)
        launch = task.request
        half = attrs.evolve(
            launch.resources, cpu_percent_ticks=0.5 / (os.cpu_count() or 1), memory_bytes=2048 * MIB
        )
        _, processors, text = await view(
            rig, attrs.evolve(task, request=attrs.evolve(launch, resources=half))
        )
    assert processors == 1
    assert "1 processor" in text and "1 processors" not in text
    assert "collector Serial" in text
    assert "The JVM uses Serial with less than 1792 MiB or 2 processors" in text


@pytest.mark.skipif(CORES < 2, reason="needs two processors")
async def test_large_task_gets_g1(jar_dir: Path) -> None:
    """With two processors and memory enough the JVM takes G1, and there is nothing to warn of."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "jvm-view.jar", args=["600"], memory_mb=2048)
        max_mib, _, text = await view(rig, task)
    assert max_mib == default_heap_bytes(2048 * MIB) // MIB
    assert f"heap up to {max_mib} MiB" in text
    assert "collector G1" in text
    assert "Serial" not in text


@pytest.mark.parametrize(
    ("config", "env", "max_mib", "words"),
    [
        ({"heap_percent": 50}, {}, 256, "heap_percent = 50, for a task of 512 MiB"),
        ({"jvm_options": ["-Xmx100m"]}, {}, 100, "its option -Xmx100m"),
        ({"heap_percent": 50, "jvm_options": ["-Xmx100m"]}, {}, 100, "-Xmx100m"),
        ({"jvm_options": ["-XX:MaxRAMPercentage=60"]}, {}, 307, "-XX:MaxRAMPercentage=60"),
        ({}, {"JAVA_TOOL_OPTIONS": "-Dx=y -Xmx90m"}, 90, "-Xmx90m"),
        ({}, {"JDK_JAVA_OPTIONS": "-XX:MaxHeapSize=80m"}, 80, "MaxHeapSize=80m"),
        ({"jvm_options": ["@/local/options"]}, {}, 70, "-Xmx70m"),
        ({"jvm_options": ["-Xms400m"]}, {}, 400, "-Xms400m is above the 355 MiB"),
        ({}, {"JAVA_TOOL_OPTIONS": "-Dpw=abc#123 -Xmx64m"}, 64, "its option -Xmx64m"),
        ({"jvm_options": ["-XX:SoftMaxHeapSize=100m"]}, {}, 355, "by default"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_users_options_win(
    jar_dir: Path, config: dict[str, Any], env: dict[str, str], max_mib: int, words: str
) -> None:
    """Whatever sizes the heap in the job, in a file or a variable, it decides, and is named."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "jvm-view.jar", args=["600"], memory_mb=512, **config)
        (task.local / "options").write_text("# of the application\n-Xss512k -Xmx70m\n")
        task = attrs.evolve(
            task, request=attrs.evolve(task.request, env={**task.request.env, **env})
        )
        found, _, text = await view(rig, task)
    assert max_mib * 0.95 <= found <= max_mib + 2
    assert words in text


@pytest.mark.parametrize(
    ("options", "env"),
    [
        (["-XX:-UsePerfData"], {}),
        (["-XX:+PerfDisableSharedMem"], {}),
        (["@/local/quiet"], {}),
        (["-XX:Flags=/local/flags"], {}),
        (["-XX:VMOptionsFile=/local/quiet"], {}),
        ([], {"JAVA_TOOL_OPTIONS": "-Da=# -XX:-UsePerfData"}),
        ([], {"JDK_JAVA_OPTIONS": "-Da=# -XX:+PerfDisableSharedMem"}),
        ([], {"_JAVA_OPTIONS": "-XX:-UsePerfData"}),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_jvm_that_says_nothing_is_not_waited_for(
    jar_dir: Path, options: list[str], env: dict[str, str]
) -> None:
    """Whatever keeps a JVM from saying what it chose, the start event comes all the same, soon."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "jvm-view.jar", args=["600"], memory_mb=512, jvm_options=options)
        (task.local / "quiet").write_text("-XX:-UsePerfData\n")
        (task.local / "flags").write_text("-UsePerfData\n")
        task = attrs.evolve(
            task, request=attrs.evolve(task.request, env={**task.request.env, **env})
        )
        await rig.registry.start(task.request)
        started_s = trio.current_time()
        text = await event(rig, task, "Runs on Java")
        waited_s = trio.current_time() - started_s
        await rig.registry.destroy(task.id, force=True)
    assert "Milo computed them" in text
    assert waited_s < GIVE_UP_S / 2


async def test_heap_of_an_oversubscribed_task(jar_dir: Path) -> None:
    """With memory_max the heap still is the reservation's, not of what is only lent."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "jvm-view.jar", args=["600"])
        resources = attrs.evolve(
            task.request.resources, memory_bytes=256 * MIB, memory_max_bytes=1024 * MIB
        )
        max_mib, _, text = await view(
            rig, attrs.evolve(task, request=attrs.evolve(task.request, resources=resources))
        )
    expected = default_heap_bytes(256 * MIB) // MIB
    assert expected * 0.95 <= max_mib <= expected
    assert "for a task of 256 MiB" in text


@pytest.mark.parametrize("home", HOMES, ids=os.path.basename)
async def test_heap_dump(jar_dir: Path, home: str) -> None:
    """A heap that is full is dumped into the shared directory, once a start, and that is told."""
    async with open_rig(PluginOptions(java_home=home)) as rig:
        alloc = ""
        for number in range(2):
            task = rig.task(
                jar_dir / "hog.jar", alloc_id=alloc, memory_mb=128, heap_dump_on_oom=True
            )
            alloc = task.request.alloc_id
            await rig.registry.start(task.request)
            result = await rig.registry.wait(task.id)
            assert (result.exit_code, result.oom_killed) == (1, False)
            text = await event(rig, task, "heap dump")
            path = re.search(r"/alloc/data/app-[0-9a-f]+\.hprof", text)
            assert path, text
            dump = Path(task.request.shared_dir + path[0].removeprefix("/alloc"))
            assert dump.read_bytes().startswith(b"JAVA PROFILE")
            assert dump.stat().st_size > default_heap_bytes(128 * MIB) // 2
            assert len(list(dump.parent.iterdir())) == number + 1
            await rig.registry.destroy(task.id, force=True)


async def test_own_heap_dump_path_wins(jar_dir: Path) -> None:
    """The job's own HeapDumpPath is the one that is used."""
    async with open_rig() as rig:
        task = rig.task(
            jar_dir / "hog.jar",
            memory_mb=128,
            heap_dump_on_oom=True,
            jvm_options=["-XX:HeapDumpPath=/local/mine.hprof"],
        )
        await rig.registry.start(task.request)
        await rig.registry.wait(task.id)
        assert (task.local / "mine.hprof").stat().st_size > MIB
        assert not list(Path(task.request.shared_dir, "data").iterdir())


async def test_a_dump_that_the_application_asks_for_can_be_written(jar_dir: Path) -> None:
    """Where the job's environment switches dumps on, they have the same place, and are told."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "hog.jar", memory_mb=128)
        task.request.env["JAVA_TOOL_OPTIONS"] = "-XX:+HeapDumpOnOutOfMemoryError"
        await rig.registry.start(task.request)
        await rig.registry.wait(task.id)
        await event(rig, task, "wrote a heap dump of")
        [dump] = Path(task.request.shared_dir, "data").iterdir()
        assert dump.stat().st_size > MIB


async def test_a_crash_is_told_with_its_report(jar_dir: Path) -> None:
    """Of each start: by which signal, in which frame, and where its own report is."""
    async with open_rig() as rig:
        for number in range(2):
            task = rig.task(jar_dir / "dies.jar", args=["segv"], alloc_id="a1")
            await rig.registry.start(task.request)
            result = await rig.registry.wait(task.id)
            assert result == ExitResult(signal=6)
            found = re.search(
                r"the JVM crashed: SIGSEGV \(0xb\) in frame .*libjvm\.so.*; "
                r"its report is /alloc(/data/app-\w+\.hs_err\.log)",
                result.message,
            )
            assert found is not None, result.message
            report = Path(task.request.shared_dir + found[1])
            assert b"SIGSEGV (0xb)" in report.read_bytes()
            assert len(list(report.parent.iterdir())) == number + 1
            status = await rig.registry.inspect(task.id)
            assert status.attributes["crash"] in result.message
            await rig.registry.destroy(task.id, force=True)


async def test_own_error_file_wins(jar_dir: Path) -> None:
    """The job's own ErrorFile is the one that is used, and told."""
    async with open_rig() as rig:
        options = ["-XX:ErrorFile=/local/mine-%p.log", "-Xmx32m", "-XX:+CrashOnOutOfMemoryError"]
        task = rig.task(jar_dir / "dies.jar", args=["oom"], jvm_options=options)
        await rig.registry.start(task.request)
        result = await rig.registry.wait(task.id)
        assert result == ExitResult(signal=6)
        assert "fatal error: OutOfMemory encountered: Java heap space" in result.message
        assert "; its report is /local/mine-2.log" in result.message
        assert (task.local / "mine-2.log").exists()


async def test_quick_end_is_told_of_all_the_same(jar_dir: Path) -> None:
    """An application that ends at once has its start event."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "exit42.jar")
        await rig.registry.start(task.request)
        assert (await rig.registry.wait(task.id)).exit_code == 42
        assert (await event(rig, task, "Runs on Java")).startswith("Runs on Java")
