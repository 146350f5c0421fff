"""crun's command lines, one builder for each command."""

from __future__ import annotations

import subprocess

import pytest

from milo.core.container import crun

GLOBAL = ["crun", "--root=/r", "--log=file:/s/crun.log", "--cgroup-manager=cgroupfs"]


def test_create_names_bundle_and_pid_file() -> None:
    """create gets the bundle, the file for the process id, and the container's id last."""
    assert crun.create_args(
        "crun", "milo-1", bundle_path="/s/b", pid_file="/s/pid", log_file="/s/crun.log", root="/r"
    ) == [*GLOBAL, "create", "--bundle=/s/b", "--pid-file=/s/pid", "milo-1"]


def test_start_takes_the_id_alone() -> None:
    """start needs nothing but the id."""
    assert crun.start_args("crun", "milo-1", "/s/crun.log", "/r") == [*GLOBAL, "start", "milo-1"]


def test_delete_is_forced_only_when_asked() -> None:
    """delete refuses a running container unless it is forced."""
    assert crun.delete_args("crun", "milo-1", "/s/crun.log", "/r") == [*GLOBAL, "delete", "milo-1"]
    forced = crun.delete_args("crun", "milo-1", "/s/crun.log", "/r", force=True)
    assert forced == [*GLOBAL, "delete", "--force", "milo-1"]


def test_exec_is_detached_and_reads_its_process_from_a_file() -> None:
    """The command itself is in the file, so that no word of it can be an option of crun's."""
    arguments = {"process_path": "/s/p.json", "pid_file": "/s/p.pid"}
    plain = crun.exec_args("crun", "milo-1", log_file="/s/crun.log", root="/r", **arguments)
    common = ["exec", "--detach", "--process=/s/p.json", "--pid-file=/s/p.pid"]
    assert plain == [*GLOBAL, *common, "milo-1"]
    with_terminal = crun.exec_args(
        "crun", "milo-1", log_file="/s/crun.log", root="/r", console_socket="/s/tty", **arguments
    )
    assert with_terminal == [*GLOBAL, *common, "--console-socket=/s/tty", "milo-1"]


@pytest.mark.parametrize(("program", "code"), [("/bin/true", 0), ("/bin/false", 1)])
def test_the_given_program_is_what_runs(program: str, code: int) -> None:
    """The first word is the configured crun, whatever program that is."""
    argv = crun.delete_args(program, "milo-1", "/s/crun.log", "/r")
    assert subprocess.run(argv, check=False).returncode == code


def test_containers_are_named_after_the_state_directory() -> None:
    """A container's id is the task's short id with Milo's prefix."""
    assert crun.container_name("0123abcd") == "milo-0123abcd"
