"""Child processes of a task process: started with posix_spawn, reaped in one place.

The task process is a subreaper, so that the container's first process becomes its child when
``crun create`` has ended, and its exact wait status (exit code 137 and death by signal 9 are
different things) can be taken from the kernel.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from typing import Final

import attrs
import trio

from milo.proc import children

REMEMBERED_STATUSES: Final = 64
"""Statuses of children that nobody has asked for yet: enough for a burst of orphans."""
PASSED_FD: Final = 3
"""Behind the standard streams. What is given to be passed has this number or a higher one."""
STRAY_ROUNDS: Final = 100
STRAY_PAUSE_S: Final = 0.01
"""Between SIGKILL and a look whether it was the last: a second in all."""


@attrs.frozen
class WaitStatus:
    """How a process ended: an exit code, or else a signal."""

    exit_code: int
    signal: int

    @classmethod
    def from_raw(cls, raw: int) -> WaitStatus:
        """Split a status of waitpid(2)."""
        code = os.waitstatus_to_exitcode(raw)
        return cls(code, 0) if code >= 0 else cls(0, -code)

    def __str__(self) -> str:
        if self.signal:
            return f"killed by signal {self.signal}"
        return f"exit code {self.exit_code}"


class Reaper:
    """Waits for children by their id.

    ``reap_all`` is for a process of its own, where every child that ends is Milo's to reap;
    elsewhere (``milo run``, tests) only the children that were started here are touched.
    """

    def __init__(self, *, reap_all: bool) -> None:
        self._reap_all = reap_all
        self._watched: dict[int, trio.Event] = {}
        self._statuses: dict[int, WaitStatus] = {}

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reap until cancelled. Must be started before the first child.

        In a process of its own, what is left at the end is killed: that is what a crun had
        started which was killed in the middle of its work, since orphans become children.
        """
        try:
            with trio.open_signal_receiver(signal.SIGCHLD) as signals:
                task_status.started()
                async for _ in signals:
                    self.reap()
        finally:
            if self._reap_all:
                _kill_strays()

    def reap(self) -> None:
        """Take the status of every child that has ended."""
        for pid in [pid for pid, event in self._watched.items() if not event.is_set()]:
            with contextlib.suppress(ChildProcessError):
                done, raw = os.waitpid(pid, os.WNOHANG)
                if done:
                    self._record(pid, raw)
        while self._reap_all:
            try:
                done, raw = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not done:
                return
            self._record(done, raw)

    def _record(self, pid: int, raw: int) -> None:
        self._statuses[pid] = WaitStatus.from_raw(raw)
        if pid in self._watched:
            self._watched[pid].set()
            return
        unasked = [known for known in self._statuses if known not in self._watched]
        for old in unasked[:-REMEMBERED_STATUSES]:
            del self._statuses[old]

    def watch(self, pid: int) -> None:
        """Keep the status of ``pid``, a child or soon to be one, until it is waited for."""
        if pid not in self._watched:
            self._watched[pid] = trio.Event()
            if pid in self._statuses:
                self._watched[pid].set()
            self.reap()

    async def wait(self, pid: int) -> WaitStatus:
        """Return the status of ``pid`` once it has ended. Cancellation leaves it watched."""
        self.watch(pid)
        await self._watched[pid].wait()
        return self._statuses[pid]

    def status(self, pid: int) -> WaitStatus | None:
        """Return the status of ``pid``, which is watched, or None while it has not been taken."""
        return self._statuses.get(pid)

    def forget(self, pid: int) -> None:
        """Drop what is kept for ``pid``."""
        self._watched.pop(pid, None)
        self._statuses.pop(pid, None)

    def spawn(
        self,
        argv: list[str],
        env: Mapping[str, str],
        *,
        stdout: int,
        stderr: int,
        stdin: int | None = None,
        passed: int | None = None,
    ) -> int:
        """Start ``argv`` (absolute path first) and return its process id.

        ``passed`` is a descriptor that it gets as number `PASSED_FD`.

        Raises:
            OSError: it could not be executed.
        """
        actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)
            if stdin is None
            else (os.POSIX_SPAWN_DUP2, stdin, 0),
            (os.POSIX_SPAWN_DUP2, stdout, 1),
            (os.POSIX_SPAWN_DUP2, stderr, 2),
        ]
        if passed is not None:
            actions.append((os.POSIX_SPAWN_DUP2, passed, PASSED_FD))
        pid = os.posix_spawn(
            argv[0],
            argv,
            env,
            file_actions=actions,
            setpgroup=0,  # one of its own, so that it can be ended with its helpers
            # Python ignores SIGPIPE and Milo more; an ignored signal survives an exec.
            setsigdef=sorted(set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}),
            setsigmask=(),
        )
        self.watch(pid)
        return pid


def _kill_strays() -> None:
    """Kill every child, and what then becomes one, within a bound on the time."""
    for _ in range(STRAY_ROUNDS):
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for pid in children(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(STRAY_PAUSE_S)
