"""The thread dump that HotSpot prints when it gets SIGQUIT, among an application's lines. Pure."""

from __future__ import annotations

import re
from typing import Final

BEGIN: Final = b"Full thread dump "
_TIME: Final = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\s*")
"""The line before it."""
_LAST: Final = b" Metaspace "
"""The line of the heap, at the end of it, that only one with more blanks follows; JDK 8 to 25."""
_OTHERS: Final = re.compile(rb"(?!JNI |Heap|Threads |_java_|0x)[\w\[{]")
"""How a line begins that is not from within one, as far as its beginning tells."""


class PrintedThreads:
    """Tells the lines of thread dumps from all others, which are given in their order."""

    def __init__(self) -> None:
        self.inside = False
        """Whether the next line belongs to a dump, as far as is known."""
        self._ends = False
        self._unsure = False
        self._is_cut = False

    def has(self, line: bytes) -> bool:
        """Return whether ``line`` is part of one, or of what the JVM prints before it."""
        if line.startswith(BEGIN):
            self._set(inside=True)
        elif self._is_cut:
            self._is_cut = False
        elif (self._ends and not line.startswith(b" ")) or (self._unsure and _OTHERS.match(line)):
            self._set(inside=False)  # by a blank line, if nobody else writes in between
            return not line.strip() or is_time(line)
        elif self.inside and line.startswith(_LAST):
            self._ends = True
        return self.inside or is_time(line)

    def gap(self) -> None:
        """Some lines were not seen, and the end of a dump may be among them."""
        self._unsure = self._is_cut = self.inside

    def _set(self, *, inside: bool) -> None:
        self.inside = inside
        self._ends = self._unsure = self._is_cut = False


def is_time(line: bytes) -> bool:
    """Return whether a line is nothing but a time, as a dump's first one is."""
    return _TIME.fullmatch(line) is not None
