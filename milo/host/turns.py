"""Lets a few at a time begin what many want at once, the first to come first.

A hundred starts at once share the processors with each other and with the driver. They are not done
sooner than a few at a time, each one takes as long as all, and the driver, which is one process
among hundreds then, answers no RPC for seconds (measured: docs/architecture.md). Only a beginning
is waited for: whoever takes long holds nobody up.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

A_PROCESSOR: Final = 4
"""So many at once for each processor: some wait for a disk, or for others' work, meanwhile."""


def usual_count() -> int:
    """Return how many this host can begin at once."""
    return A_PROCESSOR * len(os.sched_getaffinity(0))


class Turns:
    """At most ``at_once`` callers are within the first ``begin_s`` seconds of a `taken` block."""

    def __init__(self, begin_s: float, at_once: int | None = None) -> None:
        self._begin_s = begin_s
        self._at_once = usual_count() if at_once is None else at_once
        self._waiting: deque[trio.Event] = deque()
        self._ends_at: dict[trio.Event, float] = {}
        """Of those within their beginning: when that is over, by trio.current_time()."""

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Wait for a turn and have it, until the block is left or ``begin_s`` is over.

        Cancelled while it waits, the block is not entered.
        """
        turn = trio.Event()
        self._waiting.append(turn)
        try:
            self._give()
            while not turn.is_set():
                with trio.move_on_at(min(self._ends_at.values())):
                    await turn.wait()
                self._give()
            yield
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)
            self._ends_at.pop(turn, None)
            self._give()

    def _give(self) -> None:
        """Give turns to those who wait, as far as there are any."""
        now = trio.current_time()
        for turn in [turn for turn, end in self._ends_at.items() if end <= now]:
            del self._ends_at[turn]
        while self._waiting and len(self._ends_at) < self._at_once:
            turn = self._waiting.popleft()
            self._ends_at[turn] = now + self._begin_s
            turn.set()
