"""Tells when the rush of an agent's start is over: that recovers all its tasks at once.

What is not needed for the answers waits for that: with a thousand tasks it would take as long again
as the answers do, and every other call waits meanwhile (measured: docs/architecture.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

PAUSE_S: Final = 1.0
"""A rush is over when for so long nothing has begun or ended that is part of it."""


class Rush:
    """What comes all at once, and what can wait for its end."""

    def __init__(self) -> None:
        self._last = -math.inf
        self._coming: trio.Event | None = None

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Be part of it while the block runs; but one that gets on with nothing ends no rush."""
        self._last = trio.current_time()
        try:
            yield
        finally:
            self._last = trio.current_time()

    async def over(self) -> None:
        """Return when it is over; at once where there is none."""
        while self._rest_s() > 0:
            if self._coming is not None:
                await self._coming.wait()
                continue
            coming = self._coming = trio.Event()  # one sleeps for all
            try:
                while (rest_s := self._rest_s()) > 0:  # noqa: ASYNC110 - it is put off meanwhile
                    await trio.sleep(rest_s)
            finally:
                self._coming = None
                coming.set()

    def _rest_s(self) -> float:
        return self._last + PAUSE_S - trio.current_time()
