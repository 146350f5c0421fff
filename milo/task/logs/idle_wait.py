"""Serves pipes in the event loop's place, while the loop has nothing else to do.

A wake-up of a Trio task costs as much as all else that a pump does for a line: epoll is told to
watch, tells, is told to stop, and the task takes its turn. So a pump that waits for output leaves
that to `IdleWait`. When Trio is about to wait, it waits here instead: for the pipes and, at the
same time, for whatever Trio itself waits for, which is all behind one descriptor, its epoll's.
What comes for a pump is moved at once; anything else makes Trio go on as it would have.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from os.path import basename
from typing import Final

import trio

from milo import proc

_EPOLL: Final = "anon_inode:[eventpoll]"
_MS: Final = 1000
_of_run: trio.lowlevel.RunVar[IdleWait | None] = trio.lowlevel.RunVar("idle wait", None)


class _Served:
    """A pipe whose pump waits."""

    # Without attrs, which takes a millisecond to make a class, in every `milo run`.
    def __init__(self, move: Callable[[], bool]) -> None:
        self.move = move
        self.handed_back = trio.Event()
        self.error: Exception | None = None


class IdleWait(trio.abc.Instrument):
    """One of ``trio.run``'s ``instruments``; made where that is called, for that call alone."""

    def __init__(self) -> None:
        self._before = _epolls()
        self._epoll = -1
        self._poll = select.poll()
        self._served: dict[int, _Served] = {}
        self._wake: Callable[[], None] = _nothing

    @staticmethod
    def current() -> IdleWait | None:
        """Return the one of this run of Trio's; None if there is none, or it does not work."""
        return _of_run.get()

    def before_run(self) -> None:
        """Find what Trio itself waits with: the one epoll that was not there before."""
        new = _epolls() - self._before
        if len(new) == 1:
            (self._epoll,) = new
            self._poll.register(self._epoll, select.POLLIN)
            token = trio.lowlevel.current_trio_token()
            self._wake = lambda: token.run_sync_soon(_nothing, idempotent=True)
            _of_run.set(self)

    async def serve(self, fd: int, move: Callable[[], bool]) -> None:
        """Call ``move`` whenever ``fd`` has something to read or has ended, until it returns False.

        It is called outside of any task and must not wait. Raises what it raises. Returns as well
        when `hand_back` is called.
        """
        served = _Served(move)
        self._served[fd] = served
        self._poll.register(fd, select.POLLIN)
        try:
            await served.handed_back.wait()
        finally:
            self.hand_back(fd)
        if served.error is not None:
            raise served.error

    def hand_back(self, fd: int) -> None:
        """Let `serve` return, if ``fd`` is served."""
        served = self._served.pop(fd, None)
        if served is not None:
            self._poll.unregister(fd)
            served.handed_back.set()

    def before_io_wait(self, timeout: float) -> None:
        """Wait for at most ``timeout`` seconds, until Trio has something to do."""
        if not self._served:
            return
        deadline = trio.current_time() + timeout
        left = timeout
        while True:
            ready = self._poll.poll(left * _MS)
            if self._serve_ready(ready) or left <= 0:
                break
            left = max(0.0, deadline - trio.current_time())
        if timeout > 0:
            # Trio would now wait for all that time, although a task was woken here or a deadline
            # has come: its epoll knows of neither.
            self._wake()

    def _serve_ready(self, ready: list[tuple[int, int]]) -> bool:
        """Move what has come; return whether Trio has something to do now."""
        others = not ready
        for fd, _ in ready:
            if fd == self._epoll or not self._move(fd):
                others = True
        return others

    def _move(self, fd: int) -> bool:
        """Return whether ``fd`` is served any longer."""
        served = self._served[fd]
        try:
            if served.move():
                return True
        except Exception as error:  # Trio would leave out its instrument from now on
            served.error = error
        self.hand_back(fd)
        return False


def _nothing() -> None:
    """Do nothing: Trio is only to look."""


def _epolls() -> set[int]:
    """Return the descriptors of this process that are epolls."""
    return {int(basename(path)) for path, target in proc.descriptors() if target == _EPOLL}
