"""Files of a state directory, small facts about processes, and the journal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from milo.core import control
from milo.errors import StateError
from milo.files import MAX_RECORD_BYTES, read_file, write_file
from milo.task import journal
from milo.task.journal import Journal
from tests.support.log_rig import descriptors


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """What is written replaces what was there, for root's eyes only, and leaves nothing else."""
    path = tmp_path / "exit.json"
    for data in (b"first", b"x" * 300_000):
        write_file(str(path), data)
        assert read_file(str(path)) == data
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """The error names the file and what to do; nothing temporary stays."""
    (tmp_path / "exit.json").mkdir()
    with pytest.raises(StateError, match="Free space there") as caught:
        write_file(str(tmp_path / "exit.json"), b"x")
    assert caught.value.path == str(tmp_path / "exit.json")
    assert [path.name for path in tmp_path.iterdir()] == ["exit.json"]
    with pytest.raises(StateError, match="No such file"):
        write_file(str(tmp_path / "gone/exit.json"), b"x")


def test_what_is_no_readable_file_is_a_state_error(tmp_path: Path) -> None:
    """Missing is None; a symlink, a directory, a loop or far too much is an error."""
    before = descriptors()
    assert read_file(str(tmp_path / "missing")) is None
    (tmp_path / "link").symlink_to(tmp_path / "missing")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b"x" * (MAX_RECORD_BYTES + 1))
    for name, words in (
        ("link", "cannot be opened"),
        ("directory", "cannot be read: Is a directory"),
        ("large", "larger than"),
        ("nul\0", "cannot be opened"),
    ):
        with pytest.raises(StateError, match=words):
            read_file(str(tmp_path / name))
    assert read_file(str(tmp_path / "fifo")) == b""  # and it does not wait for a writer
    assert descriptors() == before


def test_a_journal_is_a_bounded_file_and_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line is in the file and is sent, with its time; what is no line is only sent."""
    monkeypatch.setattr("time.time", lambda: 12.5)
    sent: list[control.Message] = []
    log = Journal(str(tmp_path / "task.log"), sent.append)
    log.event("happened")
    log.log("warn", "said", number=1)
    log.publish(control.DescriptorsChanged())
    assert [type(message) for message in sent] == [
        control.Event,
        control.Log,
        control.DescriptorsChanged,
    ]
    assert sent[:2] == [
        control.Event(text="happened", at_s=12.5),
        control.Log(level="warn", text="said", fields={"number": "1"}, at_s=12.5),
    ]
    text = (tmp_path / "task.log").read_text()
    assert "[event] happened" in text and "[warn] said {'number': '1'}" in text
    monkeypatch.setattr(journal, "MAX_FILE_BYTES", len(text))
    log.log("info", "no room")
    assert "no room" not in (tmp_path / "task.log").read_text()
    assert len(sent) == 4


def test_a_journal_without_a_directory_still_sends(tmp_path: Path) -> None:
    """A full or read-only state directory must not stop a task that runs."""
    sent: list[control.Message] = []
    log = Journal(str(tmp_path / "gone/task.log"), sent.append)
    log.event("x" * 100_000)
    assert len(sent) == 1
    control.encode(sent[0])
