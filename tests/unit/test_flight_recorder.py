"""The flight recording that runs along: its options, what is made of its chunks, and attacks."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo.cli import recording
from milo.cli.new_file import new_file
from milo.cli.recording import NoRecordingError, collect
from milo.core.java.flight_recorder import HEADER, completed, flight_recorder
from milo.core.launch import JavaRuntime
from milo.task.java.jvm import files_of
from milo.task.java.recordings import can_record, is_commercial, remove_old
from tests.support.launches import make_launch
from tests.support.recordings import chunk

FILES = "/alloc/data/web-3f2a"


def recorder(words: tuple[str, ...] = (), version: str = "21.0.8", **more: bool) -> tuple[str, str]:
    """Return the added options in one line, and the remark."""
    found = flight_recorder(
        words,
        version,
        FILES,
        openj9=more.get("openj9", False),
        installed=more.get("there", True),
        commercial=more.get("commercial", False),
    )
    return " ".join(found.arguments), found.remark


def test_what_the_jvm_gets() -> None:
    """A recording of bounded age and size, in files of this start."""
    assert recorder() == (
        "-XX:StartFlightRecording=name=milo,maxage=10m,maxsize=64m,dumponexit=true,"
        "filename=/alloc/data/web-3f2a.jfr "
        "-XX:FlightRecorderOptions=repository=/alloc/data/web-3f2a.recording,maxchunksize=4m "
        "-Xlog:jfr+startup=off",
        "",
    )


@pytest.mark.parametrize("version", ["1.8.0_262", "11", "11.0.2", "13.0.1"])
def test_an_old_jvm_gets_small_chunks(version: str) -> None:
    """Only complete ones are of use, and it knows no tag of its log to silence."""
    options, remark = recorder(version=version)
    assert "maxchunksize=1m" in options and "-Xlog" not in options and not remark


@pytest.mark.parametrize(
    ("version", "more", "why"),
    [
        ("1.8.0_252", {}, "Java 1.8.0_252 has none; 8u262 and 11 are the first"),
        ("1.8.0", {}, "Java 1.8.0 has none; 8u262 and 11 are the first"),
        ("10.0.2", {}, "Java 10.0.2 has none; 8u262 and 11 are the first"),
        ("1.7.0_80", {}, "Java 1.7.0_80 has none; 8u262 and 11 are the first"),
        ("21.0.8", {"openj9": True}, "OpenJ9 has none"),
        ("21.0.8", {"there": False}, "this Java was built without the module jdk.jfr"),
        (
            "1.8.0_291",
            {"commercial": True},
            "in Oracle's Java 8 it is a commercial feature. Take an OpenJDK of 8, or Java 11",
        ),
    ],
)
def test_a_java_without_one_starts_as_ever(version: str, more: dict[str, bool], why: str) -> None:
    """It would refuse the options; why there is no recording is told at the start."""
    assert recorder((), version, **more) == ("", f"flight_recorder has no effect: {why}")


@pytest.mark.parametrize(
    "word",
    [
        "-XX:StartFlightRecording",
        "-XX:StartFlightRecording:filename=/tmp/x.jfr",
        "-XX:FlightRecorderOptions=repository=/tmp",
    ],
)
def test_the_users_own_options_win(word: str) -> None:
    """Nothing is added to them."""
    assert recorder(("-Xmx1g", word)) == ("", f"flight_recorder leaves it to the option {word}")


def test_an_image_without_the_module_is_told(tmp_path: Path) -> None:
    """By a file that comes with it, in a JDK 8 below jre/."""
    java = JavaRuntime(str(tmp_path / "jdk"), "21.0.1", 21, "the test")
    (tmp_path / "jdk/lib").mkdir(parents=True)
    assert not can_record(make_launch(), java)
    for place in ("lib/jfr", "jre/lib/jfr"):
        (tmp_path / "jdk" / place).mkdir(parents=True)
        (tmp_path / "jdk" / place / "default.jfc").symlink_to("/etc/java/default.jfc")
        assert can_record(make_launch(), java)
        (tmp_path / "jdk" / place / "default.jfc").unlink()


def test_oracles_java_8_is_told_by_its_release(tmp_path: Path) -> None:
    """It has the recorder's settings, and does not start without an option that unlocks it."""
    java = JavaRuntime(str(tmp_path), "1.8.0_291", 8, "the test")
    assert not is_commercial(make_launch(), java)
    release = tmp_path / "release"
    release.write_text('JAVA_VERSION="1.8.0_291"\nOS_NAME="Linux"\nBUILD_TYPE="commercial"\n')
    assert is_commercial(make_launch(), java)
    assert not is_commercial(make_launch(), attrs.evolve(java, major=11))
    release.write_text('JAVA_VERSION="1.8.0_292"\nIMPLEMENTOR="Eclipse Adoptium"\n')
    assert not is_commercial(make_launch(), java)


