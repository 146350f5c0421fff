"""Passes values to any number of subscribers. A slow subscriber does not delay the others."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final, Generic, TypeVar

import trio

T = TypeVar("T")

QUEUED: Final = 1024
"""What a subscriber may be behind; Nomad shows ten events a task, so more is of no use."""


class Broadcast(Generic[T]):
    """Hands each value to every subscriber. What nobody hears is kept for the first one."""

    def __init__(self) -> None:
        self._channels: set[trio.MemorySendChannel[T]] = set()
        self._unheard: list[T] = []

    def publish(self, value: T) -> None:
        """Queue ``value`` for every subscriber; one that is too far behind misses it."""
        if not self._channels:
            # Nomad subscribes a moment after it starts a task, and anew after a recovery.
            self._unheard = [*self._unheard[-QUEUED + 1 :], value]
        for channel in self._channels:
            try:
                channel.send_nowait(value)
            except (trio.WouldBlock, trio.BrokenResourceError):
                continue

    async def subscribe(self) -> AsyncGenerator[T, None]:
        """Yield values until the caller stops asking."""
        send, receive = trio.open_memory_channel[T](QUEUED)
        for value in self._unheard:
            send.send_nowait(value)
        self._unheard = []
        self._channels.add(send)
        try:
            async with receive:
                async for value in receive:
                    yield value
        finally:
            self._channels.discard(send)
