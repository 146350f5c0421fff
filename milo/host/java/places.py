"""Where Java runtimes are looked for on a host, in the order of preference."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import attrs

from milo import walk
from milo.errors import PathError
from milo.walk import Kind

_BY_HAND = ("*jdk*", "*jre*", "*java*", "*temurin*", "*zulu*", "*corretto*", "*graal*", "*semeru*")

PLACES: tuple[tuple[str, str], ...] = (
    ("/usr/lib/jvm", "*"),
    ("/usr/lib64/jvm", "*"),
    ("/usr/java", "*"),
    ("/usr/local", "openjdk*"),
    ("/opt/java", "*"),
    *(("/opt", name) for name in _BY_HAND),
    ("/opt/sdkman/candidates/java", "*"),
    ("/usr/local/sdkman/candidates/java", "*"),
    ("/opt/asdf/installs/java", "*"),
    ("/root/.sdkman/candidates/java", "*"),
    ("/root/.asdf/installs/java", "*"),
    ("/root/.jabba/jdk", "*"),
    ("/root/.jdks", "*"),
)
"""Directories and the names in them: Debian, Red Hat and Adoptium's packages; SUSE's; Oracle's;
Docker's openjdk images; Adoptium's images; by hand; then what SDKMAN, asdf, jabba and IntelliJ
IDEA install, for all users or for root. The homes of other users are not looked through: any of
them could offer a JDK that other people's tasks would then run on. An operator may name one
by java_home."""

_MAX_NAMES = 1000
_TOO_BROAD = frozenset(
    (
        *("/usr/local", "/usr/lib", "/usr/lib64", "/usr/share", "/usr/lib/jvm", "/usr/lib64/jvm"),
        *("/usr/java", "/opt/java", "/opt/sdkman", "/opt/asdf", "/var/lib"),
    )
)
CONFIGURED: Final = "java_home"
"""The source of what the plugin's configuration names."""
_MARKS = ("release", "lib/modules", "lib/rt.jar", "jre/lib/rt.jar")


@attrs.frozen
class Candidate:
    """A directory that may be a Java runtime."""

    home: str
    """All symlinks resolved; holds an executable ``bin/java``."""
    source: str
    """For people: ``java_home``, ``JAVA_HOME``, ``/usr/lib/jvm``, ``PATH`` …"""
    rank: int
    """Lower is preferred; those of one directory have the same."""


def candidates(
    configured_home: str,
    environ: Mapping[str, str],
    places: Sequence[tuple[str, str]] = PLACES,
) -> tuple[list[Candidate], list[str]]:
    """Return the candidates, each home once, and why named ones are none.

    ``configured_home`` is the plugin's java_home or empty; JAVA_HOME and PATH are taken from
    ``environ``. Only looks at the file system.
    """
    found: dict[str, Candidate] = {}
    problems: list[str] = []
    directories = [directory for directory, _ in places]
    for position, (source, path, named) in enumerate(_paths(configured_home, environ, places)):
        home, problem = _home(path)
        if problem:
            if named:
                problems.append(f"{source} {path}: {problem}")
        elif home not in found:
            place = directories.index(source) if source in directories else -1
            default = os.path.basename(path) == "default-java"
            found[home] = Candidate(home, source, _rank(position, place, default, len(places)))
    return list(found.values()), problems


def _rank(position: int, place: int, default: bool, places: int) -> int:
    """Return a rank that is the same for all of one directory but its default."""
    if place < 0:  # java_home and JAVA_HOME come first of all, PATH last
        return position if position < 2 else 2 + 2 * places
    return 2 + 2 * place + (0 if default else 1)


def _paths(
    configured_home: str, environ: Mapping[str, str], places: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, str, bool]]:
    """Yield source, path, and whether somebody named this path."""
    if configured_home:
        yield CONFIGURED, configured_home, True
    if environ.get("JAVA_HOME"):
        yield "JAVA_HOME", environ["JAVA_HOME"], True
    for directory, pattern in places:
        for name in _names(directory, pattern):
            yield directory, f"{directory}/{name}", False
    for directory in environ.get("PATH", "").split(":"):
        java = f"{directory}/java"
        if directory.startswith("/") and (real := _file(java, os.X_OK)):
            yield "PATH", os.path.dirname(os.path.dirname(real)), True
            return


def _names(directory: str, pattern: str) -> list[str]:
    try:
        with walk.follow(directory, Kind.DIRECTORY) as held:
            found, _ = held.names(_MAX_NAMES)
    except PathError:
        return []
    names = [name for name, _ in found if fnmatch.fnmatchcase(name, pattern)]
    return sorted(names, key=lambda name: (name != "default-java", name))


def _home(path: str) -> tuple[str, str]:
    """Return the resolved home, or why there is none."""
    if not path.startswith("/"):
        return "", "it is no absolute path"
    try:
        with walk.follow(path) as held:
            home = held.path
        home.encode()
    except PathError as error:
        return "", error.words
    except ValueError:
        return "", "its name is not valid UTF-8"
    parent = os.path.dirname(home)
    if os.path.basename(home) == "jre" and _file(f"{parent}/bin/java"):
        home = parent  # a JDK 8, whose bin/java leads to jre/bin/java
    if home.count("/") < 2 or home in _TOO_BROAD:
        return "", "it is no directory of a Java runtime alone"
    if not _file(f"{home}/bin/java", os.X_OK):
        return "", "it holds no executable bin/java"
    if not any(_file(f"{home}/{mark}") for mark in _MARKS):
        return "", f"it holds none of the files of a Java runtime: {', '.join(_MARKS)}"
    return home, ""


def _file(path: str, use: int = os.F_OK) -> str:
    """Return where a file that may be used so really lies; empty for none."""
    try:
        with walk.follow(path, Kind.FILE) as held:
            return held.path if held.may(use) else ""
    except PathError:
        return ""
