"""The format of HotSpot's performance data, ``/tmp/hsperfdata_<user>/<pid>``. Pure.

The application can write anything into that file. So no decision depends on it, every offset is
checked, and what is shown is shortened to printable text.

The layout is that of perfMemory.hpp and perfData.hpp of JDK 8 to 25 (version 2.0), tried with both
JDKs of this project's tests.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from milo.core.java.jvm_view import SelfTold, collector_name
from milo.core.text import shortened

MAGIC: Final = 0xCAFEC0C0
MAX_BYTES: Final = 256 * 1024
"""The JVM's own default is 32 KiB (PerfDataMemorySize)."""
MAX_ENTRIES: Final = 4096
MAX_HEAP_BYTES: Final = 1 << 50
MAX_ARGUMENT_CHARS: Final = 8192

_PROLOGUE: Final = struct.Struct(">IBBBB")
_HEADER: Final = "iiqii"
_ENTRY: Final = "iiiBBBBi"
_SEVERAL_NAMES: Final = frozenset(("Serial", "Parallel", "CMS"))
"""Collectors whose generations lie side by side; each of the others' is the whole heap."""


def parse(data: bytes) -> dict[str, str]:
    """Return name to value of every entry that is a number or a text; empty when it is none."""
    found: dict[str, str] = {}
    try:
        magic, order, major, _, accessible = _PROLOGUE.unpack_from(data, 0)
        mark = "<" if order == 1 else ">"
        if magic != MAGIC or major != 2 or not accessible:
            return {}
        _, _, _, at, count = struct.unpack_from(mark + _HEADER, data, _PROLOGUE.size)
        for _ in range(min(count, MAX_ENTRIES)):
            length, name_at, vector, kind, _, _, _, data_at = struct.unpack_from(
                mark + _ENTRY, data, at
            )
            if length <= 0 or min(at, name_at, vector, data_at) < 0:
                break
            entry = data[at : at + length]
            name = entry[name_at:].partition(b"\0")[0].decode("ascii", "replace")
            if kind == ord("J"):
                found[name] = str(struct.unpack_from(mark + "q", entry, data_at)[0])
            elif kind == ord("B"):
                value = entry[data_at : data_at + vector].partition(b"\0")[0]
                found[name] = value.decode("utf-8", "replace")
            at += length
    except struct.error:
        # Cut off, or nonsense: what was read before stands.
        pass
    return found


def self_told(data: bytes) -> SelfTold | None:
    """Return what the JVM says of itself; None while, or if, it does not say all of it."""
    found = parse(data)
    if _number(found, "sun.rt.vmInitDoneTime") <= 0:
        return None
    collector = collector_name(found)
    version = found.get("java.property.java.version") or found.get("java.property.java.vm.version")
    return SelfTold(
        version=shortened(version or ""),
        name=shortened(found.get("java.property.java.vm.name", "")),
        collector=collector,
        heap_bytes=max_heap_bytes(found, collector),
        arguments=found.get("java.rt.vmArgs", "")[:MAX_ARGUMENT_CHARS],
    )


def max_heap_bytes(found: Mapping[str, str], collector: str) -> int:
    """Return how large the heap may become; 0 where it is not told."""
    sizes = [_number(found, f"sun.gc.generation.{number}.maxCapacity") for number in range(2)]
    return sum(sizes) if collector in _SEVERAL_NAMES else max(sizes)


def _number(found: Mapping[str, str], name: str) -> int:
    try:
        value = int(found.get(name, ""))
    except ValueError:
        return 0
    return value if 0 <= value <= MAX_HEAP_BYTES else 0
