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
