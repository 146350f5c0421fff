"""`milo logs` on a terminal: nothing of a task's makes it do anything but show text and colours."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo.cli.terminal_filter import TerminalFilter


def shown(*pieces: bytes) -> bytes:
    """Return what becomes of a stream that comes in these pieces."""
    found = TerminalFilter()
    return b"".join(map(found.feed, pieces)) + found.end()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"plain\ttext\nline\r\n", b"plain\ttext\nline\r\n"),
        ("zoë 漢字 🙂\n".encode(), "zoë 漢字 🙂\n".encode()),
        (b"\x1b[1;31mERROR\x1b[0m x\n", b"\x1b[1;31mERROR\x1b[0m x\n\x1b[m"),
        (b"\x1b]0;title\x07", rb"\x1b]0;title\x07"),
        (b"\x1b[2J\x1b[H\x1b[6n", rb"\x1b[2J\x1b[H\x1b[6n"),
        (b"\x1b]52;c;ZXZpbA==\x1b\\", rb"\x1b]52;c;ZXZpbA==\x1b" + b"\\"),
        (b"100%\rfaked", rb"100%\rfaked"),
        (b"a\x08\x7f\x00", rb"a\x08\x7f\x00"),
        ("\x9b31m \u202e".encode(), rb"\x9b31m \u202e"),
        (b"\xff\x9b31m", rb"\xff\x9b31m"),
        (b"\xe6\xbc", rb"\xe6\xbc"),
        (b"end\x1b[", rb"end\x1b["),
        (b"\x1b[" + b"1" * 65 + b"m", rb"\x1b[" + b"1" * 65 + b"m"),
    ],
)
def test_only_text_and_colours_pass(data: bytes, expected: bytes) -> None:
    """The rest is shown as it would be written in a string, also when it comes byte by byte."""
    assert shown(data) == expected
    assert shown(*(bytes([byte]) for byte in data)) == expected


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"\x1b[", b"31", b"m", b"\r", b"\n"])))
def test_nothing_else_gets_through(pieces: list[bytes]) -> None:
    """Whatever is fed in whatever pieces, only printable characters and colours come out."""
    text = shown(*pieces).decode()
    assert text == shown(b"".join(pieces)).decode()
    rest = re.sub(r"\x1b\[[0-9;:]*m|\r\n|[\n\t]", "", text)
    assert rest == "" or rest.isprintable()
