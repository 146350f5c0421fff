"""Archives of a JVM's loaded classes, with which the next start is faster: which, and how. Pure.

A JVM writes one at its end, and a later one maps it instead of reading and checking the classes
again. What each release has, by the JDKs themselves and JEP 310, 350, 483, 514 and 515:

- 13 to 24: a dynamic archive (``-XX:ArchiveClassesAtExit``), on top of the JDK's own;
- from 25 on: an AOT cache. It takes two steps, of which ``-XX:AOTCacheOutput`` does both at the
  application's end: with words of its own on standard output, in a second JVM beside the first
  one. So Milo takes the steps one by one.

Where the JVM cannot write at its end what it was told to, it ends with exit code 1, whatever the
application's was (tried with 17, 21 and 25). So nothing is recorded that is known to fail.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final

from milo.core.java.jvm_options import WITH_VALUE
from milo.core.java.option_words import (
    LAST_VARIABLE,
    LAUNCHER_VARIABLE,
    TOOL_VARIABLE,
    UserWords,
)
from milo.core.text import shortened

DYNAMIC_SINCE: Final = 13
AOT_SINCE: Final = 25
LIVE_SINCE: Final = 17
"""The first whose ``jcmd`` asks for one. An older JVM does not start with `recording_live`."""

PLACE: Final = "/run/milo-startup"
"""In the container: where the JVM writes what it records, or finds the archive."""
ARCHIVE: Final = f"{PLACE}/archive"
CONFIGURATION: Final = f"{PLACE}/configuration"
"""The first step of an AOT cache."""

RECORDED: Final = f" AOTConfiguration recorded: {CONFIGURATION}\n".encode()
"""The last words of a JVM that records for an AOT cache, on standard error; nothing silences it."""
OPTION_VARIABLES: Final = (TOOL_VARIABLE, LAST_VARIABLE, LAUNCHER_VARIABLE, "JDK_AOT_VM_OPTIONS")
"""What a JVM reads more options from; the second step gets them as words."""

_OWN: Final = (
    "-Xshare:",
    "-XX:SharedArchiveFile=",
    "-XX:SharedClassListFile=",
    "-XX:SharedArchiveConfigFile=",
    "-XX:ArchiveClassesAtExit=",
    "-XX:DumpLoadedClassList=",
    "-XX:+AutoCreateSharedArchive",
    "-XX:-AutoCreateSharedArchive",
    "-XX:+RecordDynamicDumpInfo",
    "-XX:-UseSharedSpaces",
    "-XX:AOT",
    "-XX:+AOT",
    "-XX:-AOT",
)
"""Options by which a user has an archive of his own, or wants none."""
_UNFIT: Final = (
    "-agentlib:",
    "-agentpath:",
    "-javaagent:",
    "-Xrun",
    "-Xdebug",
    "-Xbootclasspath",
    "-Xverify:",
    "-XX:-BytecodeVerification",
    "-XX:CRaC",
    "-Djava.system.class.loader=",
    "-Djdk.module.",
)
_UNFIT_NAMES: Final = (
    "-cp",
    "-classpath",
    "--class-path",
    "-p",
    "--module-path",
    "--upgrade-module-path",
    "--patch-module",
    "--limit-modules",
)
"""Options with which the JVM writes no archive, or ends without one and with an error; or that name
classes elsewhere than Milo looks for them. The value of the last ones may be the next word."""
_IRRELEVANT: Final = (
    "-Xlog",
    "-Xloggc:",
    "-XX:ErrorFile=",
    "-XX:HeapDumpPath=",
    "-XX:LogFile=",
    "-XX:OnError=",
    "-XX:OnOutOfMemoryError=",
    "-XX:StartFlightRecording",
    "-XX:FlightRecorder",
    "-XX:+FlightRecorder",
)
"""Options of the JVM's own that no archive depends on, and that may differ at each start."""
_NOT_RECORDED: Final = ("-XX:StartFlightRecording", "-XX:FlightRecorder", "-XX:+FlightRecorder")
LARGE_HEAP_BYTES: Final = 32 << 30
"""From here on references are not compressed, which an archive depends on."""


