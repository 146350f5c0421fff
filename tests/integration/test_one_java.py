"""All that the driver has to know of a Java, with one of them: ``MILO_TEST_JAVA``, or the first.

`./dev matrix` runs this with every Java that it can get.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import zipfile
from pathlib import Path

import pytest
import trio

from milo.core.config.plugin_options import PluginOptions
from milo.core.java.heap import MIB, default_heap_bytes
from milo.core.launch import JavaRuntime
from milo.errors import TaskStartError
from milo.host.java.finder import JavaFinder
from tests.integration.test_exec import run
from tests.integration.test_jvm_view import event, view
from tests.support import jars
from tests.support.driver_rig import open_rig
from tests.support.java_homes import all_homes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

HOME = os.environ.get("MILO_TEST_JAVA") or next(iter(all_homes()), "")
SOURCES = ("Clock", "Hog", "JvmView", "Stubborn")


@pytest.fixture(scope="module")
def java() -> JavaRuntime:
    """The runtime as Milo finds it."""
    if not HOME:
        pytest.skip("this host has no Java")
    finder = JavaFinder(places=())
    found = trio.run(finder.find, HOME, {})
    assert found, finder.problems
    return found[0]


@pytest.fixture(scope="module")
def jar_8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of JARs with classes of Java 8 (version 52), which every Java can run."""
    if reason := jars.missing_tools():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("java-8")
    jars.build(directory, [jars.SOURCES / f"{name}.java" for name in SOURCES], "8")
    return directory


def options() -> PluginOptions:
    """The plugin's configuration with this Java as the default."""
    return PluginOptions(java_home=HOME)


def test_discovery(java: JavaRuntime) -> None:
    """It is found with the version that it prints, by running it."""
    printed = subprocess.run(
        [f"{HOME}/bin/java", "-version"], capture_output=True, text=True, check=True
    ).stderr
    assert f'"{java.version}"' in printed
    number = int(re.split(r"[._+-]", java.version.removeprefix("1."))[0])
    assert (java.major, java.trusted) == (number, True)


async def test_choice(java: JavaRuntime, jar_8: Path) -> None:
    """A job that names its release runs on it, and sees it as JAVA_HOME and on PATH."""
    async with open_rig(options()) as rig:
        task = rig.task(jar_8 / "clock.jar", args=["20", "0"], java_version=str(java.major))
        await rig.registry.start(task.request)
        await event(rig, task, f"Runs on Java {java.version}")
        end, output = await run(rig, task, "sh", "-c", 'echo "$JAVA_HOME"; command -v java')
        assert end.exit_code == 0
        assert output.stdout.decode().split() == [java.home, f"{java.home}/bin/java"]


async def test_newer_classes(java: JavaRuntime, jar_8: Path, tmp_path: Path) -> None:
    """A JAR for a newer Java than this is refused, with both releases named."""
    target = tmp_path / "newer.jar"
    name = "Clock.class"
    with zipfile.ZipFile(jar_8 / "clock.jar") as jar:
        content = bytearray(jar.read(name))
    content[6:8] = (44 + java.major + 1).to_bytes(2, "big")
    jars.pack(target, {name: bytes(content)}, main_class="Clock")
    async with open_rig(options()) as rig:
        task = rig.task(target, java_version=str(java.major))
        with pytest.raises(TaskStartError, match=f"Java {java.major + 1}"):
            await rig.registry.start(task.request)


async def test_heap(java: JavaRuntime, jar_8: Path) -> None:
    """The heap is Milo's share of the task's memory, and the JVM tells what it chose."""
    async with open_rig(options()) as rig:
        task = rig.task(jar_8 / "jvm-view.jar", args=["600"], memory_mb=512)
        max_mib, _, text = await view(rig, task)
    expected = default_heap_bytes(512 * MIB) // MIB
    assert expected * 0.95 <= max_mib <= expected
    assert "heap up to" in text and "Milo computed them" not in text


async def test_stop(java: JavaRuntime, jar_8: Path) -> None:
    """SIGINT runs the shutdown hooks, what they print arrives, and the exit code is exact."""
    async with open_rig(options()) as rig:
        task = rig.task(jar_8 / "stubborn.jar", args=["300"])
        await rig.registry.start(task.request)
        await trio.to_thread.run_sync(task.out.wait_for, b"running")
        await rig.registry.stop(task.id, timeout_s=10, signal="SIGINT")
        result = await rig.registry.wait(task.id)
        await task.read()
        assert result.exit_code == 128 + signal.SIGINT
        assert task.out.text.endswith(b"asked to end\nended in peace\n")


async def test_dumps(java: JavaRuntime, jar_8: Path) -> None:
    """SIGQUIT prints all threads; a heap that is full is dumped, and both reach the user."""
    async with open_rig(options()) as rig:
        task = rig.task(jar_8 / "clock.jar", args=["20", "0"])
        await rig.registry.start(task.request)
        await trio.to_thread.run_sync(task.out.wait_for, b"tick 3")
        await rig.registry.signal(task.id, "SIGQUIT")
        await trio.to_thread.run_sync(task.out.wait_for, b"Full thread dump")
        await rig.registry.destroy(task.id, force=True)
        task = rig.task(jar_8 / "hog.jar", memory_mb=128, heap_dump_on_oom=True)
        await rig.registry.start(task.request)
        assert (await rig.registry.wait(task.id)).exit_code == 1
        text = await event(rig, task, "heap dump")
        found = re.search(r"/alloc/data/app-[0-9a-f]+\.hprof", text)
        assert found, text
        dump = Path(task.request.shared_dir + found[0].removeprefix("/alloc"))
        assert dump.read_bytes().startswith(b"JAVA PROFILE")


@pytest.mark.skipif(not os.path.exists(f"{HOME}/bin/jcmd"), reason="this Java has no jcmd")
async def test_tools(java: JavaRuntime, jar_8: Path) -> None:
    """The JDK's jcmd, run in the task, finds the JVM and talks to it."""
    async with open_rig(options()) as rig:
        task = rig.task(jar_8 / "clock.jar", args=["20", "0"])
        await rig.registry.start(task.request)
        await trio.to_thread.run_sync(task.out.wait_for, b"tick 3")
        end, output = await run(rig, task, "jcmd", "2", "Thread.print")
        assert end.exit_code == 0, output
        assert b"Full thread dump" in output.stdout


BOUND = os.path.exists(f"{HOME}/libc")
"""Whether its programs name the C library beside it by a path of this host."""


@pytest.mark.skipif(BOUND, reason="its C library is named by a path of this host")
async def test_artifact(java: JavaRuntime, jar_8: Path) -> None:
    """The same Java runs when it came with the task."""
    async with open_rig(options()) as rig:
        task = rig.task(jar_8 / "jvm-view.jar", args=["0"], java_home="local/jdk")
        _copy(java, task.local / "jdk")
        await rig.registry.start(task.request)
        assert (await rig.registry.wait(task.id)).exit_code == 0
        text = await event(rig, task, "Runs on Java")
        assert java.version in text


def _copy(java: JavaRuntime, target: Path) -> None:
    """Copy a JDK with the files outside of it that its links name, as an archive has them."""
    shutil.copytree(java.home, target, symlinks=True)
    for path in [path for path in target.rglob("*") if path.is_symlink()]:
        if os.readlink(path).startswith("/"):
            original = path.resolve()
            path.unlink()
            if original.is_file():
                shutil.copy(original, path)
