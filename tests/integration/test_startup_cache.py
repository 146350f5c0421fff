"""The second start from an archive of the first: on the JDKs themselves, in containers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio

from milo.core import records
from milo.core.config.places import CACHE_DIR
from milo.core.config.plugin_options import PluginOptions
from milo.core.report import ExitResult
from tests.support import debian_jdks, jars, private_mounts
from tests.support.driver_rig import open_rig
from tests.support.waiting import fail_after, scaled, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

SHOW_LOADED = "--jvm-option=-Xlog:class+load:file=/alloc/data/loaded"
IN_A_HURRY = """
import milo.task.java.idle_recording as idle
from milo.entry import main
idle.UP_S, idle.LOOK_S = 0.5, 0.5
main()
"""
FROM_ARCHIVE = re.compile(r"\] Told source: shared objects file")
JDKS = {"17": "java-17-openjdk-amd64", "25": "temurin-25-jdk-amd64"}
"""Of this host; others are downloaded."""
SOURCE = """
public class Told {
    public static void main(String[] args) throws Exception {
        System.out.println("WORDS");
        System.out.println(
            java.nio.file.Files.readString(java.nio.file.Path.of("/alloc/data/loaded")));
        System.out.flush();
        if (args.length > 0 && args[0].equals("wait")) {
            Thread.sleep(600_000);
        } else if (args.length > 0 && args[0].equals("die")) {
            new ProcessBuilder("sh", "-c", "kill -9 $PPID").start().waitFor();
        }
        System.exit(args.length == 0 ? 0 : Integer.parseInt(args[0]));
    }
}
"""


@pytest.fixture(autouse=True)
def own_cache() -> Iterator[Path]:
    """An empty cache, which nothing outside of the test sees."""
    with private_mounts.own_runs():
        yield Path(CACHE_DIR)


@pytest.fixture(params=["17", "21", "25"])
def java(request: pytest.FixtureRequest) -> str:
    """The home of a JDK with an archive of its own."""
    return home_of(str(request.param))


def home_of(release: str) -> str:
    """Return the home of that JDK."""
    if (there := Path("/usr/lib/jvm", JDKS.get(release, "-"))).exists():
        return str(there)
    try:
        return str(debian_jdks.fetch(release))
    except (KeyError, RuntimeError) as exc:
        pytest.skip(str(exc))


@pytest.fixture
def jar(tmp_path: Path) -> Path:
    """A JAR whose application prints where its class came from."""
    return make_jar(tmp_path, "first")


def make_jar(directory: Path, words: str) -> Path:
    """Make that JAR, which says these words."""
    if reason := jars.missing_tools():
        pytest.skip(reason)
    directory.chmod(0o755)
    source = directory / "Told.java"
    source.write_text(SOURCE.replace("WORDS", words))
    jars.build(directory, [source], "17")
    return directory / "told.jar"


def run(java: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run it with ``milo run`` and show the classes that it has loaded."""
    return subprocess.run(
        [sys.executable, "-m", "milo", "run", "--java", java, SHOW_LOADED, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=scaled(120),
        check=False,
    )


def archives(cache: Path) -> list[Path]:
    """Return the archives in the cache."""
    return sorted(cache.glob("*/*.archive"))


def test_a_second_start_takes_its_classes_from_the_first(
    java: str, jar: Path, own_cache: Path
) -> None:
    """The application's class comes from the JAR once, and from the archive the next time."""
    first = run(java, str(jar))
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.startswith("first\n") and not FROM_ARCHIVE.search(first.stdout)
    [archive] = archives(own_cache)
    assert (archive.stat().st_uid, archive.stat().st_mode & 0o777) == (0, 0o444)

    second = run(java, str(jar))
    assert (second.returncode, second.stderr) == (0, "")
    assert FROM_ARCHIVE.search(second.stdout)
    assert archives(own_cache) == [archive]


def test_another_jar_gets_another_archive(java: str, jar: Path, own_cache: Path) -> None:
    """A JAR that has changed starts as it is, and a JAR that is the same with the old archive."""
    assert run(java, str(jar)).returncode == 0
    before = jar.with_suffix(".old")
    shutil.move(jar, before)
    make_jar(jar.parent, "second")
    changed = run(java, str(jar))
    assert (changed.returncode, changed.stderr) == (0, "")
    assert changed.stdout.startswith("second\n") and not FROM_ARCHIVE.search(changed.stdout)
    assert len(archives(own_cache)) == 2
    shutil.move(before, jar)
    assert FROM_ARCHIVE.search(run(java, str(jar)).stdout)


def test_switched_off_nothing_is_kept(java: str, jar: Path, own_cache: Path) -> None:
    """--startup-cache off writes nothing."""
    assert run(java, "--startup-cache=off", str(jar)).returncode == 0
    assert archives(own_cache) == []


def test_a_failed_run_leaves_none(java: str, jar: Path, own_cache: Path) -> None:
    """An application that fails ends with its own code, and what it had loaded is not kept."""
    assert run(java, str(jar), "--", "3").returncode == 3
    assert archives(own_cache) == []


def test_a_service_that_is_always_killed_gets_one_while_it_runs(
    java: str, jar: Path, own_cache: Path
) -> None:
    """A JVM that was killed has recorded nothing, so the next one is asked while it is idle."""
    assert run(java, str(jar), "--", "die").returncode == 137
    assert archives(own_cache) == []

    words = ["run", "--java", java, SHOW_LOADED, str(jar), "--", "wait"]
    with subprocess.Popen(
        [sys.executable, "-c", IN_A_HURRY, *words], stdout=subprocess.DEVNULL
    ) as process:
        try:
            wait_for("an archive", lambda: archives(own_cache), 120)
            assert process.poll() is None
            wait_for("its description", lambda: list(own_cache.glob("*/*[0-9a-f].json")), 10)
        finally:
            process.terminate()
            process.wait(timeout=scaled(60))
    assert FROM_ARCHIVE.search(run(java, str(jar)).stdout)


def test_a_flight_recording_goes_before(java: str, jar: Path, own_cache: Path) -> None:
    """A JVM that records classes makes no flight recording, so one that is to makes no archive."""
    done = run(java, "--flight-recorder", str(jar))
    assert done.returncode == 0 and "JFR will be disabled" not in done.stdout + done.stderr
    assert archives(own_cache) == []


@pytest.mark.parametrize("driver_lives", [True, False])
async def test_an_end_is_not_lost_while_an_archive_is_made(
    tmp_path: Path, jar_dir: Path, *, driver_lives: bool
) -> None:
    """The task process is killed during the second step: nothing is left of it, and 0 stays 0."""
    options = PluginOptions(
        startup_cache="auto", cache_dir=str(tmp_path / "cache"), java_home=home_of("25")
    )
    async with open_rig(options) as rig:
        task = rig.task(jar_dir / "clock.jar", args=["20", "5"], memory_mb=1024)
        task.request = attrs.evolve(
            task.request, namespace="default", job_id="clock", group_name="clock"
        )
        handle = await rig.registry.start(task.request)
        (directory,) = rig.state_dir.iterdir()
        supervisor = await rig.supervisor(task)
        with fail_after(60):
            while b'"ended":{' not in (directory / records.TASK_FILE).read_bytes():  # noqa: ASYNC110
                await trio.sleep(0.01)
        if not driver_lives:
            rig.pause()
        os.kill(supervisor, signal.SIGKILL)
        if not driver_lives:
            await rig.restart()
            await rig.registry.recover(task.id, handle)
        with fail_after(60):
            assert await rig.registry.wait(task.id) == ExitResult()
        await rig.until_event(task, "taken over")
        assert archives(tmp_path / "cache") == []
