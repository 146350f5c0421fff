"""`milo uninstall`, and what `milo install` says it has replaced."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import pytest

from milo.cli import uninstall as uninstaller
from milo.cli.executable import Executable, read_executable, write_launcher
from milo.cli.main import run_command
from milo.core.records import ProcessId, TaskRecord
from milo.host.tasks import HostTask
from milo.proc import start_ticks
from tools import build_executable


def self_contained(path: Path) -> None:
    """Write a self-contained executable as it is built, but for most of its packages."""
    build_executable.pack({"milo/entry.py": b""}, path)


def other_archive(path: Path) -> None:
    """Write something that begins as the self-contained executable does."""
    with path.open("wb") as file:
        file.write(b"#!/bin/sh\nexec python3\n")
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("other.py", "")


def test_what_was_installed_is_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The launcher and the self-contained file; nothing else of the directory."""
    (tmp_path / "other").touch()
    path = tmp_path / "milo"
    assert run_command(["install", str(tmp_path)]) == 0
    assert "replaced" not in capsys.readouterr().out
    assert run_command(["install", str(tmp_path)]) == 0
    assert "Replaced the launcher of the Milo in /" in capsys.readouterr().out
    assert run_command(["uninstall", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert f"Removed {path}, the launcher" in text
    assert 'plugin "milo"' in text
    self_contained(path)
    assert run_command(["install", str(tmp_path)]) == 0
    assert "Replaced Milo's self-contained executable" in capsys.readouterr().out
    self_contained(path)
    assert run_command(["uninstall", str(tmp_path)]) == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize("name", ["python", "with a blank", "it's", "x" * 120])
def test_every_launcher_is_recognised(tmp_path: Path, name: str) -> None:
    """Whatever the paths in it."""
    path = tmp_path / "milo"
    path.write_text(write_launcher(f"/opt/{name}/python", f"/opt/{name}/site"))
    assert read_executable(str(path)) == Executable(f"/opt/{name}/python", f"/opt/{name}/site")


def test_what_milo_has_not_made_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A script, an archive, a symlink, a directory; and nothing at all is said, too."""
    path = tmp_path / "milo"
    assert run_command(["uninstall", str(tmp_path)]) == 1
    assert f"there is no {path}" in capsys.readouterr().err
    path.write_text(write_launcher(sys.executable, "/x") + "print('changed')\n")
    assert run_command(["uninstall", str(tmp_path)]) == 1
    assert "a file that is not Milo's" in capsys.readouterr().err
    assert run_command(["uninstall", str(path)]) == 1
    assert "milo is not a directory" in capsys.readouterr().err
    other_archive(path)
    assert run_command(["uninstall", str(tmp_path)]) == 1
    assert path.exists()
    path.unlink()
    target = tmp_path / "target"
    target.write_text(write_launcher(sys.executable, "/x"))
    path.symlink_to(target)
    assert run_command(["uninstall", str(tmp_path)]) == 1
    assert f"a symlink to {target}" in capsys.readouterr().err
    assert path.is_symlink() and target.exists()
    path.unlink()
    path.mkdir()
    assert run_command(["uninstall", str(tmp_path)]) == 1
    assert path.is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory to another user")
def test_nothing_is_removed_where_another_user_could_exchange_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """He could lead root to a file elsewhere, between the look at it and its removal."""
    others = tmp_path / "others"
    (plugins := others / "plugins").mkdir(parents=True)
    assert run_command(["install", str(plugins)]) == 0
    os.chown(others, 12345, 12345)
    capsys.readouterr()
    assert run_command(["uninstall", str(plugins)]) == 1
    assert f"{others} belongs to the user 12345" in capsys.readouterr().err
    assert (plugins / "milo").exists()


def test_tasks_that_still_run_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They go on, and how to end them is said."""
    ticks = start_ticks(os.getpid())
    assert ticks is not None
    record = TaskRecord("t", "web", "0123456789", "/alloc", ProcessId(os.getpid(), ticks))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    task = HostTask("/run/milo/0123", record, None, None)
    monkeypatch.setattr(uninstaller, "list_tasks", lambda _: [task])
    assert run_command(["install", str(tmp_path)]) == 0
    assert run_command(["uninstall", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "0123  web  allocation 01234567" in text
    assert "nomad job stop" in text and "milo stop TASK" in text
