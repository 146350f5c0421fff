"""Decides when a log pump pauses, and when it copies a sample. No I/O, no clock.

Times are seconds of whatever clock the caller uses throughout; sizes are bytes.
"""

from __future__ import annotations

import math

SMALL_BYTES = 64 << 10
QUICK_S = 0.0005
PAUSE_S = 0.001
STREAK = 32
LARGE_PIPE_BYTES = 512 << 10
NO_PAUSE_S = 0.25
"""The pause under load: after `STREAK` chunks in a row that were smaller than `SMALL_BYTES`
and came less than `QUICK_S` apart, pause `PAUSE_S` and let the pipe gather, if both pipes
hold at least `LARGE_PIPE_BYTES`. A burst of a few lines is no load and is not held up. A
pipe found three quarters full after its pause made its writer wait, or nearly: then there is
no pause for the next `NO_PAUSE_S`. Measured in docs/spikes/4-large-volumes.md: splicing every
small write on its own costs several times the CPU; with pipes of 64 KiB the pause hurts."""

LOOK_BYTES = 8 << 10
"""How much the sampler looks at when more waits: of the beginning of a chunk, and of its end."""


class Pacer:
    """Decides on the pause under load, and on when the output sampler has time to look."""

    def __init__(self) -> None:
        self._streak = 0
        self._in_a_row = 0
        """Chunks, of any size, that came less than `QUICK_S` apart."""
        self._last_bytes = 0
        self._last = -math.inf
        self._paused = False
        self._rest_until = -math.inf

    def pause_after(self, moved_bytes: int, now: float, *, smallest_pipe_bytes: int) -> float:
        """Return how long to pause after a chunk that came at ``now``; mostly 0."""
        gathered, self._paused = self._paused, False
        since_last, self._last = now - self._last, now
        self._in_a_row = self._in_a_row + 1 if since_last < QUICK_S else 0
        self._last_bytes = moved_bytes
        if gathered and 4 * moved_bytes >= 3 * smallest_pipe_bytes:
            self._rest_until = now + NO_PAUSE_S
        small = moved_bytes < SMALL_BYTES or gathered
        quick = since_last < QUICK_S or gathered
        if not quick or not small or smallest_pipe_bytes < LARGE_PIPE_BYTES:
            self._streak = 0
            return 0.0
        self._streak += 1
        if self._streak < STREAK or now < self._rest_until:
            return 0.0
        self._paused = True
        return PAUSE_S

    def has_time(self, now: float) -> bool:
        """Whether a look at what moves at ``now`` costs little beside moving it.

        That is after a rest, the writer's or the pump's own, and in a burst of small chunks
        as long as it is short; not in a flood.
        """
        if now - self._last >= QUICK_S:
            return True
        return self._in_a_row < STREAK and self._last_bytes <= LOOK_BYTES

    def ran_dry(self) -> None:
        """The source was empty: if that was after a pause, the load is over."""
        if self._paused:
            self._paused, self._streak = False, 0
