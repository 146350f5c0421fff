"""What others have chosen is shown in one line, with nothing in it that a terminal obeys."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo.core.report import ExitResult, TaskEvent
from milo.core.text import printable, shortened

HOSTILE = "a\n\r\t\x00\x1b[31m\x7f\x9b\u202e\u2028\udcff"
SHOWN = r"a\n\r\t\x00\x1b[31m\x7f\x9b\u202e\u2028\udcff"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("Runs on Java 17; heap 64 MiB — „größer“ 漢字 🙂", None),
        (HOSTILE, SHOWN),
    ],
)
def test_what_a_terminal_could_obey_is_escaped(text: str, shown: str | None) -> None:
    """Letters, punctuation and blanks of any language stay as they are."""
    assert printable(text) == (text if shown is None else shown)


@given(st.text(st.characters()))
def test_nothing_gets_through(text: str) -> None:
    """Whatever comes in, one line of printable UTF-8 goes out, and again the same."""
    shown = printable(text)
    assert shown.isprintable() and printable(shown) == shown
    assert not any(unicodedata.category(char).startswith(("C", "Zl", "Zp")) for char in shown)
    shown.encode()


@given(st.text(max_size=300), st.integers(1, 200))
def test_a_shortened_text_is_bounded(text: str, chars: int) -> None:
    """It has at most so many characters, and says where something is missing."""
    short = shortened(text, chars)
    assert len(short) <= chars
    assert short == printable(text) or short.endswith("…")


def test_what_is_reported_is_printable() -> None:
    """Events and exit messages leave the driver without a control character."""
    event = TaskEvent("id", "alloc", "app", HOSTILE, 1.0)
    result = ExitResult(exit_code=1, error=HOSTILE, message=HOSTILE)
    assert [event.message, result.error, result.message] == [SHOWN] * 3
