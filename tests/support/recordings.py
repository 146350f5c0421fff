"""What a JVM's flight recorder writes."""

from __future__ import annotations

from milo.core.java.flight_recorder import HEADER


def chunk(body: bytes, *, state: int = 3, length: int | None = None) -> bytes:
    """Return a chunk as the JVM writes it; ``state`` 0 is one that is complete."""
    size = HEADER.size + len(body) if length is None else length
    numbers = (2, 1, size, HEADER.size + 2, HEADER.size + 1, 1, 2, 3, 10**9)
    return HEADER.pack(b"FLR\0", *numbers, state, b"\0\0\1") + body
