"""Counts that outlive the process that counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from milo.errors import StateError
from milo.task.logs.byte_counts import ByteCounts, ByteCountsFile


def test_a_tally_adds_and_takes_back() -> None:
    """What was counted as moved can turn out to be lost."""
    counts = ByteCounts()
    counts.count(moved=10)
    counts.count(moved=-3, dropped=3)
    assert (counts.moved, counts.dropped) == (7, 3)


def test_a_successor_goes_on_counting(tmp_path: Path) -> None:
    """Whoever opens the file next finds the counts of each stream, as large as they get."""
    path = str(tmp_path / "counters")
    first = ByteCountsFile(path)
    first.counts(0).count(moved=2**40)
    first.counts(1).count(dropped=5)
    first.close()
    second = ByteCountsFile(path)
    stdout, stderr = second.counts(0), second.counts(1)
    stdout.count(moved=1)
    assert (stdout.moved, stdout.dropped) == (2**40 + 1, 0)
    assert (stderr.moved, stderr.dropped) == (0, 5)
    second.close()


def test_a_file_that_cannot_be_made_is_a_state_error(tmp_path: Path) -> None:
    """The error names the file; a symlink is not followed."""
    with pytest.raises(StateError, match="counters"):
        ByteCountsFile(str(tmp_path / "nowhere" / "counters"))
    (tmp_path / "counters").symlink_to(tmp_path / "target")
    with pytest.raises(StateError):
        ByteCountsFile(str(tmp_path / "counters"))
    assert not (tmp_path / "target").exists()
