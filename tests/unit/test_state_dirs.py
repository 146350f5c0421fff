"""Which state directories are believed: those that root alone has named and can change."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from milo import walk
from milo.cli.main import run_command
from milo.errors import StateError
from milo.host import state_dirs
from milo.host.state_dirs import StateDirs
from milo.host.state_store import StateStore


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose directories are all below a temporary one, and whose root is this user."""
    look = walk.writable_by_others

    def writable_by_others(path: str, owners: Collection[int] = ()) -> str:
        return look(path, owners=(os.geteuid(),), top=str(tmp_path))

    monkeypatch.setattr(walk, "writable_by_others", writable_by_others)
    for name in ("DEFAULT", "RUN_DIRECTORY", "POINTERS"):
        monkeypatch.setattr(state_dirs, name, str(tmp_path / "run" / name.lower()))
    (tmp_path / "run").mkdir(mode=0o755)
    return tmp_path


def make(path: Path, mode: int = 0o700) -> str:
    """Make a directory."""
    path.mkdir(parents=True)
    path.chmod(mode)
    return str(path)


def test_a_host_without_milo_has_none(host: Path) -> None:
    """What is not there is neither looked into nor complained about."""
    assert state_dirs.of_host(str(host / "nowhere")) == StateDirs((), ())


def test_the_default_those_of_runs_and_the_named(host: Path) -> None:
    """Each is found once, whatever else the command line names."""
    default = make(host / "run/default")
    run = make(host / "run/run_directory/abc")
    named = make(host / "named")
    assert state_dirs.of_host(named) == StateDirs((named, default, run), ())
    assert state_dirs.of_host(default).trusted == (default, run)
    assert state_dirs.of_drivers(named).trusted == (named, default)
    assert state_dirs.of_runs().trusted == (run,)
    (host / "same").symlink_to("run/default")
    assert state_dirs.of_drivers(str(host / "same")).trusted == (str(host / "same"),)