# ---- chunks


def test_a_chunk_that_was_being_written_is_made_complete() -> None:
    """It ends where the JVM had last told what is in it; one that is complete stays as it is."""
    whole, half = chunk(b"x" * 9, state=0), chunk(b"x" * 9, state=7) + b"more"
    assert completed(whole, len(whole)) == (whole[: HEADER.size], len(whole))
    assert completed(half, len(half)) == (whole[: HEADER.size], len(whole))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        chunk(b"x" * 9)[:60],
        b"PK" + chunk(b"x" * 9)[2:],
        chunk(b"x" * 9, state=0xFF),
        chunk(b"x" * 9, length=0),
        chunk(b"x" * 9, length=1 << 62),
        chunk(b""),
    ],
    ids=["empty", "short", "other", "locked", "no length", "too long", "no metadata"],
)
def test_what_is_no_chunk(data: bytes) -> None:
    """Nothing is made of it."""
    assert completed(data, len(data)) is None


@given(st.binary(max_size=80), st.integers(0, 1 << 40))
def test_any_bytes_are_judged(data: bytes, size: int) -> None:
    """And no length is above that of the file."""
    found = completed(data, size)
    assert found is None or (len(found[0]) == HEADER.size and found[1] <= size)


# ---- what a task may have made of its files


@pytest.fixture
def alloc(tmp_path: Path) -> Path:
    """An allocation's directory with a repository."""
    (tmp_path / "alloc/data/web-3f2a.recording/2026_2").mkdir(parents=True)
    return tmp_path


def collected(alloc: Path) -> bytes:
    """Collect the recording; return it."""
    target = alloc / "out.jfr"
    with new_file(str(target)) as file:
        collect(str(alloc), FILES, file)
    data = target.read_bytes()
    target.unlink()
    return data


def test_chunks_are_joined_in_their_order(alloc: Path) -> None:
    """Those of earlier times first, the last one completed, what is no chunk left out."""
    place = alloc / "alloc/data/web-3f2a.recording/2026_2"
    (place / "2026_b.jfr").write_bytes(chunk(b"second") + b"unflushed")
    (place / "2026_a.jfr").write_bytes(chunk(b"first", state=0))
    (place / "2026_c.jfr").write_bytes(b"")
    (place / "2026_a.txt").write_bytes(chunk(b"other"))
    assert collected(alloc) == chunk(b"first", state=0) + chunk(b"second", state=0)


def test_what_the_jvm_has_put_together_itself_is_taken(alloc: Path) -> None:
    """All of it, whatever the first of its chunks says."""
    whole = chunk(b"one", state=0) + chunk(b"two", state=0)
    (alloc / "alloc/data/web-3f2a.jfr").write_bytes(whole)
    assert collected(alloc) == whole


def test_what_the_jvm_was_killed_over_is_not_taken(alloc: Path) -> None:
    """It removes its repository only when the file is whole: until then the chunks are better."""
    place = alloc / "alloc/data/web-3f2a.recording/2026_2"
    chunks = [chunk(b"one", state=0), chunk(b"two", state=0)]
    (place / "2026_a.jfr").write_bytes(chunks[0])
    (place / "2026_b.jfr").write_bytes(chunks[1])
    for cut in (len(chunks[0]) + 7, len(chunks[0]) + HEADER.size, 2 * len(chunks[0]) - 1):
        (alloc / "alloc/data/web-3f2a.jfr").write_bytes(b"".join(chunks)[:cut])
        assert collected(alloc) == b"".join(chunks)


def test_an_attackers_repository(alloc: Path, tmp_path: Path) -> None:
    """Symlinks and FIFOs are neither followed nor opened, and no file of the host's is read."""
    secret = tmp_path / "secret.jfr"
    secret.write_bytes(chunk(b"secret", state=0))
    data = alloc / "alloc/data"
    place = data / "web-3f2a.recording/2026_2"
    (data / "web-3f2a.jfr").symlink_to(secret)
    (place / "2026_a.jfr").symlink_to(secret)
    os.mkfifo(place / "2026_b.jfr")
    (place / "2026_c.jfr").mkdir()
    (data / "web-3f2a.recording/2026_3").symlink_to(tmp_path)
    with pytest.raises(NoRecordingError, match="no part of it is complete"):
        collected(alloc)
    (place / "2026_d.jfr").write_bytes(chunk(b"own", state=0))
    assert collected(alloc) == chunk(b"own", state=0)
    assert not (alloc / "out.jfr").exists()


