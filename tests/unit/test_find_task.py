"""Which task a person means, and which names a task may have."""

from __future__ import annotations

from argparse import Namespace

import pytest

from milo.cli.exec import execute
from milo.core.launch import check_task_name
from milo.core.records import ExitRecord, ProcessId, TaskRecord
from milo.errors import ConfigError, TaskEndedError
from milo.host.registry import Registry
from milo.host.spawner_client import SpawnerClient
from milo.host.tasks import HostTask, NoSuchTaskError, find_task
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
