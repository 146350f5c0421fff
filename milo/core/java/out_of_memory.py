"""The kinds of Java's OutOfMemoryError, by its message, and what an operator can do. Pure.

The messages are HotSpot's and the JDK's: Java heap space, GC overhead limit exceeded, Metaspace,
Compressed class space, unable to create native thread, Direct buffer memory (until JDK 16) or
Cannot reserve ... of direct buffer memory (since), Requested array size exceeds VM limit, Map
failed, Out of swap space. Any other message is OTHER.
"""

from __future__ import annotations

import enum
from typing import Final

ERROR_NAME: Final = "java.lang.OutOfMemoryError"

EXIT_ON_OOM_CODE: Final = 3
"""How HotSpot ends on ``-XX:+ExitOnOutOfMemoryError`` (its ``debug.cpp``: ``os::_exit(3)``)."""


class Kind(enum.Enum):
    """What of the JVM's memory ran out; the value is the advice of the event."""

    HEAP = "heap of the JVM, not the task's memory limit; see heap_percent or -Xmx"
    ARRAY = "an array larger than any heap of this JVM may hold; more memory does not help"
    CLASSES = (
        "memory for classes, not the heap; see -XX:MaxMetaspaceSize and"
        " -XX:CompressedClassSpaceSize"
    )
    THREADS = "the task's number of threads, not the heap; see pids_limit, ulimit and -Xss"
    DIRECT = "memory for direct buffers, not the heap; see -XX:MaxDirectMemorySize"
    NATIVE = "memory outside of the heap; see the task's memory and heap_percent"
    OTHER = "a limit of the JVM or the application, not the kernel's OOM killer"


_SIGNS: Final = (
    ("java heap space", Kind.HEAP),
    ("gc overhead limit", Kind.HEAP),
    ("metaspace", Kind.CLASSES),
    ("compressed class space", Kind.CLASSES),
    ("native thread", Kind.THREADS),
    ("direct buffer memory", Kind.DIRECT),
    ("requested array size", Kind.ARRAY),
    ("required array", Kind.ARRAY),
    ("required length", Kind.ARRAY),
    ("map failed", Kind.NATIVE),
    ("out of swap space", Kind.NATIVE),
    ("native_method", Kind.NATIVE),
)


def kind_of(reason: str) -> Kind:
    """Return what ran out, by the words that followed the error's name; they may be empty."""
    lowered = reason.lower()
    return next((kind for sign, kind in _SIGNS if sign in lowered), Kind.OTHER)


def error_words(reason: str) -> str:
    """Return the error as Java prints it, e.g. ``java.lang.OutOfMemoryError: Metaspace``."""
    return f"{ERROR_NAME}: {reason}" if reason else ERROR_NAME


def sighting_sentence(stream: str, reason: str) -> str:
    """Return the event that tells of an error's name among the application's output.

    It says no more than was seen: an application may print those words for any reason.
    """
    return f"The application's {stream} names {error_words(reason)} ({kind_of(reason).value})"