def test_a_repository_that_is_a_symlink(alloc: Path, tmp_path: Path) -> None:
    """It is no repository."""
    repository = alloc / "alloc/data/web-3f2a.recording"
    repository.rename(tmp_path / "elsewhere")
    repository.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NoRecordingError, match="symlink, which is not followed"):
        collected(alloc)


def test_a_huge_repository_gives_its_last_chunks(
    alloc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more than the bound, sparse or not, the last that fit are taken; a giant one never."""
    place = alloc / "alloc/data/web-3f2a.recording/2026_2"
    for name in "abc":
        (place / f"{name}.jfr").write_bytes(chunk(name.encode() * 400, state=0))
    monkeypatch.setattr(recording, "MAX_BYTES", 1000)
    assert collected(alloc) == chunk(b"b" * 400, state=0) + chunk(b"c" * 400, state=0)
    with open(place / "d.jfr", "wb") as file:
        file.write(chunk(b"d", state=0, length=10 << 30))
        file.truncate(10 << 30)
    assert collected(alloc) == chunk(b"b" * 400, state=0) + chunk(b"c" * 400, state=0)


# ---- those of earlier starts


def start(number: int) -> str:
    """Return Nomad's id of a start."""
    return f"{number:08x}"


def test_the_recordings_of_earlier_starts_are_bounded(alloc: Path) -> None:
    """The last two stay, in whichever form; other tasks' and other files are not touched."""
    data = alloc / "alloc/data"
    (data / f"web-{start(1)}.recording/2026_2").mkdir(parents=True)
    (data / f"web-{start(1)}.recording/2026_2/x.jfr").write_bytes(b"x")
    (data / f"web-{start(2)}.jfr").touch()
    (data / f"web-{start(3)}.recording").mkdir()
    (data / f"web-{start(3)}.jfr").touch()
    (data / f"web-{start(4)}.jfr").touch()
    others = {
        "web-leak.jfr",
        "web-0badcafe1.jfr",
        "web-0BADCAFE.jfr",
        f"web-{start(4)}.hprof",
        "web.jfr",
        f"web-api-{start(1)}.jfr",
        f"api-{start(1)}.jfr",
        "web-.jfr",
        f"x-web-{start(1)}.jfr",
    }
    for name in others:
        (data / name).touch()
        os.utime(data / name, (0, 0))
    for number, name in enumerate(
        (
            f"web-{start(1)}.recording",
            f"web-{start(2)}.jfr",
            f"web-{start(3)}.recording",
            f"web-{start(3)}.jfr",
            f"web-{start(4)}.jfr",
        )
    ):
        os.utime(data / name, (number, number))
    removed = remove_old(make_launch(alloc_dir=str(alloc)), f"/alloc/data/web-{start(5)}")
    assert removed == [f"web-{start(1)}", f"web-{start(2)}"]
    left = {path.name for path in data.iterdir()} - {"web-3f2a.recording"}
    assert left - others == {f"web-{start(3)}.recording"} | {
        f"web-{start(number)}.jfr" for number in (3, 4)
    }
    assert others <= left


def test_only_what_is_in_the_way_is_removed(alloc: Path, tmp_path: Path) -> None:
    """A symlink in a recording's place is at most removed itself."""
    data = alloc / "alloc/data"
    other = tmp_path / "other"
    (other / "2026").mkdir(parents=True)
    (other / "2026/x.jfr").touch()
    for number in range(4):
        (data / f"web-{start(number)}.recording").symlink_to(other)
        (data / f"web-{start(0xA0 + number)}.jfr").mkdir()
    remove_old(make_launch(alloc_dir=str(alloc)), f"/alloc/data/web-{start(5)}")
    assert (other / "2026/x.jfr").exists()


def test_no_two_tasks_have_the_same_files() -> None:
    """Names that are alike in what a path takes of them differ: one removes the other's else."""
    names = ("a" * 64, "a" * 65, "a" * 66, "a/b", "a_b", "a b")
    files = {
        files_of(make_launch(task_name=name, task_id=f"a1/{name}/{start(1)}")) for name in names
    }
    assert len(files) == len(names)
    assert files_of(make_launch(task_id=f"a1/web/{start(1)}")) == f"/alloc/data/web-{start(1)}"
