"""How much of a task's memory the JVM's heap gets, and which options of the user decide it. Pure.

The kernel kills a task for all the memory that it uses, but ``-Xmx`` limits only the heap.
Threads, classes, compiled code, direct buffers and the collector's tables need memory besides it.
The numbers here come from the measurements in docs/memory.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from milo.core.java.option_words import VM_FILE, UserWords
from milo.core.text import shortened

MIB: Final = 1024 * 1024

RESERVE_BASE_BYTES: Final = 64 * MIB
"""A JVM with some dozen threads, some hundred classes of its own, and its compilers at work."""
RESERVE_SMALL_PERCENT: Final = 18
"""Of the first `SMALL_BYTES`: what an application brings along (classes, threads, buffers)
grows with its size."""
SMALL_BYTES: Final = 512 * MIB
RESERVE_LARGE_PERCENT: Final = 10
"""Of all beyond: G1 takes up to 5 percent of its heap, the rest is the application's."""
LEAST_PERCENT: Final = 25
"""Of a very small task: what the JVM itself would take."""
LEAST_HEAP_BYTES: Final = 2 * MIB
"""The JVM refuses less."""

# Prefixes and not patterns: this is imported at every start of the plugin.
_DECISIVE: Final = (
    "-Xmx",
    "-mx",
    "-XX:MaxHeapSize=",
    "-XX:MaxRAM=",
    "-XX:MaxRAMPercentage=",
    "-XX:MinRAMPercentage=",
    "-XX:MaxRAMFraction=",
    "-XX:MinRAMFraction=",
    "-XX:DefaultMaxRAMFraction=",
    "-XX:+AggressiveHeap",
    *VM_FILE,
)
"""Options that size the heap, or that name a file which may."""
_WITHIN: Final = (
    ("-Xms", "-ms", "-XX:InitialHeapSize="),
    ("-Xms", "-ms", "-XX:MinHeapSize="),
    ("-XX:SoftMaxHeapSize=",),
)
"""Sizes that the JVM refuses above the largest heap. Of each group the last word counts."""
_DUMP: Final = "HeapDumpOnOutOfMemoryError"
_DUMP_PATH: Final = "HeapDumpPath"
_REPORT_PATH: Final = "ErrorFile"
"""HotSpot's flags, in every release; OpenJ9 ignores ``-XX`` options that it does not know."""
_UNITS: Final = {"": 1, "k": 1024, "m": MIB, "g": 1024 * MIB, "t": 1024 * 1024 * MIB}


@attrs.frozen
class Tuning:
    """What Milo adds to the JVM's command line, before the user's own options."""

    arguments: tuple[str, ...] = ()
    heap_bytes: int = 0
    """0 when Milo leaves the heap to the user or to the JVM."""
    why: str = ""
    """For the start event, after "set": where the heap's size comes from."""
    dump_path: str = ""
    """Where a heap dump would be written, as the container has it; empty for the user's choice."""
    dump_expected: bool = False
    """Whether an OutOfMemoryError has the JVM write one there, as far as Milo knows its options."""
    report_path: str = ""
    """Where the JVM would report a crash; the user's own path may hold ``%p``."""


def default_heap_bytes(memory_bytes: int) -> int:
    """Return the heap for a task with so much memory, when the job says nothing."""
    small = min(memory_bytes, SMALL_BYTES)
    large = memory_bytes - small
    reserve = (
        RESERVE_BASE_BYTES
        + small * RESERVE_SMALL_PERCENT // 100
        + large * RESERVE_LARGE_PERCENT // 100
    )
    return max(memory_bytes - reserve, memory_bytes * LEAST_PERCENT // 100)


def tune(
    user: UserWords,
    *,
    memory_bytes: int,
    heap_percent: int = 0,
    dump_on_oom: bool = False,
    files: str = "",
) -> Tuning:
    """Return what to put in front of the user's options.

    ``memory_bytes`` is the job's ``memory``, what the task is sure to have: a heap in what
    ``memory_max`` lends could not be given back when the host wants it. 0 is no limit, and
    then the heap is the JVM's choice. ``heap_percent`` 0 means `default_heap_bytes`.
    ``files`` is what the paths of a dump and of a crash's report begin with in the container;
    the user's own paths win. Both are always given: the user may switch dumps on where Milo does
    not see it, and where the JVM would write them by itself, nothing can be written.
    """
    arguments: list[str] = []
    heap_bytes, why = _heap(user, memory_bytes, heap_percent)
    if heap_bytes:
        arguments.append(f"-Xmx{heap_bytes // MIB}m")
    dumps = user.switch(_DUMP)
    if dump_on_oom and dumps is None:
        arguments.append(f"-XX:+{_DUMP}")
    dump_path = "" if user.value(_DUMP_PATH) else f"{files}.hprof" * bool(files)
    report_path = user.value(_REPORT_PATH)
    if dump_path:
        arguments.append(f"-XX:{_DUMP_PATH}={dump_path}")
    if files and not report_path:
        report_path = f"{files}.hs_err.log"
        arguments.append(f"-XX:{_REPORT_PATH}={report_path}")
    expected = bool(dump_path) and (dump_on_oom if dumps is None else dumps)
    return Tuning(tuple(arguments), heap_bytes, why, dump_path, expected, report_path)


def _heap(user: UserWords, memory_bytes: int, heap_percent: int) -> tuple[int, str]:
    decisive = next((word for word in reversed(user.words) if word.startswith(_DECISIVE)), "")
    if decisive:
        return 0, f"by its option {shortened(decisive)}"
    if user.unread:
        return 0, f"by the JVM or by {shortened(user.unread)}, which Milo could not read"
    if memory_bytes <= 0:
        return 0, "by the JVM, because the task has no memory limit"
    if heap_percent:
        wanted = memory_bytes * heap_percent // 100
        why = f"by heap_percent = {heap_percent}, for a task of {memory_bytes // MIB} MiB"
    else:
        wanted = default_heap_bytes(memory_bytes)
        why = f"by default, for a task of {memory_bytes // MIB} MiB"
    wanted = max(wanted // MIB * MIB, LEAST_HEAP_BYTES)
    for word in _within(user.words):
        if _size_bytes(word) > wanted:
            # The JVM would refuse to start.
            return 0, (
                f"by the JVM, because its option {shortened(word)} is above the "
                f"{wanted // MIB} MiB that Milo would set"
            )
    return wanted, why


def _within(words: Sequence[str]) -> list[str]:
    """Return the words that the largest heap must not be below."""
    last = (next((w for w in reversed(words) if w.startswith(group)), "") for group in _WITHIN)
    return [word for word in last if word]


def _size_bytes(word: str) -> int:
    """Return the size that an option ends with, such as 100m; 0 for what the JVM refuses."""
    value = word.partition("=")[2] or word.removeprefix("-Xms").removeprefix("-ms")
    number = value[:-1] if value[-1:].lower() in _UNITS else value
    unit = _UNITS.get(value[len(number) :].lower(), 0)
    if len(number) > 20:
        return 0
    try:
        return int(number, 16 if number[:2].lower() == "0x" else 10) * unit
    except ValueError:
        return 0
