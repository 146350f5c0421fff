"""What is searched for in the output that an `OutputSampler` copies. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from milo.core.java.out_of_memory import ERROR_NAME
from milo.core.java.printed_threads import BEGIN, PrintedThreads, is_time
from milo.core.java.startup_cache import RECORDED

REASON_BYTES: Final = 160
"""How much of the line after the error's name is kept. HotSpot's longest reason has 86 bytes."""

LINE_BYTES: Final = 256
"""How much of a line is kept as the last one."""

UNREAD_BYTES: Final = 2 << 10
"""So much is gathered before it is looked through: each line on its own costs more than its move
does, and only the last one is ever asked for."""

_NAME: Final = ERROR_NAME.encode()
_REASON: Final = re.compile(rb"(?![\w$.])(?:: *([^\"\\\x00-\x1f\x7f-\xff]*))?")
"""What follows the name, up to what ends a line or, in a log of JSON, a string. A longer name
is another class, and a dot comes in a stack trace's frames."""
_STACK_FRAME: Final = (b"\tat ", b"\t... ")
"""How a line of a Java stack trace begins that says no more than where."""


class OomSearch:
    """Finds the error's name in a stream that comes in pieces, some of which may be missing.

    ``found`` is called with the reason, printable ASCII of at most `REASON_BYTES`, perhaps
    empty, once the name's line has ended, is long enough, or cannot be seen any further.
    """

    def __init__(self, found: Callable[[str], None]) -> None:
        self._found = found
        self._kept = b""
        """The end of what was seen, which may be the beginning of a match."""

    def feed(self, data: bytes) -> None:
        """Search ``data``, which follows what was fed before."""
        text = self._kept + data
        self._kept = b""
        at = 0
        while (at := text.find(_NAME, at)) >= 0:
            begin = at + len(_NAME)
            line = text[begin : begin + REASON_BYTES]
            if b"\n" not in line and len(line) < REASON_BYTES:
                self._kept = text[at:]
                return
            self._tell(line)
            at = begin
        if not text.endswith(b"\n"):
            self._kept = text[1 - len(_NAME) :]

    def gap(self) -> None:
        """What comes next was not seen, or nothing comes any more."""
        kept, self._kept = self._kept, b""
        if kept.startswith(_NAME):
            self._tell(kept[len(_NAME) :])

    def _tell(self, line: bytes) -> None:
        match = _REASON.match(line)
        if match is not None:
            self._found((match[1] or b"").decode("ascii").strip())


_EMPTY_WORDS: Final = (
    b"Error: Could not create the Java Virtual Machine.",
    b"Error: A fatal exception has occurred. Program will exit.",
)
"""What a JVM says after it has said what is wrong with an option."""


class LastLine:
    """The last line of a stream that says something.

    Blank ones and stack frames do not, and no thread dump, for which Milo itself asks a JVM.
    """

    def __init__(self) -> None:
        self._last = b""
        self._threads = PrintedThreads()
        self._open = b""
        """The beginning of a line whose end was not seen yet."""
        self._unread = b""
        """What follows that, not looked through yet."""

    def feed(self, data: bytes) -> None:
        """Take in ``data``, which follows what was fed before."""
        self._unread += data
        if len(self._unread) >= UNREAD_BYTES:
            self._read()

    def _read(self) -> None:
        data, self._unread = self._unread, b""
        before, newline, rest = data.rpartition(b"\n")
        if not newline:
            self._open = (self._open + data)[:LINE_BYTES]
            return
        text = self._open + before
        lines = text.split(b"\n")
        if self._threads.inside or BEGIN in text:
            lines = [line for line in lines if not self._threads.has(line)]
        for line in reversed(lines):
            if self._says_something(line):
                self._last = line[:LINE_BYTES]
                break
        self._open = rest[:LINE_BYTES]

    def gap(self) -> None:
        """What comes next was not seen, or nothing comes any more."""
        self.feed(b"\n")
        self._read()
        self._threads.gap()

    @property
    def text(self) -> str:
        """The line as text, without blanks around it; empty where there was none."""
        self._read()
        seen = not self._threads.inside and self._says_something(self._open)
        line = self._open if seen else self._last
        return line.decode(errors="replace").strip()

    @staticmethod
    def _says_something(line: bytes) -> bool:
        said = line.strip()
        says_where = line.startswith((*_STACK_FRAME, RECORDED.rstrip()))
        return bool(said) and said not in _EMPTY_WORDS and not says_where and not is_time(line)
