"""Reads single entries of a ZIP that may be hostile, in bounded memory and time.

The standard library's reader loads the whole directory as objects, cuts names at a NUL and
decompresses what an entry claims. Here the directory is streamed past, only the entries
asked for are kept, and only the bytes asked for are decompressed; entries that overlap, lie
about their size or expand without end therefore cost nothing.

What is accepted is what Java accepts (java.util.zip.ZipFile of JDK 17 and 25, tried with
``java -jar``): methods stored and deflated, no encryption, data in front of the archive, a
trailing comment, ZIP64; checksums are not looked at. Only the limits are Milo's own. Field
offsets are those of PKWARE's APPNOTE 6.3.10, sections 4.3.7, 4.3.12 and 4.3.14 to 4.3.16.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import attrs

MAX_ENTRIES = 4_000_000
"""A JAR with all of a large application's dependencies has some 100,000."""
MAX_DIRECTORY_BYTES = 512 * 1024 * 1024

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_END64_LOCATOR = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_PASSED = struct.Struct("<4s4x2H16x3H")
"""What of an `_ENTRY` is looked at in passing: magic, flags, method, lengths of what follows."""
_LOCAL = struct.Struct("<4s5H3L2H")
_END_MAGIC = b"PK\x05\x06"
_ENTRY_MAGIC = b"PK\x01\x02"
_LOCAL_MAGIC = b"PK\x03\x04"
_MAX_COMMENT = 0xFFFF
_MAX_32 = 0xFFFFFFFF
_CHUNK_BYTES = 1024 * 1024
_WHOLE_ENTRY_BYTES = _ENTRY.size + 3 * 0xFFFF
"""No entry of a directory is longer."""
_PIECE_BYTES = 64 * 1024
_STORED, _DEFLATED = 0, 8
_METHODS = frozenset((_STORED, _DEFLATED))


class ZipError(ValueError):
    """The file is no ZIP, or one that Java would refuse; the text says why."""


class NoZipError(ZipError):
    """The file has no end record, without which nothing makes it a ZIP."""


class ZipLimitError(ZipError):
    """It is larger than Milo looks into, though Java may read it; the text says in what."""


@attrs.frozen
class Directory:
    """Where a ZIP's central directory lies."""

    offset: int
    """In the file."""
    size: int
    base: int
    """So many bytes lie in front of the archive; offsets of entries count from there."""


@attrs.frozen
class Entry:
    """One entry as the central directory describes it."""

    name: bytes
    offset: int
    """Of its local header, in the file."""
    method: int
    compressed: int
    size: int
    """So many bytes it has when they are decompressed; Java reads no more."""


def find_directory(file: BinaryIO) -> Directory:
    """Return where the central directory lies, from the end record and its ZIP64 form.

    Raises `NoZipError` when there is no end record, `ZipError` when it does not fit the
    file or exceeds a limit.
    """
    length = file.seek(0, 2)
    window = min(length, _END.size + _MAX_COMMENT)
    tail = read_at(file, length - window, window)
    at = len(tail) - _END.size
    while at >= 0 and (at := tail.rfind(_END_MAGIC, 0, at + len(_END_MAGIC))) >= 0:
        directory = _directory_at(file, tail, at, length)
        if directory is not None:
            return directory
        at -= 1
    raise NoZipError("it has no end record")


def find_entries(
    file: BinaryIO, directory: Directory, wanted: Callable[[bytes], bool]
) -> dict[bytes, Entry]:
    """Return the entries whose names are ``wanted``, and check every entry in passing.

    Of entries with the same name the last one counts, as in Java. Raises `ZipError` for
    whatever makes Java refuse the whole file.
    """
    found: dict[bytes, Entry] = {}
    buffer = b""
    at = 0
    position = directory.offset
    left = directory.size
    index = 0
    passed, fixed = _PASSED.unpack_from, _ENTRY.size
    # By size and not by count, as Java does: the count wraps in archives without ZIP64. In one
    # function, since it is run for each of what may be millions of entries.
    while True:
        if len(buffer) - at < _WHOLE_ENTRY_BYTES and left:
            chunk = read_at(file, position, min(left, _CHUNK_BYTES))
            buffer, at = buffer[at:] + chunk, 0
            position += len(chunk)
            left = left - len(chunk) if chunk else 0
        if at == len(buffer):
            return found
        if len(buffer) - at < fixed:
            raise ZipError(f"its directory is damaged at entry {index}")
        magic, flags, method, name_bytes, extra_bytes, comment_bytes = passed(buffer, at)
        name_end = at + fixed + name_bytes
        end = name_end + extra_bytes + comment_bytes
        if magic != _ENTRY_MAGIC or end > len(buffer):
            raise ZipError(f"its directory is damaged at entry {index}")
        name = buffer[at + fixed : name_end]
        if flags & 1:
            raise ZipError(f"its entry {_shown(name)} is encrypted, which Java cannot read")
        if method not in _METHODS:
            raise ZipError(
                f"its entry {_shown(name)} has compression method {method}, and Java reads "
                f"only stored ({_STORED}) and deflated ({_DEFLATED})"
            )
        if wanted(name):
            fields = _ENTRY.unpack_from(buffer, at)
            found[name] = _entry(fields, name, buffer[name_end : name_end + extra_bytes], directory)
        at = end
        index += 1
        if index > MAX_ENTRIES:
            raise ZipLimitError(f"it has more than {MAX_ENTRIES} entries")


