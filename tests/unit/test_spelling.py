"""What `milo run` calls the keys of a job, in its options and in its messages."""

from __future__ import annotations

import subprocess
import sys

import pytest

from milo.cli.parser import build_parser
from milo.cli.parsing import commands_of, option_strings
from milo.core.config.options import options_of
from milo.core.config.spelling import in_options, option_of
from milo.core.config.task_options import TaskOptions
from milo.errors import ConfigError


def test_every_key_has_an_argument() -> None:
    """An option, but for the JAR and the application's arguments."""
    known = {*option_strings(commands_of(build_parser())["run"]), "APP.JAR", "ARGUMENT"}
    assert {option_of(key) for key in options_of(TaskOptions)} <= known


@pytest.mark.parametrize(
    ("key", "problem", "expected"),
    [
        ("shm_size", 'with ipc_mode = "host" it is', '--shm-size: with --ipc-mode "host" it is'),
        ("mounts[0].source", "it is relative", "--volume: it is relative"),
        ("ulimit.nofile", "got 'x'", "--ulimit nofile: got 'x'"),
        ("jvm_options[1]", "two options", "--jvm-option: two options"),
        ("mount destination", "as it was", "mount destination: as it was"),
        ("--env", "as it was", "--env: as it was"),
    ],
)
def test_messages_name_options(key: str, problem: str, expected: str) -> None:
    """Where an option stands for the key; all else is as it was."""
    assert f"Invalid value for {expected}. Expected x" in str(
        in_options(ConfigError(key, problem, "x"))
    )


def test_help_loads_little() -> None:
    """Neither the event loop nor what prints tables: it is there at once."""
    code = (
        "import sys; from milo.cli.main import run_command; run_command(['--help']); "
        "sys.exit(bool({'trio', 'rich', 'difflib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0
