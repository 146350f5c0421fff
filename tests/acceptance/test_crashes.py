"""Applications that end by a signal of their own, under a real agent: each as on a plain host."""

from __future__ import annotations

import re

import pytest

from tests.acceptance.conftest import RunJar
from tests.support.nomad import Job
from tests.support.waiting import wait_for


def event(job: Job, words: str) -> str:
    """Return the first event of the job's task that holds ``words``, once it is there."""
    return wait_for(
        f"an event with {words!r}",
        lambda: next((text for text in job.events() if words in text), ""),
    )


@pytest.mark.parametrize(
    ("how", "options", "number"),
    [
        ("9", [], 9),
        ("6", [], 6),
        ("oom", ["-Xmx32m", "-XX:OnOutOfMemoryError=kill -9 %p"], 9),
    ],
    ids=["kill", "abort", "on-oom"],
)
def test_a_signal_from_inside(run_jar: RunJar, how: str, options: list[str], number: int) -> None:
    """The task fails by exactly that signal."""
    job = run_jar("dies.jar", args=[how], jvm_options=options)
    job.wait_state("dead")
    assert job.task()["Failed"]
    assert job.exit_code() == 128 + number
    event(job, f"Signal: {number}")


@pytest.mark.parametrize(
    ("how", "options", "cause"),
    [
        ("segv", [], r"SIGSEGV \(0xb\) in frame V \[libjvm\.so\+0x\w+\] "),
        ("oom", ["-Xmx32m", "-XX:+CrashOnOutOfMemoryError"], r"Internal Error .*Java heap space; "),
    ],
    ids=["fault", "crash-on-oom"],
)
def test_a_crash(run_jar: RunJar, how: str, options: list[str], cause: str) -> None:
    """Signal 6, and an event with cause, frame and the report, which Nomad can show."""
    job = run_jar("dies.jar", args=[how], jvm_options=options)
    job.wait_state("dead")
    assert job.exit_code() == 134
    event(job, "Signal: 6")
    text = event(job, "the JVM crashed: ")
    assert re.search(cause, text), text
    found = re.search(r"its report is /(alloc/data/\S+\.hs_err\.log)", text)
    assert found is not None, text
    report = job.nomad.cli("alloc", "fs", job.allocation(), found[1])
    assert "A fatal error has been detected by the Java Runtime Environment" in report


def test_sigterm_under_xrs(run_jar: RunJar) -> None:
    """Where the JVM leaves SIGTERM to the kernel, a stop by it needs no kill timeout."""
    options = 'kill_signal = "SIGTERM"\nkill_timeout = "25s"'
    job = run_jar("dies.jar", args=["wait"], jvm_options=["-Xrs"], kind="service", task=options)
    job.wait_logs("pid 2\n")
    job.nomad.cli("job", "stop", "-detach", job.id)
    job.wait_state("dead", 20)
    assert job.exit_code() == 143
    event(job, "Signal: 15")


def test_no_zombie_stays(run_jar: RunJar) -> None:
    """What the application, and a command in it, leaves behind is reaped."""
    alone = "while set -- /proc/[0-9]*; [ $# -gt {} ]; do sleep 0.01; done;"
    orphans = "for i in 1 2 3; do sh -c 'sleep 0.01 &'; done;"
    script = f"cat /proc/1/comm; {orphans} {alone.format(3)} echo running; exec sleep 600"
    job = run_jar("shell.jar", args=[script], kind="service")  # milo-pause, java and the shell
    assert job.wait_logs("running\n") == "milo-pause\nrunning\n"
    command = ("sh", "-c", f"{orphans} {alone.format(4)} echo alone")
    assert job.nomad.cli("alloc", "exec", "-t=false", job.allocation(), *command) == "alone\n"
