"""What a JVM that crashed has written of it: the head of its report, ``hs_err``. Pure.

HotSpot's ``vmError.cpp`` writes the same lines since JDK 6, to the report and to standard output::

    #  SIGSEGV (0xb) at pc=0x00007f33872d2f94, pid=2, tid=3
    #  SIGSEGV (0xb) at pc=0x00007f33872d2f94 (sent by kill), pid=2, tid=0x00007f6ca3ba2b80
    # Problematic frame:
    # V  [libjvm.so+0xed2f94]  Unsafe_PutLong+0x124

    #  Internal Error (debug.cpp:362), pid=2, tid=3
    #  fatal error: OutOfMemory encountered: Java heap space

    # There is insufficient memory for the Java Runtime Environment to continue.
    # Native memory allocation (mmap) failed to map 16384 bytes for committing reserved memory.
"""

from __future__ import annotations

import re
from typing import Final

from milo.core.text import shortened

MAX_BYTES: Final = 16 * 1024
"""The head takes less than 2 KiB, and a frame's name may be long."""
MAX_CHARS: Final = 200
"""Of the cause and of the frame, each; names of methods may be any length."""

_CAUSE: Final = re.compile(
    r"#  (?P<cause>\S.*?)(?: at pc=0x[0-9a-f]+)?(?P<by> \(sent by \w+\))?"
    r", pid=[0-9]+, tid=(?:0x[0-9a-f]+|[0-9]+)"
)
"""JDK 8 has the thread's address in the place of its number."""
_MORE: Final = re.compile(r"#  (?P<words>\S.*)")
_MEMORY: Final = "# There is insufficient memory for the Java Runtime Environment to continue."
_FRAME: Final = "# Problematic frame:"


def crash_words(head: bytes, path: str) -> str:
    """Return why the JVM crashed and where, and that its report is at ``path``.

    Empty for what is no report. The task can have written anything: the words are bounded and
    printable.
    """
    lines = head.decode(errors="replace").splitlines()
    cause = _cause(lines)
    if not cause:
        return ""
    where = f" in frame {frame}" if (frame := _frame(lines)) else ""
    return f"the JVM crashed: {cause}{where}; its report is {path}"


def _cause(lines: list[str]) -> str:
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if line == _MEMORY:
            return shortened(
                f"out of memory ({following.removeprefix('# ').rstrip('.')})", MAX_CHARS
            )
        if match := _CAUSE.fullmatch(line):
            more = _MORE.fullmatch(following)
            cause = match["cause"] + (match["by"] or "")
            return shortened(cause + (f", {more['words']}" if more else ""), MAX_CHARS)
    return ""


def _frame(lines: list[str]) -> str:
    if _FRAME not in lines[:-1]:
        return ""
    return shortened(" ".join(lines[lines.index(_FRAME) + 1].removeprefix("#").split()), MAX_CHARS)
