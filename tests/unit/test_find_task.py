"""Which task a person means, and which names a task may have."""

from __future__ import annotations

import json
import os
import time
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from milo.cli import stats
from milo.cli.exec import execute
from milo.cli.main import run_command
from milo.cli.run_leftovers import remove_run
from milo.core import records
from milo.core.launch import check_task_name
from milo.core.records import ExitRecord, ProcessId, TaskNames, TaskRecord
from milo.errors import ConfigError, TaskEndedError
from milo.host.registry import Registry
from milo.host.spawner_client import SpawnerClient
from milo.host.state_dirs import StateDirs
from milo.host.tasks import (
    MAX_MATCHES,
    HostTask,
    NoSuchTaskError,
    abandoned_runs,
    find_task,
    find_tasks,
    last_end,
    list_tasks,
)
from milo.proc import identify
from tests.support.launches import make_launch

VICTIM = "7fdf0669-5b96-5ddd-c086-b397e875d68c"
OTHER = "a02b81d4-0000-5ddd-c086-b397e875d68c"


def make_task(
    short_id: str, name: str, alloc_id: str = OTHER, *, has_ended: bool = False
) -> HostTask:
    """A task of this host."""
    record = TaskRecord("id", name, alloc_id, "/nowhere", ProcessId(2**22, 1))
    ended = ExitRecord(exit_code=0) if has_ended else None
    return HostTask(f"/run/milo/{short_id}", record, ended, None)


WEB = make_task("c706fe93ffd8dca5", "web", VICTIM)


@pytest.mark.parametrize("wanted", ["web", "c706", "c706fe93ffd8dca5", "7fdf", VICTIM])
def test_a_task_is_meant_by_name_or_the_beginning_of_an_id(wanted: str) -> None:
    """Milo's own id and the allocation's both count."""
    assert find_task(wanted, [WEB, make_task("0123456789abcdef", "other")]) is WEB


@pytest.mark.parametrize("name", [VICTIM, VICTIM[:8], VICTIM[:4], "c706fe93ffd8dca5", "c706fe93"])
@pytest.mark.parametrize("victim_has_ended", [False, True])
@pytest.mark.parametrize("has_ended", [False, True])
def test_a_name_captures_no_id_of_anothers(
    name: str, victim_has_ended: bool, has_ended: bool
) -> None:
    """A task named as another's id begins is not taken for it: the answer names both."""
    victim = make_task("c706fe93ffd8dca5", "web", VICTIM, has_ended=victim_has_ended)
    captor = make_task("0123456789abcdef", name, has_ended=has_ended)
    with pytest.raises(NoSuchTaskError) as caught:
        find_task(name, [captor, victim])
    assert "c706fe93ffd8dca5 (web" in str(caught.value)
    assert f"0123456789abcdef ({name}" in str(caught.value)
    assert find_task("0123456789abcdef", [captor, victim]) is captor


def test_of_one_name_the_running_task_is_meant() -> None:
    """One that has ended is meant when there is no other; two that run are ambiguous."""
    ended = make_task("0123456789abcdef", "web", has_ended=True)
    assert find_task("web", [ended, WEB]) is WEB
    assert find_task("web", [ended]) is ended
    with pytest.raises(NoSuchTaskError, match="more than one task"):
        find_task("web", [WEB, make_task("fedcba9876543210", "web")])
    with pytest.raises(NoSuchTaskError, match="no task on this host matches 'db'"):
        find_task("db", [ended, WEB])


def test_what_is_listed_can_be_printed() -> None:
    """A name that a terminal would obey is escaped in the answer."""
    task = make_task("0123456789abcdef", "c706\x1b[2J")
    with pytest.raises(NoSuchTaskError) as caught:
        find_task("", [WEB, task])
    assert r"c706\x1b[2J" in str(caught.value) and str(caught.value).isprintable()


