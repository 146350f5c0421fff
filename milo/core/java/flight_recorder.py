"""The flight recording that runs along with a JVM: its options, and the form of its files. Pure.

The JVM writes chunks of events into a directory, its repository, and removes the oldest. At its own
end it puts them together; a JVM that was killed leaves them as they are. Each chunk is a recording
of itself and begins with this header (jfrChunkWriter.cpp of JDK 11 to 25, ChunkHeader.java)::

    magic, version, size, constant pool, metadata, start, duration, ticks, frequency, state, flags

From JDK 14 on the JVM flushes the present chunk each second, and counts that in the state; 0 is a
chunk that is complete. The JDK's own tools wait for the end of any other, and then refuse it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import attrs

from milo.core.java.versions import parse_version
from milo.core.text import shortened

NAME: Final = "milo"
"""Of the recording, for ``jcmd``."""
MAX_AGE: Final = "10m"
MAX_MIB: Final = 64
"""Of complete chunks on disk; the present one comes on top."""
CHUNK_MIB: Final = 4
OLD_CHUNK_MIB: Final = 1
"""The smallest there is, where only complete chunks are of use."""
FLUSHES_SINCE: Final = 14
QUIET_SINCE: Final = 17
"""Before, the JVM knows no such tag, and does not start with it (tried with 11)."""
UPDATE_OF_8: Final = 262
LIST: Final = "default.jfc"
"""A file that each JDK with a recorder has in its lib/jfr."""
REPOSITORY: Final = ".recording"
"""Ends the name of the directory; `FILE` that of what the JVM puts together at its own end."""
FILE: Final = ".jfr"
OPTIONS: Final = ("-XX:StartFlightRecording", "-XX:FlightRecorderOptions", "-XX:-FlightRecorder")

HEADER: Final = struct.Struct(">4sHHQQQQQQQB3s")
_MAGIC: Final = b"FLR\0"
_BEING_WRITTEN: Final = 0xFF


@attrs.frozen
class FlightRecorder:
    """What is added to a JVM's command line, or why nothing is."""

    arguments: tuple[str, ...] = ()
    remark: str = ""
    """A sentence for the start event."""


def flight_recorder(
    words: Sequence[str],
    version: str,
    files: str,
    *,
    openj9: bool,
    installed: bool,
    commercial: bool = False,
) -> FlightRecorder:
    """Return the options of the recording whose files begin with ``files`` in the container.

    ``words`` are the user's own options, which win; ``installed`` says whether the runtime brings
    the recorder's settings along, and ``commercial`` whether it wants an option that unlocks it. A
    JVM that cannot record would not start with them.
    """
    own = next((word for word in words if word.startswith(OPTIONS)), "")
    if own:
        return FlightRecorder(remark=f"flight_recorder leaves it to the option {shortened(own)}")
    numbers = parse_version(version).numbers
    major, update = numbers[0], numbers[2] if len(numbers) > 2 else 0
    missing = ""
    if openj9:
        missing = "OpenJ9 has none"
    elif major < 8 or major in (9, 10) or (major == 8 and update < UPDATE_OF_8):
        missing = f"Java {version} has none; 8u{UPDATE_OF_8} and 11 are the first"
    elif commercial:
        missing = "in Oracle's Java 8 it is a commercial feature. Take an OpenJDK of 8, or Java 11"
    elif not installed:
        missing = "this Java was built without the module jdk.jfr"
    if missing:
        return FlightRecorder(remark=f"flight_recorder has no effect: {missing}")
    chunk = CHUNK_MIB if major >= FLUSHES_SINCE else OLD_CHUNK_MIB
    start = (
        f"name={NAME},maxage={MAX_AGE},maxsize={MAX_MIB}m,dumponexit=true,filename={files}{FILE}"
    )
    return FlightRecorder(
        (
            f"-XX:StartFlightRecording={start}",
            f"-XX:FlightRecorderOptions=repository={files}{REPOSITORY},maxchunksize={chunk}m",
            *(("-Xlog:jfr+startup=off",) if major >= QUIET_SINCE else ()),
        )
    )


def completed(head: bytes, size: int) -> tuple[bytes, int] | None:
    """Return the header and the length that make a chunk complete; None where it cannot be one.

    ``head`` is the beginning of a file of ``size`` bytes. What has come since the last flush is
    left out: the JVM has not told yet what it means.
    """
    if len(head) < HEADER.size:
        return None
    magic, *numbers, state, flags = HEADER.unpack_from(head)
    length, pool, metadata = numbers[2:5]
    if magic != _MAGIC or state == _BEING_WRITTEN:
        return None
    if not HEADER.size < length <= size or max(pool, metadata) >= length:
        return None
    return HEADER.pack(magic, *numbers, 0, flags), length
