"""The stop ladder: a signal, a wait, SIGKILL to the whole container."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import attrs
import trio

from milo.core.signals import NO_SIGNAL, signal_name
from milo.errors import ControlError
from milo.task.oci.container import Container


@attrs.frozen
class _Stop:
    signal: int
    deadline: float
    """trio.current_time() at which SIGKILL follows."""


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

    def request(self, signal: int, timeout_s: float) -> None:
        """Send ``signal`` now and SIGKILL ``timeout_s`` later; of two stops the earlier counts.

        `NO_SIGNAL` sends nothing before the SIGKILL.
        """
        deadline = trio.current_time() + max(0.0, timeout_s)
        if self._stop is not None:
            deadline = min(deadline, self._stop.deadline)
        self._stop = _Stop(signal, deadline)
        self._changed.set()

    async def wait_requested(self) -> None:
        """Return once a stop has been asked for."""
        while self._stop is None:
            await self._changed.wait()

    async def climb(self, container: Container) -> None:
        """Wait for a request, and see it through. To be cancelled when the container is gone."""
        await self.wait_requested()
        assert self._stop is not None
        sent = None
        while True:
            if self._stop.signal != sent:
                sent = self._stop.signal
                # A container may be ending by itself.
                with contextlib.suppress(ControlError):
                    if sent != NO_SIGNAL:
                        container.signal(sent)
            changed = self._changed = trio.Event()
            with trio.move_on_at(self._stop.deadline):
                await changed.wait()
                continue
            break
        name = "no signal" if sent == NO_SIGNAL else signal_name(sent)
        self._log("info", f"the task outlived its kill timeout after {name}: SIGKILL")
        container.kill()
