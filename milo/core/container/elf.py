"""Reads from an ELF file what the dynamic linker reads: what it needs, and where it looks. Pure.

The file may be a tenant's. So every offset and count in it is bounded, nothing is executed, and
whatever is not understood raises a `ValueError`. Formats: System V gABI, chapters 4 and 5; elf(5).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

import attrs

Read = Callable[[int, int], bytes]
"""``read(offset, size)`` returns at most ``size`` bytes, fewer at the end of the file."""

MAX_SEGMENTS: Final = 128
"""The JDK's libraries have about ten program headers."""
MAX_DYNAMIC_BYTES: Final = 64 * 1024
MAX_NEEDED: Final = 256
MAX_TEXT_BYTES: Final = 4096
"""PATH_MAX: no name that the loader could open is longer."""
_FIRST_BYTES: Final = 2048
"""Of one read: the header, and nearly always the program headers and the interpreter."""

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 1, 5, 14, 15, 29
_ET_EXEC, _ET_DYN = 2, 3


@attrs.frozen
class ElfFile:
    """The dynamic part of an executable or a shared library."""

    kind: tuple[int, int, int]
    """Class (1: 32 bits, 2: 64), byte order, machine: the loader takes only its own."""
    needed: tuple[str, ...] = ()
    """DT_NEEDED, in order."""
    soname: str = ""
    rpath: tuple[str, ...] = ()
    """DT_RPATH, split at its colons; to be ignored where there is a ``runpath``."""
    runpath: tuple[str, ...] = ()
    interpreter: str = ""
    """PT_INTERP: the dynamic linker of an executable."""


def parse_elf(read: Read) -> ElfFile:
    """Return what the file says to the dynamic linker, in about three reads.

    Raises `ValueError` for what is no ELF executable or shared library, or a damaged one.
    """
    start = read(0, _FIRST_BYTES)
    if start[:4] != b"\x7fELF" or len(start) < 64:
        raise ValueError("it is no ELF file")
    wide, order = start[4] == 2, "<" if start[5] == 1 else ">"
    if start[4] not in (1, 2) or start[5] not in (1, 2):
        raise ValueError("its class or byte order is unknown")
    header = struct.Struct(order + ("HHIQQQIHHH" if wide else "HHIIIIIHHH"))
    fields = header.unpack_from(start, 16)
    kind, machine, table, entry_size, entries = (fields[n] for n in (0, 1, 4, 8, 9))
    if kind not in (_ET_EXEC, _ET_DYN):
        raise ValueError("it is no executable and no shared library")

    def text(offset: int, size: int) -> bytes:
        """Read through what the first read brought."""
        if offset + size <= len(start):
            return start[offset : offset + size]
        return read(offset, size)

    segments = _segments(text, table, entry_size, entries, order, wide)
    interpreter = ""
    dynamic = b""
    for type_, offset, _, size in segments:
        if type_ == _PT_INTERP:
            interpreter = _string(text(offset, min(size, MAX_TEXT_BYTES)), 0)
        elif type_ == _PT_DYNAMIC:
            if size > MAX_DYNAMIC_BYTES:
                raise ValueError("its dynamic section is too large")
            dynamic = text(offset, size)
    result = ElfFile((start[4], start[5], machine), interpreter=interpreter)
    return _fill(result, dynamic, segments, read, order, wide)


def _segments(
    read: Read, table: int, entry_size: int, entries: int, order: str, wide: bool
) -> list[tuple[int, int, int, int]]:
    """Return type, file offset, address and size in the file of each segment."""
    form = struct.Struct(order + ("IIQQQQ" if wide else "IIIII"))
    if entries > MAX_SEGMENTS or not form.size <= entry_size <= 256:
        raise ValueError("its program headers are out of bounds")
    data = read(table, entry_size * entries)
    if len(data) < entry_size * entries:
        raise ValueError("it is cut off")
    found = []
    for number in range(entries):
        fields = form.unpack_from(data, number * entry_size)
        # the 64-bit form has the flags in between
        type_, offset, address, size = (
            (fields[0], fields[2], fields[3], fields[5])
            if wide
            else (fields[0], fields[1], fields[2], fields[4])
        )
        found.append((type_, offset, address, size))
    return found


def _fill(
    result: ElfFile,
    dynamic: bytes,
    segments: list[tuple[int, int, int, int]],
    read: Read,
    order: str,
    wide: bool,
) -> ElfFile:
    """Return ``result`` with the strings that its dynamic section names."""
    form = struct.Struct(order + ("qQ" if wide else "iI"))
    found: dict[int, list[int]] = {}
    for tag, value in form.iter_unpack(dynamic[: len(dynamic) // form.size * form.size]):
        if tag == 0:
            break
        found.setdefault(tag, []).append(value)
    wanted = [
        *found.get(_DT_NEEDED, ()),
        *(found[tag][0] for tag in (_DT_SONAME, _DT_RPATH, _DT_RUNPATH) if tag in found),
    ]
    if not wanted or _DT_STRTAB not in found:
        return result
    if len(wanted) > MAX_NEEDED:
        raise ValueError("it needs too many libraries")
    base = _file_offset(found[_DT_STRTAB][0], segments)
    low, high = min(wanted), max(wanted)
    # They stand together as a rule; one read is enough then.
    window = read(base + low, high - low + MAX_TEXT_BYTES) if high - low < 65536 else b""

    def string(offset: int) -> str:
        if window:
            return _string(window, offset - low)
        return _string(read(base + offset, MAX_TEXT_BYTES), 0)

    def paths(tag: int) -> tuple[str, ...]:
        return tuple(string(found[tag][0]).split(":")) if tag in found else ()

    return attrs.evolve(
        result,
        needed=tuple(string(offset) for offset in found.get(_DT_NEEDED, ())),
        soname=string(found[_DT_SONAME][0]) if _DT_SONAME in found else "",
        rpath=paths(_DT_RPATH),
        runpath=paths(_DT_RUNPATH),
    )


def _file_offset(address: int, segments: list[tuple[int, int, int, int]]) -> int:
    for type_, offset, start, size in segments:
        if type_ == _PT_LOAD and start <= address < start + size:
            return offset + address - start
    raise ValueError("its string table is in no segment")


def _string(data: bytes, offset: int) -> str:
    end = data.find(b"\0", offset, offset + MAX_TEXT_BYTES)
    if end < 0:
        raise ValueError("a string in it has no end")
    # as file names in Python, so that no name is lost
    return data[offset:end].decode("utf-8", "surrogateescape")
