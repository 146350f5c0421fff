"""What crun mounts is compared with what was checked: here, with this process's own root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from milo.core.container.mounts import Bind
from milo.errors import StateError
from milo.task.root.mount_check import MountCheck, hold_inside


def pins(
    base: Path, *binds: Bind, java_home: str = "/usr", root: str = "/", work_dir: str = ""
) -> MountCheck:
    return MountCheck(
        binds,
        alloc_dir=str(base),
        java_home=java_home,
        root=root,
        work_dir=work_dir or os.getcwd(),
    )


def bind(path: Path, origin: str = "task") -> Bind:
    """A bind that this process sees as mounted already, at its own path."""
    return Bind(str(path), str(path), readonly=False, origin=origin)


def test_what_was_checked_is_what_is_mounted(tmp_path: Path) -> None:
    """Nothing was exchanged: it passes, and no descriptor is left."""
    (tmp_path / "local").mkdir()
    before = os.listdir("/proc/self/fd")
    held = pins(tmp_path, bind(tmp_path / "local"), bind(tmp_path / "local", "job"))
    held.verify(os.getpid())
    held.close()
    held.close()
    assert os.listdir("/proc/self/fd") == before


def test_another_directory_in_its_place(tmp_path: Path) -> None:
    """A directory of the same name is not the one that was checked."""
    local = tmp_path / "local"
    local.mkdir()
    held = pins(tmp_path, bind(local))
    local.rename(tmp_path / "away")
    local.mkdir()
    with pytest.raises(StateError, match="something else took its place"):
        held.verify(os.getpid())
    held.close()


def test_a_symlink_in_its_place(tmp_path: Path) -> None:
    """A symlink to the very same directory is refused, before and after."""
    local = tmp_path / "local"
    local.mkdir()
    held = pins(tmp_path, bind(local))
    local.rename(tmp_path / "away")
    local.symlink_to("away")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(StateError, match="symlink"):
        held.verify(os.getpid())
    with pytest.raises(StateError, match="symlink"):
        pins(tmp_path, bind(local))
    assert os.listdir("/proc/self/fd") == before
    held.close()


def test_a_symlink_on_the_way(tmp_path: Path) -> None:
    """Below the allocation's directory, and on the way to a JDK, no symlink is followed."""
    (tmp_path / "real/local").mkdir(parents=True)
    (tmp_path / "task").symlink_to("real")
    with pytest.raises(StateError, match="symlink"):
        pins(tmp_path, bind(tmp_path / "task/local"))
    with pytest.raises(StateError, match="symlink"):
        pins(tmp_path, java_home=str(tmp_path / "task"))
    pins(tmp_path / "task", bind(tmp_path / "task/local")).close()  # above it, the path is trusted


def test_a_missing_source(tmp_path: Path) -> None:
    """What is gone is told by its path."""
    with pytest.raises(StateError, match="volume: it does not exist"):
        pins(tmp_path, bind(tmp_path / "volume", "job"))


def test_a_java_of_the_tasks_own(tmp_path: Path) -> None:
    """A JDK in the task's directories is mounted with them, not by itself."""
    (tmp_path / "local/jdk").mkdir(parents=True)
    held = pins(tmp_path, bind(tmp_path / "local"), java_home=str(tmp_path / "local/jdk"))
    (tmp_path / "local/jdk").rmdir()
    held.verify(os.getpid())
    held.close()


# ---- the working directory --------------------------------------------------------------


def test_working_directory_is_the_one_that_was_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found in the task's directories or in the root, and compared with the process's."""
    work = tmp_path / "local/work"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    held = pins(tmp_path, bind(tmp_path / "local"), work_dir=str(work))
    held.verify(os.getpid())
    os.chdir("/")
    with pytest.raises(StateError, match=r"local/work.*something else took its place"):
        held.verify(os.getpid())
    held.close()
    os.chdir(work)
    held = pins(tmp_path, root=str(tmp_path / "local"), work_dir="/work")
    held.verify(os.getpid())
    held.close()


def test_working_directory_is_reached_by_no_symlink(tmp_path: Path) -> None:
    """Neither before the start nor for a command."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(StateError, match="symlink"):
        pins(tmp_path, root=str(tmp_path), work_dir="/link")
    with pytest.raises(StateError, match="symlink"):
        hold_inside(os.getpid(), f"{tmp_path}/link")
    with pytest.raises(StateError, match="no directory"):
        hold_inside(os.getpid(), "/etc/passwd")
    assert os.listdir("/proc/self/fd") == before
    for path in ("/", str(tmp_path)):
        with hold_inside(os.getpid(), path) as held:
            assert os.path.samestat(held.status, os.stat(path))
