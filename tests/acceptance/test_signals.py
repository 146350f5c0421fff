"""Signals to a task: ``nomad alloc signal``, ``kill_signal`` and ``kill_timeout``."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.acceptance.conftest import RunJar
from tests.support.nomad import Job
from tests.support.waiting import SCALE, wait_for

KEPT = ("KILL", "STOP", "SEGV", "ILL", "FPE", "QUIT", "CHLD")
"""What a JVM lets no application listen to: the kernel's own, those of faults, and its own.

Among these is SIGCHLD: the JDK of Java 25 takes the application's handler away again.
"""
NAMES = [
    one.name.removeprefix("SIG")
    for one in sorted(signal.Signals)
    if one < 32 and one.name.removeprefix("SIG") not in KEPT
]


def listen(run_jar: RunJar, *names: str, **options: object) -> Job:
    """Run signals.jar, which prints each of these signals that it gets."""
    job = run_jar("signals.jar", kind="service", args=list(names), **options)
    job.wait_logs(f"listens to {' '.join(names)}.")
    return job


def send(job: Job, name: str) -> None:
    """Run ``nomad alloc signal``."""
    job.nomad.cli("alloc", "signal", "-s", name, job.allocation())


def test_every_signal_arrives(run_jar: RunJar) -> None:
    """Each signal that an application can listen to arrives, as itself, once and in order."""
    assert len(NAMES) >= 24
    job = listen(run_jar, *NAMES)
    for name in NAMES:
        send(job, f"SIG{name}")
        job.wait_logs(f"got SIG{name} ")
    assert re.findall(r"got SIG(\w+) ", job.logs().decode()) == NAMES
    assert job.task()["State"] == "running"


def test_names_of_signals(run_jar: RunJar) -> None:
    """A signal may be named without SIG or by its number, and one that is none is refused."""
    job = listen(run_jar, "USR2", "WINCH")
    send(job, "usr2")
    job.wait_logs("got SIGUSR2 ")
    send(job, str(int(signal.SIGWINCH)))
    job.wait_logs("got SIGWINCH ")
    with pytest.raises(AssertionError, match="SIGNONSENSE"):
        send(job, "SIGNONSENSE")
    assert job.task()["State"] == "running"


def test_stop_and_continue(run_jar: RunJar) -> None:
    """SIGSTOP halts the application and SIGCONT lets it go on."""
    job = listen(run_jar, "USR2", task='env {\nCOUNT = "1"\n}')
    send(job, "SIGUSR2")
    job.wait_logs("\nat ")
    [pid] = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/environ")
        if f"NOMAD_ALLOC_ID={job.allocation()}".encode() in _read(path)
    ]
    send(job, "SIGSTOP")
    wait_for("the JVM to be stopped", lambda: _state(pid) == "T")
    send(job, "SIGCONT")
    wait_for("the JVM to go on", lambda: _state(pid) != "T")
    size = len(job.logs())
    wait_for("more output", lambda: len(job.logs()) > size)


def test_kill(run_jar: RunJar) -> None:
    """SIGKILL ends the task as a failure, and Nomad shows the signal."""
    job = listen(run_jar)
    send(job, "SIGKILL")
    job.wait_state("dead")
    assert job.task()["Failed"]
    assert job.exit_code() == 137
    assert any("Signal: 9" in event for event in job.events()), job.events()


def test_thread_dump(run_jar: RunJar) -> None:
    """SIGQUIT puts the JVM's thread dump into the task's log, and the application goes on."""
    job = run_jar("stubborn.jar", kind="service", args=["0"])
    job.wait_logs("running")
    send(job, "SIGQUIT")
    shown = job.wait_logs("JNI global refs")
    assert "Full thread dump" in shown
    assert re.search(r'^"main" #\d', shown, re.MULTILINE)
    assert "at Stubborn.main(" in shown
    assert job.task()["State"] == "running"
    job.stop()
    assert job.wait_logs("ended in peace\n").endswith("asked to end\nended in peace\n")


@pytest.mark.parametrize("name", ["SIGUSR2", "SIGQUIT", "SIGWINCH", "SIGNULL"])
def test_kill_signal(name: str, run_jar: RunJar) -> None:
    """A stop sends the job's kill_signal, and no other signal before kill_timeout is over.

    SIGNULL, which Nomad offers as well, is none: then nothing comes before the SIGKILL.
    """
    names = ["HUP", "INT", "TERM", "USR2", "WINCH"]
    options = f'kill_signal = "{name}"\nkill_timeout = "1500ms"'
    job = listen(run_jar, *names, task=options, dump_on_kill=False)
    job.stop()
    shown = job.logs().decode()
    assert re.findall(r"got (\w+) ", shown) == [name] * (name not in ("SIGQUIT", "SIGNULL"))
    assert shown.count("Full thread dump") == (name == "SIGQUIT")
    assert job.exit_code() == 137


@pytest.mark.parametrize("seconds", [1, 4])
def test_kill_timeout(seconds: int, run_jar: RunJar) -> None:
    """An application that goes on has kill_timeout to do so, not less and hardly more.

    It is asked itself: by what it prints after the signal, and by its own clock.
    """
    options = f'kill_timeout = "{seconds}s"\nkill_signal = "SIGTERM"\nenv {{\nCOUNT = "1"\n}}'
    job = listen(run_jar, "TERM", task=options)
    job.stop()
    shown = job.logs().decode()
    begun = re.search(r"got SIGTERM (\d+)", shown)
    assert begun is not None
    lived_s = (int(re.findall(r"at (\d+)", shown)[-1]) - int(begun[1])) / 1000
    assert seconds - 0.5 * SCALE < lived_s < seconds + 2 * SCALE, lived_s
    assert any("Signal: 9" in event for event in job.events()), job.events()


def test_no_time_at_all(run_jar: RunJar) -> None:
    """A kill_timeout that the application does not need is not waited for."""
    job = run_jar("stubborn.jar", kind="service", args=["0"], task='kill_timeout = "25s"')
    job.wait_logs("running")
    job.nomad.cli("job", "stop", "-detach", job.id)
    job.wait_state("dead", 20)
    assert job.exit_code() == 130


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
