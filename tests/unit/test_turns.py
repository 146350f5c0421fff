"""A few at a time begin what many want at once."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from milo.host.turns import Turns, usual_count


class Beginners:
    """Take turns, and stay in them until they are let go."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.begun: list[int] = []
        self.ends = [trio.Event() for _ in range(10)]

    async def begin(self, number: int) -> None:
        async with self.turns.taken():
            self.begun.append(number)
            await self.ends[number].wait()


async def test_no_more_than_that_many_begin_at_once(autojump_clock: Any) -> None:
    """The next one begins when one has ended, in the order in which they came."""
    some = Beginners(Turns(begin_s=1e9, at_once=2))
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(some.begin, number)
            await wait_all_tasks_blocked()
        assert some.begun == [0, 1]
        for ended, begun in ((1, 2), (2, 3), (0, 4)):
            some.ends[ended].set()
            await wait_all_tasks_blocked()
            assert some.begun[-1] == begun
        some.ends[3].set()
        some.ends[4].set()


async def test_one_that_takes_long_holds_nobody_up(autojump_clock: Any) -> None:
    """After the time of a beginning the next one has its turn, and the one after that."""
    some = Beginners(Turns(begin_s=1.0, at_once=2))
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(some.begin, number)
            await wait_all_tasks_blocked()
        await trio.sleep(1.5)
        assert sorted(some.begun) == [0, 1, 2, 3]
        for end in some.ends[:4]:
            end.set()
        await wait_all_tasks_blocked()
        assert sorted(some.begun) == [0, 1, 2, 3, 4]
        assert trio.current_time() - began == pytest.approx(1.5)
        some.ends[4].set()


async def test_a_turn_is_given_on_by_one_that_fails(autojump_clock: Any) -> None:
    """The error is the caller's own, in no group; and so is a cancellation while one waits."""
    turns = Turns(begin_s=1e9, at_once=1)
    with pytest.raises(ValueError, match=r"^mine$"):
        async with turns.taken():
            raise ValueError("mine")
    some = Beginners(turns)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(some.begin, 0)
        await wait_all_tasks_blocked()
        with trio.move_on_after(1) as scope:
            await some.begin(1)
        assert scope.cancelled_caught
        nursery.start_soon(some.begin, 2)
        some.ends[0].set()
        await wait_all_tasks_blocked()
        assert some.begun == [0, 2]
        some.ends[2].set()


def test_a_host_with_many_processors_begins_more() -> None:
    """And a small one never only one, which might wait for a disk."""
    assert usual_count() >= 4
