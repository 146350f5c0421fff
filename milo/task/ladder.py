"""The stop ladder: a signal, a wait, the threads' last words, SIGKILL to the whole container."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from signal import SIGKILL
from typing import Final, Protocol

import attrs
import trio

from milo.core.signals import NO_SIGNAL, signal_name
from milo.errors import ControlError, TaskStartError

LAST_WORDS_S: Final = 1.0
"""Of the timeout's end, or the half of a shorter one: so long a JVM has to print its threads. That
takes milliseconds, unless it is as busy as an application that does not end may be."""


class Stoppable(Protocol):
    """What is stopped: `milo.task.oci.container.Container`."""

    def signal(self, number: int) -> None:
        """Send it a signal; raises `ControlError` when it has ended."""

    def kill(self) -> None:
        """Send SIGKILL to all of it."""


@attrs.frozen
class _Stop:
    signal: int
    deadline: float
    """trio.current_time() at which SIGKILL follows."""
    last_words_at: float
    """When the application is asked what it is doing; after the deadline for not at all."""

    @property
    def next_at(self) -> float:
        return min(self.deadline, self.last_words_at)


def stopped_early() -> TaskStartError:
    """Return the error of a start that a stop has come before."""
    return TaskStartError("Error: The task was stopped before it had started", recoverable=False)


class StopLadder:
    """What has been asked for, and the climbing of it. `request` may come at any time."""

    def __init__(self, log: Callable[[str, str], None]) -> None:
        self._log = log
        self._stop: _Stop | None = None
        self._changed = trio.Event()

    @property
    def requested(self) -> bool:
        """Whether a stop has been asked for."""
        return self._stop is not None

    @property
    def deadline(self) -> float:
        """When SIGKILL follows, by trio's clock; infinity while no stop has been asked for."""
        return math.inf if self._stop is None else self._stop.deadline

    def request(self, signal: int, timeout_s: float) -> None:
        """Send ``signal`` now and SIGKILL ``timeout_s`` later; of two stops the earlier counts.

        `NO_SIGNAL` sends nothing before the SIGKILL.
        """
        deadline = trio.current_time() + max(0.0, timeout_s)
        if self._stop is not None:
            deadline = min(deadline, self._stop.deadline)
        left_s = deadline - trio.current_time()
        at = deadline - min(LAST_WORDS_S, left_s / 2) if left_s > 0 else math.inf
        self._stop = _Stop(signal, deadline, at)
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def wait_requested(self) -> None:
        """Return once a stop has been asked for."""
        while self._stop is None:
            await self.wait_changed()

    async def wait_changed(self) -> None:
        """Return once a stop, or another one, is asked for from now on."""
        await self._changed.wait()

    async def climb(
        self, container: Stoppable, ask_last_words: Callable[[str], None] = lambda sent: None
    ) -> None:
        """Wait for a request, and see it through. To be cancelled when the container is gone.

        ``ask_last_words`` is called once, `LAST_WORDS_S` before the SIGKILL, with the name of the
        signal that the application has not ended by. It raises nothing.
        """
        await self.wait_requested()
        assert self._stop is not None
        sent = None
        asked = False
        while True:
            if self._stop.signal != sent:
                sent = self._stop.signal
                # A container may be ending by itself.
                with contextlib.suppress(ControlError):
                    if sent != NO_SIGNAL:
                        container.signal(sent)
            changed = self._changed
            name = "no signal" if sent == NO_SIGNAL else signal_name(sent)
            with trio.move_on_at(self._stop.deadline if asked else self._stop.next_at):
                await changed.wait()
                continue
            if not asked and self._stop.last_words_at < self._stop.deadline:
                asked = True
                ask_last_words(name)
                continue
            break
        if sent != SIGKILL:
            self._log("info", f"the task outlived its kill timeout after {name}: SIGKILL")
        container.kill()
