"""`milo run` at a terminal: input, signals, the background, and what a killed one leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from milo.host.state_dirs import RUN_DIRECTORY
from milo.proc import children, start_ticks
from tests.support import private_mounts
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


def is_removed(name: str) -> bool:
    """Remove what an ended task in the background has left; return whether that is done."""
    return milo("gc", "--yes", name).returncode == 0


@pytest.fixture(autouse=True)
def nothing_goes_on() -> Iterator[None]:
    """What a test that fails leaves ends with it; the runs of others are out of sight."""
    with private_mounts.own_runs():
        yield
        for one in json.loads(milo("ps", "-a", "--json").stdout):
            if one["state_dir"].startswith(RUN_DIRECTORY):
                milo("stop", "--timeout", "0s", one["id"])
                wait_for("its removal", partial(is_removed, one["id"]))


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
    assert done.returncode == 2
    assert 'Invalid value for --shm-size: with --ipc "host"' in done.stderr
    assert "shm_size" not in done.stderr and "ipc_mode" not in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-v", "/nonexistent:/data"], "Invalid value for -v: /nonexistent: it does not exist"),
        (["--workdir", "/proc"], "Invalid value for --workdir: "),
    ],
)
def test_what_only_the_start_finds_is_named_as_typed(
    jar_dir: Path, words: list[str], told: str
) -> None:
    """As what the command line alone tells."""
    done = milo("run", *words, str(jar_dir / "hello.jar"), "--volume", "--work-dir")
    assert done.returncode == 1 and told in done.stderr, done.stderr


def test_a_closed_terminal_stops_it(jar_dir: Path) -> None:
    """SIGHUP is as SIGTERM; Ctrl-\\ before it prints the threads."""
    # While a JVM records the classes that it loads, it prints its threads on stderr.
    words = ("--startup-cache", "off", "--name", "closing", str(jar_dir / "stubborn.jar"), "100")
    process = started(*words)
    process.send_signal(signal.SIGQUIT)
    assert process.stdout is not None
    assert wait_for_line(process, "Full thread dump")
    process.send_signal(signal.SIGHUP)
    rest, _ = process.communicate(timeout=scaled(TIMEOUT_S))
    assert "ended in peace" in rest and process.returncode == 143


def test_a_reader_that_ends_first_ends_it(jar_dir: Path) -> None:
    """As of any program in a pipe; not where log files get the output as well."""
    for jar, word in (("clock.jar", ""), ("volume.jar", "3000000")):
        process = started(str(jar_dir / jar), *filter(None, [word]))
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(timeout=scaled(TIMEOUT_S)) == 141, said
        assert "nobody reads the output any more: stopping the application\n" in said
        process.stderr.close()


def test_output_goes_on_into_log_files(jar_dir: Path, tmp_path: Path) -> None:
    """A reader that has gone does not end what is kept elsewhere."""
    words = ("--log-dir", str(tmp_path), str(jar_dir / "volume.jar"), "3000000")
    process = started(*words)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    with process.stderr as errors:
        errors.read()
    assert process.wait(timeout=scaled(TIMEOUT_S)) == 0
    assert sum(path.stat().st_size for path in tmp_path.glob("*.stdout.*")) == 3_000_000


def test_ctrl_c_says_what_it_waits_for(jar_dir: Path) -> None:
    """An application that takes its time can be killed by another one."""
    process = started(str(jar_dir / "stubborn.jar"), "60000")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "the application is killed after 10 s, or at once by another Ctrl-C" in line
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=scaled(TIMEOUT_S))
    assert process.returncode == 137


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
    assert "ended    /run/milo-run/" in milo("gc").stdout
    wait_for("its task process's end", lambda: milo("stop", name).returncode == 1)
    assert f"Task {name!r} has ended, so there is nothing to stop" in milo("stop", name).stderr
    wait_for("its removal", partial(is_removed, name))
    refused = milo("run", "-d", "--class", "no.Such", str(jar_dir / "clock.jar"))
    assert refused.returncode == 1 and "no.Such" in refused.stderr and refused.stdout == ""


def test_names_in_the_background(jar_dir: Path, tmp_path: Path) -> None:
    """Each has its own, so that it can be told from the others."""
    pid = os.getpid()
    jar = tmp_path / f"my app ü {pid}.jar"
    shutil.copy(jar_dir / "clock.jar", jar)
    tmp_path.chmod(0o755)
    first, second = (milo("run", "-d", str(jar)).stdout for _ in range(2))
    try:
        assert (first, second) == (f"my-app-{pid}\n", f"my-app-{pid}-2\n")
        refused = milo("run", "--name", f"my-app-{pid}", str(jar))
        assert refused.returncode == 1 and refused.stdout == ""
        assert f"first: milo stop my-app-{pid}" in refused.stderr
    finally:
        for name in (first.strip(), second.strip()):
            milo("stop", name)
            wait_for("its removal", partial(is_removed, name))


def test_a_port_that_is_no_good_is_told_before(jar_dir: Path) -> None:
    """The JVM would end at once, after the command has said that it runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for word, what in (
            (f"--debug={port}", f"port {port} is in use"),
            (f"--jmx={port}", f"port {port} is in use"),
            ("--jmx=80", "port 80 is for root alone"),
        ):
            done = milo("run", "-d", word, "--name", f"p-{os.getpid()}", str(jar_dir / "clock.jar"))
            assert (done.returncode, done.stdout) == (1, "") and what in done.stderr


