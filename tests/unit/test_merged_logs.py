"""Both streams of a task as one log: what comes in which order."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from milo.cli.merged_logs import Piece, Stream, last_lines, pieces, since, whole_lines
from milo.core.timeline import CELLS, FILE_BYTES, MARKS, Mark, decode
from milo.task.logs.byte_counts import ByteCounts
from milo.task.logs.timeline import Timeline


class Text(Stream):
    """A stream in one file."""

    def __init__(self, data: bytes, changed_s: float = 0.0) -> None:
        self._data = data
        self._changed_s = changed_s

    def sizes(self) -> Sequence[tuple[int, float]]:
        return [(len(self._data), self._changed_s)] if self._data else []

    def read(self, start: int, end: int) -> Iterator[bytes]:
        yield self._data[start:end]


OUT, ERR = Text(b"out 1\nout 2\nout 3\n", 20.0), Text(b"err 1\nerr 2\n", 10.0)
MARKED = [Mark(1.0, (0, 0)), Mark(2.0, (6, 0)), Mark(3.0, (6, 6)), Mark(4.0, (18, 6))]


def shown(found: Sequence[Piece], streams: Sequence[Stream] = (OUT, ERR)) -> bytes:
    return b"".join(data for _, data in whole_lines(found, streams))


def test_marks_give_the_order() -> None:
    """Each stream goes on where its mark says."""
    found = pieces([OUT.sizes(), ERR.sizes()], (18, 12), MARKED)
    assert shown(found) == b"out 1\nerr 1\nout 2\nout 3\nerr 2\n"
    assert shown(since(found, 2.5)) == b"out 2\nout 3\nerr 2\n"
    assert shown(last_lines(found, (OUT, ERR), 2, 1000)) == b"out 3\nerr 2\n"
    assert shown(last_lines(found, (OUT, ERR), 0, 1000)) == b""
    assert shown(last_lines(found, (OUT, ERR), 99, 1000)) == shown(found)


def test_files_that_are_older_than_the_marks() -> None:
    """An earlier start has written to them; and of a rotated log the beginning is gone."""
    found = pieces([OUT.sizes(), ERR.sizes()], (6, 6), [Mark(5.0, (0, 0)), Mark(6.0, (6, 0))])
    assert shown(found) == b"err 1\nout 1\nout 2\nout 3\nerr 2\n"
    late = [Mark(mark.at_s, (mark.before[0] + 100, mark.before[1])) for mark in MARKED]
    found = pieces([OUT.sizes(), ERR.sizes()], (118, 12), [Mark(0.5, (0, 0)), *late])
    assert shown(found) == b"out 1\nerr 1\nout 2\nout 3\nerr 2\n"


def test_without_marks_the_files_times_count() -> None:
    """The one that was changed last comes last."""
    assert shown(pieces([OUT.sizes(), ERR.sizes()], (0, 0), [])) == (
        b"err 1\nerr 2\nout 1\nout 2\nout 3\n"
    )


def test_a_line_is_not_torn() -> None:
    """Its end comes first, though the other stream went on in between."""
    marks = [Mark(1.0, (0, 0)), Mark(2.0, (3, 0)), Mark(3.0, (3, 6))]
    found = pieces([OUT.sizes(), ERR.sizes()], (18, 12), marks)
    assert shown(found) == b"out 1\nerr 1\nout 2\nout 3\nerr 2\n"


def test_marks_are_made_where_the_stream_changes(tmp_path: Path) -> None:
    """And a full file keeps the last ones; what is damaged has none."""
    counts = [ByteCounts(), ByteCounts()]
    path = tmp_path / "timeline"
    timeline = Timeline(str(path), counts)
    for stream in (0, 0, 1, 1, 0):
        timeline.moving(stream)
        counts[stream].count(moved=10)
    timeline.close()
    timeline.moving(1)
    found = decode(path.read_bytes())
    assert [mark.before for mark in found] == [(0, 0), (20, 0), (20, 20)]
    assert decode(b"") == decode(path.read_bytes()[:-1]) == []
    cells = [MARKS + 1] + [0] * (CELLS * MARKS)
    for number in range(1, MARKS + 1):
        at = 1 + number % MARKS * CELLS
        cells[at : at + CELLS] = [number, number, 0]
    full = decode(struct.pack(f"{FILE_BYTES // 8}Q", *cells))
    assert [full[0].before, full[-1].before] == [(1, 0), (MARKS, 0)]
    cells[1 + CELLS + 1] = 2**63
    assert decode(struct.pack(f"{FILE_BYTES // 8}Q", *cells)) == []


def test_a_timeline_that_cannot_be_kept_costs_nothing(tmp_path: Path) -> None:
    """A full disk, say."""
    timeline = Timeline(str(tmp_path / "nowhere" / "timeline"), [ByteCounts(), ByteCounts()])
    timeline.moving(0)
    timeline.close()
