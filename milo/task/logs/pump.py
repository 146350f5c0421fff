"""The log pump: moves one stream of a container from its pipe to Nomad's FIFO.

Only ``splice`` moves bytes. It moves each byte completely or not at all. So a pump that is killed
at any moment loses nothing, and several pumps on one pipe (when a successor takes over) keep the
order. The decisions are in `milo.task.logs.pump_policy` and `milo.task.logs.pacer`; the I/O is
here.
"""

from __future__ import annotations

import enum
import fcntl
import math
import os
import select
from collections.abc import Callable, Iterable

import attrs
import trio

from milo.errors import FifoError
from milo.task.logs.byte_counts import ByteCounts
from milo.task.logs.fifo import (
    FIRST_PAUSE_S,
    LAST_PAUSE_S,
    PIPE_BYTES,
    FifoSink,
    raise_capacity,
    waiting_bytes,
)
from milo.task.logs.idle_wait import IdleWait
from milo.task.logs.output_sampler import OutputSampler
from milo.task.logs.output_search import LastLine, OomSearch
from milo.task.logs.pacer import LOOK_BYTES, Pacer
from milo.task.logs.pump_policy import (
    Block,
    EventKind,
    PumpCounters,
    PumpEvent,
    PumpPolicy,
    Watch,
)
from milo.task.logs.reader_notices import ReaderNotices

_FLAGS = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
_BURST = 16
"""Splices in a row before other Trio tasks get their turn: a checkpoint costs about as much
as splicing 128 KiB, and 16 splices take 5 ms at the very most."""
_DROP_READ_BYTES = 64 << 10
_FIRST_LOOK_S, _LAST_LOOK_S = 0.001, 0.010
"""While output may be dropped: how often the pipe is looked at. There is no readiness to
wait for in "the pipe is half full"; half of 1 MiB in 10 ms is 50 MB/s."""


def open_pipe() -> tuple[int, int]:
    """Return the read end and the write end of a pipe for one stream of a container.

    As large as the host allows up to 1 MiB, close-on-exec; only the read end, the pump's, is
    non-blocking (each end has a mode of its own): a JVM expects a stdout that blocks.
    """
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    raise_capacity(read_fd)
    return read_fd, write_fd


class _On(enum.Enum):
    NOTHING = enum.auto()
    SOURCE = enum.auto()
    SINK = enum.auto()
    READER = enum.auto()
    TIME = enum.auto()


@attrs.frozen
class _Wait:
    """What to wait for before the next step, and for how long at most."""

    on: _On
    seconds: float = math.inf


_GO_ON = _Wait(_On.NOTHING)
_FOR_SOURCE = _Wait(_On.SOURCE)
_DONE = None


