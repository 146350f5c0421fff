"""Reads back what chaos-lines.jar printed, and accounts for every byte of it.

The program's lines say which one each is, when it was printed and, by a checksum, that it is
whole; how long a line is follows from its number. So what is missing is known to the byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from zlib import crc32

import attrs

PREFIX_BYTES = 29
SUFFIX_BYTES = 10
CHUNK_BYTES = 4 << 20


def line_bytes(number: int) -> int:
    """Return the length of the line with this number, newline included: see ChaosLines.java."""
    return PREFIX_BYTES + 20 + number * 37 % 400 + SUFFIX_BYTES


@attrs.frozen
class Gap:
    """Lines that are missing between two that are there."""

    first: int
    last: int
    count: int
    """Of those from ``first`` to ``last``: some may have come late."""
    lost_bytes: int
    """Of the lines, less what is left of them in damaged ones."""
    after_ms: int
    """When the last line before was printed; milliseconds since the epoch."""
    before_ms: int
    """When the first line after was printed."""


@attrs.define
class Account:
    """What became of one stream."""

    stream: str
    """``o`` or ``e``, as the lines themselves say."""
    lines: int = 0
    """Whole lines that were read."""
    read_bytes: int = 0
    """All that was read."""
    expected: int = 0
    """The number that the next line should have."""
    gaps: list[Gap] = attrs.field(factory=list)
    repeated: int = 0
    """Lines that are there more than once."""
    out_of_order: int = 0
    """Lines that come after later ones."""
    damaged: int = 0
    """Lines that are not whole."""
    _last_ms: int = 0
    _fragments: int = 0
    _late: set[int] = attrs.field(factory=set)

    @property
    def lost_bytes(self) -> int:
        """How many bytes are missing in all."""
        return sum(gap.lost_bytes for gap in self.gaps)

    @property
    def lost_lines(self) -> int:
        """How many lines are missing in all."""
        return sum(gap.count for gap in self.gaps)

    @property
    def clean(self) -> bool:
        """Whether every line is there once, whole and in order."""
        return not (self.gaps or self.repeated or self.out_of_order or self.damaged)

    def read(self, chunks: Iterable[bytes]) -> None:
        """Take in the stream's bytes."""
        rest = b""
        for chunk in chunks:
            self.read_bytes += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            self._take(lines)
        if rest:
            self.damaged += 1
            self._fragments += len(rest)

    def _take(self, lines: list[bytes]) -> None:
        head = self.stream.encode() + b" %012d "
        expected, last = self.expected, b""
        for line in lines:
            if line.startswith(head % expected) and not self._fragments and is_whole(line):
                expected += 1
                last = line
                continue
            self._note(expected, last)
            self._look(line)
            expected, last = self.expected, b""
        self._note(expected, last)

    def _note(self, expected: int, last: bytes) -> None:
        self.lines += expected - self.expected
        self.expected = expected
        self._last_ms = _when(last) or self._last_ms

    def _look(self, line: bytes) -> None:
        """Take in a line that is not the next one, or comes after a damaged one."""
        if not is_whole(line) or line[:1] != self.stream.encode():
            self.damaged += 1
            self._fragments += len(line) + 1
            return
        number = int(line[2:14])
        self.lines += 1
        if number < self.expected:
            self._is_late(number)
            return
        self._note_gap(number, _when(line))
        self.expected = number + 1
        self._last_ms = _when(line)

    def _is_late(self, number: int) -> None:
        for index, gap in enumerate(self.gaps):
            if gap.first <= number <= gap.last and number not in self._late:
                self._late.add(number)
                left = attrs.evolve(
                    gap, count=gap.count - 1, lost_bytes=gap.lost_bytes - line_bytes(number)
                )
                self.gaps[index : index + 1] = [left] if left.count else []
                self.out_of_order += 1
                return
        self.repeated += 1

    def _note_gap(self, number: int, now_ms: int) -> None:
        missing = range(self.expected, number)
        size = sum(map(line_bytes, missing)) - self._fragments
        self._fragments = 0
        if missing:
            after_ms = self._last_ms or now_ms
            self.gaps.append(Gap(self.expected, number - 1, len(missing), size, after_ms, now_ms))

    def finish(self, lines: int, now_ms: int) -> None:
        """Note that the program printed ``lines`` lines in all, and had ended by ``now_ms``."""
        self._note_gap(lines, now_ms)
        self.expected = max(self.expected, lines)


def is_whole(line: bytes) -> bool:
    """Whether a line, without its newline, is one of the program's and undamaged."""
    try:
        return int(line[-8:], 16) == crc32(line[:-9]) and len(line) > PREFIX_BYTES
    except ValueError:
        return False


def _when(line: bytes) -> int:
    try:
        return int(line[15:28])
    except ValueError:
        return 0


def log_files(directory: Path, name: str) -> list[Path]:
    """Return Nomad's log files ``NAME.0``, ``NAME.1`` ... in order; raises when one is missing."""
    found = {int(path.suffix[1:]): path for path in directory.glob(f"{name}.*")}
    if sorted(found) != list(range(len(found))):
        raise AssertionError(f"{directory}/{name}.*: rotated away, there are only {sorted(found)}")
    return [found[number] for number in sorted(found)]


def read_files(paths: Iterable[Path]) -> Iterator[bytes]:
    """Yield the content of files, one after the other."""
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