def test_output_that_a_full_disk_loses_is_counted(jar_dir: Path, tmp_path: Path) -> None:
    """In the background nobody sees what the run itself says of it."""
    name = f"full-{os.getpid()}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)], check=True)
    try:
        words = ("--log-dir", str(tmp_path), "--name", name, str(jar_dir / "volume.jar"), "3000000")
        done = milo("run", "-d", *words)
        assert done.returncode == 0, done.stderr
        wait_for("its end", lambda: task(name)["state"] == "exited")
        known = task(name)
        for stream in ("stdout", "stderr"):
            files = sum(path.stat().st_size for path in tmp_path.glob(f"*.{stream}.*"))
            counted = known[stream]
            assert (counted["bytes_moved"], counted["bytes_dropped"]) == (files, 3_000_000 - files)
        done = milo("logs", name)
        assert done.returncode == 0
        assert f"of stdout of task {name} were dropped and are in no log" in done.stderr
        wait_for("its removal", partial(is_removed, name))
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_stop_ends_what_a_killed_run_has_left(jar_dir: Path) -> None:
    """The application, its container and its directories."""
    name = f"killed-{os.getpid()}"
    process = started("--name", name, str(jar_dir / "clock.jar"))
    pid = task(name)["pid"]
    process.kill()
    process.communicate()
    wait_for("the state", lambda: task(name)["state"] == "unsupervised")
    for words in ((), ("-f",)):
        told = milo("logs", *words, name)
        assert told.returncode == 1
        assert "milo run keeps one with -d or --log-dir alone" in told.stderr
    done = milo("stop", name)
    assert done.returncode == 0 and "The task has ended" in done.stdout, done.stderr
    wait_for("the application's end", lambda: start_ticks(pid) is None)


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
    assert "[jfr" not in done.stdout + done.stderr
    assert target.read_bytes().startswith(b"FLR\0")
    target.write_text("mine")
    done = milo("run", f"--jfr={target}", str(jar_dir / "hello.jar"))
    assert done.returncode == 1 and "is there already" in done.stderr and done.stdout == ""
    assert target.read_text() == "mine"


