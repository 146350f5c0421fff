"""What ``milo run`` and ``milo dump`` make of their arguments, and of what a JVM has written."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

import pytest

from milo.cli import dump, jvm_tools, run_options
from milo.errors import ConfigError


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
