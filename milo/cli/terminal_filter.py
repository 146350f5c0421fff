"""Shows what a task has printed on a terminal without letting it control the terminal.

As with ``less -R``, colours pass. Everything else that a terminal obeys (moving the cursor, setting
the title or the clipboard, hiding earlier lines) is shown as an escape. Pure.
"""

from __future__ import annotations

import codecs
import re
from typing import Final

RESET: Final = "\x1b[m"
MAX_PARAMETERS: Final = 64
"""Of one colour sequence; nobody writes as many."""

_SPECIAL: Final = re.compile(
    rf"(?P<colour>\x1b\[[0-9;:]{{0,{MAX_PARAMETERS}}}m)|(?P<line_end>\r\n)|[^ -~\n\t]"
)
_UNFINISHED: Final = re.compile(rf"(?:\x1b(?:\[[0-9;:]{{0,{MAX_PARAMETERS}}})?|\r)\Z")
"""What the next bytes may make a colour, or the end of a line."""


class TerminalFilter:
    """Takes a stream in pieces of any size and returns what may be shown of it."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._held = ""
        self._coloured = False

    def feed(self, data: bytes) -> bytes:
        """Return what ``data`` looks like; its last characters may come with the next piece."""
        text = self._held + self._decoder.decode(data)
        match = _UNFINISHED.search(text)
        self._held = match[0] if match else ""
        return self._shown(text.removesuffix(self._held))

    def end(self) -> bytes:
        """Return what was held back, and end the colours that passed."""
        rest = self._shown(self._held + self._decoder.decode(b"", final=True))
        return rest + (RESET.encode() if self._coloured else b"")

    def _shown(self, text: str) -> bytes:
        return _SPECIAL.sub(self._replaced, text).encode()

    def _replaced(self, match: re.Match[str]) -> str:
        text = match[0]
        if match["colour"]:
            self._coloured = True
        elif not match["line_end"] and not text.isprintable():
            return _escaped(text)
        return text


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte that is no UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
