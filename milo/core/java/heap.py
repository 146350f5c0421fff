"""How much of a task's memory the JVM's heap gets, and which of its user's options decide. Pure.

The kernel kills a task for all of its memory, while ``-Xmx`` bounds the heap alone: threads,
classes, compiled code, direct buffers and the collector's own tables come on top of it.
docs/memory.md has the measurements that the numbers here come from.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

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
    "-XX:SoftMaxHeapSize=",
    "-XX:MaxRAM=",
    "-XX:MaxRAMPercentage=",
    "-XX:MinRAMPercentage=",
    "-XX:MaxRAMFraction=",
    "-XX:MinRAMFraction=",
    "-XX:+AggressiveHeap",
    "-XX:Flags=",
    "-XX:VMOptionsFile=",
    "-XX:+ReadVMOptionsFile",
    "-Xoptionsfile=",
)
"""Options that size the heap, or that name a file which may."""
_INITIAL: Final = ("-Xms", "-ms", "-XX:InitialHeapSize=", "-XX:MinHeapSize=")
_UNITS: Final = {"": 1, "k": 1024, "m": MIB, "g": 1024 * MIB, "t": 1024 * 1024 * MIB}

TOOL_VARIABLES: Final = ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "OPENJ9_JAVA_OPTIONS")
"""Read by the JVM itself, in every release."""
LAUNCHER_VARIABLE: Final = "JDK_JAVA_OPTIONS"
"""Read by the ``java`` launcher since Java 9; may name files of options, as ``@file``."""
LAUNCHER_VARIABLE_SINCE: Final = 9


@attrs.frozen
class UserWords:
    """Every option that the JVM will get from its user, from wherever."""

    words: tuple[str, ...] = ()
    """From the environment, then from files, then ``jvm_options``: the later one wins."""
    unread: str = ""
    """A file of options that could not be looked at; empty when all were."""


@attrs.frozen
class Tuning:
    """What Milo adds to the JVM's command line, before the user's own options."""

    arguments: tuple[str, ...] = ()
    heap_bytes: int = 0
    """0 when Milo leaves the heap to the user or to the JVM."""
    why: str = ""
    """For the start event, after "set": where the heap's size comes from."""
    dump_path: str = ""
    """Where a heap dump would be written, as the container has it; empty for none."""


def environment_words(env: Mapping[str, str], java_major: int) -> tuple[str, ...]:
    """Return the options in the variables that a JVM reads, in the order of their reading.

    ``java_major`` 0 is an unknown release. A text with unbalanced quotes, which the JVM would
    refuse, is split at its spaces.
    """
    names = list(TOOL_VARIABLES)
    if java_major >= LAUNCHER_VARIABLE_SINCE or java_major == 0:
        names.append(LAUNCHER_VARIABLE)
    return tuple(word for name in names for word in split_options(env.get(name, "")))


def split_options(text: str) -> list[str]:
    """Return the words of a variable or of a file of options; ``#`` begins a comment there."""
    try:
        return shlex.split(text, comments=True)
    except ValueError:
        return text.split()


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
    user: UserWords, *, memory_bytes: int, heap_percent: int = 0, dump_path: str = ""
) -> Tuning:
    """Return what to put in front of the user's options.

    ``memory_bytes`` is the job's ``memory``, what the task is sure to have: a heap in what
    ``memory_max`` lends could not be given back when the host wants it. 0 is no limit, and
    then the heap is the JVM's choice. ``heap_percent`` 0 means `default_heap_bytes`.
    ``dump_path`` is not empty when a heap dump was asked for; a path of the user's wins.
    """
    arguments: list[str] = []
    heap_bytes, why = _heap(user, memory_bytes, heap_percent)
    if heap_bytes:
        arguments.append(f"-Xmx{heap_bytes // MIB}m")
    if dump_path and not any("HeapDumpOnOutOfMemoryError" in word for word in user.words):
        arguments.append("-XX:+HeapDumpOnOutOfMemoryError")
    if any(word.startswith("-XX:HeapDumpPath=") for word in user.words):
        dump_path = ""
    if "-XX:-HeapDumpOnOutOfMemoryError" in user.words:
        dump_path = ""
    if dump_path:
        arguments.append(f"-XX:HeapDumpPath={dump_path}")
    return Tuning(tuple(arguments), heap_bytes, why, dump_path)


def _heap(user: UserWords, memory_bytes: int, heap_percent: int) -> tuple[int, str]:
    decisive = next((word for word in reversed(user.words) if word.startswith(_DECISIVE)), "")
    if decisive:
        return 0, f"by its option {printable(decisive)}"
    if user.unread:
        return 0, f"by the JVM or by {printable(user.unread)}, which Milo could not read"
    if memory_bytes <= 0:
        return 0, "by the JVM, as the task has no memory limit"
    if heap_percent:
        wanted = memory_bytes * heap_percent // 100
        why = f"by heap_percent = {heap_percent}, of {memory_bytes // MIB} MiB"
    else:
        wanted = default_heap_bytes(memory_bytes)
        why = f"by default, for a task of {memory_bytes // MIB} MiB"
    wanted = max(wanted // MIB * MIB, LEAST_HEAP_BYTES)
    initial = _initial_bytes(user.words)
    if initial > wanted:
        # The JVM refuses to start with an initial heap above the largest one.
        return 0, f"by the JVM, as its options ask for {initial // MIB} MiB to begin with"
    return wanted, why


def printable(text: str, chars: int = 80) -> str:
    """Return a text that a task may have written, in one line, of at most so many characters."""
    text = "".join(char if char.isprintable() else "?" for char in text[: chars + 1])
    return text if len(text) <= chars else text[: chars - 1] + "…"


def _initial_bytes(words: Sequence[str]) -> int:
    return max((_size_bytes(word) for word in words if word.startswith(_INITIAL)), default=0)


def _size_bytes(word: str) -> int:
    """Return the size that an option ends with, such as 100m; 0 for what the JVM refuses."""
    value = word
    for prefix in _INITIAL:
        value = value.removeprefix(prefix)
    number = value[:-1] if value[-1:].isalpha() else value
    unit = _UNITS.get(value[len(number) :].lower(), 0)
    return int(number) * unit if number.isdecimal() and len(number) <= 20 else 0