BAD_NAMES = [
    "",
    ".",
    "..",
    "alloc",
    "/",
    "a/b",
    "../x",
    "a\0",
    "a\nb",
    "\x1b[2J",
    "a\x7f",
    "a\u2028",
]


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_a_name_that_is_no_directory_of_the_tasks_own_is_refused(name: str) -> None:
    """Before anything is made of it: two jobs with a task `..` have shared their secrets."""
    registry = Registry(SpawnerClient(), environ={})
    with pytest.raises(ConfigError, match="Invalid value for the task's name") as caught:
        await registry.start(make_launch(task_name=name))
    assert str(caught.value).isprintable() and not caught.value.recoverable


@pytest.mark.parametrize("name", ["web", "...", ".hidden", "a b", "größe", "漢字", "x" * 219])
def test_other_names_are_the_authors_to_choose(name: str) -> None:
    """Length, dots, blanks and letters of any language are no harm."""
    check_task_name(name)


def test_no_command_runs_in_a_task_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said as it is, instead of which socket nobody serves."""
    ended = make_task("0123456789abcdef", "web", has_ended=True)
    monkeypatch.setattr("milo.cli.exec.tasks_of_host", lambda options: [ended])
    options = Namespace(task="web", tty=False, words=[])
    with pytest.raises(TaskEndedError, match="Task 'web' has ended, so no command runs in it"):
        execute(options, ["true"])


def test_job_allocation_and_container_are_names() -> None:
    """Each of them means the task, as long as it means no other."""
    record = TaskRecord("id", "web", VICTIM, "/nowhere", ProcessId(2**22, 1))
    launch = make_launch(job_name="shop", group_name="app", alloc_name="shop.app[2]")
    one = HostTask("/run/milo/c706fe93ffd8dca5", record, None, launch)
    other = make_task("0123456789abcdef", "web")
    for wanted in ("shop", "shop.app[2]", "shop.app[2]/web", "milo-c706fe93ffd8dca5"):
        assert find_task(wanted, [one, other]) is one
    with pytest.raises(NoSuchTaskError, match=r"c706fe93ffd8dca5 \(shop.app\[2\]/web"):
        find_task("web", [one, other])
    with pytest.raises(NoSuchTaskError, match="Did you mean shop"):
        find_task("shp", [one, other])
    assert (one.group, one.job_name, other.group) == ("app[2]", "shop", "")


def test_a_run_of_a_newer_milo_is_not_abandoned(tmp_path: Path) -> None:
    """Whether its application lives is for that Milo to say."""
    state_dir = tmp_path / "0123456789abcdef"
    state_dir.mkdir()
    os.utime(tmp_path, (0, 0))
    (state_dir / "task.json").write_text("no JSON")
    assert abandoned_runs([str(tmp_path)]) == [str(tmp_path)]
    (state_dir / "task.json").write_text('{"version": 999}')
    assert abandoned_runs([str(tmp_path)]) == []
    assert not trio.run(partial(remove_run, str(tmp_path), ordinary=True))
    assert state_dir.is_dir()


def test_several_tasks_of_one_job() -> None:
    """A job's name means all of them where several can be meant; of two jobs none is."""
    one, two, other = (
        attrs.evolve(make_task(f"{index}123456789abcdef", "web"), launch=make_launch(job_name=job))
        for index, job in enumerate(("shop", "shop", "bank"))
    )
    assert find_tasks("shop", [one, two, other]) == [one, two]
    assert find_tasks("bank", [one, two, other]) == [other]
    for wanted in ("web", "nothing"):
        with pytest.raises(NoSuchTaskError):
            find_tasks(wanted, [one, two, other])


def left_record(state_dir: Path, short_id: str, ended_at_s: float, **changes: Any) -> str:
    """Leave what DestroyTask leaves of an ended task; return its directory."""
    values: dict[str, Any] = {
        "exit_code": 3,
        "task_id": f"{VICTIM}/web/0a1b2c3d",
        "alloc_dir": f"/nowhere/{VICTIM}",
        "names": TaskNames("web", VICTIM, "shop", "app", "shop.app[2]"),
    }
    ended = ExitRecord(ended_at_s=ended_at_s, **{**values, **changes})
    (state_dir / short_id).mkdir(mode=0o700)
    (state_dir / short_id / records.EXIT_FILE).write_bytes(records.encode(ended))
    return str(state_dir / short_id)


