"""The chaos run's accounting sees every kind of damage to a log, to the byte."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import pytest

from tests.chaos.account import Account, Gap, line_bytes, log_files, read_files


def line(number: int, stream: str = "o") -> bytes:
    """Return a line as ChaosLines.java makes it."""
    filler = "x" * (20 + number * 37 % 400)
    text = f"{stream} {number:012d} {1_700_000_000_000 + number:013d} {filler}".encode()
    return text + b" %08x\n" % crc32(text)


def account(*pieces: bytes, lines: int) -> Account:
    """Return the account of a log that consists of ``pieces``."""
    found = Account("o")
    found.read(pieces)
    found.finish(lines, now_ms=1_800_000_000_000)
    return found


WHOLE = b"".join(map(line, range(300)))


@pytest.mark.parametrize("cut", [1, 7, 100, 4096, len(WHOLE)])
def test_a_whole_log_is_clean(cut: int) -> None:
    """Every line once and in order is clean, wherever the chunks are cut."""
    found = account(*(WHOLE[at : at + cut] for at in range(0, len(WHOLE), cut)), lines=300)
    assert found.clean
    assert (found.lines, found.read_bytes, found.lost_bytes) == (300, len(WHOLE), 0)


def test_the_length_of_a_line_is_known() -> None:
    """The length of a line that was lost follows from its number."""
    assert all(line_bytes(number) == len(line(number)) for number in range(1000))


@pytest.mark.parametrize(("start", "end"), [(5000, 5001), (5000, 20000), (0, 10), (40000, 40003)])
def test_lost_bytes_are_counted_exactly(start: int, end: int) -> None:
    """Bytes cut out of the middle of lines are lost bytes, no more and no fewer."""
    found = account(WHOLE[:start] + WHOLE[end:], lines=300)
    assert found.lost_bytes == end - start
    assert found.lines + found.lost_lines == 300
    assert (found.repeated, found.out_of_order) == (0, 0)
    assert not found.clean


def test_a_lost_end_is_counted() -> None:
    """Lines that the program says it printed last, and that never came, are lost."""
    found = account(WHOLE[:-1000], lines=300)
    assert found.lost_bytes == 1000
    assert found.gaps[-1].before_ms == 1_800_000_000_000


def test_a_gap_is_dated() -> None:
    """A gap says when the lines around it were printed, so that its cause can be told."""
    log = b"".join(map(line, [*range(10), *range(20, 30)]))
    assert account(log, lines=30).gaps == [
        Gap(10, 19, 10, sum(map(line_bytes, range(10, 20))), 1_700_000_000_009, 1_700_000_000_020)
    ]


def test_repeated_lines_are_counted() -> None:
    """Lines that come twice are repeated, and nothing is lost."""
    found = account(WHOLE, line(299), line(3), lines=300)
    assert (found.repeated, found.lost_bytes, found.out_of_order) == (2, 0, 0)
    assert not found.clean


def test_lines_out_of_order_are_counted() -> None:
    """Lines that come late are out of order and not lost."""
    order = [*range(10), 12, 13, 10, 11, *range(14, 20)]
    found = account(b"".join(map(line, order)), lines=20)
    assert (found.out_of_order, found.lost_lines, found.lost_bytes) == (2, 0, 0)
    assert not found.clean


def test_a_changed_byte_is_damage() -> None:
    """One byte that is not what it was is seen."""
    broken = bytearray(WHOLE)
    broken[12345] ^= 1
    found = account(bytes(broken), lines=300)
    assert found.damaged
    assert not found.clean


def test_a_line_of_the_other_stream_is_damage() -> None:
    """Streams that mix are seen."""
    assert account(WHOLE, line(3, "e"), lines=300).damaged == 1


def test_log_files_are_read_in_order(tmp_path: Path) -> None:
    """Rotated files are read from the first to the last, ten after nine."""
    for number in range(12):
        (tmp_path / f"app.stdout.{number}").write_bytes(line(number))
    assert account(*read_files(log_files(tmp_path, "app.stdout")), lines=12).clean
    (tmp_path / "app.stdout.0").unlink()
    with pytest.raises(AssertionError, match="rotated away"):
        log_files(tmp_path, "app.stdout")
