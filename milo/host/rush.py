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
FEW: Final = 8
"""So many are no rush: what is left to do for them holds up nobody."""


class Rush:
    """What comes all at once, and what can wait for its end."""

    def __init__(self) -> None:
        self._last = -math.inf
        self._count = 0
        self._coming: trio.Event | None = None

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Be part of it while the block runs; but one that gets on with nothing ends no rush."""
        now = trio.current_time()
        self._count = self._count + 1 if now < self._last + PAUSE_S else 1
        self._last = now
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
        return self._last + PAUSE_S - trio.current_time() if self._count > FEW else 0.0
