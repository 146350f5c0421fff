"""The output of ``milo run``: what the application prints goes out, and into log files."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import trio

from milo.cli.log_files import RotatingFile
from milo.cli.output import OutputError, ReaderGoneError, warn, write_all
from milo.task.logs.byte_counts import ByteCounts

CHUNK_BYTES: Final = 64 * 1024


class Copy:
    """Copies what the pump delivers to ``target``, a standard stream, and to a log file.

    Where one of them fails, the application goes on and the other one is still written.
    """

    def __init__(
        self,
        source: int,
        target: int,
        file: RotatingFile | None,
        on_reader_gone: Callable[[], None],
        counts: ByteCounts,
        left_out: bytes = b"",
    ) -> None:
        """``on_reader_gone`` is called when nobody is left who would get the output.

        What ``file`` does not take is counted as dropped. ``left_out`` is a line that is not the
        application's, and comes last.
        """
        self._left_out = left_out
        self.counts = counts
        self.lost_bytes = 0
        """What the log file did not take."""
        self.complete = True
        """False when output was lost, but for what a reader that has gone did not want."""
        self._on_reader_gone = on_reader_gone
        self._source = source
        self._target = target
        self._file = file

    async def run(self) -> None:
        """Copy until the writer has gone."""
        to_terminal = self._target >= 0
        while True:
            await trio.lowlevel.wait_readable(self._source)
            try:
                data = os.read(self._source, CHUNK_BYTES)
            except BlockingIOError:
                continue
            if not data:
                return
            data = data.removesuffix(self._left_out)
            if self.lost_bytes:
                self._count_lost(len(data))
            elif self._file is not None:
                before = self._file.total
                try:
                    await trio.to_thread.run_sync(self._file.write, data)
                except OSError as exc:
                    self._lose(f"Error: the log file cannot be written: {exc.strerror}")
                    self._count_lost(len(data) - (self._file.total - before))
            if to_terminal:
                try:
                    # In a thread: a terminal stopped with Ctrl-S must not stop the pumps.
                    await trio.to_thread.run_sync(write_all, self._target, data)
                except ReaderGoneError:
                    # Piped into head, say: what else comes is read, so that the application
                    # can end.
                    to_terminal = False
                    if self._file is None or self.lost_bytes:
                        self._on_reader_gone()
                except OutputError as exc:
                    self._lose(str(exc))
                    to_terminal = False

    def _count_lost(self, number: int) -> None:
        self.lost_bytes += number
        self.counts.count(moved=-min(number, self.counts.moved), dropped=number)

    def _lose(self, problem: str) -> None:
        self.complete = False
        text = f"{problem}. The application keeps running, but this output is lost"
        warn(text)
