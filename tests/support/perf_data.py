"""HotSpot's performance data, as a JVM writes it and as no JVM would."""

from __future__ import annotations

import struct

from milo.core.java import hsperf
from milo.core.java.heap import MIB


def entry(name: str, value: int | str) -> bytes:
    """Return one entry of performance data."""
    key = name.encode() + b"\0"
    key += b"\0" * (-(20 + len(key)) % 8)
    if isinstance(value, int):
        data, kind, vector = struct.pack("<q", value), b"J", 0
    else:
        data, kind = value.encode() + b"\0", b"B"
        vector = len(data)
        data += b"\0" * (-len(data) % 8)
    head = struct.pack(
        "<iiicBBBi", 20 + len(key) + len(data), 20, vector, kind, 0, 0, 0, 20 + len(key)
    )
    return head + key + data


def perf_data(entries: dict[str, int | str], *, accessible: int = 1) -> bytes:
    """Return performance data as a JVM writes it."""
    body = b"".join(entry(name, value) for name, value in entries.items())
    head = struct.pack(">IBBBB", hsperf.MAGIC, 1, 2, 0, accessible)
    return head + struct.pack("<iiqii", 32 + len(body), 0, 0, 32, len(entries)) + body


SERIAL: dict[str, int | str] = {
    "sun.rt.vmInitDoneTime": 1795481017980,
    "java.property.java.version": "17.0.15",
    "java.property.java.vm.name": "OpenJDK 64-Bit Server VM",
    "java.rt.vmArgs": "-Xmx300m",
    "sun.gc.policy.name": "Copy:MSC",
    "sun.gc.generation.0.maxCapacity": 100 * MIB,
    "sun.gc.generation.1.maxCapacity": 200 * MIB,
}
"""What a JVM with the Serial collector tells."""
