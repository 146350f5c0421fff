"""The descriptors of one task that a driver keeps for a successor."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable

import trio

from milo.core import records
from milo.unix_sockets import close_all

_log = logging.getLogger(__name__)


class KeptDescriptors:
    """Duplicates of the pipes' read ends and the FIFOs' write ends: kept, and never read.

    They also keep the FIFOs open: the last writer's close is the end of file for Nomad's log
    collector.
    """

    def __init__(self) -> None:
        self.stale = trio.Event()
        """Set while what is kept may not be what the task process has."""
        self._kept: dict[str, int] = {}
        self._fetching = trio.Lock()
        self._released = False

    async def fetch(self, ask: Callable[[], Awaitable[dict[str, int]]]) -> None:
        """Keep what ``ask`` brings from the task process.

        Raises:
            ControlError: the task process does not answer.
        """
        async with self._fetching:  # or the older of two answers could be the one that is kept
            if self.stale.is_set():
                # Never one that somebody waits for: the next change would set another one.
                self.stale = trio.Event()
            self.keep(await ask())

    async def fetch_first(self, ask: Callable[[], Awaitable[dict[str, int]]]) -> None:
        """Do that, unless the pipes' read ends are kept already, or come with an answer on its way.

        Raises:
            ControlError: the task process does not answer.
        """
        async with self._fetching:
            has_pipes = any(not name.endswith(records.FIFO_SUFFIX) for name in self._kept)
        if not has_pipes:
            await self.fetch(ask)

    def keep(self, descriptors: dict[str, int]) -> None:
        """Keep ``descriptors`` instead of those from before.

        A FIFO is held until there is another descriptor of it, even if its task process has
        not opened it yet.
        """
        before, self._kept = self._kept, dict(descriptors)
        for name, fd in before.items():
            if name not in descriptors and name.endswith(records.FIFO_SUFFIX):
                self._kept[name] = fd
            else:
                os.close(fd)
        if self._released:
            self.release()

    async def lend(self) -> dict[str, int]:
        """Return duplicates of what is kept, by name. The caller closes them.

        An answer that is on its way comes first: once kept, it closes what was there before.
        """
        async with self._fetching:
            return _duplicates(self._kept)

    def lend_fifos(self) -> dict[str, int]:
        """Return duplicates of the FIFOs' write ends, by name. The caller closes them."""
        fifos = {n: fd for n, fd in self._kept.items() if n.endswith(records.FIFO_SUFFIX)}
        return _duplicates(fifos)

    def release(self) -> None:
        """Keep none from now on, not even those that are on their way."""
        self._released = True
        close_all(self._kept.values())
        self._kept = {}


def _duplicates(descriptors: dict[str, int]) -> dict[str, int]:
    """Return duplicates of all, or none where this process has no room for them.

    A successor without them finds the container's own, which is better than no successor.
    """
    made: dict[str, int] = {}
    try:
        for name, fd in descriptors.items():
            made[name] = os.dup(fd)
    except OSError as exc:
        _log.warning("descriptors are not passed on: %s", exc.strerror)
        close_all(made.values())
        return {}
    return made