def entry_chunks(file: BinaryIO, entry: Entry) -> Iterator[bytes]:
    """Yield the decompressed bytes of an entry, some `_PIECE_BYTES` at a time.

    No more than the directory says that it has, and no faster than they are asked for. Raises
    `ZipError` when there are fewer.
    """
    header = read_at(file, entry.offset, _LOCAL.size)
    if len(header) < _LOCAL.size or not header.startswith(_LOCAL_MAGIC):
        raise ZipError(f"its entry {_shown(entry.name)} is not where its directory says")
    fields = _LOCAL.unpack(header)
    position = entry.offset + _LOCAL.size + fields[9] + fields[10]
    compressed, left = entry.compressed, entry.size
    inflater = None if entry.method == _STORED else zlib.decompressobj(-zlib.MAX_WBITS)
    source = b""
    while left:
        if not source:
            source = read_at(file, position, min(compressed, _PIECE_BYTES))
            position += len(source)
            compressed = compressed - len(source) if source else 0
        try:
            if inflater is None:
                data, source = source, b""
            else:
                data = inflater.decompress(source, min(left, _PIECE_BYTES))
                source = inflater.unconsumed_tail
        except zlib.error as error:
            raise ZipError(f"its entry {_shown(entry.name)} is damaged ({error})") from error
        ended = not compressed and not source
        if not data and (ended or (inflater is not None and inflater.eof)):
            raise ZipError(
                f"its entry {_shown(entry.name)} is damaged: {left} of its {entry.size} bytes "
                "are missing"
            )
        data = data[:left]
        left -= len(data)
        yield data


def read_head(file: BinaryIO, entry: Entry, count: int) -> bytes:
    """Return the first ``count`` decompressed bytes of an entry, fewer if it has no more.

    Raises `ZipError`.
    """
    head = b""
    for data in entry_chunks(file, entry):
        head += data[: count - len(head)]
        if len(head) == count:
            break
    return head


def read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """Return up to ``size`` bytes from ``offset``, fewer only at the end of the file."""
    file.seek(offset)
    parts = []
    while size > 0 and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _directory_at(file: BinaryIO, tail: bytes, at: int, length: int) -> Directory | None:
    """Return the directory that an end record names, None if the bytes are none.

    In a comment, and in what was appended, the same four bytes may stand. As Java does: a record
    whose comment ends with the file is one, another has to lead to an entry and to its data.
    """
    fields = _END.unpack_from(tail, at)
    entries, size, offset, comment = fields[4], fields[5], fields[6], fields[7]
    end = length - len(tail) + at
    if end + _END.size + comment != length and not (
        end - size - offset >= 0
        and read_at(file, end - size, 4) == _ENTRY_MAGIC
        and read_at(file, end - size - offset, 4) == _LOCAL_MAGIC
    ):
        return None
    end, size, offset = _end64(file, end, entries, size, offset) or (end, size, offset)
    start = end - size
    base = start - offset
    if start < 0 or base < 0:
        raise ZipError(
            f"its directory should have {size} bytes from {offset} on, which does not fit its "
            f"{length} bytes: part of it is missing"
        )
    if size and read_at(file, start, 4) != _ENTRY_MAGIC:
        raise ZipError("its directory is not where its end record says")
    if size > MAX_DIRECTORY_BYTES:
        raise ZipLimitError(f"its directory has more than {MAX_DIRECTORY_BYTES >> 20} MiB")
    return Directory(start, size, base)


def _end64(
    file: BinaryIO, end: int, entries: int, size: int, offset: int
) -> tuple[int, int, int] | None:
    """Return position, size and offset from the ZIP64 end record; None if there is none.

    One that contradicts the other end record, in what that one can hold, is none.
    """
    locator = read_at(file, end - _END64_LOCATOR.size, _END64_LOCATOR.size) if end >= 20 else b""
    if not locator.startswith(b"PK\x06\x07"):
        return None
    position = _END64_LOCATOR.unpack(locator)[2]
    record = read_at(file, position, _END64.size) if position < end else b""
    if len(record) < _END64.size or not record.startswith(b"PK\x06\x06"):
        return None
    wide = _END64.unpack(record)[7:]
    pairs = zip(wide, (entries, size, offset), (0xFFFF, _MAX_32, _MAX_32), strict=True)
    if any(large != small != beyond for large, small, beyond in pairs):
        return None
    return position, wide[1], wide[2]


def _entry(fields: tuple[int, ...], name: bytes, extra: bytes, directory: Directory) -> Entry:
    """Return an entry, its values that do not fit 32 bits taken from the ZIP64 extra data."""
    values = [fields[9], fields[8], fields[16]]  # size, compressed, offset: in ZIP64's order
    wide = _zip64_extra(extra) if _MAX_32 in values else b""
    at = 0
    for index, value in enumerate(values):
        if value == _MAX_32 and len(wide) >= at + 8:
            values[index] = int.from_bytes(wide[at : at + 8], "little")
            at += 8
    size, compressed, offset = values
    if offset + directory.base + compressed > directory.offset:
        raise ZipError(f"its entry {_shown(name)} does not end before its directory")
    return Entry(name, offset + directory.base, fields[4], compressed, size)


def _zip64_extra(extra: bytes) -> bytes:
    at = 0
    while at + 4 <= len(extra):
        tag, size = struct.unpack_from("<2H", extra, at)
        if tag == 1:
            return extra[at + 4 : at + 4 + size]
        at += 4 + size
    return b""


def _shown(name: bytes) -> str:
    return ascii(name[:60].decode("utf-8", "replace"))