def test_an_ended_task_is_known_by_its_exit_record(tmp_path: Path) -> None:
    """Of several instances of one allocation's task, whose log is the same, the last is meant."""
    last = left_record(tmp_path, "1123456789abcdef", 300.0, started_at_s=250.0)
    left_record(tmp_path, "0123456789abcdef", 200.0, started_at_s=150.0)
    tasks = list_tasks([str(tmp_path)])
    assert [task.started_at_s for task in tasks] == [150.0, 250.0]
    for wanted in ("web", "shop", "shop.app[2]", "shop.app[2]/web", VICTIM, VICTIM[:6], "1123"):
        found = find_task(wanted, tasks)
        assert (found.state_dir, found.group, found.name) == (last, "app[2]", "web")
        assert find_tasks(wanted, tasks) == [found]
    assert find_task("0123", tasks).exit == tasks[0].exit


def test_the_last_end_of_a_task_that_runs_again(tmp_path: Path) -> None:
    """Of the same task of the same allocation alone; another one's end is not taken for it."""
    left_record(tmp_path, "0123456789abcdef", 200.0, started_at_s=150.0)
    last = left_record(tmp_path, "1123456789abcdef", 300.0, started_at_s=250.0)
    left_record(tmp_path, "2123456789abcdef", 400.0, names=TaskNames("web", OTHER))
    left_record(tmp_path, "3123456789abcdef", 400.0, names=TaskNames("db", VICTIM))
    tasks = list_tasks([str(tmp_path)])
    found = last_end(WEB, [*tasks, WEB])
    assert found is not None and found.state_dir == last
    assert last_end(make_task("4123456789abcdef", "api", VICTIM), tasks) is None
    assert last_end(make_task("4123456789abcdef", "web", ""), tasks) is None


