"""The names of tasks of `milo run`."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from milo.cli.run_name import RunName
from milo.errors import ConfigError
from milo.host import state_dirs


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory for runs in which there is none."""
    tmp_path.chmod(0o700)
    monkeypatch.setattr(state_dirs, "run_directories", lambda: (str(tmp_path / "runs"),))
    return tmp_path / "runs"


def asked(name: str = "", jar: str = "/x/app.jar") -> Namespace:
    return Namespace(name=name, jar=jar, detach=True)


def test_two_runs_that_begin_at_once_have_two_names() -> None:
    """Neither has written a record yet."""
    first, second = RunName.choose(asked()), RunName.choose(asked())
    assert (first.text, second.text) == ("app", "app-2")
    with pytest.raises(ConfigError, match="a task 'app' runs already"):
        RunName.choose(asked("app"))
    first.close()
    third = RunName.choose(asked("app"))
    assert third.text == "app"
    second.close()
    third.close()


def test_what_holds_names_is_no_run(runs: Path) -> None:
    """Else `milo gc` would take it for one that was killed."""
    with RunName.choose(asked()):
        assert list(runs.iterdir()) and state_dirs.of_runs().trusted == ()
