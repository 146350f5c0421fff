"""Finds out whether the kernel killed the application or another of its processes for memory.

The kernel counts its kills in a cgroup, but says neither when they happened nor which process was
killed. If the application is alive after a kill, another process was killed. So each kill is
examined when it happens, and a later SIGKILL from elsewhere is not taken for the kernel's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable
from typing import Final

import trio

from milo import cgroup_files
from milo.core.records import ProcessId
from milo.process_signals import is_ending

PAUSE_S: Final = 0.5
"""Before a look, since v1 tells before the kill, and v2 each time that the limit is reached; and
before it counts that the application lives on, since the kernel counts before it kills."""
QUIET_S: Final = 60.0
"""Between two events: Nomad keeps ten of a task."""
NOTICE_BYTES: Final = 4096
RETRY_S: Final = 10.0
_USED_UP: Final = {
    errno.EMFILE: "fs.inotify.max_user_instances",
    errno.ENOSPC: "fs.inotify.max_user_watches",
}
"""What of inotify(7) a user has a limited number of; whatever holds it may let it go."""


class OomKills:
    """The kills in the cgroup of one container, whose first process is ``application``."""

    def __init__(self, cgroup_path: str, application: ProcessId) -> None:
        """Take what has been counted so far for others' if the application lives."""
        self._cgroup_path = cgroup_path
        self._application = application
        self._survived = 0
        count = self.count()
        if not is_ending(application):
            self._survived = count
        self._told = self._survived

    def count(self) -> int:
        """Return how many there have been; while the cgroup is there."""
        return cgroup_files.oom_kills(self._cgroup_path) if self._cgroup_path else 0

    async def watch(self, tell: Callable[[int], None], log: Callable[[str, str], None]) -> None:
        """Call ``tell`` with the number of kills since the last time, until cancelled.

        At most once in `QUIET_S`. Of a kill that is the application's own end nothing is told,
        and nothing where the kernel gives no notice. Where it has none left, ``log`` gets its
        level and a sentence, once, and it is asked again.
        """
        if not self._cgroup_path:
            return
        notices = await self._notices(log)
        if notices is None:
            return
        quiet_until = trio.current_time()
        try:
            while True:
                # Before the notices were there it may have killed, too.
                if self.count() <= self._survived:
                    await trio.lowlevel.wait_readable(notices)
                await trio.sleep(PAUSE_S)
                with contextlib.suppress(BlockingIOError):
                    os.read(notices, NOTICE_BYTES)
                if (count := self.count()) <= self._survived:
                    continue
                await trio.sleep(PAUSE_S)
                if is_ending(self._application):
                    return
                self._survived = count
                if trio.current_time() >= quiet_until:
                    quiet_until = trio.current_time() + QUIET_S
                    tell(count - self._told)
                    self._told = count
        finally:
            os.close(notices)

    async def _notices(self, log: Callable[[str, str], None]) -> int | None:
        """Return a descriptor for the kernel's notices; None where it gives none."""
        said = False
        while True:
            try:
                return cgroup_files.open_oom_notices(self._cgroup_path)
            except OSError as exc:
                if exc.errno not in _USED_UP:
                    return None
                if not said:
                    limit = _USED_UP[exc.errno]
                    log(
                        "warn",
                        "no notice of kills for memory can be had, so they are told at the task's "
                        f"end alone ({exc.strerror}). Raise sysctl {limit}",
                    )
                    said = True
            await trio.sleep(RETRY_S)

    def is_applications_own(self, number: int, *, count: int) -> bool:
        """Whether the kernel has ended the application, of ``count`` kills in all.

        ``number`` is the signal that ended it.
        """
        return number == signal.SIGKILL and count > self._survived
