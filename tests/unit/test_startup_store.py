"""The cache of startup archives, and what is put into it."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import attrs
import pytest

from milo.core.java.option_words import UserWords
from milo.core.java.startup_cache import (
    Method,
    method_of,
    no_recording,
    obstacle,
    relevant,
    using,
)
from milo.errors import StateError, UntrustedStateError
from milo.task.java import startup_store
from milo.task.java.startup_store import Description, Note, Owner, StartupStore

OWNER = Owner("default", "shop", "app", "web", 1000, 1000)
KEY = "k" * 32


def put(store: StartupStore, key: str = KEY, owner: Owner = OWNER, data: bytes = b"x") -> str:
    """Add an archive; return its path."""
    path, fd = store.new_file(owner)
    os.write(fd, data)
    os.close(fd)
    store.add(key, describe(path, owner, len(data)))
    return path


def describe(path: str, owner: Owner, size_bytes: int) -> Description:
    """Return the description of an archive."""
    name = os.path.basename(path)
    return Description(owner, Method.DYNAMIC, "Java 17", name, size_bytes, time.time())


@pytest.fixture
def store(tmp_path: Path) -> StartupStore:
    """An empty cache of 100 bytes."""
    store = StartupStore(str(tmp_path / "cache"), 100)
    store.prepare()
    return store


def used_long_ago(store: StartupStore, key: str) -> None:
    """Make an archive look like one that nobody is about to use."""
    [path] = Path(store.path).glob(f"*/{key}.json")
    os.utime(path, (1.0, 1.0))


@pytest.mark.parametrize(
    "other",
    [
        attrs.evolve(OWNER, namespace="other"),
        attrs.evolve(OWNER, job_id="other"),
        attrs.evolve(OWNER, group="other"),
        attrs.evolve(OWNER, task="other"),
        attrs.evolve(OWNER, uid=0),
        attrs.evolve(OWNER, gid=0),
        Owner("default/shop", "", "app", "web", 1000, 1000),
    ],
)
def test_an_archive_is_for_one_owner(store: StartupStore, other: Owner) -> None:
    """Nobody else finds an archive, nor one that was moved into his directory."""
    put(store)
    assert store.find(OWNER, KEY) is not None
    assert store.find(other, KEY) is None
    os.rename(f"{store.path}/{OWNER.directory}", f"{store.path}/{other.directory}")
    assert store.find(other, KEY) is None


def test_a_cut_archive_is_not_found(store: StartupStore) -> None:
    """Java 17 would die of one."""
    path = put(store, data=b"archive")
    os.truncate(path, 3)
    assert store.find(OWNER, KEY) is None


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"file": "../../etc/passwd"}'])
def test_a_damaged_description_is_none(store: StartupStore, data: bytes) -> None:
    """Whatever a full disk has left, an archive without a description is nobody's."""
    path = put(store)
    Path(path).with_name(f"{KEY}.json").write_bytes(data)
    assert store.find(OWNER, KEY) is None
    assert store.all() == []


def test_a_half_written_archive_is_a_stray(store: StartupStore) -> None:
    """What a killed process has left is found, once nobody can be writing it any more."""
    path, fd = store.new_file(OWNER)
    os.close(fd)
    assert store.strays() == []
    os.utime(path, (1.0, 1.0))
    assert store.strays() == [path, os.path.dirname(path)]


def test_the_cache_has_a_limit(store: StartupStore) -> None:
    """What was used longest ago goes first, and what was used just now stays."""
    for number in range(3):
        owner = attrs.evolve(OWNER, task=f"task-{number}")
        put(store, f"key-{number}", owner, b"x" * 40 if number < 2 else b"x" * 15)
        used_long_ago(store, f"key-{number}")
    put(store, data=b"x" * 30)
    assert sum(kept.description.size_bytes for kept in store.all()) <= 100
    assert store.find(OWNER, KEY) is not None
    with pytest.raises(StateError, match="no more room"):
        put(store, "large", data=b"x" * 90)
    assert store.find(OWNER, "large") is None and store.find(OWNER, KEY) is not None


def test_one_task_has_four_archives(store: StartupStore) -> None:
    """A task whose options differ at each start does not push out those of the others."""
    other = attrs.evolve(OWNER, task="other")
    put(store, "others", other)
    used_long_ago(store, "others")
    for number in range(6):
        put(store, f"key-{number}")
        used_long_ago(store, f"key-{number}")
    assert store.find(other, "others") is not None
    assert len([kept for kept in store.all() if kept.description.owner == OWNER]) == 4


