"""`milo run`: the driver's code on one JAR, without Nomad, as a person uses it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from milo.host.state_dirs import RUN_DIRECTORY
from milo.proc import start_ticks
from tests.support import java_homes, private_mounts
from tests.support.leftovers import runs_in
from tests.support.processor_time import compiled, references
from tests.support.waiting import scaled, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

MILO = [sys.executable, "-m", "milo"]
TIMEOUT_S = 60


def milo(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command and return what it printed."""
    return subprocess.run(
        [*MILO, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=scaled(TIMEOUT_S),
        check=False,
    )


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No run leaves anything; those of others are out of sight."""
    with private_mounts.own_runs():
        yield
        assert runs_in(RUN_DIRECTORY) == []


@contextlib.contextmanager
def stubborn(jar_dir: Path, end_ms: int) -> Iterator[subprocess.Popen[str]]:
    """Run an application that takes so long to end when it is asked to, and that runs by now."""
    with subprocess.Popen(
        [*MILO, "run", str(jar_dir / "stubborn.jar"), "--", str(end_ms)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        yield process


def test_output_and_exit_code(jar_dir: Path) -> None:
    """Output comes out on the same streams, and the application's exit code is the command's."""
    done = milo("run", str(jar_dir / "both.jar"), "--", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["out 0", "out 1", "out 2"]
    assert done.stderr.splitlines() == ["err 0", "err 1", "err 2"]
    assert milo("run", str(jar_dir / "exit42.jar")).returncode == 42


def test_options_reach_the_application(jar_dir: Path) -> None:
    """--env, --memory and --jvm-option have their effect."""
    done = milo(
        *("run", "--env", "GREETING=hello there", "--memory", "200m"),
        *("--jvm-option=-Dcolour=green", str(jar_dir / "probe.jar")),
    )
    assert done.returncode == 0, done.stderr
    assert "hello there" in done.stdout


def test_output_is_live_and_ctrl_c_stops(jar_dir: Path) -> None:
    """A line comes while the application runs; Ctrl-C lets it end in peace, as SIGTERM does."""
    with stubborn(jar_dir, 100) as process:
        assert process.stdout is not None
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=scaled(TIMEOUT_S))
    assert "ended in peace" in rest
    assert process.returncode == 143


def test_what_it_takes_beyond_java(jar_dir: Path, tmp_path: Path) -> None:
    """With crun and everything: 4 times the reference, which is 0.48 s of processor time.

    Two processors do that in less than 0.35 s, as crun, the search for Java and Milo overlap.
    """
    home = java_homes.all_homes()[0]
    jar = str(jar_dir / "hello.jar")
    java = (f"{home}/bin/java", "-jar", jar)
    bound = 4.0
    words = (*MILO, "run", "--startup-cache", "off", "--java", home, jar)
    assert references(compiled(tmp_path), bound, words, beyond=java) < bound


def test_a_second_ctrl_c_kills(jar_dir: Path) -> None:
    """An application that does not end is killed by the second Ctrl-C; 137 says so to a shell."""
    with stubborn(jar_dir, 600_000) as process:
        assert process.stdout is not None
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "asked to end\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=scaled(TIMEOUT_S))
    assert process.returncode == 128 + signal.SIGKILL
    assert "SIGKILL" in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_comes_twice_kills_nothing(jar_dir: Path, number: signal.Signals) -> None:
    """timeout(1) sends it to its command and to the group, and a shell whose terminal is closed."""
    with stubborn(jar_dir, 1000) as process:
        assert process.stdout is not None
        process.send_signal(number)
        assert process.stdout.readline() == "asked to end\n"
        process.send_signal(number)
        rest, _ = process.communicate(timeout=scaled(TIMEOUT_S))
    assert "ended in peace" in rest
    assert process.returncode == 143


@pytest.mark.parametrize(
    ("name", "expected"),
    [("my-script.py", "Artifact must be a .jar file, got: my-script.py"), ("empty.jar", "empty")],
)
def test_a_jar_that_is_none(tmp_path: Path, name: str, expected: str) -> None:
    """What is no JAR is refused with the driver's own words, and exit code 1."""
    (tmp_path / name).touch()
    done = milo("run", str(tmp_path / name))
    assert done.returncode == 1 and expected in done.stderr and done.stdout == ""


def test_a_jar_that_is_not_there(tmp_path: Path) -> None:
    """A path that leads nowhere is said without a traceback."""
    done = milo("run", str(tmp_path / "nowhere.jar"))
    assert done.returncode == 1 and done.stderr.startswith("Error: ")
    assert "nowhere.jar" in done.stderr and "Traceback" not in done.stderr


def test_a_reader_that_goes_does_not_hang_it(jar_dir: Path) -> None:
    """Piped into a program that stops reading, the application still ends."""
    done = subprocess.run(
        [
            "sh",
            "-c",
            f'"{sys.executable}" -m milo run "{jar_dir}/both.jar" -- 20000 2>/dev/null | head -n 1',
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=scaled(TIMEOUT_S),
        check=True,
    )
    assert done.stdout == "out 0\n"


def test_without_arguments_it_shows_its_help() -> None:
    """Started by hand, without Nomad's cookie and without arguments, milo shows its help."""
    done = milo()
    assert done.returncode == 0 and "usage: milo" in done.stdout and "Nomad" in done.stdout


def test_limits_and_java_are_the_users(jar_dir: Path, tmp_path: Path) -> None:
    """--cpus, --java, --rootfs and --mount reach the container."""
    (tmp_path / "data").mkdir()
    tmp_path.chmod(0o755)
    (tmp_path / "data/note").write_text("hello from the host\n")
    script = "cat /data/note; touch /data/new 2>/dev/null || echo and no more"
    done = milo(
        *("run", "--cpus", "0.5", "--java", ">= 17", "-v", "--mount", f"{tmp_path}/data:/data"),
        *(str(jar_dir / "shell.jar"), "--", script),
    )
    assert done.stdout == "hello from the host\nand no more\n", done.stderr
    assert 'for --java ">= 17"' in done.stderr
    without_shell = milo("run", "--rootfs", "minimal", str(jar_dir / "shell.jar"), "--", "true")
    assert without_shell.returncode == 1 and "/bin/sh" in without_shell.stderr
    refused = milo("run", "--java", "6", str(jar_dir / "hello.jar"))
    assert refused.returncode == 1 and "has no such Java" in refused.stderr


def test_a_java_by_a_relative_path(jar_dir: Path, tmp_path: Path) -> None:
    """It begins at the working directory of this shell, not of the container."""
    jdk = Path(shutil.which("java") or "").resolve().parents[1]
    (tmp_path / "jdk").symlink_to(jdk)
    done = subprocess.run(
        [*MILO, "run", "--java", "./jdk", str(jar_dir / "hello.jar")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=scaled(TIMEOUT_S),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_a_signal_that_nobody_asked_for(jar_dir: Path, number: signal.Signals) -> None:
    """It is told as what it is, and not as the end that somebody had asked for."""
    name = f"struck-{os.getpid()}"
    with subprocess.Popen(
        [*MILO, "run", "--name", name, str(jar_dir / "clock.jar")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline()
        (task,) = [task for task in json.loads(milo("ps", "--json").stdout) if task["task"] == name]
        os.kill(task["pid"], number)
        _, errors = process.communicate(timeout=scaled(TIMEOUT_S))
    assert process.returncode == 128 + number
    assert f"unexpectedly by {number.name}" in errors


def test_logs_are_kept_and_rotated(jar_dir: Path, tmp_path: Path) -> None:
    """--log-dir keeps what comes out, in files of a size and number."""
    done = milo(
        *("run", "--log-dir", str(tmp_path / "logs"), "--log-max-size", "1k"),
        *("--log-max-files", "3", "--name", "both", str(jar_dir / "both.jar"), "--", "1000"),
    )
    assert done.returncode == 0, done.stderr
    files = sorted((tmp_path / "logs").glob("both.stdout.*"), key=lambda path: int(path.suffix[1:]))
    assert 1 <= len(files) <= 3
    text = b"".join(path.read_bytes() for path in files)
    assert done.stdout.encode().endswith(text) and text.endswith(b"out 999\n")


def test_the_other_commands_know_it(jar_dir: Path, tmp_path: Path) -> None:
    """ps lists it, exec runs in it, logs reads its files, stop ends it."""
    name = f"alone-{os.getpid()}"
    process = subprocess.Popen(
        [*MILO, "run", "--name", name, "--log-dir", str(tmp_path), str(jar_dir / "clock.jar")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline()
        assert [line for line in milo("ps").stdout.splitlines() if name in line.split()]
        done = milo("exec", name, "--", "sh", "-c", "exit 5")
        assert done.returncode == 5, done.stderr
        assert milo("logs", name).stdout
        stopped = milo("stop", name)
        assert stopped.returncode == 0, stopped.stderr
        process.communicate(timeout=scaled(30))
    finally:
        process.kill()
        process.wait()
    assert name not in milo("ps", "--all").stdout


def test_a_killed_run_is_collected(jar_dir: Path) -> None:
    """milo gc leaves a run that lives alone, and removes the container of one that was killed."""
    name = f"killed-{os.getpid()}"
    process = subprocess.Popen(
        [*MILO, "run", "--name", name, str(jar_dir / "clock.jar")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline()
        (task,) = [task for task in json.loads(milo("ps", "--json").stdout) if task["task"] == name]
        base = Path(task["state_dir"]).parent
        assert str(base) not in milo("gc", "--yes").stdout
        assert process.stdout.readline() and base.exists()
    finally:
        process.kill()
        process.communicate()
    shown = milo("gc").stdout
    assert "was killed" in shown and f"application is running (process {task['pid']})" in shown
    assert milo("gc", "--yes").returncode == 0
    assert not base.exists()
    wait_for("the application's end", lambda: start_ticks(task["pid"]) is None)
