"""When the rush of an agent's start is over."""

from __future__ import annotations

import trio
import trio.testing

from milo.host.rush import FEW, PAUSE_S, Rush


def crowded() -> Rush:
    """Return one that has begun."""
    rush = Rush()
    for _ in range(FEW):
        with rush.joined():
            pass
    return rush


async def waited_s(rush: Rush) -> float:
    """Return how long the end of ``rush`` takes."""
    began_s = trio.current_time()
    await rush.over()
    return trio.current_time() - began_s


async def test_without_a_rush_nobody_waits(autojump_clock: trio.testing.MockClock) -> None:
    """As when a task is started."""
    assert await waited_s(Rush()) == 0


async def test_a_few_are_no_rush(autojump_clock: trio.testing.MockClock) -> None:
    """A single task is provided for at once; nor do many make a rush that come now and then."""
    rush = crowded()
    assert await waited_s(rush) == 0
    for _ in range(2 * FEW):
        await trio.sleep(PAUSE_S)
        with rush.joined():
            assert await waited_s(rush) == 0


async def test_it_is_over_when_nothing_comes_any_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """One after the other puts its end off, and everybody who waits is told at once."""
    rush, found = crowded(), []

    async def wait() -> None:
        found.append(await waited_s(rush))

    async with trio.open_nursery() as nursery:
        for number in range(5):
            with rush.joined():
                nursery.start_soon(wait)
                await trio.sleep(PAUSE_S * 0.8)
            assert not found, number
    assert max(found) - min(found) >= 4 * 0.8 * PAUSE_S * 0.99
    assert abs(max(found) - (5 * 0.8 + 1) * PAUSE_S) < 1e-6


async def test_what_makes_no_progress_is_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A task process that does not answer holds nothing up."""
    rush = crowded()
    with rush.joined():
        assert abs(await waited_s(rush) - PAUSE_S) < 1e-6


async def test_another_one_waits_on_where_one_is_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The one that sleeps for all may be of a call that its client ends."""
    rush, found = crowded(), []

    async def wait() -> None:
        found.append(await waited_s(rush))

    with rush.joined():
        pass
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(PAUSE_S / 2):
                async with trio.open_nursery() as first:
                    first.start_soon(rush.over)
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.start_soon(wait)
                    await trio.sleep_forever()
    assert len(found) == 1 and abs(found[0] - PAUSE_S) < 1e-6
