"""`milo run` at a terminal: input, signals, the background, and what a killed one leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from milo.proc import start_ticks
from tests.support.waiting import scaled, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

MILO = [sys.executable, "-m", "milo"]
TIMEOUT_S = 60


def milo(*words: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run the command and return what it printed."""
    if "input" not in settings:
        settings["stdin"] = subprocess.DEVNULL
    return subprocess.run(
        [*MILO, *words],
        capture_output=True,
        text=True,
        timeout=scaled(TIMEOUT_S),
        check=False,
        **settings,
    )


def task(name: str) -> dict[str, Any]:
    """Return what milo ps tells of a task."""
    [found] = [one for one in json.loads(milo("ps", "-a", "--json").stdout) if one["task"] == name]
    return dict(found)


def started(*words: str) -> subprocess.Popen[str]:
    """Start a run and wait for its first line."""
    process = subprocess.Popen(
        [*MILO, "run", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()
    return process


def test_input_reaches_the_application(jar_dir: Path) -> None:
    """What is no terminal does without being asked for, and its end, too."""
    done = milo("run", str(jar_dir / "shell.jar"), "wc -c", input="x" * 300_000)
    assert (done.returncode, done.stdout.strip()) == (0, "300000"), done.stderr


def test_the_jar_is_the_callers_own(jar_dir: Path) -> None:
    """With its time stamp, in its place; nothing of it is copied."""
    jar = jar_dir / "shell.jar"
    done = milo("run", str(jar), "stat -c '%i %Y' /local/shell.jar; touch /local/x && echo made")
    found = jar.stat()
    assert done.stdout == f"{found.st_ino} {int(found.st_mtime)}\nmade\n", done.stderr


def test_tmp_has_a_size_where_it_is_asked_for(jar_dir: Path) -> None:
    """And else is on the disk of /var/lib."""
    line = "df -k /tmp | tail -1"
    done = milo("run", "--tmp-size", "10m", str(jar_dir / "shell.jar"), line)
    assert done.stdout.split()[:2] == ["tmpfs", "10240"], done.stderr
    assert "tmpfs" not in milo("run", str(jar_dir / "shell.jar"), line).stdout


def test_messages_name_options(jar_dir: Path) -> None:
    """As they were typed, not the keys of a job."""
    done = milo("run", "--ipc", "host", "--shm-size", "64m", str(jar_dir / "hello.jar"))
    assert done.returncode == 1
    assert "Invalid value for --shm-size: with --ipc-mode" in done.stderr
    assert "shm_size" not in done.stderr and "ipc_mode" not in done.stderr


def test_a_closed_terminal_stops_it(jar_dir: Path) -> None:
    """SIGHUP is as SIGTERM; Ctrl-\\ before it prints the threads."""
    process = started("--name", "closing", str(jar_dir / "stubborn.jar"), "100")
    process.send_signal(signal.SIGQUIT)
    assert process.stdout is not None
    assert wait_for_line(process, "Full thread dump")
    process.send_signal(signal.SIGHUP)
    rest, _ = process.communicate(timeout=scaled(TIMEOUT_S))
    assert "ended in peace" in rest and process.returncode == 143


def wait_for_line(process: subprocess.Popen[str], text: str) -> bool:
    """Read lines until one has ``text``."""
    assert process.stdout is not None
    return any(text in line for line in process.stdout)


def test_in_the_background(jar_dir: Path) -> None:
    """The command returns with the name; logs, stop and gc work until it is removed."""
    name = f"back-{os.getpid()}"
    done = milo("run", "-d", "--name", name, str(jar_dir / "clock.jar"))
    assert (done.returncode, done.stdout) == (0, f"{name}\n"), done.stderr
    assert task(name)["state"] == "running"
    wait_for("its log", lambda: "tick" in milo("logs", name).stdout)
    refused = milo("gc", "--yes", name)
    assert refused.returncode == 1 and "milo stop" in refused.stderr
    assert milo("stop", name).returncode == 0
    wait_for("its end", lambda: task(name)["state"] == "exited")
    assert "tick" in milo("logs", name).stdout
    wait_for("its removal", lambda: milo("gc", "--yes", name).returncode == 0)
    refused = milo("run", "-d", "--class", "no.Such", str(jar_dir / "clock.jar"))
    assert refused.returncode == 1 and "no.Such" in refused.stderr and refused.stdout == ""


def test_stop_ends_what_a_killed_run_has_left(jar_dir: Path) -> None:
    """The application, its container and its directories."""
    name = f"killed-{os.getpid()}"
    process = started("--name", name, str(jar_dir / "clock.jar"))
    pid = task(name)["pid"]
    process.kill()
    process.communicate()
    assert task(name)["state"] == "unsupervised"
    done = milo("stop", name)
    assert done.returncode == 0 and "The task has ended" in done.stdout, done.stderr
    assert start_ticks(pid) is None or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


def test_a_dump_is_kept(jar_dir: Path) -> None:
    """The last line says where it is."""
    done = milo(
        *("run", "--heap-dump-on-oom", "-m", "64m", "--jvm-option", "-Xmx16m"),
        *(str(jar_dir / "java-oom.jar"), "uncaught"),
    )
    last = done.stderr.splitlines()[-1]
    assert "what the JVM left is kept: /var/lib/milo-run/" in last, done.stderr
    path = Path(last.rpartition(": ")[2])
    assert path.stat().st_size > 1 << 20
    assert str(path.parents[3]) in milo("gc").stdout
    shutil.rmtree(path.parents[3])


def test_a_recording_and_a_debugger(jar_dir: Path, tmp_path: Path) -> None:
    """The file is where it was asked for; what to connect to is said."""
    target = tmp_path / "a.jfr"
    done = milo("run", "--debug=15005", f"--jfr={target}", str(jar_dir / "hello.jar"))
    assert done.returncode == 0 and "127.0.0.1:15005" in done.stderr
    assert target.read_bytes().startswith(b"FLR\0")


def test_a_changed_jar_is_started_again(jar_dir: Path, tmp_path: Path) -> None:
    """--watch stops the old one first; Ctrl-C ends it all."""
    jar = tmp_path / "app.jar"
    shutil.copy(jar_dir / "clock.jar", jar)
    tmp_path.chmod(0o755)
    process = started("--watch", str(jar))
    time.sleep(1)
    shutil.copy(jar_dir / "stubborn.jar", tmp_path / "new.jar")
    (tmp_path / "new.jar").rename(jar)
    assert wait_for_line(process, "running")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=scaled(TIMEOUT_S))
    assert process.returncode == 143 and "the JAR has changed" in errors
