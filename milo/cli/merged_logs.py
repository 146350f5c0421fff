"""Standard output and standard error of a task as one log, in order of time.

The log's files hold no times. A running task, and one whose state directory is still there, has
marks of which stream went on when (`milo.core.timeline`); what came before them, or of a task
without any, is ordered by the times of the files. A line is never torn.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, Protocol

import attrs

from milo.core.timeline import Mark

LINE_BYTES: Final = 64 * 1024
"""So far the end of a line is looked for where the other stream goes on."""


@attrs.frozen
class Piece:
    """Bytes of one stream that came together."""

    stream: int
    """0 is standard output, 1 is standard error; of another task the next two numbers."""
    start: int
    end: int
    """Both count from the first byte of the oldest file."""
    at_s: float
    """When they began to come, as far as that is known."""


class Stream(Protocol):
    """One stream's files, as they were when they were looked at."""

    def sizes(self) -> Sequence[tuple[int, float]]:
        """Return the size of each file and the Unix time of its last change, the oldest first."""

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """Yield these bytes in blocks, or what is left of them."""


def pieces(
    files: Sequence[Sequence[tuple[int, float]]], moved: tuple[int, int], marks: Sequence[Mark]
) -> list[Piece]:
    """Return what both streams hold, in order of time.

    ``files``: of each stream, what `Stream.sizes` tells. ``moved``: how many bytes of each have
    come since the beginning that ``marks`` count from.
    """
    ends = [sum(size for size, _ in one) for one in files]
    bases = [max(0, end - count) for end, count in zip(ends, moved, strict=True)]
    skipped = [max(0, count - end) for end, count in zip(ends, moved, strict=True)]
    found: list[Piece] = []
    edges = [tuple(base for base in bases)]
    times = []
    for mark in marks:
        edges.append(
            tuple(
                min(end, max(base, base + before - skip))
                for base, end, before, skip in zip(bases, ends, mark.before, skipped, strict=True)
            )
        )
        times.append(mark.at_s)
    edges.append(tuple(ends))
    first = edges[1] if marks else tuple(ends)
    found = _by_files(files, first)
    for (low, high), at_s in zip(pairwise(edges[1:]), times, strict=True):
        found += [
            Piece(stream, low[stream], high[stream], at_s)
            for stream in (0, 1)
            if low[stream] < high[stream]
        ]
    return found


def _by_files(files: Sequence[Sequence[tuple[int, float]]], ends: Sequence[int]) -> list[Piece]:
    """Return what comes before the first mark, file by file."""
    lists = []
    for stream, (one, last) in enumerate(zip(files, ends, strict=True)):
        at, found = 0, []
        for size, changed_s in one:
            end = min(at + size, last)
            if at < end:
                found.append(Piece(stream, at, end, changed_s))
            at += size
        lists.append(found)
    return list(heapq.merge(*lists, key=lambda piece: piece.at_s))


def since(found: Sequence[Piece], earliest_s: float) -> list[Piece]:
    """Return the pieces that began at ``earliest_s`` or later."""
    return [piece for piece in found if piece.at_s >= earliest_s]


def whole_lines(found: Sequence[Piece], streams: Sequence[Stream]) -> Iterator[tuple[int, bytes]]:
    """Yield the streams' bytes in the order of ``found``, each piece up to the end of a line."""
    done = [0] * len(streams)
    ends = [sum(size for size, _ in one.sizes()) for one in streams]
    for piece in found:
        start = max(piece.start, done[piece.stream])
        last = b""
        for data in streams[piece.stream].read(start, piece.end):
            yield piece.stream, data
            last = data
        done[piece.stream] = max(start, piece.end)
        if last and not last.endswith(b"\n"):
            rest = min(piece.end + LINE_BYTES, ends[piece.stream])
            for data in streams[piece.stream].read(piece.end, rest):
                line, feed, _ = data.partition(b"\n")
                yield piece.stream, line + feed
                done[piece.stream] += len(line + feed)
                if feed:
                    break


def last_lines(
    found: Sequence[Piece], streams: Sequence[Stream], lines: int, limit: int
) -> list[Piece]:
    """Return the end of ``found`` with so many lines, looking at ``limit`` bytes at most."""
    kept: list[Piece] = []
    for piece in reversed(found):
        if lines <= 0 or limit <= 0:
            break
        start = max(piece.start, piece.end - limit)
        data = b"".join(streams[piece.stream].read(start, piece.end))
        limit -= len(data)
        feeds = data.count(b"\n") + (not data.endswith(b"\n"))
        if feeds > lines:
            at = len(data) - data.endswith(b"\n")
            for _ in range(lines):
                at = data.rindex(b"\n", 0, at)
            start += at + 1
        kept.append(attrs.evolve(piece, start=start))
        lines -= feeds
    return kept[::-1]
