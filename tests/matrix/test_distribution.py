"""The README's commands on a bare machine of another release: ``MILO_TEST_MACHINE`` names it.

`./dev matrix -- --dimension distributions` runs these with every release that it can make.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from tests.support import roots

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another machine's root"),
    pytest.mark.timeout(1200),
]
NAME = os.environ.get("MILO_TEST_MACHINE", "debian-13")
SET_UP_S = 900
"""Packages and wheels are downloaded, and two cores are shared."""
AT_ONCE_S = 20
STEP = re.compile(r"^(.+) \.\.\. (\d+) s\r?$", re.MULTILINE)
"""A line of a step that was done, with its time."""
LINE = "sudo apt-get "


def on_machine(
    *words: str, user: str = "root", timeout: float = SET_UP_S
) -> subprocess.CompletedProcess[str]:
    """Run a command in the user's checkout, without a terminal."""
    return subprocess.run(
        roots.argv(NAME, *words, user=user),
        cwd=roots.CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )


def demo(user: str) -> str:
    """Run the demo at a terminal until its JAR prints, press Ctrl-C, and return what was shown."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *roots.argv(NAME, "./dev", "demo", user=user)],
        cwd=roots.CHECKOUT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    stopped = False
    deadline = time.monotonic() + SET_UP_S
    try:
        while time.monotonic() < deadline:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # EIO: everybody there has ended
                break
            if not stopped and b"Processing..." in shown:
                stopped = True
                os.write(ours, b"\x03")
        process.wait(30)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    text = shown.decode(errors="replace")
    assert stopped, text[-3000:]
    return text


def test_demo_as_root() -> None:
    """On a bare machine: each step has a line with its time, and then the JAR prints."""
    roots.fresh(NAME)
    shown = demo("root")
    steps = [words for words, _ in STEP.findall(shown)]
    assert [step for step in steps if step.startswith("Installing crun default-jdk")], shown
    assert steps[-1] == "Installing Milo and its tools into .venv", shown
    assert_clean()


def test_demo_as_a_user() -> None:
    """On a bare machine: one line for root names all; with these there, the user does the rest."""
    roots.fresh(NAME)
    refused = on_machine("./dev", "demo", user=roots.USER)
    assert refused.returncode == 1, refused.stdout
    [line] = [line for line in refused.stdout.splitlines() if LINE in line]
    on_machine("apt-get", "-qq", "update")
    words = shlex.split(line.strip())[1:]
    installed = on_machine("env", "DEBIAN_FRONTEND=noninteractive", *words, "-qq", "-y")
    assert installed.returncode == 0, installed.stdout[-3000:]
    assert "Installing Milo and its tools into .venv ... " in demo(roots.USER)
    assert_clean()


def test_set_up_again() -> None:
    """Nothing is left to do, and Milo is there."""
    roots.set_up(NAME)
    again = on_machine("./dev", "setup", timeout=AT_ONCE_S)
    assert again.returncode == 0 and "Ready: " in again.stdout, again.stdout
    assert not STEP.search(again.stdout)
    assert on_machine(".venv/bin/milo", "--version").stdout.startswith("milo ")


def assert_clean() -> None:
    """Neither a mount nor a process of the machine is left on this one."""
    place = str(roots.machine(NAME))
    assert place not in Path("/proc/self/mountinfo").read_text()
    for root in Path("/proc").glob("[0-9]*/root"):
        try:
            assert not os.readlink(root).startswith(place), root
        except OSError:
            continue
