"""Startup archives under a driver: in a user namespace, of a JDK that a job brings, and refused."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from milo.core.config.plugin_options import PluginOptions
from milo.core.report import ExitResult
from milo.task.java.startup_recording import TAKEN_AFTER_S
from tests.integration.test_startup_cache import archives, home_of
from tests.support import jars
from tests.support.driver_rig import DriverRig, Task, open_rig
from tests.support.userns import NEEDS_USERNS
from tests.support.waiting import fail_after, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

SHOW_LOADED = "-Xlog:class+load:file=/alloc/data/loaded"
FROM_JAR = "file:/local/shell.jar"
FROM_ARCHIVE = "shared objects file"
NOT_TAKEN = "has not taken its startup archive"
WAIT = "until [ -e /alloc/data/go ]; do sleep 0.05; done"
NOT_NEEDED = ("jmods", "src.zip", "include", "man", "legal", "demo")
"""Of a JDK, to run a JAR."""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The plugin's ``cache_dir``."""
    return tmp_path / "cache"


def options(cache: Path, **more: Any) -> PluginOptions:
    """Return a configuration that keeps archives."""
    return PluginOptions(startup_cache="auto", cache_dir=str(cache), **more)


def start(rig: DriverRig, jar_dir: Path, **config: Any) -> Task:
    """Return one start of one job's application, each in an allocation of its own."""
    config = {"jvm_options": [SHOW_LOADED], **config}
    task = rig.task(jar_dir / "shell.jar", args=[WAIT], **config)
    task.request = attrs.evolve(task.request, namespace="default", job_id="again", group_name="g")
    return task


async def refused(rig: DriverRig, task: Task) -> str:
    """Run a task that waits until its archive was looked for; return where its class came from."""
    with fail_after(120):
        await rig.registry.start(task.request)
        is_told = lambda: NOT_TAKEN in notes(rig, task)  # noqa: E731
        await trio.to_thread.run_sync(wait_for, "the look", is_told, TAKEN_AFTER_S / 2)
        Path(task.request.shared_dir, "data/go").touch()
        assert await rig.registry.wait(task.id) == ExitResult()
    return loaded_from(task)


async def source(rig: DriverRig, task: Task) -> str:
    """Run a task, which ends well; return where its class came from."""
    with fail_after(120):
        Path(task.request.shared_dir, "data/go").touch()
        await rig.registry.start(task.request)
        assert await rig.registry.wait(task.id) == ExitResult()
    return loaded_from(task)


def loaded_from(task: Task) -> str:
    """Return where the application's class came from, as the JVM says."""
    loaded = Path(task.request.shared_dir, "data/loaded").read_text()
    found = re.search(r"\] Shell source: (.*)", loaded)
    assert found is not None, loaded
    return found[1]


def notes(rig: DriverRig, task: Task) -> str:
    """Return what the process of a task has written down."""
    for directory in rig.state_dir.iterdir():
        if task.id in (directory / "launch.json").read_text():
            return (directory / "task.log").read_text()
    raise AssertionError(f"{task.id} has no state")


@pytest.mark.parametrize("release", ["17", "25"])
@NEEDS_USERNS
async def test_in_a_user_namespace(jar_dir: Path, cache: Path, release: str) -> None:
    """The archive is the host's root's, who is nobody there, and is used all the same."""
    home = home_of(release)
    async with open_rig(options(cache, userns=True, java_home=home)) as rig:
        assert await source(rig, start(rig, jar_dir)) == FROM_JAR
        [archive] = archives(cache)
        assert (archive.stat().st_uid, archive.stat().st_mode & 0o777) == (0, 0o444)
        assert (await source(rig, start(rig, jar_dir))).startswith(FROM_ARCHIVE)
        assert archives(cache) == [archive]


