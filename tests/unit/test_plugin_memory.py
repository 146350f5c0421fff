"""What ended calls leave does not wait for Python's own collections, which are rare in a driver."""

from __future__ import annotations

import gc
import weakref

import trio
import trio.testing

from milo.plugin import server


class Call:
    """As a call of grpclib's, it refers to itself."""

    def __init__(self) -> None:
        self.me = self


async def test_ended_calls_are_collected_each_minute(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Without a single new object that would start a collection of Python's own."""
    gc.disable()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.collect_garbage)
            for _ in range(3):
                call = weakref.ref(Call())
                await trio.sleep(server.COLLECTION_PERIOD_S + 1)
                assert call() is None
            nursery.cancel_scope.cancel()
    finally:
        gc.enable()


async def test_no_full_collection_comes_while_much_happens(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It takes 15 ms with a hundred tasks, in which no RPC is answered; the young ones take one."""
    threshold, full = gc.get_threshold(), 0

    def count(phase: str, info: dict[str, int]) -> None:
        nonlocal full
        full += phase == "start" and info["generation"] == 2

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.collect_garbage)
            await trio.testing.wait_all_tasks_blocked()
            young, middle, _ = gc.get_threshold()
            assert (young, middle) == threshold[:2]
            gc.callbacks.append(count)
            # Python has a full one once what has grown old is a quarter of all.
            kept: list[list[int]] = [[] for _ in range(30 * young * middle)]
            nursery.cancel_scope.cancel()
    finally:
        gc.callbacks.remove(count)
        gc.set_threshold(*threshold)
    assert kept and full == 0
