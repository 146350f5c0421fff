"""What ``milo gc`` says of startup archives, and what it removes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from milo.cli.gc_archives import collect_archives
from milo.cli.main import run_command
from milo.task.java.startup_store import StartupStore
from tests.unit.test_startup_store import OWNER, put


def test_archives_are_shown_and_old_ones_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An archive that was used lately stays; another one goes, and what was half written."""
    store = StartupStore(str(tmp_path / "cache"), 1 << 20)
    store.prepare()
    young, old = put(store, "young"), put(store, "old")
    os.utime(Path(old).with_name("old.json"), (1.0, 1.0))
    half, fd = store.new_file(OWNER)
    os.close(fd)
    os.utime(half, (1.0, 1.0))

    assert collect_archives(store.path, remove=False) == 0
    said = capsys.readouterr().out
    assert f"archive  {young}: of default/shop/app/web" in said and f"archive  {old}" in said
    assert f"stray    {half}" in said and "2 startup archives of 2 B" in said

    assert collect_archives(store.path, remove=True) == 0
    said = capsys.readouterr().out
    assert f"removed  {old}" in said and "1 startup archive of 1 B" in said
    assert f"removed  {half}: a stray of the startup cache" in said
    assert os.path.exists(young) and not os.path.exists(old) and not os.path.exists(half)


def test_no_cache_is_nothing_to_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing was ever recorded there is nothing to show."""
    assert collect_archives(str(tmp_path / "none"), remove=True) == 0
    assert capsys.readouterr().out == ""


def test_what_others_can_change_keeps_nothing_else_from_being_looked_at(
    tmp_path: Path,
    another_user: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A cache, or another's /tmp/milo-ID, is told and left out, and the exit status says so."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    store = StartupStore(str(tmp_path / "cache"), 1 << 20)
    store.prepare()
    archive = put(store, "young")
    words = ["gc", "--cache-dir", store.path]
    assert run_command(words) == 0
    assert f"archive  {archive}: " in capsys.readouterr().out

    (runs := tmp_path / f"milo-{another_user}").mkdir()
    runs.chmod(0o777)
    assert run_command(words) == 1
    out, err = capsys.readouterr()
    assert f"milo: {runs} is not looked into: " in err and f"archive  {archive}: " in out

    runs.rmdir()
    os.chmod(store.path, 0o777)
    assert run_command(words) == 1
    out, err = capsys.readouterr()
    assert f"milo: {store.path} is not looked into: " in err
    assert out == "You have nothing else to remove\n"


@pytest.mark.parametrize("made", ["", "a file"])
def test_a_cache_that_is_none_is_told(
    made: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who names one means it to be there."""
    if made:
        (tmp_path / "cache").write_text(made)
    assert run_command(["gc", "--cache-dir", str(tmp_path / "cache")]) == 2
    assert capsys.readouterr().err == (
        f"Error: Invalid value for --cache-dir: there is no directory {tmp_path}/cache. "
        "Expected the plugin's.\n"
    )
