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

G1: dict[str, int | str] = {
    "sun.rt.vmInitDoneTime": 1795744251952,
    "java.property.java.version": "25.0.1",
    "sun.os.hrt.frequency": 1_000_000_000,
    "sun.gc.policy.name": "GarbageFirst",
    "sun.gc.generation.0.capacity": 10 * MIB,
    "sun.gc.generation.0.maxCapacity": 200 * MIB,
    "sun.gc.generation.0.space.0.used": 1 * MIB,
    "sun.gc.generation.0.space.1.used": 0,
    "sun.gc.generation.0.space.2.used": 2 * MIB,
    "sun.gc.generation.1.capacity": 14 * MIB,
    "sun.gc.generation.1.maxCapacity": 200 * MIB,
    "sun.gc.generation.1.space.0.used": 6 * MIB,
    "sun.gc.collector.0.name": "G1 young collection pauses",
    "sun.gc.collector.0.invocations": 3,
    "sun.gc.collector.0.time": 13_000_000,
    "sun.gc.collector.1.name": "G1 full collection pauses",
    "sun.gc.collector.1.invocations": 1,
    "sun.gc.collector.1.time": 19_000_000,
    "sun.gc.collector.2.name": "G1 concurrent cycle pauses",
    "sun.gc.collector.2.invocations": 0,
    "sun.gc.collector.2.time": 0,
    "sun.gc.metaspace.capacity": 327_680,
    "sun.gc.metaspace.used": 78_416,
    "java.threads.live": 6,
    "java.threads.daemon": 5,
    "java.threads.livePeak": 7,
    "java.cls.loadedClasses": 7,
    "java.cls.sharedLoadedClasses": 410,
    "java.cls.unloadedClasses": 1,
    "java.cls.sharedUnloadedClasses": 0,
    "sun.rt.safepoints": 4,
    "sun.rt.safepointTime": 32_000_000,
    "sun.rt.safepointSyncTime": 22_000,
}
"""What a JVM 25 with G1 tells, as far as Milo reads it."""
