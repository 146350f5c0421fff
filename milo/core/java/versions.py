"""Java's versions: of a runtime, and of what a class was compiled for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from milo.core.versions import version_numbers

if TYPE_CHECKING:
    from milo.core.launch import JavaRuntime

_VERSION = re.compile(
    r"[0-9]{1,9}(?:\.[0-9]{1,9}){0,15}(?:_(?P<update>[0-9]{1,9}))?(?:[_+-][0-9A-Za-z_.+-]*)?"
)
_PROPERTY = re.compile(r"^\s+java\.version = (\S+)\s*$", re.MULTILINE)
_BANNER = re.compile(r'^\S+ version "([^"\n]{1,100})"', re.MULTILINE)
_OPENJ9 = re.compile(
    r"^(?:\s+java\.vm\.name = )?(?:Eclipse OpenJ9|IBM J9) VM\b"
    r"|^JVM_VARIANT=[\"']?Openj9|^SOURCE=.*\bOpenJ9:",
    re.MULTILINE,
)
"""In a line of what ``java -version`` prints, and of Semeru's and of others' ``release`` files."""
_RELEASE_KEY = re.compile(r'^JAVA_VERSION=(["\']?)([^"\'\n]{1,100})\1[ \t\r]*$', re.MULTILINE)

FIRST_CLASS_MAJOR = 45
"""The oldest class file version there is: JDK 1.0.2 and 1.1 (JVMS, table 4.1-A)."""


@attrs.frozen
class JavaVersion:
    """A version of Java."""

    text: str
    """As the runtime gives it, e.g. ``17.0.15`` or ``1.8.0_402``."""
    numbers: tuple[int, ...]
    """Feature release first: (17, 0, 15), and (8, 0, 402) for ``1.8.0_402``."""
    openj9: bool = False
    """Whether a runtime that was asked for it has this JVM."""

    @property
    def major(self) -> int:
        """Feature release: 17, and 8 for ``1.8.0_402``."""
        return self.numbers[0]


def parse_version(text: str) -> JavaVersion:
    """Return a version: ``1.8.0_402``, ``17.0.15``, ``21-ea`` or ``25.0.1+8-LTS``.

    JEP 223 and java.lang.Runtime.Version give the form since Java 9; before it, the feature
    release is the second number. Raises `ValueError` for anything else.
    """
    stripped = text.strip()
    match = _VERSION.fullmatch(stripped)
    if match is None:
        raise ValueError(f"{stripped[:60]!r} is no version of Java")
    numbers = version_numbers(stripped)
    if numbers[0] == 1 and len(numbers) > 1:
        numbers = numbers[1:]
    if match["update"]:
        numbers = (*numbers, int(match["update"]))
    if not 1 <= numbers[0] < 1000:
        raise ValueError(f"{stripped[:60]!r} is no version of Java")
    return JavaVersion(stripped, numbers)


def version_from_output(output: str) -> JavaVersion:
    """Return the version from what ``java -XshowSettings:properties -version`` printed.

    Of a runtime that knows no such setting, the quoted version of the first line is taken.
    Raises `ValueError` when there is neither.
    """
    match = _PROPERTY.search(output) or _BANNER.search(output)
    if match is None:
        raise ValueError("its output names no version")
    return _with_jvm(match[1], output)


def version_from_release(text: str) -> JavaVersion:
    """Return the version from a JDK's ``release`` file, its key JAVA_VERSION.

    Raises `ValueError` when there is none.
    """
    match = _RELEASE_KEY.search(text)
    if match is None:
        raise ValueError("its release file has no JAVA_VERSION")
    return _with_jvm(match[2], text)


def _with_jvm(version: str, text: str) -> JavaVersion:
    return attrs.evolve(parse_version(version), openj9=_OPENJ9.search(text) is not None)


def release_of_class(class_major: int) -> int:
    """Return the feature release that first runs a class file version, e.g. 8 for 52.

    Java Virtual Machine Specification, section 4.1, table 4.1-A: 46 is Java 1.2, and each
    release since has raised it by one; 45 is 1.0.2 and 1.1. Raises `ValueError` below 45.
    """
    if class_major < FIRST_CLASS_MAJOR:
        raise ValueError(f"{class_major} is no class file version")
    return class_major - 44


def class_of_release(release: int) -> int:
    """Return the newest class file version that a feature release runs, e.g. 52 for 8."""
    return release + 44


def java_name(release: int) -> str:
    """Return how people call a feature release: ``Java 1.4``, ``Java 8``, ``Java 21``."""
    return f"Java 1.{release}" if release < 5 else f"Java {release}"


def runtime_name(java: JavaRuntime) -> str:
    """Return a runtime for messages: ``Java 17.0.15 (/usr/lib/jvm/java-17-openjdk-amd64)``."""
    return f"Java {java.version} ({java.home})"


def too_new(
    jar: str, class_name: str, class_major: int, chosen: JavaRuntime, javas: Sequence[JavaRuntime]
) -> str:
    """Return why ``chosen`` cannot run a class of ``jar``, and what to do; empty if it can.

    ``javas`` are all of the host's runtimes.
    """
    needed = release_of_class(class_major)
    if needed <= chosen.major:
        return ""
    others = [java for java in javas if java.home != chosen.home]
    fitting = [java for java in others if java.major >= needed]
    if not others:
        rest = "The host has no other Java."
    else:
        names = ", ".join(runtime_name(java) for java in others[:10])
        rest = f"The host also has {names}."
    if fitting:
        todo = (
            f"Choose {fitting[0].version} with java_version or java_home, or remove both from "
            "the job's config"
        )
    else:
        todo = f"Install {java_name(needed)} or newer on the host"
    return (
        f"{jar} needs {java_name(needed)} or newer: its class {class_name} has class file "
        f"version {class_major}. {runtime_name(chosen)} was chosen, and runs class files up to "
        f"version {class_of_release(chosen.major)}. {rest} {todo}, or compile the application "
        f"with --release {chosen.major}."
    )
