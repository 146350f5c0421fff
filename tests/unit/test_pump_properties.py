"""The pump under arbitrary interleavings of application, reader, death and drain.

A script of steps is run against a real pipe, a real FIFO and the real pump, on a clock that
jumps. After each step every byte that was written must be accounted for.
"""

from __future__ import annotations

import fcntl
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from milo.task.logs.byte_counts import ByteCounts
from milo.task.logs.fifo import FifoSink, waiting_bytes
from milo.task.logs.idle_wait import IdleWait
from milo.task.logs.pump import Pump, open_pipe
from milo.task.logs.pump_policy import PumpPolicy

OUTPUT = random.Random(4).randbytes(8 << 20)
"""What the application writes, from its beginning: any eight bytes of it are unique."""
MAX_STEPS = 40
MIN_WRITE, MAX_WRITE = 4, 200_000
"""Less than the minimum could not be told from other output when parts are left out."""


@attrs.frozen
class Write:
    """The application writes so many bytes, or as many as there is room for."""

    size: int


@attrs.frozen
class Read:
    """Logmon reads so many bytes, if there are any."""

    size: int


@attrs.frozen
class Sleep:
    """Time passes, and nothing else happens."""

    seconds: float


@attrs.frozen
class OpenReader:
    """Logmon opens the FIFO."""


@attrs.frozen
class CloseReader:
    """Logmon dies."""


@attrs.frozen
class Kill:
    """The pump dies, and nobody comes for a while."""


@attrs.frozen
class Succeed:
    """A successor takes the descriptors over; the pump before it may still run."""


Step = Write | Read | Sleep | OpenReader | CloseReader | Kill | Succeed

steps = st.lists(
    st.one_of(
        st.builds(Write, st.one_of(st.integers(MIN_WRITE, 300), st.integers(MIN_WRITE, MAX_WRITE))),
        st.builds(Write, st.just(MAX_WRITE)),
        st.builds(Read, st.one_of(st.integers(1, 5_000), st.just(1 << 20))),
        st.builds(Sleep, st.sampled_from([0.0, 0.002, 0.3, 6.0, 31.0])),
        st.builds(OpenReader),
        st.builds(CloseReader),
        st.builds(Kill),
        st.builds(Succeed),
    ),
    max_size=MAX_STEPS,
)
idles = st.booleans()
policies = st.builds(
    PumpPolicy,
    drop_when_full=st.booleans(),
    block_timeout_s=st.sampled_from([0.0, 0.5, 30.0]),
)


class World:
    """One stream: its application, its reader, and the pumps that come and go."""

    def __init__(self, directory: Path, policy: PumpPolicy, nursery: trio.Nursery) -> None:
        self.policy = policy
        self.nursery = nursery
        self.path = directory / "fifo"
        os.mkfifo(self.path)
        self.source, self.container_end = open_pipe()
        os.set_blocking(self.container_end, False)
        self.counts = ByteCounts()
        self.sources: list[int] = []
        self.sinks: list[FifoSink] = []
        self.pumps: list[tuple[Pump, trio.CancelScope, trio.Event]] = []
        self.reader: int | None = None
        self.written = 0
        self.received = bytearray()
        self.succeed()

    def succeed(self) -> None:
        old = self.sinks[-1].fd if self.sinks else None
        sink = FifoSink(
            str(self.path),
            beneath=str(self.path.parent),
            fd=None if old is None else os.dup(old),
        )
        source = os.dup(self.source)
        pump = Pump("stdout", source, sink, self.policy, lambda _: None, self.counts)
        scope, ended = trio.CancelScope(), trio.Event()
        self.sources.append(source)
        self.sinks.append(sink)
        self.pumps.append((pump, scope, ended))
        self.nursery.start_soon(self._run, pump, scope, ended)

    async def _run(self, pump: Pump, scope: trio.CancelScope, ended: trio.Event) -> None:
        try:
            with scope:
                await pump.run()
        finally:
            ended.set()

    def kill(self) -> None:
        for _, scope, _ in self.pumps:
            scope.cancel()

    def write(self, size: int) -> None:
        data = OUTPUT[self.written : self.written + size]
        try:
            self.written += os.write(self.container_end, data)
        except BlockingIOError:
            return

    def read(self, size: int) -> bool:
        """Read at most ``size`` bytes; return whether there were any."""
        if self.reader is None:
            return False
        try:
            data = os.read(self.reader, size)
        except BlockingIOError:
            return False
        self.received += data
        return bool(data)

    def open_reader(self) -> None:
        if self.reader is None:
            self.reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)

    def close_reader(self) -> None:
        if self.reader is not None:
            os.close(self.reader)
            self.reader = None

    async def take(self, step: Step) -> None:
        match step:
            case Write(size):
                self.write(size)
            case Read(size):
                self.read(size)
            case Sleep(seconds):
                await trio.sleep(seconds)
                await trio.testing.wait_all_tasks_blocked()
            case OpenReader():
                self.open_reader()
            case CloseReader():
                self.close_reader()
            case Kill():
                self.kill()
            case Succeed():
                self.succeed()

    async def only_the_last(self) -> None:
        """Return once no pump but the newest runs."""
        for _, scope, ended in self.pumps[:-1]:
            scope.cancel()
            await ended.wait()

    def check(self) -> None:
        """Every byte is in the pipe, in the FIFO, with the reader, or counted as dropped."""
        assert self.counts.moved + self.counts.dropped + waiting_bytes(self.source) == self.written
        held = next((waiting_bytes(s.fd) for s in self.sinks if s.fd is not None), 0)
        assert self.counts.moved == len(self.received) + held
        if not self.policy.drop_when_full and not self.policy.block_timeout_s:
            assert not self.counts.dropped
        if not self.counts.dropped:
            assert self.received == OUTPUT[: len(self.received)]
        else:
            assert in_order(bytes(self.received))
        counters = self.pumps[-1][0].counters
        assert 0 <= counters.stalled_s <= trio.current_time()

    def close(self) -> None:
        self.close_reader()
        for sink in self.sinks:
            sink.close()
        for fd in (*self.sources, self.source, self.container_end):
            os.close(fd)


