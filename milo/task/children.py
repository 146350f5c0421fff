"""Child processes of a task process: how they are started, and reaped in one place.

The task process is a subreaper. So when ``crun create`` has ended, the container's first process
becomes its child, and the kernel gives it the exact wait status (exit code 137 and death by signal
9 differ).

A status belongs to a `Child` object, not to a process id. The kernel does not use an id again
before its status was collected, and only `Reaper.reap` collects one. So a watched child is never
mistaken for a later process, and the status of an unwatched child is dropped at once. Only a
process that crun starts is not watched from its beginning. While one may appear,
`Reaper.orphans_kept` leaves unwatched children that have ended as zombies.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import attrs
import trio

from milo.proc import children, die_with, set_oom_score_adj, write

ALL_SIGNALS: Final = signal.valid_signals()
RESET_SIGNALS: Final = sorted(set(ALL_SIGNALS) - {signal.SIGKILL, signal.SIGSTOP})
"""Python ignores SIGPIPE and Milo more; an ignored signal survives an exec."""
MAX_REPORT_BYTES: Final = 4096
PASSED_FD: Final = 3
"""The descriptor behind the standard streams."""
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


@attrs.frozen
class Placement:
    """Where a child is put before it executes its program: all that it starts begins there."""

    oom_score_adj: int
    cgroups: tuple[str, ...] = ()
    """The directories of the cgroups that it joins."""


class Child:
    """One child process, from when it is watched on; made by a `Reaper` alone."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: WaitStatus | None = None
        """None while it has not ended, as far as is known."""
        self._ended = trio.Event()

    async def wait(self) -> WaitStatus:
        """Return its status once it has ended. May be cancelled, and called again.

        Raises:
            ChildProcessError: somebody else in this process took its status.
        """
        await self._ended.wait()
        if self.status is None:
            raise ChildProcessError(f"the status of process {self.pid} was taken by another")
        return self.status

    def signal(self, number: int) -> None:
        """Send a signal to it, and never to another; raises ProcessLookupError once it has ended.

        That holds without a pidfd, since its number is its own until its status is taken here.
        """
        if self._ended.is_set():
            raise ProcessLookupError(f"process {self.pid} has ended")
        os.kill(self.pid, number)

    def kill_group(self) -> None:
        """Send SIGKILL to it and to its process group, unless it has ended."""
        if not self._ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def end(self, status: WaitStatus | None) -> None:
        """Note its end; called by the `Reaper`."""
        self.status = status
        self._ended.set()