class Pump:
    """One stream. Owns neither descriptor: its maker closes ``source_fd`` and the sink.

    ``name`` is the stream's, for reports; ``source_fd`` the read end of a pipe, which is set
    non-blocking. ``report`` is called, from inside of `run`, with what is worth telling.
    ``counts`` goes on counting what an earlier pump of the stream counted.
    """

    def __init__(
        self,
        name: str,
        source_fd: int,
        sink: FifoSink,
        policy: PumpPolicy,
        report: Callable[[PumpEvent], None],
        counts: ByteCounts | None = None,
    ) -> None:
        self.name = name
        self._idle: IdleWait | None = None
        self._told = False
        self._source = source_fd
        self._sink = sink
        self._report = report
        self._watch = Watch(name, policy)
        self._pacer = Pacer()
        self._counts = ByteCounts() if counts is None else counts
        self.last_line = LastLine()
        self._sampler = OutputSampler(source_fd, OomSearch(self._saw_java_oom), self.last_line)
        self._notices = ReaderNotices()
        self._nap = trio.CancelScope()
        self._retry_at = -math.inf
        self._retry_pause = FIRST_PAUSE_S
        self._look_pause = _FIRST_LOOK_S
        self._next: _Wait | None = _GO_ON
        os.set_blocking(source_fd, False)
        self._capacity = fcntl.fcntl(source_fd, fcntl.F_GETPIPE_SZ)
        self._source_poll = select.poll()
        self._source_poll.register(source_fd, select.POLLIN)

    def use(self, policy: PumpPolicy) -> None:
        """Keep to another policy; before `run`."""
        self._watch = Watch(self.name, policy)

    @property
    def counters(self) -> PumpCounters:
        """What has passed so far. To be asked for before the descriptors are closed."""
        return PumpCounters(
            bytes_moved=self._counts.moved,
            bytes_dropped=self._counts.dropped,
            stalled_s=self._watch.stalled_s(trio.current_time()),
        )

    def begin_drain(self) -> None:
        """The container has ended: `run` returns once its pipe is empty.

        Or once nothing has moved for the policy's ``drain_timeout_s``, or after its
        ``drain_limit_s``; what is left is then counted as dropped. A descendant that still
        holds the write end is not waited for.
        """
        self._watch.begin_drain(trio.current_time())
        self._nap.cancel()
        trio.lowlevel.notify_closing(self._source)  # nothing is closed: it wakes who waits
        if self._idle is not None:
            self._idle.hand_back(self._source)

    async def run(self) -> None:
        """Move bytes until the source has ended and all are delivered, or drained.

        Trouble with the sink is reported and tried again, never raised. A FIFO that has had
        no reader yet is waited for also when the source has ended (until `begin_drain`):
        logmon counts itself running only once both streams' FIFOs have been opened. May be
        cancelled at any time: each byte is then still in the source or already in the sink.
        """
        await trio.lowlevel.checkpoint()
        idle = self._idle = IdleWait.current()
        burst = 0
        self._sampler.open()
        try:
            wait = self._step(trio.current_time())
            while wait is not _DONE:
                burst += 1
                if wait.on is not _On.NOTHING or burst >= _BURST:
                    burst = 0
                    if wait.on is _On.SOURCE and idle is not None:
                        wait = await self._served(idle)
                        continue
                    await self._wait(wait)
                wait = self._step(trio.current_time())
        finally:
            self._notices.close()
            self._sampler.close()
            self._tell(self._watch.finish(trio.current_time()))

    async def _served(self, idle: IdleWait) -> _Wait | None:
        """Have lines moved outside of this task, until it has something else to wait for."""
        await idle.serve(self._source, self._move_waiting)
        wait, self._next = self._next, _GO_ON
        return wait

    def _move_waiting(self) -> bool:
        """Move what is there; return whether to wait for the source again, and nothing else."""
        self._told = False
        for _ in range(_BURST):
            wait = self._step(trio.current_time())
            if wait is not _GO_ON or self._told:
                break
        if wait is _FOR_SOURCE:
            return not self._told
        self._next = wait
        return False

    async def _wait(self, wait: _Wait) -> None:
        if wait.on is _On.SOURCE:
            # Once for each line: without a cancel scope, a third of the CPU of a wake-up.
            try:
                await trio.lowlevel.wait_readable(self._source)
            except trio.ClosedResourceError:
                assert self._watch.draining
            return
        deadline = trio.current_time() + wait.seconds
        with trio.CancelScope(deadline=deadline) as self._nap:
            if wait.on is _On.SINK:
                assert self._sink.fd is not None
                await trio.lowlevel.wait_writable(self._sink.fd)
            elif wait.on is _On.READER:
                await self._notices.wait()
            elif wait.on is _On.TIME:
                await trio.sleep_forever()
            else:
                await trio.lowlevel.checkpoint()

    def _step(self, now: float) -> _Wait | None:
        """Try to move one chunk; return what to wait for then, or None when all is done."""
        if self._sink.fd is None and not self._try_path(now):
            return self._blocked(Block.NO_READER_YET, now)
        assert self._sink.fd is not None
        length, count, draining = PIPE_BYTES, 0, self._watch.draining
        if draining and self._watch.overran(now):
            self._drop(waiting_bytes(self._source), now)
            return _DONE
        has_time = draining or self._pacer.has_time(now)
        if has_time or self._sampler.held_back:
            length = self._sampler.look(draining=draining, has_time=has_time)
            if not length:
                return self._blocked(Block.FULL, now)
        try:
            count = os.splice(self._source, self._sink.fd, length, flags=_FLAGS)
        except BlockingIOError:
            return self._blocked(Block.FULL, now)
        except BrokenPipeError:
            return self._blocked(Block.NO_READER, now)
        finally:
            self._sampler.moved(count)
        if count == 0:
            return _DONE
        self._counts.count(moved=count)
        if self._watch.troubled:
            self._tell(self._watch.moved(now))
            self._notices.close()
            self._retry_pause, self._look_pause = FIRST_PAUSE_S, _FIRST_LOOK_S
        if draining:
            return _GO_ON
        pause = self._pacer.pause_after(
            count, now, smallest_pipe_bytes=min(self._capacity, self._sink.capacity)
        )
        if pause:
            return _Wait(_On.TIME, pause)
        # Little was there, and all of it moved: that nothing is left need not be asked.
        return _FOR_SOURCE if has_time and count == length < LOOK_BYTES else _GO_ON

    def _blocked(self, why: Block, now: float) -> _Wait | None:
        """Nothing could move. Find out whether that is for want of bytes or of room."""
        events = self._source_poll.poll(0)
        ready = events[0][1] if events else 0
        if not ready & select.POLLIN:
            # A full FIFO hides the end of the source from splice, so it is looked for here.
            ended = ready & select.POLLHUP and why is not Block.NO_READER_YET
            if ended or self._watch.draining:
                return _DONE
            if why is not Block.NO_READER_YET:
                self._watch.emptied(now)
                self._pacer.ran_dry()
                return _FOR_SOURCE
        waiting = waiting_bytes(self._source)
        self._tell(self._watch.blocked(why, now, waiting))
        if why is not Block.FULL or self._watch.stalled(now):
            if self._try_path(now):
                return _GO_ON
            seconds = self._retry_at - now
        else:
            seconds = math.inf
        if self._watch.gave_up(now):
            self._drop(waiting, now)
            return _DONE
        seconds = min(seconds, self._watch.next_change_s(now))
        if self._watch.may_drop(now):
            seconds = min(seconds, self._make_room(waiting, now))
        return self._for_room(why, seconds, now)

    def _for_room(self, why: Block, seconds: float, now: float) -> _Wait:
        """Wait until the sink takes something, or for the time that all else can wait.

        A FIFO without a reader polls as writable, so its next reader is waited for by notices,
        while the application may have to wait for it too. A first reader gives none: its own
        open(2) waits for the pump's.
        """
        if why is Block.NO_READER and not self._watch.may_drop(now):
            assert self._sink.fd is not None
            if self._notices.begin(self._sink.fd):
                return _GO_ON
            return _Wait(_On.READER if self._notices.awaited else _On.TIME, seconds)
        self._notices.close()
        return _Wait(_On.SINK if why is Block.FULL else _On.TIME, seconds)

    def _try_path(self, now: float) -> bool:
        """Look, if it is time to, whether the path names a FIFO to change over to."""
        if now < self._retry_at:
            return False
        try:
            if self._sink.fd is None:
                found = self._sink.try_open()
            else:
                found = self._sink.replaced() and self._switch(now)
        except FifoError as error:
            found = False
            self._tell(self._watch.refused(error.problem, now))
        self._retry_at = now + self._retry_pause
        self._retry_pause = min(2 * self._retry_pause, LAST_PAUSE_S)
        return found

    def _switch(self, now: float) -> bool:
        lost = self._sink.reopen()
        if lost is None:
            return False
        self._notices.close()
        self._counts.count(moved=-lost, dropped=lost)
        self._tell(self._watch.switched(now))
        self._tell(self._watch.dropped(lost, now))
        return True

    def _make_room(self, waiting: int, now: float) -> float:
        """Keep the source from filling up; return after how long to look again.

        From half full (writes that fill their pages badly fill the pipe with little more)
        down to a quarter: what is kept is the latest output. The capacity is asked for each
        time: a task can open /dev/stdout and change it.
        """
        capacity = fcntl.fcntl(self._source, fcntl.F_GETPIPE_SZ)
        if 2 * waiting >= capacity:
            self._drop(waiting - capacity // 4, now)
            self._look_pause = _FIRST_LOOK_S
        else:
            self._look_pause = min(2 * self._look_pause, _LAST_LOOK_S)
        return self._look_pause

    def _drop(self, count: int, now: float) -> None:
        """Throw away the oldest ``count`` bytes of the source, or as many as it has."""
        left = count
        while left > 0:
            try:
                data = os.read(self._source, min(left, _DROP_READ_BYTES))
            except BlockingIOError:
                break
            if not data:
                break
            left -= len(data)
            self._sampler.dropped(data, draining=self._watch.draining)
        self._counts.count(dropped=count - left)
        self._tell(self._watch.dropped(count - left, now))

    def _saw_java_oom(self, reason: str) -> None:
        self._tell([PumpEvent(EventKind.JAVA_OOM, self.name, problem=reason)])

    def _tell(self, events: Iterable[PumpEvent]) -> None:
        for event in events:
            self._told = True
            self._report(event)
