"""Pipes that are served while the event loop waits, and what else must go on meanwhile."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Awaitable, Callable, Iterator

import attrs
import pytest
import trio
from trio.abc import Instrument

from milo.task.logs.idle_wait import IdleWait
from tests.support.log_rig import descriptors

LONG_S = 60.0
"""For what must not be waited for."""


@attrs.define
class Pipe:
    """A pipe that takes note of what is read from it."""

    read_fd: int
    write_fd: int
    got: list[bytes] = attrs.field(factory=list)
    go_on: bool = True

    def move(self) -> bool:
        self.got.append(os.read(self.read_fd, 100))
        return self.go_on


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    before = descriptors()
    read_fd, write_fd = os.pipe()
    yield Pipe(read_fd, write_fd)
    os.close(read_fd)
    os.close(write_fd)
    assert descriptors() == before


class Steps(Instrument):
    """Counts how often any task takes its turn."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


def run(main: Callable[[IdleWait], Awaitable[None]], *others: Instrument) -> IdleWait:
    idle = IdleWait()

    async def limited() -> None:
        deadline = trio.current_time() + LONG_S
        with trio.CancelScope(deadline=deadline):
            await main(idle)
        # Also what came at last because of the deadline has come too late.
        assert trio.current_time() < deadline, "it waited for what did not come"

    trio.run(limited, instruments=[idle, *others])
    return idle


def test_what_comes_is_moved_and_no_task_takes_a_turn(pipe: Pipe) -> None:
    """That is what it is for."""
    steps = Steps()
    seen: list[int] = []

    def write() -> None:
        for number in range(5):
            os.write(pipe.write_fd, b"%d" % number)
            while len(pipe.got) <= number:
                pass
            seen.append(steps.count)
        pipe.go_on = False
        os.write(pipe.write_fd, b"end")

    async def main(idle: IdleWait) -> None:
        thread = threading.Thread(target=write)
        thread.start()
        await idle.serve(pipe.read_fd, pipe.move)
        thread.join()

    run(main, steps)
    assert b"".join(pipe.got) == b"01234end"
    assert seen[0] == seen[-1]


def test_a_deadline_comes_once(pipe: Pipe) -> None:
    """Trio would wait for it a second time, after the wait here, if it were not woken."""

    async def main(idle: IdleWait) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(idle.serve, pipe.read_fd, pipe.move)
            await trio.testing.wait_all_tasks_blocked()
            woken: list[float] = []
            wake = idle._wake

            def noting() -> None:
                woken.append(trio.current_time())
                wake()

            idle._wake = noting
            deadline = trio.current_time() + 0.02
            await trio.sleep_until(deadline)
            assert len(woken) == 1 and woken[0] >= deadline
            nursery.cancel_scope.cancel()

    run(main)


def test_a_deadline_comes_while_there_is_no_end_of_output(pipe: Pipe) -> None:
    """A pipe that is never empty does not keep the loop from all else."""

    async def main(idle: IdleWait) -> None:
        os.write(pipe.write_fd, b"x")  # and nobody reads it
        async with trio.open_nursery() as nursery:
            nursery.start_soon(idle.serve, pipe.read_fd, lambda: True)
            await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    run(main)


def test_trios_own_events_end_the_wait(pipe: Pipe) -> None:
    """A socket, a thread, and a pipe that has output all the time besides."""

    async def main(idle: IdleWait) -> None:
        os.write(pipe.write_fd, b"x")
        ours, theirs = trio.socket.socketpair()
        with ours, theirs:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(idle.serve, pipe.read_fd, lambda: True)
                nursery.start_soon(theirs.recv, 1)
                await trio.testing.wait_all_tasks_blocked()
                await ours.send(b".")
                await trio.to_thread.run_sync(os.getpid)
                nursery.cancel_scope.cancel()

    run(main)


def test_a_task_that_is_woken_by_a_move_goes_on_at_once(pipe: Pipe) -> None:
    """Trio has chosen by then how long to wait, and its epoll knows nothing of the task."""

    async def main(idle: IdleWait) -> None:
        woken = trio.Event()

        def move() -> bool:
            woken.set()
            return pipe.move()

        pipe.go_on = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(idle.serve, pipe.read_fd, move)
            await trio.testing.wait_all_tasks_blocked()
            threading.Timer(0.01, os.write, (pipe.write_fd, b"x")).start()
            await woken.wait()

    run(main)


def test_a_failure_is_the_servers(pipe: Pipe) -> None:
    """Trio itself would only log it and never call the instrument again."""

    async def main(idle: IdleWait) -> None:
        os.write(pipe.write_fd, b"x")

        def fail() -> bool:
            raise ValueError("of the move")

        with pytest.raises(ValueError, match="of the move"):
            await idle.serve(pipe.read_fd, fail)
        pipe.go_on = False
        await idle.serve(pipe.read_fd, pipe.move)

    run(main)
    assert pipe.got == [b"x"]


def test_handed_back_it_is_served_no_more(pipe: Pipe) -> None:
    """By a call, which may come twice, as well as by a cancellation."""

    async def main(idle: IdleWait) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(idle.serve, pipe.read_fd, pipe.move)
            await trio.testing.wait_all_tasks_blocked()
            idle.hand_back(pipe.read_fd)
            idle.hand_back(pipe.read_fd)
        with trio.move_on_after(0.001):
            await idle.serve(pipe.read_fd, pipe.move)
        os.write(pipe.write_fd, b"x")
        await trio.sleep(0.001)

    run(main)
    assert pipe.got == []


def test_the_end_of_a_pipe_is_served_too(pipe: Pipe) -> None:
    """It polls as no more than hung up."""

    async def main(idle: IdleWait) -> None:
        read_fd, write_fd = os.pipe()
        os.close(write_fd)
        await idle.serve(read_fd, lambda: bool(os.read(read_fd, 1)))
        os.close(read_fd)

    run(main)


def test_it_belongs_to_one_run() -> None:
    """Another run has none, and neither has one whose epoll is not to be told from others."""

    async def current() -> IdleWait | None:
        return IdleWait.current()

    idle = IdleWait()
    assert trio.run(current, instruments=[idle]) is idle
    assert trio.run(current) is None
    unclear = IdleWait()
    with select.epoll():
        assert trio.run(current, instruments=[unclear]) is None