def in_order(received: bytes) -> bool:
    """Whether ``received`` is what was written with parts of it left out."""
    at = position = 0
    while at < len(received):
        for window in (16, MIN_WRITE):
            found = OUTPUT.find(received[at : at + window], position)
            if found >= 0:
                break
        else:
            return False
        length = common_prefix(received, at, found)
        at, position = at + length, found + length
    return True


def common_prefix(received: bytes, at: int, position: int) -> int:
    """Return how far ``received`` from ``at`` on equals what was written at ``position``."""
    low, high = 1, min(len(received) - at, len(OUTPUT) - position)
    while low < high:
        middle = (low + high + 1) // 2
        if received[at : at + middle] == OUTPUT[position : position + middle]:
            low = middle
        else:
            high = middle - 1
    return low


def in_a_world(policy: PumpPolicy, play: Callable[[World], object], *, idle: bool) -> None:
    """Run the coroutine function ``play`` on a new stream; nothing may be left open.

    With ``idle`` the pumps leave the wait for output to the run's `IdleWait`.
    """
    before = set(os.listdir("/proc/self/fd"))

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            world = World(Path(directory), policy, nursery)
            try:
                await play(world)  # type: ignore[misc]
            finally:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await world.only_the_last()
                    await world.pumps[-1][2].wait()
                world.close()

    with tempfile.TemporaryDirectory() as directory:
        clock = trio.testing.MockClock(autojump_threshold=0)
        trio.run(run, clock=clock, instruments=[IdleWait()] if idle else [])
    assert set(os.listdir("/proc/self/fd")) == before


@settings(max_examples=100)
@given(policies, steps, idles)
def test_every_byte_is_accounted_for(policy: PumpPolicy, script: list[Step], idle: bool) -> None:
    """Whoever comes, dies or sleeps in whatever order: no byte is lost, repeated or moved."""

    async def play(world: World) -> None:
        for step in script:
            await world.take(step)
            world.check()

    in_a_world(policy, play, idle=idle)


@settings(max_examples=60)
@given(policies, steps, idles)
def test_a_reader_that_comes_back_gets_the_rest(
    policy: PumpPolicy, script: list[Step], idle: bool
) -> None:
    """At the end, a successor and a reader that reads deliver all that was not dropped."""

    async def play(world: World) -> None:
        for step in script:
            await world.take(step)
        dropped = world.counts.dropped
        world.open_reader()
        world.succeed()
        await world.only_the_last()
        last, _, ended = world.pumps[-1]
        last.begin_drain()
        while not ended.is_set() or world.read(1 << 20):
            world.read(1 << 20)
            with trio.move_on_after(0.01):
                await ended.wait()
        world.check()
        assert waiting_bytes(world.source) == 0
        assert len(world.received) + world.counts.dropped == world.written
        if not policy.drop_when_full:
            assert world.counts.dropped == dropped
        if not world.counts.dropped:
            assert world.received == OUTPUT[: world.written]

    in_a_world(policy, play, idle=idle)


@settings(max_examples=60)
@given(policies, steps, idles)
def test_a_drain_ends_by_itself(policy: PumpPolicy, script: list[Step], idle: bool) -> None:
    """Without a reader the pump gives up after its time, and counts what it throws away."""

    async def play(world: World) -> None:
        for step in script:
            await world.take(step)
        world.close_reader()
        world.succeed()
        await world.only_the_last()
        last, _, ended = world.pumps[-1]
        begun = trio.current_time()
        last.begin_drain()
        await ended.wait()
        assert trio.current_time() - begun <= policy.drain_timeout_s + 0.5
        assert waiting_bytes(world.source) == 0
        assert world.counts.moved + world.counts.dropped == world.written

    in_a_world(policy, play, idle=idle)


@settings(max_examples=60)
@given(
    st.lists(st.one_of(st.builds(Write, st.integers(MIN_WRITE, MAX_WRITE)), st.builds(OpenReader))),
    idles,
)
def test_an_application_that_may_drop_never_waits(script: list[Step], idle: bool) -> None:
    """With log_overflow = "drop" there is room in the pipe again within 20 ms."""

    async def play(world: World) -> None:
        capacity = fcntl.fcntl(world.source, fcntl.F_GETPIPE_SZ)
        for step in script:
            await world.take(step)
            await world.take(Sleep(0.02))
            assert 2 * waiting_bytes(world.source) < capacity
            world.check()

    in_a_world(PumpPolicy(drop_when_full=True), play, idle=idle)


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        (OUTPUT[:100], True),
        (OUTPUT[50:60] + OUTPUT[70:1000], True),
        (OUTPUT[:10] + OUTPUT[1000:1004] + OUTPUT[5000:], True),
        (OUTPUT[100:200] + OUTPUT[:100], False),
        (OUTPUT[:100] + OUTPUT[50:], False),
    ],
)
def test_in_order_tells_gaps_from_disorder(received: bytes, expected: bool) -> None:
    """What these tests rely on: gaps are found to be gaps, repetitions to be none."""
    assert in_order(received) == expected