def test_an_older_milos_exit_record_has_no_names(tmp_path: Path) -> None:
    """Nomad's id of the task says which task of which allocation it was."""
    left_record(tmp_path, "0123456789abcdef", 200.0, names=TaskNames())
    left_record(tmp_path, "1123456789abcdef", 200.0, names=TaskNames(), task_id="other")
    one, other = list_tasks([str(tmp_path)])
    assert (one.name, one.alloc_id, one.job_name, one.alloc_dir) == (
        *("web", VICTIM, ""),
        f"/nowhere/{VICTIM}",
    )
    assert (other.name, other.alloc_id) == ("", "")


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "exited (3)"),
        ({"exit_code": 0}, "exited (0)"),
        ({"exit_code": 0, "signal": 15}, "exited (SIGTERM)"),
        ({"exit_code": 0, "signal": 9, "oom_killed": True}, "exited (OOM)"),
        ({"exit_code": -1, "error": "nobody saw it"}, "exited (?)"),
    ],
)
def test_how_a_task_ended(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    state: str,
) -> None:
    """`ps --all` shows it, `stats` says it, and `ps` alone shows nothing that has ended."""
    left_record(tmp_path, "0123456789abcdef", time.time() - 60, **changes)
    places = StateDirs((str(tmp_path),), ())
    for module in ("ps", "tasks"):
        monkeypatch.setattr(f"milo.cli.{module}.places_of_host", lambda options: places)
    assert run_command(["ps", "--all"]) == 0
    row = capsys.readouterr().out.splitlines()[1]
    assert row.split()[:5] == ["01234567", "shop", "app[2]", "web", VICTIM[:8]]
    assert state in row and "?" not in row.replace(state, "")
    assert run_command(["ps", "--all", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["job"], found["group"], found["allocation_name"]) == (
        "shop",
        "app",
        "shop.app[2]",
    )
    assert found["allocation"] == VICTIM and found["exit"]["signal"] == changes.get("signal", 0)
    assert run_command(["ps"]) == 0
    assert "No Milo tasks are running" in capsys.readouterr().out
    assert run_command(["stats", "shop"]) == 1
    assert f"has ended, so it uses nothing. Its state: {state}" in capsys.readouterr().err


def running_tasks() -> list[HostTask]:
    """Two tasks of one job."""
    me = identify(os.getpid())
    return [
        attrs.evolve(
            make_task(f"{index}123456789abcdef", "web"),
            record=TaskRecord("id", "web", f"a{index}", "/nowhere", ProcessId(1, 1), me),
            launch=make_launch(job_name="shop"),
        )
        for index in range(2)
    ]


def test_stats_are_of_every_task_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the logs are: a job with a count of 2 has two tasks of one name."""
    tasks = running_tasks()
    shown: list[HostTask] = []
    monkeypatch.setattr(stats, "tasks_of_host", lambda options: tasks)
    monkeypatch.setattr(stats, "_print_stats", lambda found, *rest: shown.extend(found))
    assert run_command(["stats", "--interval", "100ms", "shop"]) == 0
    assert shown == tasks


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["table", "json"])
def test_stats_that_go_on_are_printed_as_they_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: list[str]
) -> None:
    """Also into a pipe or a file, whose reader waits for them."""
    path = tmp_path / "output"
    printed: list[str] = []

    def sleep(_: float) -> None:
        printed.append(path.read_text())
        if len(printed) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(stats, "tasks_of_host", lambda options: running_tasks())
    monkeypatch.setattr("milo.cli.stats.time.sleep", sleep)
    with path.open("w") as output:
        monkeypatch.setattr("sys.stdout", output)
        assert run_command(["stats", "-f", *form]) == 130
    assert len(printed[0]) < len(printed[1]) < len(printed[2])


def test_stats_go_on_or_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    """To follow and not to stream are a contradiction."""
    assert run_command(["stats", "-f", "--no-stream", "none"]) == 2
    assert "not allowed with" in capsys.readouterr().err


def test_many_matches_are_not_all_told() -> None:
    """The answer has a bound, and says how many more there are."""
    tasks = [make_task(f"{index:016x}", "web", f"a{index}") for index in range(MAX_MATCHES + 3)]
    with pytest.raises(NoSuchTaskError, match=r"\(web, allocation a9\) and 3 more\. Give"):
        find_task("web", tasks)


@pytest.mark.parametrize(
    ("uid", "words"),
    [(0, "removed it: nomad status 'no job'"), (1000, "are root's: sudo milo ps --all")],
)
def test_of_what_is_not_here_it_is_said_who_knows(
    monkeypatch: pytest.MonkeyPatch, uid: int, words: str
) -> None:
    """A job whose task never started has left nothing on this host."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    with pytest.raises(NoSuchTaskError) as caught:
        find_task("no job", [WEB])
    assert words in str(caught.value)


@pytest.mark.parametrize("command", ["ps", "stats", "gc"])
def test_a_state_directory_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """A name that was mistyped is told, instead of what is elsewhere."""
    if command == "gc" and os.geteuid() != 0:
        pytest.skip("an ordinary user has no driver's directory")
    assert run_command([command, "--state-dir", str(tmp_path / "nope")]) == 1
    assert f"there is no directory {tmp_path}/nope" in capsys.readouterr().err


def test_there_is_nothing_to_stop_of_a_lost_task(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its processes have gone and left no record of its end; no socket is spoken of."""
    lost = make_task("0123456789abcdef", "web")
    assert lost.state == "lost"
    monkeypatch.setattr("milo.cli.stop.tasks_of_host", lambda options: [lost])
    assert run_command(["stop", "web"]) == 1
    assert "Task 'web' has ended, so there is nothing to stop" in capsys.readouterr().err
