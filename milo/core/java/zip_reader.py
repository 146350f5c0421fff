"""Reads single entries of a ZIP that may be hostile, in bounded memory and time.

The standard library's reader loads the whole directory as objects, cuts names at a NUL and
decompresses what an entry claims. Here the directory is streamed past, only the entries
asked for are kept, and only the bytes asked for are decompressed; entries that overlap, lie
about their size or expand without end therefore cost nothing.

What is accepted is what Java accepts (java.util.zip.ZipFile of JDK 17): methods stored and
deflated, no encryption, data in front of the archive, a trailing comment, ZIP64. Field
offsets are those of PKWARE's APPNOTE 6.3.10, sections 4.3.7, 4.3.12 and 4.3.14 to 4.3.16.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import attrs

MAX_ENTRIES = 500_000
"""A JAR with all of a large application's dependencies has some 100,000."""
MAX_DIRECTORY_BYTES = 64 * 1024 * 1024

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_END64_LOCATOR = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_END_MAGIC = b"PK\x05\x06"
_ENTRY_MAGIC = b"PK\x01\x02"
_LOCAL_MAGIC = b"PK\x03\x04"
_MAX_COMMENT = 0xFFFF
_MAX_32 = 0xFFFFFFFF
_CHUNK_BYTES = 256 * 1024
_STORED, _DEFLATED = 0, 8


class ZipError(ValueError):
    """The file is no ZIP, or one that Java would refuse; the text says why."""


class NoZipError(ZipError):
    """The file has no end record, without which nothing makes it a ZIP."""


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
    crc: int


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
    for fields, name, extra in _raw_entries(file, directory):
        flags, method = fields[3], fields[4]
        if flags & 1:
            raise ZipError(f"its entry {_shown(name)} is encrypted, which Java cannot read")
        if method not in (_STORED, _DEFLATED):
            raise ZipError(
                f"its entry {_shown(name)} has compression method {method}, and Java reads "
                f"only stored ({_STORED}) and deflated ({_DEFLATED})"
            )
        if wanted(name):
            found[name] = _entry(fields, name, extra, directory)
    return found


def read_entry(file: BinaryIO, entry: Entry, limit: int, *, whole: bool) -> bytes:
    """Return at most ``limit`` decompressed bytes of an entry.

    With ``whole``, an entry that has more is an error and its checksum is verified;
    without, the first bytes are returned unverified. Raises `ZipError`.
    """
    header = read_at(file, entry.offset, _LOCAL.size)
    if len(header) < _LOCAL.size or not header.startswith(_LOCAL_MAGIC):
        raise ZipError(f"its entry {_shown(entry.name)} is not where its directory says")
    fields = _LOCAL.unpack(header)
    start = entry.offset + _LOCAL.size + fields[9] + fields[10]
    # deflate needs at most 5 bytes for each 16 KiB more than the data itself (RFC 1951, 3.2.4)
    source = read_at(file, start, min(entry.compressed, limit + limit // 1024 + 1024))
    if entry.method == _STORED:
        data = source[: limit + 1]
    else:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(source, limit + 1)
        except zlib.error as error:
            raise ZipError(f"its entry {_shown(entry.name)} is damaged ({error})") from error
    if not whole:
        return data[:limit]
    if len(data) > limit:
        raise ZipError(f"its entry {_shown(entry.name)} is larger than {limit} bytes")
    if len(data) != entry.size or zlib.crc32(data) != entry.crc:
        raise ZipError(f"its entry {_shown(entry.name)} is damaged (checksum or size differ)")
    return data


def read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """Return up to ``size`` bytes from ``offset``, fewer only at the end of the file."""
    file.seek(offset)
    parts = []
    while size > 0 and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _directory_at(file: BinaryIO, tail: bytes, at: int, length: int) -> Directory | None:
    """Return the directory that an end record names, None if the bytes are none."""
    fields = _END.unpack_from(tail, at)
    entries, size, offset, comment = fields[4], fields[5], fields[6], fields[7]
    end = length - len(tail) + at
    is_last = end + _END.size + comment == length
    end_of_directory = end
    if entries == 0xFFFF or _MAX_32 in (size, offset):
        zip64 = _end64(file, end)
        if zip64 is not None:
            end_of_directory, entries, size, offset = zip64
    start = end_of_directory - size
    base = start - offset
    fits = start >= 0 and base >= 0
    plausible = fits and (not size or read_at(file, start, 4) == _ENTRY_MAGIC)
    if not plausible and not is_last:
        return None  # the four bytes stand in a comment, or in data that was appended
    if not fits:
        raise ZipError(
            f"its directory should have {size} bytes from {offset} on, which does not fit its "
            f"{length} bytes: part of it is missing"
        )
    if not plausible:
        raise ZipError("its directory is not where its end record says")
    if size > MAX_DIRECTORY_BYTES:
        raise ZipError(f"its directory has {size} bytes; the limit is {MAX_DIRECTORY_BYTES}")
    return Directory(start, size, base)


def _end64(file: BinaryIO, end: int) -> tuple[int, int, int, int] | None:
    """Return position, entries, size and offset from the ZIP64 end record, if there is one."""
    locator = read_at(file, end - _END64_LOCATOR.size, _END64_LOCATOR.size) if end >= 76 else b""
    if not locator.startswith(b"PK\x06\x07"):
        return None
    # the position is absolute in the archive; with data in front of it, it is off by as much
    for position in (_END64_LOCATOR.unpack(locator)[2], end - _END64_LOCATOR.size - _END64.size):
        record = read_at(file, position, _END64.size) if position < end else b""
        if len(record) == _END64.size and record.startswith(b"PK\x06\x06"):
            fields = _END64.unpack(record)
            return position, fields[7], fields[8], fields[9]
    return None


def _raw_entries(
    file: BinaryIO, directory: Directory
) -> Iterator[tuple[tuple[int, ...], bytes, bytes]]:
    """Yield the fields, the name and the extra data of each entry, reading in chunks."""
    buffer = b""
    at = 0
    position = directory.offset
    left = directory.size
    index = 0
    # by size and not by count, as Java does: the count wraps in archives without ZIP64
    while left or at < len(buffer):
        if index == MAX_ENTRIES:
            raise ZipError(f"it has more than {MAX_ENTRIES} entries")
        for _ in range(2):  # once for the fixed part, once for the rest of the entry
            need = _ENTRY.size
            if len(buffer) - at >= need:
                need += sum(struct.unpack_from("<3H", buffer, at + 28))
            if len(buffer) - at < need and left:
                chunk = read_at(file, position, min(left, max(_CHUNK_BYTES, need)))
                buffer, at = buffer[at:] + chunk, 0
                position += len(chunk)
                left = left - len(chunk) if chunk else 0
        if len(buffer) - at < need or not buffer.startswith(_ENTRY_MAGIC, at):
            raise ZipError(f"its directory is damaged at entry {index}")
        fields = _ENTRY.unpack_from(buffer, at)
        name_end = at + _ENTRY.size + fields[10]
        name = buffer[at + _ENTRY.size : name_end]
        yield fields, name, buffer[name_end : name_end + fields[11]]
        at += need
        index += 1


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
    return Entry(name, offset + directory.base, fields[4], compressed, size, fields[7])


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
