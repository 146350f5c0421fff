"""What is decided of a startup archive before the start, which nothing about it may prevent."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import attrs
import pytest

from milo.core.config.plugin_options import PluginOptions
from milo.core.config.task_options import TaskOptions
from milo.core.container.mounts import Bind
from milo.core.container.spec import User
from milo.core.container.ulimits import RLIM_INFINITY
from milo.core.java.heap import Tuning
from milo.core.java.option_words import UserWords
from milo.core.launch import Application, JavaRuntime, Launch
from milo.errors import PathError, Reason, StateError
from milo.task import preparer
from milo.task.java import archived_files, startup_plan
from milo.task.java.archived_files import Hashes, UnfitError, class_path_files
from milo.task.java.startup_place import STAGING, clear_place, make_place
from milo.task.java.startup_plan import StartupPlan, plan_startup
from milo.task.java.startup_store import Note, StartupStore
from milo.task.oci import privileges
from tests.support.launches import make_launch

JAVA = JavaRuntime("/usr/lib/jvm/none", "17.0.15", 17, "/usr/lib/jvm")
NOT_UTF8 = os.fsdecode(b"B\xfccher.jar")


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """A task with an empty directory."""
    (tmp_path / "web" / "local" / "lib").mkdir(parents=True)
    return make_launch(alloc_dir=str(tmp_path))


def local(launch: Launch) -> Path:
    """Return the task's own directory."""
    return Path(launch.alloc_dir, "web", "local")


def make_jar(path: Path, class_path: str = "") -> None:
    """Write an empty JAR, whose content is the same at any time."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(zipfile.ZipInfo("META-INF/MANIFEST.MF"), f"Class-Path: {class_path}\n\n")


def plan(launch: Launch) -> StartupPlan:
    """Return the plan for any application."""
    app = Application(JAVA, jar="/local/app.jar")
    options = TaskOptions(startup_cache="auto")
    tuning: Any = None
    user: Any = None
    return plan_startup(launch, options, app, UserWords(()), tuning, user)


# ---- names and faults


def test_a_name_that_is_no_utf8_only_costs_the_archive(launch: Launch) -> None:
    """A Linux file may have any name, and so may what a manifest names."""
    make_jar(local(launch) / "app.jar", "lib/B%FCcher.jar")
    with pytest.raises(UnfitError, match="is not UTF-8"):
        class_path_files(launch, Application(JAVA, jar="/local/app.jar"), Hashes({}))
    make_jar(local(launch) / "lib" / NOT_UTF8)
    with pytest.raises(UnfitError, match=r"B\\udcfccher.jar is not UTF-8"):
        class_path_files(launch, Application(JAVA, class_path="/local/lib/*"), Hashes({}))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("something"),
        UnicodeEncodeError("utf-8", NOT_UTF8, 1, 2, "surrogates not allowed"),
        PathError(f"/local/{NOT_UTF8}", Reason.REFUSED, "something"),
        StateError(NOT_UTF8, "something"),
        OSError(5, "something", NOT_UTF8),
        RecursionError(),
    ],
)
def test_no_fault_prevents_the_start(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Whatever happens, the plan is to do without, and can be written down."""

    def fail(*_: object) -> StartupPlan:
        raise error

    monkeypatch.setattr(startup_plan, "_plan", fail)
    made = plan(launch)
    assert made.method is None and made.remark.startswith("No startup archive, because ")
    assert made.remark.encode().isascii()


def test_a_cache_that_cannot_be_made_is_nobody_elses(launch: Launch, jdk: JavaRuntime) -> None:
    """What the file system says is told, and not that others could change it."""
    Path(launch.alloc_dir, "cache").touch()
    remark = plan_in_full(launch, jdk).remark
    assert "File exists" in remark and "root alone" not in remark


