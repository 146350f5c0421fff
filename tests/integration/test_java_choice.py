"""Several Javas on one host and in one task: which one runs, and that it does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from milo.errors import TaskStartError
from milo.host.java.finder import JavaFinder
from tests.support import jars, jdks
from tests.support.driver_rig import DriverRig, open_rig

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

SOURCE = """
public class Version {
    public static void main(String[] args) {
        System.out.println("runs on " + System.getProperty("java.version")
            + " in " + System.getProperty("java.home"));
    }
}
"""


@pytest.fixture(scope="module")
def jdk_11() -> Path:
    """Java 11, which this host does not have."""
    return _jdk("11")


@pytest.fixture(scope="module")
def jdk_21() -> Path:
    """Java 21, which this host does not have."""
    return _jdk("21")


def _jdk(release: str) -> Path:
    try:
        return jdks.fetch(release)
    except RuntimeError as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="module")
def version_jar(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make a JAR for a release of Java that prints what it runs on."""
    if reason := jars.missing_tools():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("version")
    source = directory / "Version.java"
    source.write_text(SOURCE)

    def make(release: str) -> Path:
        jars.build(directory / release, [source], release)
        return directory / release / "version.jar"

    return make


@pytest.fixture
def places(tmp_path: Path, jdk_11: Path, jdk_21: Path) -> Path:
    """A directory like /usr/lib/jvm, with Java 11, 21 and all that the host has."""
    place = tmp_path / "jvm"
    place.mkdir()
    for path in (jdk_11, jdk_21, *Path("/usr/lib/jvm").glob("*")):
        if (path / "bin/java").exists() and not path.is_symlink():
            (place / path.name).symlink_to(path)
    return place


async def runs_on(rig: DriverRig, jar: Path, **config: object) -> tuple[str, list[str]]:
    """Run ``jar`` to its end; return what it printed, and the task's events of its start."""
    task = rig.task(jar, **config)  # type: ignore[arg-type]
    await rig.registry.start(task.request)
    await rig.registry.wait(task.id)
    await task.read()
    await rig.until_event(task, "Runs on Java")
    return task.out.text.decode(), rig.texts(task)


def use(rig: DriverRig, place: Path) -> None:
    """Have the driver look for Javas in ``place`` alone."""
    rig.registry._fingerprinter._finder = JavaFinder(places=((str(place), "*"),))
    rig.registry._fingerprinter._environ = {"PATH": os.environ["PATH"]}


async def test_the_host_has_several(places: Path, version_jar: Callable[[str], Path]) -> None:
    """java_version picks one of them; without, it is the oldest that can run the class."""
    async with open_rig() as rig:
        use(rig, places)
        found = await rig.registry._fingerprinter.javas()
        majors = {java.major for java in found}
        assert {11, 21} <= majors
        for wanted, expected in (("11", 11), (">= 12 < 22", min(majors - {11})), ("21 || 22", 21)):
            text, events = await runs_on(rig, version_jar("8"), java_version=wanted)
            assert text.startswith(f"runs on {expected}."), (wanted, text, events)
            assert any(f'java_version = "{wanted}"' in event for event in events), events
        # The newest is the default here; an older one that would do is not taken instead.
        text, _ = await runs_on(rig, version_jar("11"))
        assert text.startswith(f"runs on {found[0].major}.")
        with pytest.raises(TaskStartError, match="has no such Java"):
            await runs_on(rig, version_jar("8"), java_version="12")


async def test_attributes_come_and_go_with_the_javas(places: Path, jdk_21: Path) -> None:
    """Each feature release has its attribute, emptied again when the last of it is removed."""
    async with open_rig() as rig:
        use(rig, places)
        fingerprinter = rig.registry._fingerprinter
        async with aclosing(rig.registry.fingerprints()) as fingerprints:
            first = (await anext(fingerprints)).attributes
            assert str(first["driver.milo.java.21"]).startswith("21.0.8")
            assert str(first["driver.milo.java.11"]).startswith("11.0.13")
            versions = str(first["driver.milo.java.versions"]).split(",")
            assert first["driver.milo.java.21"] in versions
            (places / jdk_21.name).unlink()
            fingerprinter.configure(rig.options)
            second = (await anext(fingerprints)).attributes
            assert second["driver.milo.java.21"] == ""
            assert first["driver.milo.java.21"] not in str(second["driver.milo.java.versions"])


@pytest.mark.parametrize("rootfs", ["host", "minimal"])
async def test_a_jdk_that_came_with_the_task(
    jdk_11: Path, version_jar: Callable[[str], Path], rootfs: str
) -> None:
    """java_home = "local/jdk" runs that one, in the container alone."""
    async with open_rig() as rig:
        task = rig.task(version_jar("8"), java_home="local/jdk", rootfs=rootfs)
        shutil.copytree(jdk_11, task.local / "jdk", symlinks=True)
        await rig.registry.start(task.request)
        await rig.registry.wait(task.id)
        await trio.to_thread.run_sync(task.out.wait_end)
        assert task.out.text.startswith(b"runs on 11."), task.err.text
        assert b" in /local/jdk" in task.out.text


async def test_a_jdk_that_came_with_the_task_never_runs_on_the_host(
    version_jar: Callable[[str], Path], tmp_path: Path
) -> None:
    """Its version comes from a file; its programs see nothing but the container."""
    mark = tmp_path / "mark"
    mark.touch()
    async with open_rig() as rig:
        task = rig.task(version_jar("8"), java_home="local/jdk")
        (task.local / "jdk/bin").mkdir(parents=True)
        (task.local / "jdk/release").write_text('JAVA_VERSION="17.0.1"\n')
        java = task.local / "jdk/bin/java"
        java.write_text(f"#!/bin/sh\necho ran >{mark}\necho in the container\n")
        java.chmod(0o755)
        await rig.registry.start(task.request)
        await rig.registry.wait(task.id)
        await trio.to_thread.run_sync(task.out.wait_end)
        assert task.out.text == b"in the container\n"
    assert mark.read_text() == ""
