"""Collecting the lines of a stream as they arrive, each with its time."""

from __future__ import annotations

import threading
import time
from typing import IO

from tests.support.waiting import wait_for


class Lines:
    """Reads a stream to its end on a thread of its own."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.arrived: list[tuple[float, str]] = []
        """Time of arrival in seconds since the epoch, and the line without its newline."""
        self.ended = False
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[bytes]) -> None:
        try:
            for line in iter(stream.readline, b""):
                self.arrived.append((time.time(), line.decode(errors="replace").rstrip("\n")))
        except (OSError, ValueError):
            pass  # The stream was closed under us: that is its end.
        self.ended = True

    @property
    def text(self) -> list[str]:
        """The lines so far."""
        return [line for _, line in self.arrived]

    def wait_for(self, line: str, times: int = 1, timeout_s: float = 30) -> float:
        """Wait until ``line`` has arrived that many times; return when it did."""

        def probe() -> float | None:
            found = [when for when, text in list(self.arrived) if text == line]
            return found[times - 1] if len(found) >= times else None

        return wait_for(f"line {line!r} for the {times}. time", probe, timeout_s)

    def wait_count(self, count: int, timeout_s: float = 30) -> list[tuple[float, str]]:
        """Wait until at least ``count`` lines have arrived, and return all."""
        wait_for(f"{count} lines", lambda: len(self.arrived) >= count, timeout_s)
        return list(self.arrived)
