"""Fields of protobuf messages as bytes, for the messages that are encoded directly.

The wire format is https://protobuf.dev/programming-guides/encoding. Whoever uses this takes the
numbers of the fields from protos/.
"""

from __future__ import annotations

import struct
from typing import Final

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2

_DOUBLE = struct.Struct("<Bd")


def message(field: int, data: bytes) -> bytes:
    """Return a field of bytes, which is a message or packed numbers; even when empty."""
    return varint(field << 3 | _BYTES) + varint(len(data)) + data


def text(field: int, value: str) -> bytes:
    """Return a field of text; an empty one is what a missing one means."""
    return message(field, value.encode()) if value else b""


def number(field: int, value: int) -> bytes:
    """Return a field of a whole number, int32 and int64 too; 0 is what a missing one means."""
    return varint(field << 3 | _VARINT) + varint(value) if value else b""


def double(field: int, value: float) -> bytes:
    """Return a field of a double; 0 is what a missing one means."""
    return _DOUBLE.pack(field << 3 | _FIXED64, value) if value else b""


def timestamp(unix_s: float) -> bytes:
    """Return the fields of a google.protobuf.Timestamp, in whole microseconds."""
    seconds, micros = divmod(round(unix_s * 1_000_000), 1_000_000)
    return number(1, seconds) + number(2, micros * 1000)


def varint(value: int) -> bytes:
    """Return a number of up to 64 bits; a negative one as its complement of two."""
    if 0 <= value < 0x80:
        return _SMALL[value]
    value &= 0xFFFF_FFFF_FFFF_FFFF
    result = bytearray()
    while value >= 0x80:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)


_SMALL: Final = [bytes((value,)) for value in range(0x80)]
