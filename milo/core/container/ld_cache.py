"""Reads the dynamic linker's cache, /etc/ld.so.cache. Pure.

The format is glibc's own (sysdeps/generic/dl-cache.h): a header, entries of fixed size, and
the strings they point to, all in the byte order of the host.
"""

from __future__ import annotations

import struct
from typing import Final

_MAGIC: Final = b"glibc-ld.so.cache1.1"
_HEADER: Final = struct.Struct("=20sII20x")
"""Magic, number of entries, bytes of strings; flags, an extension's offset and three unused."""
_ENTRY: Final = struct.Struct("=iIIIQ")
"""Flags, name, path (both as offsets from the magic), two of kernel and processor."""
MAX_CACHE_BYTES: Final = 16 * 1024 * 1024
MAX_ENTRIES: Final = 100_000


def parse_ld_cache(data: bytes) -> dict[str, tuple[str, ...]]:
    """Return each library's name and where it is, in the order of the cache.

    One name may have several paths: for other architectures, or for newer processors of the
    same one. A cache in another format, or a damaged one, is empty, as the loader takes it.
    """
    # An older format may stand first, with this one behind it.
    start = data.find(_MAGIC)
    if start < 0 or len(data) < start + _HEADER.size:
        return {}
    data = data[start:]
    _, entries, _ = _HEADER.unpack_from(data)
    if entries > MAX_ENTRIES or _HEADER.size + entries * _ENTRY.size > len(data):
        return {}
    found: dict[str, list[str]] = {}
    table = data[_HEADER.size : _HEADER.size + entries * _ENTRY.size]
    for _, name, path, _, _ in _ENTRY.iter_unpack(table):
        found.setdefault(_string(data, name), []).append(_string(data, path))
    return {name: tuple(dict.fromkeys(paths)) for name, paths in found.items() if name}


def _string(data: bytes, offset: int) -> str:
    end = data.find(b"\0", offset)
    return data[offset:end].decode("utf-8", "surrogateescape") if end > offset else ""