BESIDE_HEAP_BYTES: Final = 32 << 20
RECORDER_BYTES: Final = 48 << 20
RECORDED_SHARE: Final = 3
"""Memory by the size of the JARs."""
MAX_RECORDED_BYTES: Final = 112 << 20


class Method(enum.StrEnum):
    """What a JVM can keep for its next start."""

    DYNAMIC = "class-data archive"
    AOT = "AOT cache"


def method_of(java_major: int, *, openj9: bool) -> Method | None:
    """Return what a Java of that release has; None where Milo uses nothing."""
    if openj9 or java_major < DYNAMIC_SINCE:
        return None
    return Method.AOT if java_major >= AOT_SINCE else Method.DYNAMIC


def recording_bytes(class_path_bytes: int) -> int:
    """Return the memory that a recording takes at most when the JVM ends, beyond the heap.

    Measured with JDK 17 and 25: up to 42 MiB for one class, 130 for JRuby's JAR of 29 MiB.
    """
    for_classes = min(class_path_bytes * RECORDED_SHARE, MAX_RECORDED_BYTES)
    return BESIDE_HEAP_BYTES + RECORDER_BYTES + for_classes


def obstacle(words: UserWords) -> str:
    """Return the user's option that decides about archives itself, or forbids one; or nothing.

    A file of options that Milo has not read may hold such a one.
    """
    if not words.complete:
        unread = (word for word in words.words if word.startswith(("-XX:", "-Xoptionsfile=")))
        return shortened(words.unread or next(unread, "a file of options"))
    for word in words.words:
        if word.startswith((*_OWN, *_UNFIT)) or word.partition("=")[0] in _UNFIT_NAMES:
            return shortened(word)
    return ""


def relevant(words: Sequence[str]) -> list[str]:
    """Return those options that an archive may depend on, in their order.

    That is all of the JVM's own, since many decide which collector, which heap and which
    references it has; and not what only says where it writes.
    """
    found: list[str] = []
    takes_value = False
    for word in words:
        if takes_value or (word.startswith(("-X", "--")) and not word.startswith(_IRRELEVANT)):
            found.append(word)
        takes_value = not takes_value and word in WITH_VALUE
    return found


def no_recording(words: Sequence[str]) -> str:
    """Return the option that a JVM does not obey while it records, or nothing."""
    # "JFR will be disabled during CDS dumping", say 17, 21 and 25.
    return next((shortened(word) for word in words if word.startswith(_NOT_RECORDED)), "")


def quiet(method: Method) -> tuple[str, ...]:
    """Return what keeps the JVM from telling, on standard output, why an archive does not fit."""
    return ("-Xlog:cds*=off,aot*=off",) if method is Method.AOT else ("-Xlog:cds*=off",)


def recording(method: Method) -> tuple[str, ...]:
    """Return the options with which the JVM records at its end, in `PLACE`."""
    if method is Method.DYNAMIC:
        return (*quiet(method), f"-XX:ArchiveClassesAtExit={ARCHIVE}")
    # It tells of that on the VM's own output, which is not to come between the application's.
    return (
        *quiet(method),
        "-XX:+DisplayVMOutputToStderr",
        "-XX:AOTMode=record",
        f"-XX:AOTConfiguration={CONFIGURATION}",
    )


def recording_live() -> tuple[str, ...]:
    """Return the options with which a JVM writes a dynamic archive when it is asked to.

    It takes these or `recording`, not both.
    """
    return (*quiet(Method.DYNAMIC), "-XX:+RecordDynamicDumpInfo")


def creating() -> tuple[str, ...]:
    """Return the options of the second step of an AOT cache, which runs nothing."""
    return (
        *quiet(Method.AOT),
        "-XX:AOTMode=create",
        f"-XX:AOTConfiguration={CONFIGURATION}",
        f"-XX:AOTCache={ARCHIVE}",
    )


def using(method: Method) -> tuple[str, ...]:
    """Return the options with which the JVM starts from `ARCHIVE`, if that fits, or else without.

    ``-Xshare:auto`` is the JVM's default and so is said by nobody.
    """
    if method is Method.DYNAMIC:
        return (*quiet(method), f"-XX:SharedArchiveFile={ARCHIVE}")
    return (*quiet(method), f"-XX:AOTCache={ARCHIVE}")
