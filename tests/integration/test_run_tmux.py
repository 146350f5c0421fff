"""`milo run` and `milo exec` on a terminal, typed and looked at, as root and as another user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from milo.host.state_dirs import RUN_DIRECTORY
from milo.proc import start_ticks
from tests.support import private_mounts
from tests.support.leftovers import runs_in
from tests.support.ordinary_user import ordinary_user
from tests.support.terminal import Terminal, terminal
from tests.support.waiting import scaled, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a user")

Argv = Callable[..., Sequence[str]]


@pytest.fixture(scope="module", params=["root", "ordinary"])
def argv(request: pytest.FixtureRequest) -> Iterator[Argv]:
    """What makes a command line of Milo's for one user; nothing of it is left in the end."""
    if request.param == "root":
        with private_mounts.small_tmpfs(Path(RUN_DIRECTORY), "64m"):
            yield lambda *words: [sys.executable, "-m", "milo", *words]
            wait_for("the end of all", lambda: runs_in(RUN_DIRECTORY) == [])
        return
    with ordinary_user(f"milom{os.getpid()}") as user:
        yield partial(user.argv, TERM="screen")
        wait_for("the end of all", lambda: not user.processes())
        assert runs_in(user.runtime_dir / "milo") == []
        assert os.listdir(user.home / ".local/state/milo") == []


@pytest.fixture(scope="module")
def jars(jar_dir: Path) -> Iterator[Path]:
    """The JARs, where everybody can read them."""
    copies = Path(f"/opt/milo-jars-{os.getpid()}")
    shutil.copytree(jar_dir, copies)
    copies.chmod(0o755)
    yield copies
    shutil.rmtree(copies)


@pytest.fixture
def window() -> Iterator[Terminal]:
    """A terminal of 80 columns and 24 rows."""
    with terminal() as opened:
        yield opened


def task(argv: Argv, name: str) -> dict[str, Any] | None:
    """Return what milo ps lists of a task."""
    done = subprocess.run(
        argv("ps", "--json"),
        capture_output=True,
        text=True,
        check=True,
        timeout=scaled(60),
        cwd="/",
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return next((one for one in found if one["task"] == name and one["pid"]), None)


def test_the_application_has_the_terminal(argv: Argv, jars: Path, window: Terminal) -> None:
    """With -it: every key is its own, it knows the size, and the caller's is as before."""
    window.run(argv("run", "-it", str(jars / "shell.jar"), "sh"))
    window.wait_for("$")
    window.type("tty; stty size; echo TERM is $TERM", "Enter")
    shown = window.wait_for("TERM is ", count=2)
    assert "/dev/pts/0" in shown and "24 80" in shown
    assert "TERM is tmux" in shown or "TERM is screen" in shown
    window.resize(100, 30)
    # A busy host lets the shell go first.
    window.type("until stty size | grep 100; do sleep 0.1; done", "Enter")
    window.wait_for("30 100")
    window.type("sleep 1000", "Enter")
    window.type("C-c")
    window.wait_for("^C")
    window.type("echo -n still; echo ' here'; exit 7", "Enter")
    window.wait_for("still here")
    window.wait_for("status 7.")
    window.type("stty -a", "Enter")
    shown = window.wait_for("icanon")
    assert "-icanon" not in shown and "-opost" not in shown and "-echo " not in shown


def test_keys_are_signals_in_there(argv: Argv, jars: Path, window: Terminal) -> None:
    """Ctrl-\\ prints the threads, Ctrl-C ends the JVM as it does without a container."""
    window.run(argv("run", "-it", str(jars / "stubborn.jar"), "100"))
    window.wait_for("running")
    window.type("C-\\")
    window.wait_for("Full thread dump")
    window.type("C-c")
    shown = window.wait_for("status 130.")
    assert "asked to end" in shown and "ended in peace" in shown


def test_the_end_of_input(argv: Argv, jars: Path, window: Terminal) -> None:
    """Ctrl-D is an end of file, and what is piped in has one, too."""
    window.run(argv("run", "-it", "--name", "typed", str(jars / "shell.jar"), "wc -c"))
    wait_for("the task", lambda: task(argv, "typed"))
    window.type("four", "Enter", "C-d")
    window.wait_for("status 0.")
    assert "5\n" in window.shown()
    piped = subprocess.run(
        argv("run", "-it", str(jars / "shell.jar"), "wc -c; tty"),
        input="no line",
        capture_output=True,
        text=True,
        check=True,
        timeout=scaled(60),
        cwd="/",
    )
    assert piped.stdout.endswith("7\n/dev/pts/0\n"), piped


def test_without_input_the_keys_stay_here(argv: Argv, jars: Path, window: Terminal) -> None:
    """With -t alone, and without both, Ctrl-\\ is for the JVM and Ctrl-C stops it."""
    for words in (["-t"], []):
        window.run(argv("run", *words, str(jars / "stubborn.jar"), "100"))
        window.wait_for("running")
        window.type("C-\\")
        window.wait_for("Full thread dump")
        window.type("C-c")
        shown = window.wait_for("status 143.")
        assert "asked to end" in shown and "ended in peace" in shown


def test_a_second_ctrl_c_kills(argv: Argv, jars: Path, window: Terminal) -> None:
    """An application that does not end."""
    window.run(argv("run", str(jars / "stubborn.jar"), "600000"))
    window.wait_for("running")
    window.type("C-c")
    window.wait_for("asked to end")
    window.type("C-c")
    shown = window.wait_for("status 137.")
    assert "SIGKILL" in shown and "Traceback" not in shown


@pytest.mark.parametrize("options", [[], ["-t"], ["-it"]])
def test_a_closed_terminal_ends_it(
    argv: Argv, jars: Path, window: Terminal, options: list[str]
) -> None:
    """And nothing of it is left."""
    name = "closing" + "".join(options)  # another worker may be at another of these
    window.run(argv("run", "--name", name, *options, str(jars / "stubborn.jar"), "100"))
    window.wait_for("running")
    found = task(argv, name)
    window.close()
    wait_for("the end", lambda: task(argv, name) is None)
    assert found is not None
    wait_for("the end of its JVM", lambda: start_ticks(found["pid"]) is None)


def test_messages_on_a_raw_terminal(argv: Argv, jars: Path, window: Terminal) -> None:
    """Each begins at the left."""
    window.run(argv("run", "-it", "--verbose", str(jars / "both.jar"), "3"))
    shown = window.wait_for("status 0.")
    lines = [line for line in shown.splitlines() if line.strip()]
    assert all(not line.startswith(" ") for line in lines), shown
    assert sum(line.startswith("milo: ") for line in lines) >= 2
    assert [line for line in lines if line.startswith(("out", "err"))].count("out 2") == 1


def test_a_command_in_a_task(argv: Argv, jars: Path, window: Terminal) -> None:
    """milo exec: its size follows, its exit code is told, the terminal is as before."""
    window.run(argv("run", "-d", "--name", "inside", str(jars / "clock.jar")))
    window.wait_for("status 0.")
    try:
        window.run(argv("exec", "-it", "inside", "sh"))
        window.wait_for("$")
        window.resize(90, 20)
        window.type("until stty size | grep 90; do sleep 0.1; done; exit 3", "Enter")
        window.wait_for("20 90")
        window.wait_for("status 3.")
        window.type("stty -a", "Enter")
        assert "-icanon" not in window.wait_for("icanon")
    finally:
        window.run(argv("stop", "inside"))
        window.wait_for("status 0.")
        window.run(argv("gc", "--yes", "inside"))
        window.wait_for("status ")
