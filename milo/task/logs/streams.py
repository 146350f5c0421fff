"""Both log streams of one task: pipes, pumps and FIFOs, opened and closed together."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import Final

import attrs
import trio

from milo import cgroup_files
from milo.core import control
from milo.core.java import out_of_memory
from milo.core.launch import Launch
from milo.core.records import COUNTERS_FILE, TIMELINE_FILE, StreamCounters, TaskRecord
from milo.core.text import printable
from milo.errors import FifoError
from milo.task.containment import keep_running
from milo.task.journal import Journal
from milo.task.logs.byte_counts import ByteCountsFile
from milo.task.logs.fifo import FifoSink, LogTarget, check_log_path, write_text
from milo.task.logs.pump import Pump, open_pipe
from milo.task.logs.pump_policy import EventKind, PumpEvent, PumpPolicy
from milo.task.logs.timeline import Timeline
from milo.task.oci.non_child import reopen_pipe

NAMES: Final = ("stdout", "stderr")

RETRY_S: Final = 1.0
"""After a failure in a pump: its output waits meanwhile."""

MAX_SIGHTINGS: Final = 3
"""Events of Java's OutOfMemoryError, each of another kind: Nomad keeps a task's last ten."""


@attrs.frozen
class Takeover:
    """What a successor gets of a task whose own process was killed."""

    record: TaskRecord
    descriptors: dict[str, int]
    """By name (``stdout.pipe``, ``stdout.fifo`` ...), as `Streams.descriptors` gave them."""


@attrs.define
class _Stream:
    name: str
    source: int
    container_end: int | None
    sink: FifoSink
    pump: Pump


class Streams:
    """The streams of one task. `close` has to be called, in the end, by whoever opened them."""

    def __init__(self, journal: Journal, state_dir: str) -> None:
        self._journal = journal
        self._counts_file = ByteCountsFile(os.path.join(state_dir, COUNTERS_FILE))
        self._counts = [self._counts_file.counts(number) for number, _ in enumerate(NAMES)]
        self._timeline = Timeline(os.path.join(state_dir, TIMELINE_FILE), self._counts)
        for number, counts in enumerate(self._counts):
            counts.moving = partial(self._timeline.moving, number)
        self._streams: list[_Stream] = []
        self._null: int | None = None
        self._draining = False
        self._finished = trio.Event()
        self._last: dict[str, StreamCounters] = {}
        self._seen_kinds: set[out_of_memory.Kind] = set()
        self.java_oom = ""
        """The last OutOfMemoryError that either stream named, as Java prints it."""
        self.last_stderr_line = ""
        """The last line on standard error that is no stack frame; known once closed."""
        self.container_stdout = -1
        """What the container gets as its stdout; owned by this object."""
        self.container_stderr = -1

    @classmethod
    def open(cls, launch: Launch, policy: PumpPolicy, journal: Journal) -> Streams:
        """Check both log paths and make the pipes; waits for no reader.

        Raises:
            FifoError: a path names nothing that may be written to; nothing is left open.
        """
        targets = [
            (name, path, check_log_path(path, beneath=launch.alloc_dir))
            for name, path in (("stdout", launch.stdout_path), ("stderr", launch.stderr_path))
        ]
        streams = cls(journal, launch.state_dir)
        try:
            ends = [streams._add(launch, policy, *target) for target in targets]
        except BaseException:
            streams.close()
            raise
        streams.container_stdout, streams.container_stderr = ends
        # Now, while crun works: a driver that has them when the task has started waits no more.
        journal.publish(control.DescriptorsChanged())
        return streams

    @classmethod
    def adopt(
        cls, launch: Launch, policy: PumpPolicy, journal: Journal, takeover: Takeover
    ) -> Streams:
        """Go on with the streams of a container that another task process started.

        What was not handed over is opened anew, where it can be; a stream whose pipe nobody
        has any more is told of, and is over.
        """
        streams = cls(journal, launch.state_dir)
        for name, path in (("stdout", launch.stdout_path), ("stderr", launch.stderr_path)):
            if path == os.devnull:
                continue
            source = takeover.descriptors.get(f"{name}.pipe")
            inode = takeover.record.pipes.get(name)
            if source is None and inode is not None:
                source = reopen_pipe(cgroup_files.processes(takeover.record.cgroup_path), inode)
            if source is None:
                journal.event(f"The output on {name} cannot be collected any more")
                continue
            sink = FifoSink(
                path, beneath=launch.alloc_dir, fd=takeover.descriptors.get(f"{name}.fifo")
            )
            streams._begin(name, source, None, sink, policy)
        return streams

    def _begin(
        self, name: str, source: int, container_end: int | None, sink: FifoSink, policy: PumpPolicy
    ) -> None:
        sink.on_open = lambda: self._journal.publish(control.DescriptorsChanged())
        counts = self._counts[NAMES.index(name)]
        pump = Pump(name, source, sink, policy, self._report, counts)
        self._streams.append(_Stream(name, source, container_end, sink, pump))

    def inodes(self) -> dict[str, int]:
        """Return the inode number of each stream's pipe, which names it for ever."""
        return {stream.name: os.fstat(stream.source).st_ino for stream in self._streams}

    def _add(self, launch: Launch, policy: PumpPolicy, name: str, path: str, to: LogTarget) -> int:
        if to is LogTarget.DEV_NULL:
            if self._null is None:
                self._null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            return self._null
        source, container_end = open_pipe()
        sink = FifoSink(path, beneath=launch.alloc_dir)
        self._begin(name, source, container_end, sink, policy)
        return container_end

    def use(self, policy: PumpPolicy) -> None:
        """Have the pumps, which do not run yet, keep to another policy."""
        for stream in self._streams:
            stream.pump.use(policy)

    def print_first(self, text: str) -> None:
        """Put a line on stderr before the container is there to print anything."""
        with contextlib.suppress(OSError):
            os.write(self.container_stderr, f"{printable(text)}\n".encode())

    def release_container_ends(self) -> None:
        """Close the ends that the container has its own copies of: its exit is then an end."""
        for stream in self._streams:
            if stream.container_end is not None:
                os.close(stream.container_end)
                stream.container_end = None

    def open_fifos(self) -> None:
        """Open each FIFO that has a reader now, so that its descriptor can be kept elsewhere.

        The pumps open all others, and tell of trouble.
        """
        for stream in self._streams:
            with contextlib.suppress(FifoError, OSError):
                stream.sink.try_open()

    async def run(self) -> None:
        """Pump until both streams have ended. Cancellation leaves each byte on one side."""
        async with trio.open_nursery() as nursery:
            for stream in self._streams:
                nursery.start_soon(self._run_pump, stream)
        self._finished.set()

    async def _run_pump(self, stream: _Stream) -> None:
        """Run a pump; a failure of it that is Milo's own fault costs neither stream nor task.

        At the end one try is left, since the exit waits for it.
        """
        await keep_running(
            f"the pump of {stream.name}",
            stream.pump.run,
            self._journal.log,
            retry_s=(RETRY_S, RETRY_S),
            until=lambda: self._draining,
        )

    async def drained(self) -> None:
        """Return when all that the ended container wrote is delivered, or given up and counted."""
        self._draining = True
        for stream in self._streams:
            stream.pump.begin_drain()
        await self._finished.wait()

    def counters(self) -> tuple[StreamCounters, StreamCounters]:
        """Return what passed through stdout and stderr so far."""
        for stream in self._streams:
            now = stream.pump.counters
            self._last[stream.name] = StreamCounters(
                bytes_moved=now.bytes_moved,
                bytes_dropped=now.bytes_dropped,
                stalled_s=now.stalled_s,
            )
        none = StreamCounters()
        return self._last.get("stdout", none), self._last.get("stderr", none)

    def descriptors(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Return names and numbers of all that a successor needs to go on."""
        pairs = [(f"{stream.name}.pipe", stream.source) for stream in self._streams]
        pairs += [
            (f"{stream.name}.fifo", stream.sink.fd)
            for stream in self._streams
            if stream.sink.fd is not None
        ]
        return tuple(name for name, _ in pairs), tuple(fd for _, fd in pairs)

    def close(self) -> None:
        """Close everything: both FIFOs in one go, since logmon ends both with the first."""
        self.counters()
        self.release_container_ends()
        for stream in self._streams:
            if stream.name == "stderr":
                self.last_stderr_line = stream.pump.last_line.text
        for stream in self._streams:
            stream.sink.close()
        for stream in self._streams:
            os.close(stream.source)
        self._streams.clear()
        self._timeline.close()
        self._counts_file.close()
        if self._null is not None:
            os.close(self._null)
            self._null = None

    @staticmethod
    async def write_error(launch: Launch, text: str) -> None:
        """Put ``text`` on the task's stderr, for a task that never got a process of its own."""
        with contextlib.suppress(OSError):
            await write_text(launch.stdout_path, launch.stderr_path, text, beneath=launch.alloc_dir)

    def _report(self, event: PumpEvent) -> None:
        if event.kind is EventKind.JAVA_OOM and not self._is_news(event.problem):
            return
        level, text, is_event = sentence(event)
        self._journal.log(level, text, stream=event.stream)
        if is_event:
            self._journal.event(text)

    def _is_news(self, reason: str) -> bool:
        """Note an OutOfMemoryError's reason; return whether to tell of it."""
        if reason or not self.java_oom:
            self.java_oom = out_of_memory.error_words(reason)
        kind = out_of_memory.kind_of(reason)
        if kind in self._seen_kinds or len(self._seen_kinds) >= MAX_SIGHTINGS:
            return False
        self._seen_kinds.add(kind)
        return True


def sentence(event: PumpEvent) -> tuple[str, str, bool]:
    """Return log level and text of a pump's event, and whether the task's user should see it."""
    stream, seconds, amount = event.stream, event.seconds, event.bytes
    match event.kind:
        case EventKind.READER_MISSING:
            return "debug", f"Nobody reads {stream} yet, after {seconds:.1f} s", False
        case EventKind.READER_LOST:
            text = f"Log collection of {stream} stopped: its reader is gone"
            return "debug", f"{text}; {amount} bytes wait for another", True
        case EventKind.READER_BACK:
            return "info", f"Log collection of {stream} goes on, after {seconds:.1f} s", True
        case EventKind.STALLED:
            text = f"Log collection of {stream} has read nothing for {seconds:.1f} s"
            return "warn", f"{text}; {amount} bytes wait", True
        case EventKind.MOVING:
            return "info", f"Log collection of {stream} reads again, after {seconds:.1f} s", False
        case EventKind.DROPPING:
            text = f"Output on {stream} is thrown away from now on"
            return "warn", f"{text}: nothing was read for {seconds:.1f} s", True
        case EventKind.DROPPED:
            return "warn", f"{amount} bytes of {stream} were dropped in {seconds:.1f} s", True
        case EventKind.REFUSED:
            return "warn", f"The FIFO of {stream} cannot be opened: {event.problem}", True
        case EventKind.SWITCHED:
            return "info", f"The FIFO of {stream} was replaced; its successor is used", False
        case EventKind.JAVA_OOM:
            return "warn", out_of_memory.sighting_sentence(stream, event.problem), True
