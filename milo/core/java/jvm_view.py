"""What the JVM sees of its task and what it chose: the text of the start event. Pure.

`milo.task.java.jvm` reads what the JVM says of itself; what it does not say is computed here, by
the JVM's own rules (src/hotspot/os/linux, and its gcConfig, of JDK 8 to 25).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from milo.core.java.heap import MIB, Tuning
from milo.core.java.option_words import UserWords
from milo.core.text import shortened

SERVER_BYTES: Final = 1792 * MIB
"""With less memory, or fewer than `SERVER_PROCESSORS`, the JVM takes the Serial collector."""
SERVER_PROCESSORS: Final = 2
SERIAL_HINT: Final = (
    f"The JVM uses Serial with less than {SERVER_BYTES // MIB} MiB or {SERVER_PROCESSORS} "
    "processors; -XX:+UseG1GC in jvm_options changes that"
)

_COLLECTORS: Final = {
    "Copy:MSC": "Serial",
    "ParNew:MSC": "Serial",
    "ParScav:MSC": "Parallel",
    "ParScav:MSC/ParCompact": "Parallel",
    "ParNew:CMS": "CMS",
    "GarbageFirst": "G1",
}
"""``sun.gc.policy.name`` to the name that people know; ZGC and Shenandoah have none."""
_CHOICES: Final = {
    f"-XX:+Use{word}GC": name
    for word, name in (
        ("Serial", "Serial"),
        ("Parallel", "Parallel"),
        ("ParallelOld", "Parallel"),
        ("ConcMarkSweep", "CMS"),
        ("G1", "G1"),
        ("Z", "ZGC"),
        ("Shenandoah", "Shenandoah"),
        ("Epsilon", "Epsilon"),
    )
}
"""The user's option to the collector's name."""
COLLECTORS: Final = frozenset(_CHOICES.values())
"""All names that a collector of HotSpot's can have."""
OPENJ9_POLICY: Final = "-Xgcpolicy:"
_OPENJ9_DEFAULT: Final = "gencon"
_PROCESSORS: Final = "-XX:ActiveProcessorCount="
_MAX_PROCESSORS: Final = 100_000
_NUMBER: Final = re.compile(r"\d+")
_VERSION: Final = re.compile(r"\d[\w.+-]*")
_SHARES_UNTIL: Final = {11: 17, 17: 5, 18: 2}
"""The update with which a release stopped taking cpu.shares for a number of processors
(JDK-8281181: new in 19)."""


@attrs.frozen
class SelfTold:
    """What a JVM says of itself in its hsperfdata file. Written by the task: text, no facts."""

    version: str = ""
    name: str = ""
    collector: str = ""
    heap_bytes: int = 0
    arguments: str = ""
    """Its options, from wherever they came."""


@attrs.frozen
class Limits:
    """What the container's limits are, as far as the JVM looks at them."""

    memory_bytes: int = 0
    """The limit that the kernel holds the task to; 0 is none."""
    cpus: int = 1
    """How many processors the container's first process may run on."""
    quota_us: int = 0
    period_us: int = 0
    shares: int = 0


def processors(limits: Limits, version: str, words: Sequence[str], *, openj9: bool = False) -> int:
    """Return what ``Runtime.availableProcessors()`` is to be.

    The quota, rounded up to whole processors, but no more than there are. Old releases take
    1024 shares for a processor where there is no quota. OpenJ9 takes the nearest number of
    processors (its omrsysinfo.c), and no shares.
    """
    told = [word.removeprefix(_PROCESSORS) for word in words if word.startswith(_PROCESSORS)]
    if told and told[-1].isdecimal() and 0 < int(told[-1][:8]) <= _MAX_PROCESSORS:
        return int(told[-1][:8])
    count = limits.cpus
    if limits.quota_us > 0 and limits.period_us > 0:
        quota = limits.quota_us / limits.period_us
        count = math.floor(quota + 0.5) if openj9 else math.ceil(quota)
    elif not openj9 and _counts_shares(version) and limits.shares not in (0, 1024):
        count = math.ceil(limits.shares / 1024)
    return max(1, min(count, limits.cpus))


