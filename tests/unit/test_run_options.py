"""What ``milo run`` and ``milo dump`` make of their arguments, and of what a JVM has written."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from milo import proc
from milo.cli import dump, jvm_tools, run, run_leftovers, run_options, tasks
from milo.cli.parser import build_parser
from milo.cli.parsing import commands_of, milo_words
from milo.core.records import ExitRecord, ProcessId
from milo.errors import ConfigError

ROOT = Path(__file__).parents[2]
IGNORING = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, "-m", "milo", "run", "-d", "no.jar"])
"""


def test_a_recording_is_its_owners_alone(tmp_path: Path) -> None:
    """It has the application's environment in it, as a heap dump may."""
    made = tmp_path / "alloc/data" / jvm_tools.RECORDING
    made.parent.mkdir(parents=True)
    made.write_bytes(b"FLR")
    target = tmp_path / "mine.jfr"
    before = os.umask(0o022)
    try:
        jvm_tools.keep_recording(Namespace(jfr=str(target)), str(tmp_path))
    finally:
        os.umask(before)
    assert target.read_bytes() == b"FLR" and target.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("port", ["0", "65536", "x", "", " 1", "\u0661", "9" * 5000])
def test_a_port_is_a_number(port: str) -> None:
    """Whatever else was typed is refused, also digits that Python does not convert."""
    with pytest.raises(ConfigError, match="a port from 1 to 65535"):
        jvm_tools._port("--debug", port)


def test_an_environment_file_is_read_whole_or_not(tmp_path: Path) -> None:
    """One that is longer than what is read is refused, and not cut."""
    path = tmp_path / "env"
    path.write_text("A=1\n# no\n\nB=2\n")
    options = Namespace(env_file=[str(path)], env=["B=3"])
    assert run_options.environment(options) | {"A": "1", "B": "3"} == run_options.environment(
        options
    )
    path.write_text("A=" + "x" * run_options.MAX_ENV_FILE)
    with pytest.raises(ConfigError, match="more than 1 MiB"):
        run_options.environment(options)


def test_a_threads_name_does_not_control_the_terminal() -> None:
    """The application has chosen it."""
    assert dump._for_terminal(b'"a\x1b]0;t\x07" #1\n') == b'"a\\x1b]0;t\\x07" #1\n'


@pytest.mark.parametrize(
    ("stopped", "changed", "watch", "background", "over"),
    [
        (False, False, False, False, True),
        (False, False, True, False, False),
        (True, False, True, False, True),
        (True, True, True, False, False),
        (True, True, True, True, False),
        (False, False, True, True, True),
    ],
)
def test_watching_goes_on_where_somebody_sees_it(
    stopped: bool, changed: bool, watch: bool, background: bool, over: bool
) -> None:
    """In the background a run ends with its application, unless the JAR has changed."""
    end = run._End(ExitRecord(exit_code=0), stopped=stopped, changed=changed)
    assert run._is_over(end, watch=watch, background=background) is over


def test_the_caller_may_ignore_the_end_of_children() -> None:
    """A run in the background that fails still says why, and nothing about Milo's own faults."""
    done = subprocess.run(
        [sys.executable, "-c", IGNORING], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "no.jar cannot be read" in done.stderr
    assert "fault" not in done.stderr


def test_input_for_a_command_can_be_asked_for_as_with_docker() -> None:
    """``milo exec -it web sh``."""
    execute = commands_of(build_parser())["exec"]
    own, rest = milo_words(execute, ["-it", "web", "sh", "-i"])
    options = execute.parse_args(own)
    assert (options.task, options.tty, rest) == ("web", True, ["sh", "-i"])


def test_no_more_is_asked_for_than_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    """``milo run`` needs a JAR; the application may have no arguments."""
    with pytest.raises(SystemExit):
        commands_of(build_parser())["run"].parse_args(["--"])
    assert capsys.readouterr().err.endswith("required: APP.JAR\n")


def test_a_killed_run_is_ended_from_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user namespace is entered while there is one thread: before progress is shown."""
    order: list[str] = []

    @contextlib.contextmanager
    def shown(_: str) -> Iterator[None]:
        order.append("progress")
        yield

    def work(*_: object) -> str:
        order.append("work")
        return "The task has ended"

    task = Namespace(name="web", running=True, supervised=False, state_dir="/run/user/1/milo/x/y")
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    monkeypatch.setattr(tasks, "tasks_of_host", lambda _: [task])
    monkeypatch.setattr(tasks, "find_task", lambda *_: task)
    monkeypatch.setattr(tasks, "is_run", lambda _: True)
    monkeypatch.setattr(tasks, "enter", lambda: order.append("enter"))
    monkeypatch.setattr(tasks, "progress", shown)
    monkeypatch.setattr(trio, "run", work)
    assert tasks.stop_task(Namespace(task="web", signal="SIGTERM", timeout="1s")) == 0
    assert order == ["enter", "progress", "work", "work"]


def test_the_end_of_a_process_is_waited_for() -> None:
    """As long as was asked for."""
    with subprocess.Popen(["sleep", "60"]) as child:
        ticks = proc.start_ticks(child.pid)
        assert ticks is not None
        process = ProcessId(child.pid, ticks)
        assert not trio.run(run_leftovers.ends_within, process, 0.05)
        child.kill()
        child.wait()
        assert trio.run(run_leftovers.ends_within, process, 5)
