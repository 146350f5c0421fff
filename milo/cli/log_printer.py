"""Prints the logs of one task as they are, or those of several with a name before each line."""

from __future__ import annotations

import sys
from typing import Final

from milo.cli.terminal_filter import TerminalFilter

LINE_BYTES: Final = 64 * 1024
"""Longer lines of one of several tasks are broken: its end is not waited for."""


class Printer:
    """Takes one stream's bytes, in pieces of any size. `close` it, in the end.

    With a ``name``, only whole lines are printed, each behind that.
    """

    def __init__(self, name: str = "") -> None:
        self._name = f"{name} | ".encode() if name else b""
        self._begun = b""
        # A program that reads the log gets each byte as it is.
        self._filter = TerminalFilter() if sys.stdout.isatty() else None

    def feed(self, data: bytes) -> None:
        """Print what can be printed of ``data``, and of what was held back."""
        self._put(data if self._filter is None else self._filter.feed(data))

    def close(self) -> None:
        """Print what was held back."""
        if self._filter is not None:
            self._put(self._filter.end())
        if self._begun:
            _write(self._name + self._begun + b"\n")

    def _put(self, data: bytes) -> None:
        if not self._name:
            _write(data)
            return
        *lines, self._begun = (self._begun + data).split(b"\n")
        if len(self._begun) > LINE_BYTES:
            lines.append(self._begun)
            self._begun = b""
        _write(b"".join(self._name + line + b"\n" for line in lines))


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