def _counts_shares(version: str) -> bool:
    """Whether this release takes shares for processors."""
    parts = [int(part) for part in _NUMBER.findall(version)[:4]]
    if parts[:1] == [1]:  # 1.8.0_402
        parts = [parts[1], 0, *parts[3:4]] if len(parts) > 1 else []
    if not parts:
        return False
    update = parts[2] if len(parts) > 2 else 0
    return parts[0] < 19 and update < _SHARES_UNTIL.get(parts[0], 1 << 30)


def collector_name(told: Mapping[str, str]) -> str:
    """Return the collector's name from hsperfdata's entries; empty when they do not tell."""
    policy = told.get("sun.gc.policy.name", "")
    if policy:
        return _COLLECTORS.get(policy, shortened(policy))
    names = " ".join(told.get(f"sun.gc.collector.{number}.name", "") for number in range(3))
    for word, name in (("ZGC", "ZGC"), ("Z concurrent", "ZGC"), ("Shenandoah", "Shenandoah")):
        if word in names:
            return name
    return shortened(names.strip())


def expected_collector(
    limits: Limits, count: int, major: int, words: Sequence[str], *, openj9: bool = False
) -> str:
    """Return the collector that the JVM should choose, or was told to use."""
    if openj9:
        told = [word for word in words if word.startswith(OPENJ9_POLICY)]
        return shortened(told[-1].removeprefix(OPENJ9_POLICY)) if told else _OPENJ9_DEFAULT
    told = [_CHOICES[word] for word in words if word in _CHOICES]
    if told:
        return told[-1]
    if count < SERVER_PROCESSORS or 0 < limits.memory_bytes < SERVER_BYTES:
        return "Serial"
    return "G1" if major >= 9 else "Parallel"


def describe(
    runs_on: str,
    told: SelfTold | None,
    tuning: Tuning,
    limits: Limits,
    major: int,
    user: UserWords,
    *,
    openj9: bool = False,
    container: str = "",
    remarks: Sequence[str] = (),
) -> str:
    """Return the start event: which Java and why, the heap, the collector, the processors.

    ``runs_on`` is the sentence about the Java. ``told`` is None when the JVM reported nothing;
    then these are Milo's own figures, and the event says so. What the JVM took from files that
    Milo does not read is known from it alone. ``remarks`` are sentences of others; the hint about
    the Serial collector is given only where there is nothing else to say.
    """
    words = user.words
    if told is not None and not user.complete:
        words = (*words, *told.arguments.split())
    version = told.version if told is not None else ""
    count = processors(limits, version or runs_on_version(runs_on), words, openj9=openj9)
    if told is None:
        collector = expected_collector(limits, count, major, words, openj9=openj9)
        heap_bytes = tuning.heap_bytes
    else:
        collector = told.collector
        heap_bytes = told.heap_bytes
    size = f"up to {heap_bytes // MIB} MiB, " if heap_bytes else ""
    parts = [f"{runs_on}; heap {size}set {tuning.why}"]
    if collector:
        parts.append(f"collector {collector}")
    parts.append(f"{count} processor{'' if count == 1 else 's'}")
    if container:
        parts.append(f"container {container}")
    notes: list[str] = []
    if told is None:
        notes.append("The JVM did not report these figures; Milo computed them")
    elif version and version not in runs_on:
        notes.append(f"The JVM reports that it is {told.name} {version}".rstrip())
    notes += remarks
    if not notes and _is_serial_by_default(collector, count, limits, words):
        notes.append(SERIAL_HINT)
    return ". ".join(("; ".join(parts), *notes))


def runs_on_version(runs_on: str) -> str:
    """Return the version in the sentence that names the Java."""
    found = _VERSION.search(runs_on)
    return found[0] if found else ""


def _is_serial_by_default(collector: str, count: int, limits: Limits, words: Sequence[str]) -> bool:
    """Whether the JVM took the Serial collector because the task is small, and nobody chose it."""
    if collector != "Serial" or any(word in _CHOICES for word in words):
        return False
    return count < SERVER_PROCESSORS or 0 < limits.memory_bytes < SERVER_BYTES
