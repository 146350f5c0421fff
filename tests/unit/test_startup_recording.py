"""What becomes of what a JVM has recorded: at its end, and while it runs."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from milo import cgroup_files, proc
from milo.core.cgroup import Mode
from milo.core.config.plugin_options import PluginOptions
from milo.core.container.mounts import Bind
from milo.core.java.startup_cache import PLACE, Method
from milo.errors import StateError
from milo.task.children import WaitStatus
from milo.task.java import idle_recording, startup_recording
from milo.task.java.startup_place import STAGING
from milo.task.java.startup_plan import StartupPlan
from milo.task.java.startup_recording import StartupArchive
from milo.task.java.startup_store import Description, Note, Owner, StartupStore
from milo.task.journal import Journal
from milo.task.ladder import StopLadder
from tests.support.launches import make_launch

OWNER = Owner("default", "shop", "app", "web", 1000, 1000)
KEY = "k" * 32


def keep(
    tmp_path: Path,
    status: WaitStatus,
    recorder: int,
    stop_s: float = math.inf,
    second_step: Any = None,
) -> list[str]:
    """Have `StartupArchive` keep what lies in its place; return the log's lines."""
    alloc = tmp_path / "alloc"
    place = alloc / STAGING / "web"
    launch = make_launch(
        alloc_dir=str(alloc), plugin=PluginOptions(cache_dir=str(tmp_path / "cache"))
    )
    plan = StartupPlan(
        method=Method.AOT if second_step else Method.DYNAMIC,
        second_step=("java",) if second_step else (),
        bind=Bind(str(place), PLACE, readonly=False, origin="task"),
        owner=OWNER,
        key=KEY,
        recorder=recorder,
    )
    StartupStore(str(tmp_path / "cache"), 100).prepare()
    journal = Journal(str(tmp_path / "log"), lambda _: None)

    async def run() -> None:
        ladder = StopLadder(journal.log)
        if stop_s != math.inf:
            ladder.request(15, stop_s)
        await StartupArchive(launch, plan, journal, second_step).keep(None, status, ladder)  # type: ignore[arg-type]

    trio.run(run)
    assert not (place / "archive").is_file()
    return (tmp_path / "log").read_text().splitlines()


class Never:
    """A second step that nobody may take."""

    async def run(self, *_: object) -> WaitStatus:
        """Fail."""
        raise AssertionError("it was taken")

    def close(self) -> None:
        """Have nothing to let go of."""


@pytest.mark.parametrize(("stamps", "is_kept"), [({}, False), ({"/local/app.jar": 7}, True)])
def test_what_another_start_has_kept_is_not_made_again(
    tmp_path: Path, archive: Path, stamps: dict[str, int], is_kept: bool
) -> None:
    """Many starts at once, as of a dispatched job, make one archive, if that fits them all."""
    store = StartupStore(str(tmp_path / "cache"), 1000)
    store.prepare()
    path, fd = store.new_file(OWNER)
    os.write(fd, b"first")
    os.close(fd)
    name = os.path.basename(path)
    method = Method.DYNAMIC if is_kept else Method.AOT
    store.add(KEY, Description(OWNER, method, "Java", name, 5, time.time(), stamps))
    archive.write_bytes(b"second")
    lines = keep(tmp_path, WaitStatus(0, 0), os.geteuid(), second_step=None if is_kept else Never())
    assert ("Another start has kept the same" in lines[-1]) is not is_kept
    kept = store.find(OWNER, KEY)
    assert kept is not None
    assert Path(kept.path).read_bytes() == (b"second" if is_kept else b"first")


def test_what_stands_in_the_way_is_told_in_words(tmp_path: Path, archive: Path) -> None:
    """It is a line of the log, and no error."""
    archive.write_text("classes")
    store = StartupStore(str(tmp_path / "cache"), 1000)
    store.prepare()
    with store.adding(1):
        [*_, last] = keep(tmp_path, WaitStatus(0, 0), os.geteuid())
    words = f"Cannot use the state in {tmp_path}/cache: another archive is being copied into it"
    assert f"was not kept: {words}" in last


def find(tmp_path: Path) -> bool:
    """Whether an archive was kept."""
    return StartupStore(str(tmp_path / "cache"), 100).find(OWNER, KEY) is not None


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Where the JVM writes its archive; nothing is there yet."""
    place = tmp_path / "alloc" / STAGING / "web"
    place.mkdir(parents=True)
    return place / "archive"


def test_what_the_jvm_has_left_is_kept(tmp_path: Path, archive: Path) -> None:
    """A regular file of the task's user is copied, for nobody to write to."""
    archive.write_bytes(b"classes")
    with archive.open("ab") as writer:
        lines = keep(tmp_path, WaitStatus(0, 0), os.geteuid())
        writer.write(b"more")
    assert "Kept for the next start: class-data archive" in lines[-1]
    [kept] = (tmp_path / "cache").glob("*/*.archive")
    assert kept.read_bytes() == b"classes" and kept.stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory", "link", "empty", "foreign"])
