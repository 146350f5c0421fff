"""What a log pump decides: when to warn, to drop, to give up. No I/O, no clock.

Times are seconds of whatever clock the caller uses throughout; sizes are bytes.
"""

from __future__ import annotations

import enum
import math

import attrs


class EventKind(enum.StrEnum):
    """What happened to a stream, for the task's log and its events in Nomad."""

    READER_MISSING = "reader missing"
    """Nobody has opened the FIFO to read since the pump began, ``seconds`` ago."""
    READER_LOST = "reader lost"
    """The reader closed the FIFO; ``bytes`` wait for another one."""
    READER_BACK = "reader back"
    """There is a reader again, after ``seconds`` without."""
    STALLED = "stalled"
    """There is a reader, but it read nothing for ``seconds`` and ``bytes`` wait."""
    MOVING = "moving"
    """Bytes move again, after a stall of ``seconds`` that was reported."""
    DROPPING = "dropping"
    """Output is being thrown away from now on, ``seconds`` after the last byte moved."""
    DROPPED = "dropped"
    """``bytes`` of output were thrown away since the last report, within ``seconds``."""
    REFUSED = "refused"
    """The path names nothing that may be opened; ``problem`` says why. Tried again."""
    SWITCHED = "switched"
    """The path named another FIFO, which is written to from now on."""
    JAVA_OOM = "java oom"
    """The output named Java's OutOfMemoryError; ``problem`` is the reason it gave."""


@attrs.frozen
class PumpEvent:
    """One thing worth telling about a stream."""

    kind: EventKind
    stream: str
    """The pump's name: ``stdout`` or ``stderr``."""
    bytes: int = 0
    seconds: float = 0.0
    problem: str = ""


@attrs.frozen
class PumpPolicy:
    """How a pump treats a sink that takes nothing."""

    drop_when_full: bool = False
    """``log_overflow = "drop"``: the application never waits."""
    block_timeout_s: float = 30.0
    """With ``"block"``: after so long without a byte moving, drop as well; 0 never does."""
    drain_timeout_s: float = 5.0
    """At the task's end: give up after so long without a byte moving."""
    drain_limit_s: float = 40.0
    """The same for a reader that goes on reading, only too slowly: 26 KiB/s are enough for all
    that a pipe holds. A stop is waited for for 60 s, and crun has something to do yet."""
    stall_warning_s: float = 5.0
    """A reader that reads nothing for so long is reported, once a stall."""
    report_pause_s: float = 60.0
    """An event is not repeated sooner: Nomad keeps the last ten events of a task."""

    @classmethod
    def of(cls, log_overflow: str, log_block_timeout_s: float) -> PumpPolicy:
        """Return the policy that two keys of the configuration ask for."""
        return cls(drop_when_full=log_overflow == "drop", block_timeout_s=log_block_timeout_s)


@attrs.frozen
class PumpCounters:
    """A snapshot of what passed through one pump. Exact, but for one chunk after a kill."""

    bytes_moved: int = 0
    bytes_dropped: int = 0
    stalled_s: float = 0.0
    """In all: how long bytes waited that the FIFO did not take."""


class Block(enum.Enum):
    """Why the sink takes nothing."""

    NO_READER_YET = enum.auto()
    NO_READER = enum.auto()
    FULL = enum.auto()


class _Notices:
    """What has been announced, so that nothing is over and over.

    It says nothing about what is so: a condition may hold without having been announced yet.
    """

    def __init__(self, stream: str, pause_s: float) -> None:
        self._stream = stream
        self._pause_s = pause_s
        self._last: dict[EventKind, float] = {}
        self._announced: set[EventKind] = set()

    def say(
        self,
        kind: EventKind,
        now: float,
        *,
        waiting: int = 0,
        seconds: float = 0,
        problem: str = "",
    ) -> list[PumpEvent]:
        """Announce ``kind``, unless it was announced a short while ago."""
        if now - self._last.get(kind, -math.inf) < self._pause_s:
            return []
        self._last[kind] = now
        return [PumpEvent(kind, self._stream, waiting, seconds, problem)]

    def begin(
        self, kind: EventKind, now: float, *, waiting: int = 0, seconds: float = 0
    ) -> list[PumpEvent]:
        """Announce that the condition ``kind`` holds, once until it ends.

        To be called as long as it holds: what was announced a short while ago comes later.
        """
        if kind in self._announced:
            return []
        events = self.say(kind, now, waiting=waiting, seconds=seconds)
        self._announced.update(event.kind for event in events)
        return events

    def end(self, kind: EventKind, ended: EventKind, seconds: float) -> list[PumpEvent]:
        """Announce ``ended`` if ``kind`` has been announced and holds no more."""
        if kind not in self._announced:
            return []
        self.forget(kind)
        return [PumpEvent(ended, self._stream, seconds=seconds)]

    def forget(self, kind: EventKind) -> None:
        """Note that ``kind`` holds no more, of which nothing is to be said."""
        self._announced.discard(kind)