def test_drivers_that_begin_at_the_same_time(
    host: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What another one has just dropped is none of this one's concern, which drops the rest."""
    names = [make(host / f"gone-{number}") for number in range(3)]
    for name in names:
        state_dirs.announce(name)
    for name in names:
        Path(name).rmdir()
    unlink, dropped = os.unlink, []

    def unlink_after_another(path: str) -> None:
        dropped.append(path)
        if len(dropped) == 1:
            unlink(path)
        unlink(path)

    monkeypatch.setattr(os, "unlink", unlink_after_another)
    state_dirs.announce(make(host / "mine"))
    assert len(dropped) == len(names) and not caplog.text
    assert state_dirs.of_host(str(host / "none")).trusted == (str(host / "mine"),)


def test_a_driver_leaves_a_pointer(host: Path) -> None:
    """A state directory that is not the default is found, until it is gone."""
    one, two = (make(host / f"some where/{name}\nä") for name in ("one", "two"))
    for path in (one, one, two, state_dirs.DEFAULT):
        state_dirs.announce(path)
    assert set(state_dirs.of_drivers(state_dirs.DEFAULT).trusted) == {one, two}
    pointers = Path(state_dirs.POINTERS)
    assert len(list(pointers.iterdir())) == 2 and pointers.stat().st_mode & 0o777 == 0o700
    os.rmdir(one)
    assert state_dirs.of_drivers(state_dirs.DEFAULT).trusted == (two,)
    state_dirs.announce(make(host / "three"))
    assert len(list(pointers.iterdir())) == 2


def test_no_pointer_is_no_error(host: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where none can be left, a task starts all the same."""
    Path(state_dirs.POINTERS).write_text("")
    state_dirs.announce(make(host / "one"))
    assert "milo ps will not find" in caplog.text


def writable(path: Path) -> None:
    path.chmod(0o777)


def of_the_group(path: Path) -> None:
    path.chmod(0o770)


@pytest.mark.parametrize("widen", [writable, of_the_group])
@pytest.mark.parametrize("part", ["below", "below/state"])
def test_what_others_can_change_is_refused(
    widen: Callable[[Path], None], part: str, host: Path
) -> None:
    """A state directory, or one above it, that others can write is not looked into."""
    path = make(host / "below/state")
    assert state_dirs.of_host(path).trusted == (path,)
    widen(host / part)
    found = state_dirs.of_host(path)
    assert found.trusted == ()
    assert len(found.refused) == 1 and f"{host / part} can be written by others" in found.refused[0]
    assert state_dirs.refusal(path) == found.refused[0]
    assert state_dirs.refusal(str(host / "below/none")) == ""


def test_a_directory_like_tmp_is_passed(host: Path) -> None:
    """Where others can only add names, what is root's stays; as a state directory it is none."""
    path = make(host / "tmp/state")
    (host / "tmp").chmod(0o1777)
    assert state_dirs.of_host(path).trusted == (path,)
    assert state_dirs.of_host(str(host / "tmp")).trusted == ()


def test_a_symlink_counts_with_where_it_lies_and_leads(host: Path) -> None:
    """One that others can exchange leads nowhere that is believed."""
    path = make(host / "root/state")
    (host / "theirs").mkdir()
    (host / "theirs/link").symlink_to(path)
    link = str(host / "theirs/link")
    assert state_dirs.of_host(link).trusted == (link,)
    (host / "theirs").chmod(0o777)
    assert state_dirs.of_host(link).trusted == ()
    (host / "file").write_text("")
    (refused,) = state_dirs.of_host(str(host / "file")).refused
    assert "it is not a directory but a regular file" in refused


@pytest.mark.parametrize("name", ["RUN_DIRECTORY", "POINTERS"])
def test_pointers_of_others_lead_nowhere(name: str, host: Path) -> None:
    """What lies where others can write is not even read."""
    directory = Path(make(Path(getattr(state_dirs, name))))
    (directory / "x").symlink_to(make(host / "state"))
    assert state_dirs.of_host("/nowhere").trusted == (
        (str(host / "state"),) if name == "POINTERS" else (str(directory / "x"),)
    )
    directory.chmod(0o777)
    assert state_dirs.of_host("/nowhere") == StateDirs((), ())


def test_the_name_of_a_socket_is_no_word_of_roots(host: Path) -> None:
    """An abstract name, which any process of the host may choose, makes no state directory."""
    path = "/opt/s/0123456789abcdef"
    line = f"\n0: 00000002 00000000 00010000 0005 01 7 {path}/control.sock"
    names: list[str | bytes] = [f"\0{path}/control.sock", f"\0{line}", "\0\n", b"\0\xff\xfe\n\n \n"]
    sockets = []
    for name in names:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.bind(name)
        sockets.append(sock)
    assert state_dirs.of_host("/nowhere") == StateDirs((), ())
    for sock in sockets:
        sock.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="another user than root can trust nothing")
def test_a_driver_refuses_what_others_can_change(tmp_path: Path) -> None:
    """A state_dir below another user's directory is refused before anything lies in it."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    with pytest.raises(StateError, match="theirs belongs to the user 65534"):
        StateStore(str(theirs / "state")).prepare()
    StateStore(str(tmp_path / "state")).prepare()


@pytest.fixture
def data(host: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of one run's data, whose records are nowhere that anybody looks."""
    monkeypatch.setattr(state_dirs, "DATA_DIRECTORY", str(host / "data"))
    path = host / "data/abc"
    make(path)
    (host / "elsewhere").mkdir()
    return path


def test_data_without_records_is_left(data: Path, host: Path) -> None:
    """Once the run has removed them, and after a reboot."""
    os.close(state_dirs.claim_data(str(data), str(host / "gone")))
    assert state_dirs.left_data() == [str(data)]
    os.close(state_dirs.claim_data(str(data), str(host / "elsewhere")))
    claim = json.loads((data / "claim.json").read_text())
    (data / "claim.json").write_text(json.dumps({**claim, "boot": "another"}))
    assert state_dirs.left_data() == [str(data)]


def test_data_of_a_run_that_cannot_be_seen_is_not_left(data: Path, host: Path) -> None:
    """Of another login, another host with the same home, and what nobody can read."""
    os.close(state_dirs.claim_data(str(data), str(host / "elsewhere")))
    assert state_dirs.left_data() == []
    claim = json.loads((data / "claim.json").read_text())
    (data / "claim.json").write_text(json.dumps({**claim, "host": "another", "boot": "another"}))
    assert state_dirs.left_data() == []
    (data / "claim.json").write_text("{}")
    assert state_dirs.left_data() == []


def test_data_of_a_run_that_lives_is_not_left(data: Path, host: Path) -> None:
    """Wherever its records are: another mount namespace may have a /tmp of its own."""
    held = state_dirs.claim_data(str(data), str(host / "gone"))
    os.utime(data, (0, 0))
    assert state_dirs.left_data() == []
    (data / "claim.json").unlink()
    assert state_dirs.left_data() == []
    os.close(held)
    os.utime(data, (0, 0))
    assert state_dirs.left_data() == [str(data)]


def test_data_without_a_claim_is_left_when_it_is_old(data: Path) -> None:
    """A run that begins has none yet."""
    assert state_dirs.left_data() == []
    os.utime(data, (0, 0))
    assert state_dirs.left_data() == [str(data)]


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a directory of another user's")
def test_nothing_is_made_in_a_directory_of_another_user(tmp_path: Path) -> None:
    """It is refused first, as `$XDG_STATE_HOME` that su(1) has left; a sticky one is for all."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 1001, 1001)
    with pytest.raises(StateError, match="theirs belongs to the user 1001"):
        StateStore(str(theirs / "a/milo")).prepare("XDG_STATE_HOME")
    assert not list(theirs.iterdir())
    os.chown(theirs, 0, 0)
    theirs.chmod(0o1777)
    StateStore(str(theirs / "milo")).prepare("XDG_STATE_HOME")
    assert (theirs / "milo").stat().st_mode & 0o777 == 0o700


def test_a_refused_directory_of_runs_is_told(
    tmp_path: Path, another_user: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Anybody can make ``/tmp/milo-ID``: no tasks is then not all there is to say."""
    found = state_dirs.of_host(state_dirs.DEFAULT)
    assert found == StateDirs((), ())
    (place := tmp_path / f"milo-{another_user}").mkdir()
    place.chmod(0o777)
    (refused,) = state_dirs.of_host(state_dirs.DEFAULT).refused
    assert refused.startswith(f"{place} is not looked into: ")
    assert run_command(["ps"]) == 0
    out, err = capsys.readouterr()
    assert "is not looked into: " in err
    assert out == "No Milo tasks were found elsewhere.\n"
