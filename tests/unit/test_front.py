"""The process in front of the one that works: what its caller sees, and how its work is ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import scaled, wait_for

PROGRAM = """
import os, signal, sys
from milo.cli.demo.front import work_behind

HEEDED = [signal.SIGINT, signal.SIGTERM]

def note(number, frame):
    with open(sys.argv[1], "w") as file:
        file.write(signal.Signals(number).name)
    sys.exit(3)

if (status := work_behind(HEEDED)) is not None:
    sys.exit(status)
for number in HEEDED:
    signal.signal(number, note)
if sys.argv[2] == "exit":
    sys.exit(7)
if sys.argv[2] == "die":
    os.kill(os.getpid(), signal.SIGKILL)
print("working", flush=True)
signal.pause()
"""


def run(noted: Path, what: str) -> subprocess.Popen[str]:
    """Start the program, and wait until its child works."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(noted), what],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    if what == "work":
        assert process.stdout.readline() == "working\n"
    return process


@pytest.mark.parametrize(("what", "status"), [("exit", 7), ("die", 128 + signal.SIGKILL)])
def test_the_end_of_the_work_is_its_own(tmp_path: Path, what: str, status: int) -> None:
    """Its exit status is the one of the process in front."""
    with run(tmp_path / "noted", what) as process:
        assert process.wait(scaled(20)) == status


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on(tmp_path: Path, number: signal.Signals) -> None:
    """Once, as it came; and what the work then ends with is told."""
    noted = tmp_path / "noted"
    with run(noted, "work") as process:
        process.send_signal(number)
        assert process.wait(scaled(20)) == 3
    assert noted.read_text() == number.name


@pytest.mark.parametrize("ignored", [False, True])
def test_being_killed_asks_the_work_to_end(tmp_path: Path, ignored: bool) -> None:
    """With SIGTERM, even where the caller ignores that one."""
    noted = tmp_path / "noted"
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN) if ignored else None
    try:
        process = run(noted, "work")
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    with process:
        process.kill()
        process.wait()
        wait_for("a signal", noted.exists)
        assert wait_for("its name", noted.read_text) == "SIGTERM"