class Watch:
    """What one pump knows about the trouble with its sink; says what is to be reported."""

    def __init__(self, stream: str, policy: PumpPolicy) -> None:
        self._policy = policy
        self._notices = _Notices(stream, policy.report_pause_s)
        self._stream = stream
        self._since: float | None = None
        """When the first byte that still waits could not move."""
        self._no_reader_since: float | None = None
        self._draining_since: float | None = None
        self._dropping_since: float | None = None
        self._unreported_bytes = 0
        self._ended_stalls_s = 0.0
        self.troubled = False
        """Whether `moved` has anything to do."""

    def begin_drain(self, now: float) -> None:
        """The task has ended at ``now``."""
        if self._draining_since is None:
            self._draining_since = now

    @property
    def draining(self) -> bool:
        """Whether `begin_drain` has been called."""
        return self._draining_since is not None

    def blocked(self, why: Block, now: float, waiting: int) -> list[PumpEvent]:
        """``waiting`` bytes of output could not move at ``now``; return what to report."""
        self.troubled = True
        if not waiting:
            self.emptied(now)
        elif self._since is None:
            self._since = now
        if why is Block.FULL:
            events = self._reader_seen(now)
            if self.stalled(now):
                events += self._notices.begin(
                    EventKind.STALLED, now, waiting=waiting, seconds=self._stuck_s(now)
                )
            return events
        if self._no_reader_since is None:
            self._no_reader_since = now
        if why is Block.NO_READER:
            return self._notices.begin(EventKind.READER_LOST, now, waiting=waiting)
        missing_s = now - self._no_reader_since
        if missing_s < self._policy.stall_warning_s:
            return []
        return self._notices.begin(
            EventKind.READER_MISSING, now, waiting=waiting, seconds=missing_s
        )

    def moved(self, now: float) -> list[PumpEvent]:
        """The sink took something at ``now``; return what to report."""
        events = self._reader_seen(now)
        events += self._notices.end(EventKind.STALLED, EventKind.MOVING, self._stuck_s(now))
        self.emptied(now)
        self._notices.forget(EventKind.DROPPING)
        if self._unreported_bytes:
            events += self._report_dropped(now)
        self.troubled = bool(self._unreported_bytes)
        return events

    def emptied(self, now: float) -> None:
        """At ``now`` nothing waits any more that could not move."""
        self._ended_stalls_s += self._stuck_s(now)
        self._since = None

    def dropped(self, count: int, now: float) -> list[PumpEvent]:
        """``count`` bytes were thrown away at ``now``; return what to report."""
        if not count:
            return []
        self.troubled = True
        self._unreported_bytes += count
        if self._dropping_since is None:
            self._dropping_since = now
        return self._notices.begin(EventKind.DROPPING, now, seconds=self._stuck_s(now))

    def refused(self, problem: str, now: float) -> list[PumpEvent]:
        """The path cannot be used at ``now``, as ``problem`` says; return what to report."""
        return self._notices.say(EventKind.REFUSED, now, problem=problem)

    def switched(self, now: float) -> list[PumpEvent]:
        """Another FIFO is written to from ``now`` on; return what to report."""
        return self._notices.say(EventKind.SWITCHED, now)

    def finish(self, now: float) -> list[PumpEvent]:
        """The pump ends at ``now``; return what is left to report."""
        self.emptied(now)
        return [self._dropped_event(now)] if self._unreported_bytes else []

    def stalled(self, now: float) -> bool:
        """Whether bytes have waited for so long that the reader is taken to be stuck."""
        return now >= self._stall_at

    def may_drop(self, now: float) -> bool:
        """Whether output that finds no room may be thrown away by now."""
        return self._policy.drop_when_full or now >= self._drop_at

    def gave_up(self, now: float) -> bool:
        """Whether the task has ended and nothing moved for as long as that is waited for."""
        return self._drain_deadline() <= now

    def overran(self, now: float) -> bool:
        """Whether the task has ended so long ago that bytes which still move do not count."""
        return self._drain_limit <= now

    def next_change_s(self, now: float) -> float:
        """How many seconds from ``now`` on this answers differently, if nothing moves."""
        deadlines = (self._drain_deadline(), self._stall_at, self._drop_at)
        return min((at - now for at in deadlines if at > now), default=math.inf)

    def stalled_s(self, now: float) -> float:
        """For how many seconds in all bytes have waited that the sink did not take."""
        return self._ended_stalls_s + self._stuck_s(now)

    # Compared with the time itself: a difference of two times may be rounded to a little less.

    @property
    def _stall_at(self) -> float:
        return math.inf if self._since is None else self._since + self._policy.stall_warning_s

    @property
    def _drop_at(self) -> float:
        timeout_s = self._policy.block_timeout_s or math.inf
        return math.inf if self._since is None else self._since + timeout_s

    def _stuck_s(self, now: float) -> float:
        return 0.0 if self._since is None else now - self._since

    def _drain_deadline(self) -> float:
        if self._draining_since is None:
            return math.inf
        last_moved = self._draining_since if self._since is None else self._since
        stuck_at = max(self._draining_since, last_moved) + self._policy.drain_timeout_s
        return min(stuck_at, self._drain_limit)

    @property
    def _drain_limit(self) -> float:
        if self._draining_since is None:
            return math.inf
        return self._draining_since + self._policy.drain_limit_s

    def _reader_seen(self, now: float) -> list[PumpEvent]:
        if self._no_reader_since is None:
            return []
        gone_s = now - self._no_reader_since
        self._no_reader_since = None
        return [
            event
            for kind in (EventKind.READER_LOST, EventKind.READER_MISSING)
            for event in self._notices.end(kind, EventKind.READER_BACK, gone_s)
        ]

    def _report_dropped(self, now: float) -> list[PumpEvent]:
        event = self._dropped_event(now)
        if not self._notices.say(EventKind.DROPPED, now):
            return []  # told together with the next ones, or at the end
        self._unreported_bytes, self._dropping_since = 0, None
        return [event]

    def _dropped_event(self, now: float) -> PumpEvent:
        began = now if self._dropping_since is None else self._dropping_since
        return PumpEvent(
            EventKind.DROPPED, self._stream, self._unreported_bytes, seconds=now - began
        )