class Reaper:
    """Takes the status of every child that it watches.

    ``reap_all`` is for a process of its own, where every other child that ends is Milo's to reap
    too; elsewhere (``milo run``, tests) only the children that are watched are touched.
    """

    def __init__(self, *, reap_all: bool) -> None:
        self._reap_all = reap_all
        self._watched: dict[int, Child] = {}
        self._keepers = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Reap while the block runs; no child may be started or waited for outside of it.

        When the block is cancelled, reaping goes on until the block has ended: its clean-up may
        wait for children. At its end, a process of its own kills what is left: that is what a
        crun had started which was killed in the middle of its work, since orphans become children.
        """
        scope = trio.CancelScope(shield=True)
        async with trio.open_nursery() as nursery:
            await nursery.start(self._run, scope)
            try:
                yield
            finally:
                scope.cancel()
                if self._reap_all:
                    _kill_strays()

    async def _run(
        self,
        scope: trio.CancelScope,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        with scope, trio.open_signal_receiver(signal.SIGCHLD) as signals:
            self.reap()
            task_status.started()
            async for _ in signals:
                self.reap()

    def reap(self) -> None:
        """Take the status of every watched child that has ended, and drop the others that have."""
        for child in list(self._watched.values()):
            try:
                done, raw = os.waitpid(child.pid, os.WNOHANG)
            except ChildProcessError:
                self._end(child, None)
            else:
                if done:
                    self._end(child, WaitStatus.from_raw(raw))
        while self._reap_all and not self._keepers:
            try:
                done, raw = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not done:
                return
            if (watched := self._watched.get(done)) is not None:
                self._end(watched, WaitStatus.from_raw(raw))

    def _end(self, child: Child, status: WaitStatus | None) -> None:
        del self._watched[child.pid]
        child.end(status)

    @contextmanager
    def orphans_kept(self) -> Iterator[None]:
        """While the block runs, what ends unwatched keeps its number and status: see `adopt`.

        For the time of a ``crun create`` or ``crun exec``, which has a bound: until then the
        orphans of the container (where it shares the host's process ids) stay as zombies, which
        the container's own limit of processes counts.
        """
        self._keepers += 1
        try:
            yield
        finally:
            self._keepers -= 1
            self.reap()

    def adopt(self, pid: int) -> Child:
        """Watch ``pid``, which another process has started and which is a child by now.

        Its status is exact if all of its time as a child lies within `orphans_kept`, also when
        it has ended already.

        Raises:
            ChildProcessError: it is no child of this process.
        """
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        child = self._watch(pid)
        self.reap()
        return child

    def _watch(self, pid: int) -> Child:
        assert pid not in self._watched, f"process {pid} is watched already"
        child = self._watched[pid] = Child(pid)
        return child

    def spawn(
        self, argv: list[str], env: Mapping[str, str], fds: Sequence[int], program: str = ""
    ) -> Child:
        """Start ``argv`` (absolute path first), in a process group of its own.

        ``fds`` are what it gets as its descriptors 0, 1, 2 and so on. Those beyond have to have
        that number or a higher one here. ``program`` is a path to execute in place of the first
        of ``argv``.

        Raises:
            OSError: it could not be executed.
        """
        pid = os.posix_spawn(
            program or argv[0],
            argv,
            env,
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(fds)],
            setpgroup=0,  # so that it can be ended with its helpers
            setsigdef=RESET_SIGNALS,
            setsigmask=(),
        )
        # Whoever ends this fast is a zombie still: statuses are taken by `reap` alone, and that
        # does not run in between.
        return self._watch(pid)

    async def spawn_placed(
        self,
        argv: list[str],
        env: Mapping[str, str],
        fds: Sequence[int],
        placement: Placement,
        program: str = "",
    ) -> Child:
        """Start ``argv`` as `spawn` does, but at its ``placement`` from its first instruction on.

        Returns once it executes. Cancellation kills it, and so does the end of this process.

        Raises:
            OSError: it could not be placed or executed; ``filename`` says which of both.
        """
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            parent = os.getpid()
            try:
                pid = fork(lambda: _become(program, argv, env, fds, placement, parent, writer))
            finally:
                os.close(writer)
            child = self._watch(pid)
            with contextlib.suppress(OSError):  # the child may be that far already
                os.setpgid(pid, pid)
            try:
                # The kernel may take a while to move a process to another cgroup.
                await trio.lowlevel.wait_readable(reader)
            except BaseException:
                child.kill_group()
                raise
            report = os.read(reader, MAX_REPORT_BYTES).decode()
        finally:
            os.close(reader)
        if report:
            number, _, path = report.partition(" ")
            raise OSError(int(number), os.strerror(int(number)), path)
        return child


def fork(run: Callable[[], object]) -> int:
    """Fork a child that does ``run`` and ends; return its id. Raises OSError.

    For a moment there are two event loops with the same descriptors and handlers, so ``run`` may
    only make system calls, and execute another program. All signals stay blocked in it, until it
    has let go of the handlers: see `reset_signals`.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ALL_SIGNALS)
    try:
        with warnings.catch_warnings():
            # Python warns where there are threads (those of `milo run` write its output): one of
            # them might hold a lock for ever in the child, which takes none.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                run()
            finally:
                os._exit(1)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid


def reset_signals() -> None:
    """Let go of all handlers in a child made by `fork`, and block no signal any more."""
    signal.set_wakeup_fd(-1)
    for number in RESET_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _become(
    program: str,
    argv: list[str],
    env: Mapping[str, str],
    fds: Sequence[int],
    placement: Placement,
    parent: int,
    report: int,
) -> None:
    """Execute ``argv`` at its ``placement``; write into ``report``, which that closes, what fails.

    ``program`` is that of `Reaper.spawn`. Nobody but ``parent`` knows of it yet.
    """
    try:
        os.setpgid(0, 0)
        die_with(parent)
        set_oom_score_adj(os.getpid(), placement.oom_score_adj)
        for directory in placement.cgroups:
            write(f"{directory}/cgroup.procs", "0")
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
            os.set_inheritable(number, True)  # where it had that number already
        reset_signals()
        os.execve(program or argv[0], argv, env)  # noqa: S606
    except OSError as exc:
        os.write(report, f"{exc.errno} {exc.filename or ''}".encode(errors="replace"))


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
