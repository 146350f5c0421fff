"""What a JVM counts of itself while it runs, from its performance data. Pure.

The application can write anything into that data. So a figure that is missing, negative or larger
than any machine's is absent, never 0, and the texts among the figures are of fixed lists.

The counters are those of JDK 8 to 25, read with each collector: the collectors stand at fixed
numbers (0 young, 1 full or old, 2 concurrent), and each generation tells the sizes of its spaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from milo.core.java import hsperf
from milo.core.java.jvm_view import COLLECTORS, collector_name
from milo.core.records import Int64

MAX_COUNT: Final = 1 << 53
"""What a 64-bit floating point number, as Prometheus stores them, tells exactly."""
MAX_FREQUENCY: Final = 10**12
"""Of the JVM's clock, a second; it is 10^9 on Linux."""
OTHER_COLLECTOR: Final = "other"

_GENERATIONS: Final = range(2)
_SPACES: Final = range(3)
_KINDS: Final = ("young", "full", "concurrent")
_OWN_KINDS: Final = {
    "CMS": ("young", "old", "concurrent"),
    "ZGC": ("minor", "full", "major"),
    "Shenandoah": ("partial", "phase", "concurrent"),
}
"""Where a number means something else. Shenandoah counts each phase of a cycle, of which most stop
nothing, as its second collector; ZGC without generations knows only cycles of the whole heap."""


@attrs.frozen
class GcFigures:
    """What one part of the collector has done since the JVM's start."""

    kind: str
    """``young``, ``full``, ``concurrent``, ``old``, ``minor``, ``major``, ``partial`` or
    ``phase``."""
    collections: Int64
    """For ZGC: pauses; for Shenandoah: phases."""
    seconds: float | None = None
    """How long they took; the application stood still meanwhile, but not with Shenandoah."""


@attrs.frozen
class JvmFigures:
    """One reading. None is what this JVM does not tell, or not credibly."""

    collector: str = OTHER_COLLECTOR
    """One of `milo.core.java.jvm_view.COLLECTORS`, or `OTHER_COLLECTOR`."""
    heap_used_bytes: Int64 | None = None
    """As the JVM has written it down, at the latest at its last collection; None before."""
    heap_committed_bytes: Int64 | None = None
    heap_max_bytes: Int64 | None = None
    metaspace_used_bytes: Int64 | None = None
    metaspace_committed_bytes: Int64 | None = None
    gc: tuple[GcFigures, ...] = ()
    threads: Int64 | None = None
    """Java's, daemons included; not those of the JVM itself."""
    daemon_threads: Int64 | None = None
    peak_threads: Int64 | None = None
    classes: Int64 | None = None
    """Loaded now."""
    safepoints: Int64 | None = None
    """Stops of all threads, since the JVM's start."""
    safepoint_s: float | None = None
    """Time in them; with JDK 8 also the time to get there."""
    safepoint_sync_s: float | None = None
    """Time to get there: until each thread had stopped."""


def figures(data: bytes) -> JvmFigures | None:
    """Return what the performance data ``data`` tells; None while, or if, no JVM is up."""
    return figures_of(hsperf.parse(data))


def figures_of(found: Mapping[str, str]) -> JvmFigures | None:
    """Return the figures in entries of performance data, by their names."""
    if not _number(found, "sun.rt.vmInitDoneTime", MAX_COUNT):
        return None
    name = collector_name(found)
    frequency = _number(found, "sun.os.hrt.frequency", MAX_FREQUENCY)
    spaces = [f"{number}.space.{space}" for number in _GENERATIONS for space in _SPACES]
    return JvmFigures(
        collector=name if name in COLLECTORS else OTHER_COLLECTOR,
        # No heap is empty: 0 is what stands there before the first collection.
        heap_used_bytes=_sum(found, [f"sun.gc.generation.{space}.used" for space in spaces])
        or None,
        heap_committed_bytes=_sum(
            found, [f"sun.gc.generation.{number}.capacity" for number in _GENERATIONS]
        ),
        heap_max_bytes=hsperf.max_heap_bytes(found, name) or None,
        # Nor is there a JVM without classes.
        metaspace_used_bytes=_bytes(found, "sun.gc.metaspace.used") or None,
        metaspace_committed_bytes=_bytes(found, "sun.gc.metaspace.capacity") or None,
        gc=tuple(_collectors(found, name, frequency)),
        threads=_number(found, "java.threads.live"),
        daemon_threads=_number(found, "java.threads.daemon"),
        peak_threads=_number(found, "java.threads.livePeak"),
        classes=_classes(found),
        safepoints=_number(found, "sun.rt.safepoints"),
        safepoint_s=_seconds(found, "sun.rt.safepointTime", frequency),
        safepoint_sync_s=_seconds(found, "sun.rt.safepointSyncTime", frequency),
    )


def _collectors(found: Mapping[str, str], name: str, frequency: int | None) -> list[GcFigures]:
    kinds = _OWN_KINDS.get(name, _KINDS)
    told = []
    for number, kind in enumerate(kinds):
        count = _number(found, f"sun.gc.collector.{number}.invocations")
        if count is not None:
            seconds = _seconds(found, f"sun.gc.collector.{number}.time", frequency)
            told.append(GcFigures(kind, count, seconds))
    return told


def _classes(found: Mapping[str, str]) -> int | None:
    """Return how many classes are loaded; those of a class-data archive count apart."""
    come = _sum(found, ["java.cls.loadedClasses", "java.cls.sharedLoadedClasses"])
    gone = _sum(found, ["java.cls.unloadedClasses", "java.cls.sharedUnloadedClasses"])
    return None if come is None or gone is None or gone > come else come - gone


def _sum(found: Mapping[str, str], names: list[str]) -> int | None:
    """Return the sum of those that there are; None when there is none, or one is no figure."""
    values = [_bytes(found, name) for name in names if name in found]
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _bytes(found: Mapping[str, str], name: str) -> int | None:
    return _number(found, name, hsperf.MAX_HEAP_BYTES)


def _seconds(found: Mapping[str, str], name: str, frequency: int | None) -> float | None:
    ticks = _number(found, name, 1 << 63)
    return None if ticks is None or not frequency else ticks / frequency


def _number(found: Mapping[str, str], name: str, limit: int = MAX_COUNT) -> int | None:
    try:
        value = int(found[name])
    except (KeyError, ValueError):
        return None
    return value if 0 <= value <= limit else None