def test_a_recording_that_cannot_be_where_it_is_wanted(jar_dir: Path, tmp_path: Path) -> None:
    """It is said before the run; what only shows after it costs no recording."""
    jar = str(jar_dir / "hello.jar")
    for target in (tmp_path / "none/a.jfr", tmp_path):
        done = milo("run", f"--jfr={target}", jar)
        assert done.returncode == 1 and "--jfr" in done.stderr and done.stdout == ""
    with private_mounts.small_tmpfs(tmp_path / "small", "64k"):
        target = tmp_path / "small/a.jfr"
        done = milo("run", f"--jfr={target}", jar)
        assert done.returncode == 1 and "Hello" in done.stdout and not target.exists()
    assert f"{target}: No space left on device. It is in /var/lib/milo-run/" in done.stderr
    kept = Path(done.stderr.splitlines()[-1].rpartition(" ")[2])
    assert kept.read_bytes().startswith(b"FLR\0")
    shutil.rmtree(kept.parents[3])


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


def test_ctrl_c_while_it_starts_in_the_background(jar_dir: Path) -> None:
    """Nobody has been told its name, so nothing of it goes on."""
    name = f"early-{os.getpid()}"
    for delay_s in (0.0, 0.1, 0.2, 0.4):
        process = subprocess.Popen(
            [*MILO, "run", "-d", "--name", name, str(jar_dir / "clock.jar")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for("the one that goes on", partial(children, process.pid), pause_s=0.005)
        time.sleep(delay_s)
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=scaled(TIMEOUT_S))
        if printed:  # it had begun, and the command was about to end
            assert printed == f"{name}\n"
            assert milo("stop", name).returncode == 0
            wait_for("its removal", partial(is_removed, name))
        assert process.returncode in (0, 130, -signal.SIGINT) and "Traceback" not in errors
        assert name not in milo("ps").stdout


def test_ctrl_c_ends_a_run_whose_jar_has_changed(jar_dir: Path, tmp_path: Path) -> None:
    """While --watch stops the old one: it is not started again."""
    jar = tmp_path / "app.jar"
    shutil.copy(jar_dir / "stubborn.jar", jar)
    tmp_path.chmod(0o755)
    process = started("--watch", str(jar), "3000")
    shutil.copy(jar_dir / "hello.jar", tmp_path / "new.jar")
    (tmp_path / "new.jar").rename(jar)
    assert wait_for_line(process, "asked to end")
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=scaled(TIMEOUT_S))
    assert process.returncode == 143 and "starting again" not in errors and "Hello" not in rest


def test_a_jar_that_is_away_at_a_restart(jar_dir: Path, tmp_path: Path) -> None:
    """Who builds it anew has removed the old one first: it is waited for, as for one that works."""
    jar, new = tmp_path / "app.jar", tmp_path / "new.jar"
    shutil.copy(jar_dir / "stubborn.jar", jar)
    tmp_path.chmod(0o755)
    process = started("--watch", str(jar), "3000")
    assert process.stderr is not None
    shutil.copy(jar_dir / "hello.jar", new)
    new.rename(jar)
    assert wait_for_line(process, "asked to end")
    jar.unlink()
    said: list[str] = []
    while not said or "waiting for the JAR" not in said[-1]:
        said.append(process.stderr.readline())
        assert said[-1], said
    assert f"Error: {jar} cannot be read: No such file or directory\n" in said
    shutil.copy(jar_dir / "hello.jar", new)
    new.rename(jar)
    assert wait_for_line(process, "Hello")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=scaled(TIMEOUT_S))
    assert process.returncode in (0, 130, 143)  # the second while it waits for another one


def test_one_that_ends_at_once_in_the_background(jar_dir: Path) -> None:
    """It is not told as one that runs, unless it has done its work."""
    jar = str(jar_dir / "clock.jar")
    done = milo("run", "-d", "--name", "at-once", "--jvm-option", "-XX:+NoSuchOption", jar)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Task failed with exit code 1" in done.stderr
    assert "For its output: milo logs at-once" in done.stderr
    assert "NoSuchOption" in milo("logs", "at-once").stdout
    done = milo("run", "-d", "--name", "quick", str(jar_dir / "hello.jar"))
    assert (done.returncode, done.stdout) == (0, "quick\n"), done.stderr