def test_a_cache_of_somebody_elses_is_not_used(tmp_path: Path) -> None:
    """An archive is code: who can write to the cache could run his own in every task."""
    directory = tmp_path / "cache"
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(UntrustedStateError, match="can be written by others"):
        StartupStore(str(directory), 100).prepare()


# ---- what would defeat the limit


def copying(store: StartupStore, size_bytes: int) -> str:
    """Begin to add an archive; return why that is refused, or nothing."""
    try:
        with store.adding(size_bytes):
            return ""
    except StateError as exc:
        return exc.problem


def test_notes_are_bounded(store: StartupStore) -> None:
    """An application that gives itself other JARs at each start makes no heap of notes."""
    for number in range(3 * startup_store.MAX_NOTES):
        store.set_note(OWNER, f"key-{number}", Note.KILLED)
        os.utime(f"{store.owners_directory(OWNER)}/key-{number}.killed", (number, number))
    assert len(os.listdir(store.owners_directory(OWNER))) == startup_store.MAX_NOTES
    assert store.has_note(OWNER, f"key-{number}", Note.KILLED)


def test_owners_are_bounded(store: StartupStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """More directories than are looked at would be in no sum."""
    monkeypatch.setattr(startup_store, "MAX_DIRECTORIES", 2)
    put(store)
    (Path(store.path) / "other").mkdir()
    with pytest.raises(StateError, match="milo gc --yes"):
        store.new_file(attrs.evolve(OWNER, task="third"))
    store.remember_hashes(attrs.evolve(OWNER, task="third"), {})
    assert len(list(Path(store.path).glob("*/"))) == 2
    store.discard(store.new_file(OWNER)[0])


def test_one_archive_is_copied_at_a_time(store: StartupStore) -> None:
    """A hundred tasks that end at once do not fill the disk before a limit is looked at."""
    with store.adding(1):
        assert "being copied" in copying(store, 1)
    assert copying(store, 1) == ""


def test_nothing_is_removed_for_what_never_fits(store: StartupStore) -> None:
    """An archive larger than the cache evicts nobody."""
    put(store)
    used_long_ago(store, KEY)
    assert "is more than the cache may hold" in copying(store, 101)
    assert store.find(OWNER, KEY) is not None


def test_the_disk_keeps_a_reserve(store: StartupStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache may be on the system's own disk, whatever cache_size allows."""
    monkeypatch.setattr(startup_store, "RESERVE_BYTES", 1 << 60)
    assert "MiB left" in copying(store, 1)


def test_what_has_no_room_is_never_found(
    store: StartupStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can be about to mount an archive that is removed at once."""
    put(store, data=b"x" * 60)
    written: list[str] = []
    monkeypatch.setattr(startup_store, "write_file", lambda path, data: written.append(path))
    with pytest.raises(StateError, match="no more room"):
        put(store, "other", data=b"x" * 60)
    assert written == []


def test_half_copies_count_and_go(store: StartupStore) -> None:
    """What a killed process has left takes room until nobody can be writing it."""
    path, fd = store.new_file(OWNER)
    os.write(fd, b"x" * 60)
    os.close(fd)
    assert store.size_bytes() == 60
    with pytest.raises(StateError, match="no more room"):
        put(store, data=b"x" * 50)
    half = Path(f"{store.owners_directory(OWNER)}/{KEY}.json.01234567")
    half.touch()
    store.set_note(OWNER, KEY, Note.FAILED)
    assert copying(store, 1) == "" and os.path.exists(path)
    for old in (path, half, half.with_name(f"{KEY}.failed")):
        os.utime(old, (1.0, 1.0))
    assert copying(store, 1) == "" and not os.path.exists(path) and not half.exists()


def test_what_past_tasks_have_left_goes(store: StartupStore) -> None:
    """A directory without archives is removed once it has not been written to for long."""
    store.set_note(OWNER, KEY, Note.FAILED)
    note = f"{store.owners_directory(OWNER)}/{KEY}.failed"
    assert copying(store, 1) == "" and os.path.exists(note)
    os.utime(note, (1.0, 1.0))
    assert copying(store, 1) == "" and not os.path.exists(os.path.dirname(note))


def test_what_is_about_to_be_mounted_stays(store: StartupStore) -> None:
    """Another instance may have found an archive that is forgotten or replaced now."""
    first = put(store)
    os.utime(first, (1.0, 1.0))
    second = put(store)
    os.utime(second, (1.0, 1.0))
    store.forget(OWNER, KEY)
    assert store.find(OWNER, KEY) is None
    assert copying(store, 1) == ""
    assert os.path.exists(first) and os.path.exists(second)


# ---- the JVM's options


@pytest.mark.parametrize(
    ("major", "openj9", "expected"),
    [
        (8, False, None),
        (11, False, None),
        (13, False, Method.DYNAMIC),
        (24, False, Method.DYNAMIC),
        (25, False, Method.AOT),
        (25, True, None),
    ],
)
def test_each_release_has_its_kind(major: int, openj9: bool, expected: Method | None) -> None:
    """As JEP 350 and JEP 514 have it."""
    assert method_of(major, openj9=openj9) is expected


@pytest.mark.parametrize(
    "word",
    [
        "-Xshare:off",
        "-XX:SharedArchiveFile=/x.jsa",
        "-XX:+AutoCreateSharedArchive",
        "-XX:AOTCache=/x.aot",
        "-XX:AOTMode=off",
        "-javaagent:/local/agent.jar",
        "-agentlib:jdwp=transport=dt_socket",
        "-p",
        "--module-path=/local/lib",
        "--patch-module",
        "-Djava.system.class.loader=x.Y",
        "-XX:VMOptionsFile=/local/words",
    ],
)
def test_the_users_own_options_win(word: str) -> None:
    """With an archive of his own, or what the JVM makes none with, Milo does nothing."""
    assert word.partition("=")[0] in obstacle(UserWords(("-Xmx1g", word)))


def test_what_no_archive_depends_on_is_left_out() -> None:
    """A log file's name may differ at each start; a module that is added counts, with its name."""
    words = ("-Dx=y", "-Xlog:gc:file=/x", "-XX:+UseZGC", "--add-modules", "java.sql", "-ea")
    assert relevant(words) == ["-XX:+UseZGC", "--add-modules", "java.sql"]
    assert obstacle(UserWords(words)) == ""
    assert no_recording(("-XX:StartFlightRecording=x",)) == "-XX:StartFlightRecording=x"
    assert using(Method.AOT)[-1].startswith("-XX:AOTCache=/run/")


def test_what_is_not_the_caches_own_stays(store: StartupStore, tmp_path: Path) -> None:
    """A ``cache_dir`` that holds other things, as /var/cache does, or a symlink, loses nothing."""
    digest = "0" * 32
    (tmp_path / "elsewhere").mkdir()
    (Path(store.path) / digest).symlink_to(tmp_path / "elsewhere")
    foreign = [
        Path(store.path, "apt", "pkgcache.bin"),
        Path(store.path, "man", "a.archive"),
        Path(store.path, digest, "file"),
    ]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (1.0, 1.0))

    assert store.strays() == []
    with store.adding(1):
        assert all(path.exists() for path in foreign)


@pytest.mark.parametrize("kind", [fcntl.LOCK_EX, fcntl.LOCK_SH])
def test_nobody_waits_long_for_the_lock(
    kind: int, store: StartupStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was stopped while it held it keeps no task from starting."""
    monkeypatch.setattr(startup_store, "LOCK_S", 0.05)
    put(store)
    used_long_ago(store, KEY)
    kept = store.find(OWNER, KEY)
    assert kept is not None
    used_long_ago(store, KEY)
    with open(f"{store.path}/{startup_store.LOCK}", "rb") as held:
        fcntl.flock(held, kind)
        if kind == fcntl.LOCK_EX:
            with pytest.raises(StateError, match="another process has held its lock"):
                store.find(OWNER, KEY)
        assert not store.remove(kept)
    assert store.remove(kept)


def test_whose_it_is_in_words() -> None:
    """A job of Nomad's by its names, a JAR of `milo run` by its path."""
    assert str(OWNER) == "default/shop/app/web"
    assert str(Owner("", "milo run", "", "/srv/app.jar", 0, 0)) == "milo run /srv/app.jar"
