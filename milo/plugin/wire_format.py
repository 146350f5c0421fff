"""Fields of protobuf messages as bytes, for the messages that are encoded or decoded directly.

The wire format is https://protobuf.dev/programming-guides/encoding. Whoever uses this takes the
numbers of the fields from protos/.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
"""Of what kind a field's value is: the lowest three bits of its tag, behind the field's number."""
_GROUP: Final = 3
_GROUP_END: Final = 4
_FIXED_BYTES: Final = {FIXED64: 8, 5: 4}

_DOUBLE = struct.Struct("<Bd")
_VALUE = struct.Struct("<d")


def message(field: int, data: bytes) -> bytes:
    """Return a field of bytes, which is a message or packed numbers; even when empty."""
    return varint(field << 3 | BYTES) + varint(len(data)) + data


def text(field: int, value: str) -> bytes:
    """Return a field of text; an empty one is what a missing one means."""
    return message(field, value.encode()) if value else b""


def number(field: int, value: int) -> bytes:
    """Return a field of a whole number, int32 and int64 too; 0 is what a missing one means."""
    return varint(field << 3 | VARINT) + varint(value) if value else b""


def double(field: int, value: float) -> bytes:
    """Return a field of a double; 0 is what a missing one means."""
    return _DOUBLE.pack(field << 3 | FIXED64, value) if value else b""


def timestamp(unix_s: float) -> bytes:
    """Return the fields of a google.protobuf.Timestamp, in whole microseconds."""
    seconds, micros = divmod(round(unix_s * 1_000_000), 1_000_000)
    return number(1, seconds) + number(2, micros * 1000)


def bytes_of(found: dict[int, bytes | int], field: int) -> bytes:
    """Return a field of bytes, a text or a message, of those that `fields` has found."""
    value = found.get(field << 3 | BYTES, b"")
    assert isinstance(value, bytes)
    return value


def number_of(found: dict[int, bytes | int], field: int) -> int:
    """Return a field of a whole number of those that `fields` has found; 0 if it is missing."""
    value = found.get(field << 3 | VARINT, 0)
    assert isinstance(value, int)
    return signed(value)


def fields(data: bytes) -> dict[int, bytes | int]:
    """Return the fields of a message, by their tags: of several with the same one the last one.

    betterproto's own ``parse_fields`` copies all of ``data`` for each number in it. Raises what
    `each_field` does.
    """
    return dict(each_field(data))


def each_field(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the tag of each field of a message, and its value: a number, or the bytes.

    Raises:
        EOFError: it ends in the middle of one.
        ValueError: it is no message.
    """
    at, end = 0, len(data)
    while at < end:
        tag, at = _number_at(data, at)
        kind = tag & 7
        if kind == VARINT:
            value, at = _number_at(data, at)
            yield tag, value
            continue
        if kind == BYTES:
            length, at = _number_at(data, at)
        elif kind in _FIXED_BYTES:
            length = _FIXED_BYTES[kind]
        elif kind == _GROUP:
            at = _behind_group(data, at, tag)
            continue
        else:
            raise ValueError(f"a field of the unknown kind {kind}")
        if length > end - at:
            raise EOFError("a message ends in the middle of a field")
        yield tag, data[at : at + length]
        at += length


def _behind_group(data: bytes, at: int, tag: int) -> int:
    """Return where a group ends that has begun with ``tag`` before ``at``: nobody reads one."""
    open_tags = [tag]
    while open_tags:
        tag, at = _number_at(data, at)
        kind = tag & 7
        if kind == VARINT:
            _, at = _number_at(data, at)
        elif kind == BYTES:
            length, at = _number_at(data, at)
            at += length
        elif kind in _FIXED_BYTES:
            at += _FIXED_BYTES[kind]
        elif kind == _GROUP:
            open_tags.append(tag)
        elif kind != _GROUP_END or tag >> 3 != open_tags.pop() >> 3:
            raise ValueError("a group that does not end where it has to")
    return at


def signed(value: int) -> int:
    """Return the int32, int64 or enumerator that a number without a sign stands for."""
    return value - (1 << 64) if value >> 63 else value


def double_value(data: bytes) -> float:
    """Return the double that eight bytes are."""
    value: float = _VALUE.unpack(data)[0]
    return value


def _number_at(data: bytes, at: int) -> tuple[int, int]:
    """Return the number of up to 64 bits that begins at ``at``, and where it ends."""
    value = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
        if shift >= 70:
            raise ValueError("a number of more than 64 bits")
    raise EOFError("a message ends in the middle of a number")


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
