"""Which stream of a task printed when: marks, by which `milo logs` merges stdout and stderr. Pure.

A task process adds a mark where the other stream goes on, and where a second has passed. A file of
a fixed size holds the last `MARKS` of them, as numbers of eight bytes in the host's order: how many
marks were ever made, then of each its time, and the bytes of both streams that came before it.
"""

from __future__ import annotations

import struct
from typing import Final

import attrs

MARKS: Final = 4096
CELLS: Final = 3
"""Numbers of one mark."""
FILE_BYTES: Final = 8 * (1 + CELLS * MARKS)
STEP_S: Final = 1.0
"""At least so often a stream that prints gets a mark."""


@attrs.frozen
class Mark:
    """A moment at which a stream went on."""

    at_s: float
    """Unix time."""
    before: tuple[int, int]
    """Bytes of stdout and of stderr that were there already."""


def decode(data: bytes) -> list[Mark]:
    """Return the marks of a file, the oldest first; none where it is damaged."""
    if len(data) != FILE_BYTES:
        return []
    count, *cells = struct.unpack(f"{FILE_BYTES // 8}Q", data)
    numbers = range(max(0, count - MARKS), count) if count < 1 << 62 else ()
    found: list[Mark] = []
    for number in numbers:
        at = number % MARKS * CELLS
        nanoseconds, stdout, stderr = cells[at : at + CELLS]
        last = found[-1].before if found else (0, 0)
        if stdout < last[0] or stderr < last[1]:
            return []  # it was read while it was written
        found.append(Mark(nanoseconds / 1e9, (stdout, stderr)))
    return found