def test_errors_are_told_within_a_sentence(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of the log is no error of the task's."""
    monkeypatch.setattr(startup_plan, "_plan", MagicMock(side_effect=StateError("/x", "broken")))
    assert plan(launch).remark == "No startup archive, because Cannot use the state in /x: broken"


def test_too_little_memory_is_told(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The preparer's limit is not the cache's: it is told as what it is."""

    def fail(*_: object) -> StartupPlan:
        raise MemoryError

    monkeypatch.setattr(startup_plan, "_plan", fail)
    with pytest.raises(MemoryError):
        plan(launch)


# ---- where the JVM records


def owner() -> tuple[int, int]:
    """Return who may be given a directory by whoever runs this."""
    return os.geteuid(), os.getegid()


def test_each_start_has_a_place_of_its_own(launch: Launch) -> None:
    """What an earlier start has left costs three system calls, however much that is."""
    other = make_place(attrs.evolve(launch, task_name="web.2"), owner())
    first = make_place(launch, owner())
    Path(first, "archive").touch()
    Path(first, "configuration").touch()
    second = make_place(launch, owner())
    assert second != first and not Path(first).exists()
    assert Path(other).exists() and Path(second).stat().st_mode & 0o777 == 0o700
    Path(second, "deep").mkdir()
    Path(second, "deep", "file").touch()
    third = make_place(launch, owner())
    clear_place(launch, third)
    assert Path(second, "deep", "file").exists() and not Path(third).exists()


def test_nothing_is_followed_from_a_place(launch: Launch, tmp_path: Path) -> None:
    """A symlink that has taken its place leads nowhere."""
    target = tmp_path / "target"
    target.mkdir()
    (target / "archive").touch()
    place = Path(make_place(launch, owner()))
    place.rmdir()
    place.symlink_to(target)
    clear_place(launch, str(place))
    assert (target / "archive").exists()
    assert place.parent == tmp_path / STAGING


# ---- an archive that is removed before it is mounted


@pytest.mark.parametrize("removed", [True, False])
def test_an_archive_that_vanishes_costs_only_itself(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, removed: bool
) -> None:
    """The task is laid out anew, without it; of anything else that fails, its own words stay."""
    archive = tmp_path / "archive"
    archive.touch()
    bind = Bind(str(archive), "/run/milo-startup/archive", directory=False, origin="task")
    tried: list[StartupPlan] = []

    def lay_out(*words: Any) -> Any:
        tried.append(words[-1])
        if removed:
            archive.unlink(missing_ok=True)
        if words[-1].bind is not None:
            raise StateError(str(archive), "it does not exist")
        raise AssertionError("done")

    for name in ("resolve_application", "plan_jvm", "user_words", "remove_old"):
        monkeypatch.setattr(preparer, name, MagicMock())
    monkeypatch.setattr(privileges, "permitted_user", MagicMock())
    monkeypatch.setattr(preparer, "plan_startup", lambda *_: StartupPlan(bind=bind))
    monkeypatch.setattr(preparer, "_lay_out", lay_out)
    with pytest.raises(AssertionError if removed else StateError):
        preparer.prepare(launch)
    assert [one.bind for one in tried] == [bind, None][: len(tried)] and len(tried) == 1 + removed


# ---- what is known to fail


@pytest.fixture
def jdk(tmp_path: Path) -> JavaRuntime:
    """What Milo looks at of a JDK 17 with tools."""
    home = tmp_path / "jdk"
    for name in ("lib/server/libjvm.so", "lib/server/classes.jsa", "bin/jcmd"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch()
    return attrs.evolve(JAVA, home=str(home))


def plan_in_full(
    launch: Launch, java: JavaRuntime, ulimit: dict[str, tuple[int, int]] | None = None
) -> StartupPlan:
    """Return the plan of a task with a JAR."""
    make_jar(local(launch) / "app.jar")
    plugin = PluginOptions(cache_dir=f"{launch.alloc_dir}/cache")
    return plan_startup(
        attrs.evolve(launch, plugin=plugin, by_hand=True),
        TaskOptions(startup_cache="auto", ulimit=ulimit or {}),
        Application(java, jar="/local/app.jar"),
        UserWords(()),
        Tuning(),
        User(*owner()),
    )


@pytest.fixture(autouse=True)
def any_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory for tests may lie where others can write."""
    monkeypatch.setattr(StartupStore, "problem", lambda self: "")


@pytest.mark.parametrize(
    ("name", "limit", "fits"),
    [
        ("RLIMIT_FSIZE", 1 << 20, False),
        ("RLIMIT_AS", 1 << 40, False),
        ("RLIMIT_DATA", 1 << 40, False),
        ("RLIMIT_FSIZE", RLIM_INFINITY, True),
        ("RLIMIT_NOFILE", 4096, True),
    ],
)
def test_a_jvm_with_a_limit_of_its_own_records_nothing(
    launch: Launch, jdk: JavaRuntime, name: str, limit: int, *, fits: bool
) -> None:
    """One that cannot write its archive ends with 1, although the application ended well."""
    made = plan_in_full(launch, jdk, {name: (limit, RLIM_INFINITY)})
    assert bool(made.recording) == fits, made.remark
    assert fits or f"may not meet its {name}" in made.remark


@pytest.mark.parametrize(
    ("late_s", "jcmd", "records", "live"),
    [
        (b"5.0", True, True, True),
        (b"5.0", False, True, False),
        (b"30.0", True, True, True),
        (b"30.0", False, False, False),
        (b"x", False, True, False),
    ],
)
def test_what_was_late_is_made_while_the_jvm_runs(
    launch: Launch, jdk: JavaRuntime, late_s: bytes, *, jcmd: bool, records: bool, live: bool
) -> None:
    """And where that is not possible, and no more time can be had, not at all."""
    if not jcmd:
        Path(jdk.home, "bin/jcmd").unlink()
    made = plan_in_full(launch, jdk)
    assert made.recording and not made.live and made.owner is not None
    store = StartupStore(f"{launch.alloc_dir}/cache", 100)
    store.set_note(made.owner, made.key, Note.LATE, late_s)
    made = plan_in_full(launch, jdk)
    assert (bool(made.recording), bool(made.live)) == (records, live), made.remark


@pytest.mark.parametrize(("major", "live"), [(16, False), (17, True), (25, True)])
def test_only_a_jvm_that_knows_how_is_asked_while_it_runs(
    launch: Launch, jdk: JavaRuntime, major: int, *, live: bool
) -> None:
    """An older one does not start with the option for it."""
    java = attrs.evolve(jdk, major=major, version=f"{major}.0.1")
    made = plan_in_full(launch, java)
    assert made.owner is not None
    StartupStore(f"{launch.alloc_dir}/cache", 100).set_note(made.owner, made.key, Note.KILLED)
    made = plan_in_full(launch, java)
    assert made.recording and bool(made.live) == live
    assert live or "-XX:+RecordDynamicDumpInfo" not in made.arguments


# ---- time


def test_reading_gives_up_in_time(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow disk costs the archive, and not the start; what was read is not read again."""
    (local(launch) / "small.jar").write_bytes(b"x")
    (local(launch) / "large.jar").write_bytes(bytes(3 << 20))
    app = Application(JAVA, class_path="/local/small.jar:/local/large.jar")
    monkeypatch.setattr(archived_files, "SETTLED_S", -1.0)
    monkeypatch.setattr(archived_files, "READ_TIMEOUT_S", -1.0)
    hashes = Hashes({})
    with pytest.raises(UnfitError, match="takes too long"):
        class_path_files(launch, app, hashes)
    assert len(hashes.used) == 1
    again = Hashes(hashes.used)
    with pytest.raises(UnfitError, match="takes too long"):
        class_path_files(launch, app, again)
    assert len(again.used) == 2
    monkeypatch.undo()
    with pytest.raises(UnfitError, match="takes too long"):
        class_path_files(launch, app, Hashes(again.used))
