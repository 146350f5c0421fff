"""Copies samples of a stream's output for searching, without delaying or changing the stream.

``splice`` moves log bytes without copying them to Milo. ``tee`` puts references to the same pages
into a second, small pipe, and only that pipe is read. The stream's bytes, their order and the
splices do not change. A sampler never waits and never raises: one that fails stops.

`milo.task.logs.pacer` decides when a sample is taken. Fast output is not copied, except for the
beginning and the end of each collected chunk.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from typing import Final, Protocol

from milo.task.logs.fifo import PIPE_BYTES, waiting_bytes
from milo.task.logs.pacer import LOOK_BYTES

SIDE_BYTES: Final = 64 << 10
"""Capacity of the side pipe, as Linux makes it; it may have less, where a user has a quota."""

_libc = ctypes.PyDLL(None, use_errno=True)
_libc.tee.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint)
_libc.tee.restype = ctypes.c_ssize_t


class Search(Protocol):
    """Something that is looked for in a stream that comes in pieces, some of them missing."""

    def feed(self, data: bytes) -> None:
        """Take in ``data``, which follows what was fed before."""

    def gap(self) -> None:
        """What comes next was not seen, or nothing comes any more."""


class OutputSampler:
    """What one pump sees of its source. `open` and `close` frame the pump's run.

    Several on one source do each other no harm: what another one's pump moves meanwhile is
    merely taken for something else.
    """

    def __init__(self, source_fd: int, *searches: Search) -> None:
        self._source = source_fd
        self._searches = searches
        self._side: tuple[int, int] | None = None
        self._seen = 0
        self.held_back = False
        """Whether the end of a large chunk was left in the source, to be looked at next."""

    def open(self) -> None:
        """Make the side pipe; without one (too many open files) nothing is ever seen."""
        with contextlib.suppress(OSError):
            self._side = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the side pipe; report what was still waiting for the end of its line."""
        self._gap()
        self._give_up()

    def look(self, *, draining: bool, has_time: bool = True) -> int:
        """Refer to what the source holds first; return how many bytes to splice next.

        None at all when the source is empty. Less than all, so that nothing passes unseen
        between the two calls; of a large chunk all but its end, unless ``draining``. Without
        time only an end that was held back is looked at, and what follows passes with it.
        """
        self.held_back = False
        if self._side is None:
            return PIPE_BYTES
        wanted = SIDE_BYTES if draining else LOOK_BYTES
        seen = _libc.tee(self._source, self._side[1], wanted, os.SPLICE_F_NONBLOCK)
        if seen <= 0:
            if seen < 0 and ctypes.get_errno() == errno.EAGAIN:
                return 0
            if seen < 0:
                self._give_up()
            return PIPE_BYTES
        self._seen = seen
        if draining or seen < wanted:
            return int(seen)
        if not has_time:
            return PIPE_BYTES
        self.held_back = True
        return max(int(seen), waiting_bytes(self._source) - LOOK_BYTES)

    def moved(self, count: int) -> None:
        """After `look` or without: ``count`` bytes were spliced. Search those that were seen."""
        seen, self._seen = self._seen, 0
        if seen and self._side is not None:
            try:
                data = os.read(self._side[0], seen)
            except OSError:
                self._give_up()
                return
            self._feed(data if count >= seen else data[:count])
        if count > seen:
            self._gap()

    def dropped(self, data: bytes, *, draining: bool) -> None:
        """``data`` was thrown away. At a task's end, its last words are looked at nevertheless."""
        if draining:
            self._feed(data)
        else:
            self._gap()

    def _feed(self, data: bytes) -> None:
        for search in self._searches:
            search.feed(data)

    def _gap(self) -> None:
        for search in self._searches:
            search.gap()

    def _give_up(self) -> None:
        side, self._side = self._side, None
        self._seen = 0
        for fd in side or ():
            os.close(fd)
