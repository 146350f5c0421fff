"""``nomad alloc exec`` into a running task."""

from __future__ import annotations

import hashlib
import os
import pty
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.acceptance.conftest import RunJar
from tests.chaos.processes import plugins
from tests.support.agent import Agent
from tests.support.nomad import Job, Nomad
from tests.support.waiting import scaled, wait_for


@pytest.fixture
def running(run_jar: RunJar) -> Job:
    """A task that runs until it is stopped."""
    job = run_jar("clock.jar", kind="service")
    job.wait_logs("tick 0 ")  # a JVM that still starts answers no jcmd
    return job


def alloc_exec(
    nomad: Nomad, job: Job, *words: str, stdin: bytes = b"", options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[bytes]:
    """Run ``nomad alloc exec`` without a terminal."""
    command, env = nomad.command(
        "alloc", "exec", "-i", "-t=false", "-task", "app", *options, job.allocation(), *words
    )
    return subprocess.run(
        command, env=env, input=stdin, capture_output=True, timeout=scaled(60), check=False
    )


class Terminal:
    """``nomad alloc exec -t`` on a terminal of its own."""

    def __init__(self, nomad: Nomad, job: Job, *words: str) -> None:
        ours, theirs = pty.openpty()
        command, env = nomad.command(
            "alloc", "exec", "-i", "-t", "-task", "app", job.allocation(), *words
        )
        self.process = subprocess.Popen(
            command, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self.fd = ours
        self.seen = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while data := os.read(self.fd, 65536):
                self.seen += data
        except OSError:
            pass  # EIO: the command has ended

    def type(self, text: bytes) -> None:
        os.write(self.fd, text)

    def wait(self, pattern: bytes) -> None:
        wait_for(f"{pattern!r} on the terminal", lambda: re.search(pattern, self.seen))

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._thread.join(10)
        os.close(self.fd)


@pytest.fixture
def shell(nomad: Nomad, running: Job) -> Iterator[Terminal]:
    """A shell in the task, on a terminal."""
    terminal = Terminal(nomad, running, "sh")
    yield terminal
    terminal.close()


def test_output_input_and_exit_code(nomad: Nomad, running: Job) -> None:
    """Streams are kept apart, megabytes pass whole, and the exit code is the command's."""
    done = alloc_exec(nomad, running, "sh", "-c", "echo out; echo err >&2; exit 42")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 42)
    data = os.urandom(2 << 20)
    done = alloc_exec(nomad, running, "cat", stdin=data)
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()
    done = alloc_exec(nomad, running, "head", "-c", "20000000", "/dev/zero")
    assert (done.returncode, len(done.stdout)) == (0, 20_000_000)


def test_a_command_that_is_not_there(nomad: Nomad, running: Job) -> None:
    """The user reads crun's words, and the exit code is a shell's 127."""
    done = alloc_exec(nomad, running, "no-such-command")
    assert done.returncode == 127
    assert b"no-such-command" in done.stdout + done.stderr


def test_terminal(shell: Terminal, running: Job) -> None:
    """A shell has a terminal with job control and Ctrl-C, and its exit code arrives."""
    shell.type(b"tty; echo $((40 + 2))\n")
    shell.wait(rb"/dev/pts/\d+\s+42")
    shell.type(b"sh -c 'echo be\"gun\"; exec sleep 1000'\n")
    shell.wait(rb"\sbegun\s")
    shell.type(b"\x03")
    shell.type(b"echo code=$?\n")
    shell.wait(rb"code=130")
    shell.type(b"exit 7\n")
    assert shell.process.wait(scaled(30)) == 7
    assert running.status() == "running"


def test_a_client_that_goes_ends_its_command(nomad: Nomad, running: Job) -> None:
    """Killing the client of a command kills the command in the task."""
    command, env = nomad.command(
        *("alloc", "exec", "-i", "-t=false", "-task", "app", running.allocation()),
        *("sh", "-c", "echo up; exec sleep 12345"),
    )
    client = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert client.stdout is not None and client.stdin is not None
    assert client.stdout.readline() == b"up\n"
    client.kill()
    client.wait()
    client.stdout.close()
    client.stdin.close()

    def gone() -> bool:
        done = alloc_exec(nomad, running, "sh", "-c", "grep -al 12345 /proc/[0-9]*/cmdline")
        # The shell that asks names the number as well.
        return len(done.stdout.split()) <= 2

    wait_for("the end of the command", gone)


def test_many_at_once(nomad: Nomad, running: Job) -> None:
    """Ten sessions at a time keep their own output and exit codes."""

    def one(number: int) -> tuple[bytes, int]:
        done = alloc_exec(nomad, running, "sh", "-c", f"sleep 1; echo {number}; exit {number}")
        return done.stdout, done.returncode

    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(one, range(10))) == [(b"%d\n" % n, n) for n in range(10)]


def test_the_tasks_own_jcmd(nomad: Nomad, running: Job) -> None:
    """jcmd, jstack and jmap of the task's JDK work by bare name."""
    version = alloc_exec(nomad, running, "jcmd", "2", "VM.version")
    assert version.returncode == 0 and b"JDK" in version.stdout, version
    threads = alloc_exec(nomad, running, "jstack", "2")
    assert threads.returncode == 0 and b'"main"' in threads.stdout, threads
    classes = alloc_exec(nomad, running, "jmap", "-histo", "2")
    assert classes.returncode == 0 and b"java.lang.String" in classes.stdout, classes


def test_the_end_of_the_plugin_ends_its_commands(
    dev_agent: Agent, nomad: Nomad, running: Job
) -> None:
    """The command goes with the plugin that it was asked of; the task goes on."""
    command, env = nomad.command(
        *("alloc", "exec", "-i", "-t=false", "-task", "app", running.allocation()),
        *("sh", "-c", "echo up; exec sleep 54321"),
    )
    client = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert client.stdout is not None and client.stdin is not None
    try:
        assert client.stdout.readline() == b"up\n"
        for pid in plugins(dev_agent):
            os.kill(pid, signal.SIGKILL)
        assert client.wait(scaled(30)) != 0

        def gone() -> bool:
            script = "grep -al 54321 /proc/[0-9]*/cmdline; exit 0"
            done = alloc_exec(nomad, running, "sh", "-c", script)
            return done.returncode == 0 and len(done.stdout.split()) <= 2

        wait_for("a new plugin, and the end of the command", gone, 60)
    finally:
        client.kill()
        client.communicate()
    assert running.task()["Restarts"] == 0