@pytest.mark.parametrize("release", ["17", "25"])
async def test_of_a_jdk_that_the_job_brings(jar_dir: Path, cache: Path, release: str) -> None:
    """Another allocation downloads the same JDK and JAR anew, and starts from the first's archive.

    With another JDK at the same place it does not.
    """
    home = home_of(release)

    def bring(task: Task, *, changed: bool = False) -> Task:
        place = Path(task.request.task_dir, "local/jdk")
        shutil.copytree(home, place, ignore=shutil.ignore_patterns(*NOT_NEEDED), symlinks=False)
        if changed:
            with (place / "release").open("a") as file:
                file.write('BUILT_BY="somebody else"\n')
        return task

    async with open_rig(options(cache)) as rig:
        starts = [bring(start(rig, jar_dir, java_home="local/jdk")) for _ in range(2)]
        assert await source(rig, starts[0]) == FROM_JAR
        assert (await source(rig, starts[1])).startswith(FROM_ARCHIVE), notes(rig, starts[1])
        other = bring(start(rig, jar_dir, java_home="local/jdk"), changed=True)
        assert await source(rig, other) == FROM_JAR


@pytest.mark.parametrize("release", ["17", "25"])
@pytest.mark.parametrize("how", ["another's", "damaged"])
async def test_an_archive_that_is_refused_costs_a_line(
    jar_dir: Path, cache: Path, release: str, how: str
) -> None:
    """The application starts as it would without, it is said at once, and the next one records."""
    async with open_rig(options(cache, java_home=home_of(release))) as rig:
        assert await source(rig, start(rig, jar_dir)) == FROM_JAR
        [archive] = archives(cache)
        data = archive.read_bytes()
        archive.write_bytes(bytes(len(data)) if how == "another's" else bytes(4096) + data[4096:])
        assert await refused(rig, start(rig, jar_dir)) == FROM_JAR
        assert await source(rig, start(rig, jar_dir)) == FROM_JAR
        assert (await source(rig, start(rig, jar_dir))).startswith(FROM_ARCHIVE)


@pytest.mark.parametrize("how", ["cut", "gone", "symlink", "FIFO"])
async def test_what_is_no_archive_any_more_is_recorded_anew(
    jar_dir: Path, cache: Path, how: str
) -> None:
    """It is not even given to the JVM, which could die of it."""
    async with open_rig(options(cache, java_home=home_of("17"))) as rig:
        assert await source(rig, start(rig, jar_dir)) == FROM_JAR
        [archive] = archives(cache)
        if how == "cut":
            os.truncate(archive, archive.stat().st_size // 2)
        else:
            archive.unlink()
        if how == "symlink":
            archive.symlink_to("/etc/passwd")
        elif how == "FIFO":
            os.mkfifo(archive)
        again = start(rig, jar_dir)
        assert await source(rig, again) == FROM_JAR
        assert "Records for its next start" in notes(rig, again)
        assert (await source(rig, start(rig, jar_dir))).startswith(FROM_ARCHIVE)


@pytest.mark.parametrize("release", ["17", "25"])
async def test_an_application_that_ends_at_once_keeps_its_archive(
    jar_dir: Path, cache: Path, release: str
) -> None:
    """A look at a JVM that is just going says nothing of what it had taken."""
    async with open_rig(options(cache, java_home=home_of(release))) as rig:
        tasks = [start(rig, jar_dir) for _ in range(6)]
        assert await source(rig, tasks[0]) == FROM_JAR
        [archive] = archives(cache)
        for task in tasks[1:]:
            assert (await source(rig, task)).startswith(FROM_ARCHIVE)
            assert NOT_TAKEN not in notes(rig, task)
        assert archives(cache) == [archive]


@pytest.mark.parametrize("release", ["8", "11"])
async def test_a_java_that_makes_none_says_so_once(
    jar_dir: Path, tmp_path: Path, cache: Path, release: str
) -> None:
    """One line at each start, and the application runs."""
    jars.build(tmp_path, [jars.SOURCES / "Shell.java"], "8")
    tmp_path.chmod(0o755)
    async with open_rig(options(cache, java_home=home_of(release))) as rig:
        task = start(rig, tmp_path, jvm_options=[])
        with fail_after(120):
            Path(task.request.shared_dir, "data/go").touch()
            await rig.registry.start(task.request)
            assert await rig.registry.wait(task.id) == ExitResult()
        assert notes(rig, task).count(f"No startup archive, because Java {release}") == (
            1 if release == "11" else 0
        )
        assert notes(rig, task).count("No startup archive") == 1
        assert archives(cache) == []
