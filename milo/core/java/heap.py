"""How much of a task's memory the JVM's heap gets, and which options of the user decide it. Pure.

The kernel kills a task for all the memory that it uses, but ``-Xmx`` limits only the heap.
Threads, classes, compiled code, direct buffers and the collector's tables need memory besides it.
The numbers here come from the measurements in docs/memory.md.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
NEEDED: Final = frozenset({"cpu", "cpuset", "memory"})
LOOKS_ITSELF: Final = 25
"""The release whose JVM began to look into the cgroup's own files alone."""
LEAST_HEAP_BYTES: Final = 2 * MIB
"""The JVM refuses less."""

JVMS_PERCENT: Final = 25.0
"""Of the memory that there is: what a JVM that is told nothing takes at most for its heap."""
# Prefixes and not patterns: this is imported at every start of the plugin.
_LARGEST: Final = ("-Xmx", "-mx", "-XX:MaxHeapSize=")
_DECISIVE: Final = (
    *_LARGEST,
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
_WITHIN_OPENJ9: Final = (
    ("-Xsoftmx",),
    ("-Xmn", "-Xmns"),
    ("-Xmn", "-Xmnx"),
    ("-Xmo", "-Xmos"),
    ("-Xmo", "-Xmox"),
)
"""And those that OpenJ9 refuses besides (its gcmemoryparameters.cpp)."""
_DUMP: Final = "HeapDumpOnOutOfMemoryError"
_DUMP_PATH: Final = "HeapDumpPath"
_REPORT_PATH: Final = "ErrorFile"
"""HotSpot's flags, in every release. Of these OpenJ9 does not know the last one."""
_DUMPS_OPENJ9: Final = ("-Xdump:directory=", "-Xdump:none", f"-XX:{_DUMP_PATH}=")
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
    thread_dump_files: str = ""
    """What the files of its thread dumps are called in the container; empty: they are printed."""


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
    openj9: bool = False,
    unseen_bytes: int = 0,
) -> Tuning:
    """Return what to put in front of the user's options.

    ``memory_bytes`` is the job's ``memory``, what the task is sure to have: a heap in what
    ``memory_max`` lends could not be given back when the host wants it. 0 is no limit, and
    then the heap is the JVM's choice. ``heap_percent`` 0 means `default_heap_bytes`.
    ``files`` is what the paths of a dump and of a crash's report begin with in the container;
    the user's own paths win. Both are always given: the user may switch dumps on where Milo does
    not see it, and where the JVM would write them by itself, nothing can be written.

    ``openj9``: such a JVM names what it writes itself, and wants a directory.

    ``unseen_bytes``: the task's limit, where the JVM does not see it and so would take shares of
    the host's memory (`sees_no_limits`).
    """
    arguments = [f"-XX:MaxRAM={unseen_bytes}"] if unseen_bytes > 0 else []
    heap_bytes, why = _heap(user, memory_bytes, heap_percent, openj9)
    if heap_bytes:
        arguments.append(f"-Xmx{heap_bytes // MIB}m")
    dumps = user.switch(_DUMP)
    if dump_on_oom and dumps is None:
        arguments.append(f"-XX:+{_DUMP}")
    if openj9:
        threads = ""
        if files and not any(word.startswith(_DUMPS_OPENJ9) for word in user.words):
            directory = files.rpartition("/")[0]
            arguments.append(f"-XX:{_DUMP_PATH}={directory}")
            threads = f"{directory}/javacore.*.txt"
        return Tuning(tuple(arguments), heap_bytes, why, thread_dump_files=threads)
    dump_path = "" if user.value(_DUMP_PATH) else f"{files}.hprof" * bool(files)
    report_path = user.value(_REPORT_PATH)
    if dump_path:
        arguments.append(f"-XX:{_DUMP_PATH}={dump_path}")
    if files and not report_path:
        report_path = f"{files}.hs_err.log"
        arguments.append(f"-XX:{_REPORT_PATH}={report_path}")
    expected = bool(dump_path) and (dump_on_oom if dumps is None else dumps)
    return Tuning(tuple(arguments), heap_bytes, why, dump_path, expected, report_path)


def largest_heap_bytes(user: UserWords, tuning: Tuning, memory_bytes: int) -> int:
    """Return how large the heap may become in a task with so much memory, as far as can be told.

    Where nothing says so it is the JVM's own choice, a quarter of what there is.
    """
    if tuning.heap_bytes:
        return tuning.heap_bytes
    sizes = [_size_bytes(word) for word in user.words if word.startswith(_LARGEST)]
    if sizes and sizes[-1]:
        return sizes[-1]
    try:
        percent = min(100.0, float(user.value("MaxRAMPercentage") or JVMS_PERCENT))
    except ValueError:
        percent = JVMS_PERCENT
    return int(memory_bytes * percent / 100)


def sees_no_limits(major: int, controllers: Collection[str], *, openj9: bool = False) -> bool:
    """Whether a JVM of this release finds no limits on cgroup v2, and takes the host's figures.

    Releases before 25 ask /proc/cgroups whether there is a controller for memory; those before
    mends of 2025 ask for cpusets too. Kernels since 6.15 list there what cgroup v1 can have, which
    Debian 14's can not. ``controllers``: those that it lists. JDK-8349988, JDK-8347129.
    """
    return not openj9 and major < LOOKS_ITSELF and not set(controllers) >= NEEDED


def _heap(user: UserWords, memory_bytes: int, heap_percent: int, openj9: bool) -> tuple[int, str]:
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
    for word in _within(user.words, openj9):
        if _size_bytes(word) > wanted:
            # The JVM would refuse to start.
            return 0, (
                f"by the JVM, because its option {shortened(word)} is above the "
                f"{wanted // MIB} MiB that Milo would set"
            )
    return wanted, why


def _within(words: Sequence[str], openj9: bool) -> list[str]:
    """Return the words that the largest heap must not be below."""
    groups = (*_WITHIN, *(_WITHIN_OPENJ9 if openj9 else ()))
    last = (next((w for w in reversed(words) if _parts(w)[0] in group), "") for group in groups)
    return [word for word in last if word]


def _parts(word: str) -> tuple[str, str]:
    """Return an option's name and its size: -Xms and 1g, -XX:MinHeapSize= and 1g."""
    name, equals, value = word.partition("=")
    if equals:
        return name + equals, value
    digits = (at for at, char in enumerate(word) if char.isdigit())
    at = next(digits, len(word))
    return word[:at], word[at:]


def _size_bytes(word: str) -> int:
    """Return the size that an option ends with, such as 100m; 0 for what the JVM refuses."""
    value = _parts(word)[1]
    number = value[:-1] if value[-1:].lower() in _UNITS else value
    unit = _UNITS.get(value[len(number) :].lower(), 0)
    if len(number) > 20:
        return 0
    try:
        return int(number, 16 if number[:2].lower() == "0x" else 10) * unit
    except ValueError:
        return 0