def test_what_others_have_put_there_is_not_kept(tmp_path: Path, archive: Path, kind: str) -> None:
    """Nothing that the JVM cannot have written gets into the cache, and nothing is followed."""
    secret = tmp_path / "secret"
    secret.write_text("of root")
    match kind:
        case "symlink":
            archive.symlink_to(secret)
        case "fifo":
            os.mkfifo(archive)
        case "directory":
            archive.mkdir()
        case "link":
            os.link(secret, archive)
        case "empty":
            archive.touch()
        case "foreign":
            archive.write_text("classes")
    keep(tmp_path, WaitStatus(0, 0), os.geteuid() + (kind == "foreign"))
    assert not find(tmp_path) and secret.read_text() == "of root"
    assert list((tmp_path / "cache").glob("*/*.archive")) == []


@pytest.mark.parametrize("status", [WaitStatus(0, 9), WaitStatus(0, 6), WaitStatus(1, 0)])
def test_of_a_run_that_failed_nothing_is_kept(
    tmp_path: Path, archive: Path, status: WaitStatus
) -> None:
    """A JVM that was killed has written half, and of a failed application less was loaded."""
    archive.write_text("classes")
    keep(tmp_path, status, os.geteuid())
    assert not find(tmp_path)


def test_a_stop_is_not_prolonged(tmp_path: Path, archive: Path) -> None:
    """When the time of the stop is over nothing is copied."""
    archive.write_text("classes")
    assert "no time left" in keep(tmp_path, WaitStatus(143, 0), os.geteuid(), stop_s=0)[-1]
    assert not find(tmp_path)


def test_a_jvm_that_could_not_write_is_not_asked_again(tmp_path: Path, archive: Path) -> None:
    """It ends with 1 then: that must not happen to the next start too."""
    keep(tmp_path, WaitStatus(1, 0), os.geteuid())
    store = StartupStore(str(tmp_path / "cache"), 100)
    assert store.has_note(OWNER, KEY, Note.FAILED)
    [note] = store.strays()
    store.discard(note)
    assert not store.has_note(OWNER, KEY, Note.FAILED)


# ---- the second step, and the time that there is


@attrs.define
class SecondStepOf:
    """A second step that takes so long."""

    takes_s: float = 0.0
    runs: int = 0

    async def run(self, before: object, argv: tuple[str, ...]) -> WaitStatus:
        """Take the time."""
        self.runs += 1
        await trio.sleep(self.takes_s)
        return WaitStatus(0, 0)

    def close(self) -> None:
        """Hold nothing."""


def noted(tmp_path: Path, note: Note) -> bool:
    """Whether that was noted."""
    return StartupStore(str(tmp_path / "cache"), 100).has_note(OWNER, KEY, note)


@pytest.mark.parametrize(
    ("status", "configuration", "failed"),
    [(1, True, False), (1, False, True), (3, False, False), (3, True, False)],
)
def test_an_application_that_fails_once_may_record_again(
    tmp_path: Path, archive: Path, status: int, *, configuration: bool, failed: bool
) -> None:
    """A JVM that cannot write ends with 1 and has left nothing, not even of the first step."""
    if configuration:
        archive.with_name("configuration").touch()
    step = SecondStepOf()
    keep(tmp_path, WaitStatus(status, 0), os.geteuid(), second_step=step)
    assert noted(tmp_path, Note.FAILED) == failed and step.runs == 0


def test_time_that_does_not_suffice_is_not_spent_again(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop that was too short is over at once the next time; one that is longer is used."""
    step = SecondStepOf(takes_s=0.5)
    monkeypatch.setattr(startup_recording, "MORE_S", 0.05)
    stopped = WaitStatus(143, 0)
    for _ in range(2):
        archive.parent.mkdir(exist_ok=True)
        lines = keep(tmp_path, stopped, os.geteuid(), 0.1, step)
        assert step.runs == 1 and noted(tmp_path, Note.LATE)
    assert "did not suffice the last time" in lines[-1]
    archive.parent.mkdir(exist_ok=True)
    archive.write_text("classes")
    keep(tmp_path, stopped, os.geteuid(), 5, step)
    assert step.runs == 2 and find(tmp_path) and not noted(tmp_path, Note.LATE)


def test_a_copy_is_written_in_parts(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No deadline ends a system call that writes all of it to a slow disk."""
    synced: list[int] = []
    monkeypatch.setattr(startup_recording, "_PART_BYTES", 3)
    monkeypatch.setattr(os, "fdatasync", synced.append)
    archive.write_bytes(b"classes")
    keep(tmp_path, WaitStatus(0, 0), os.geteuid())
    assert len(synced) == 3 and find(tmp_path)


def test_a_later_stop_ends_the_keeping() -> None:
    """A forced stop after one with a long timeout is not held up."""

    async def run() -> bool:
        ladder = StopLadder(lambda level, text: None)
        ladder.request(15, 600)

        async def work() -> None:
            ladder.request(15, 300)
            await trio.sleep(0.01)
            ladder.request(9, 0)
            await trio.sleep(3600)

        with trio.fail_after(10):
            return await startup_recording._within(ladder, work)

    assert not trio.run(run)


# ---- while it runs


@attrs.define
class Ended:
    """Commands in the container, each of which ends so."""

    status: WaitStatus | Exception

    async def run_by_itself(self, container: object, argv: tuple[str, ...]) -> WaitStatus:
        """End."""
        if isinstance(self.status, Exception):
            raise self.status
        return self.status


@pytest.mark.parametrize(
    ("ended", "lives", "failed"),
    [
        (WaitStatus(1, 0), True, True),
        (WaitStatus(1, 0), False, False),
        (StateError("/x", "no disk"), True, False),
        (OSError(28, "no space"), True, False),
    ],
)
def test_only_a_jvm_that_lives_can_refuse(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ended: WaitStatus | Exception,
    *,
    lives: bool,
    failed: bool,
) -> None:
    """One that ended meanwhile, and trouble of the host's, say nothing of the next one."""
    monkeypatch.setattr(idle_recording, "UP_S", 0.0)
    monkeypatch.setattr(startup_recording, "ENDING_S", 0.0)
    monkeypatch.setattr(idle_recording, "IDLE_SHARE", math.inf)
    monkeypatch.setattr(idle_recording, "LOOK_S", 0.001)
    asked = iter([True])
    monkeypatch.setattr(proc, "lives", lambda process: next(asked, lives))
    container: Any = attrs.make_class("Container", ["process", "cgroup_path"])(
        proc.this_process(), ""
    )
    launch = make_launch(plugin=PluginOptions(cache_dir=str(tmp_path / "cache")))
    StartupStore(str(tmp_path / "cache"), 100).prepare()
    plan = StartupPlan(method=Method.DYNAMIC, owner=OWNER, key=KEY, live=(("jcmd",),))
    commands: Any = Ended(ended)
    journal = Journal(str(tmp_path / "log"), lambda _: None)
    trio.run(StartupArchive(launch, plan, journal).watch, container, commands)
    assert noted(tmp_path, Note.FAILED) == failed
    assert "of the running JVM was not kept" in (tmp_path / "log").read_text()


def test_a_jvm_that_has_gone_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """It uses no processor, and would be asked in vain."""
    monkeypatch.setattr(idle_recording, "UP_S", 0.0)
    monkeypatch.setattr(idle_recording, "LOOK_S", 0.01)
    gone = attrs.evolve(proc.this_process(), start_ticks=1)
    assert not trio.run(idle_recording.until_idle, gone, "", Method.DYNAMIC)


@pytest.mark.parametrize(
    ("used_mib", "cached_mib", "room"), [(100, 0, True), (400, 0, False), (500, 400, True)]
)
def test_room_is_what_the_group_leaves(
    monkeypatch: pytest.MonkeyPatch, used_mib: int, cached_mib: int, *, room: bool
) -> None:
    """The kernel counts child processes and shared memory too, and takes back cached files."""
    files = {
        "/group/memory.max": b"536870912\n",
        "/group/memory.current": b"%d\n" % (used_mib << 20),
        "/group/memory.stat": b"anon 5\ninactive_file %d\n" % (cached_mib << 20),
    }
    hierarchy = attrs.make_class("Hierarchy", ["mode"])(Mode.V2)
    hierarchy.directory = lambda controller, path: "/group"
    monkeypatch.setattr(cgroup_files, "detect", lambda: hierarchy)
    monkeypatch.setattr(proc, "read", lambda path: files.get(path))
    assert idle_recording.has_room("/task", Method.DYNAMIC) == room
