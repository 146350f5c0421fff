"""What a JAR says about itself: the class it runs, and the Java it needs.

A JAR comes from the network and may be hostile or broken. Whatever is wrong with it becomes
an `ArtifactError` that says what was expected, what was found and what to do; memory and
time are bounded by `milo.core.java.zip_reader`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import attrs

from milo.core.java.manifest import (
    ManifestError,
    ManifestLimitError,
    read_main_section,
)
from milo.core.java.versions import FIRST_CLASS_MAJOR
from milo.core.java.zip_reader import (
    Directory,
    Entry,
    NoZipError,
    ZipError,
    ZipLimitError,
    entry_chunks,
    find_directory,
    find_entries,
    read_at,
    read_head,
)
from milo.errors import ArtifactError

MANIFEST = b"META-INF/MANIFEST.MF"

_NAMES = frozenset(
    ("main-class", "start-class", "spring-boot-classes", "class-path", "multi-release")
)
"""The attributes of a manifest that running the JAR needs."""
MAX_CLASS_PATH = 10_000
"""So many JARs of a Class-Path are looked at."""
_MAX_NAME_BYTES = 0xFFFF
"""No entry of a ZIP has a longer name."""
_AGAIN = "Download or build it again (a checksum in the job's artifact block finds this early)."
_SPLIT = (
    "Set class and class_path in the job's config, with which no JAR is looked into, or split it."
)
_FIRST_VERSIONED, _MAX_VERSIONED = 9, 100
"""Releases looked for below META-INF/versions; there will be no Java 101 for some time."""


@attrs.frozen
class JarInfo:
    """What the manifest's main section says, as far as running the JAR needs it."""

    main_class: str = ""
    """With dots; empty when there is none."""
    start_class: str = ""
    """Spring Boot's Start-Class: the application's own class, which its launcher runs."""
    classes_dir: str = ""
    """Spring Boot's Spring-Boot-Classes: where that class lies, e.g. ``BOOT-INF/classes/``."""
    class_path: tuple[str, ...] = ()
    """Class-Path: other JARs, as URLs relative to this one."""
    multi_release: bool = False
    has_manifest: bool = True
    ignored_line: str = ""
    """The manifest's last line when it lacks its line break, so that Java ignores it."""


class Jar:
    """An open JAR. What is looked up in it is remembered: its directory may be long."""

    def __init__(self, file: BinaryIO, name: str = "the JAR") -> None:
        """``file`` is seekable, and stays the caller's; ``name`` is what error texts call it.

        Raises:
            ArtifactError: Java could not open it.
        """
        self._file = file
        self.name = name
        self._known: dict[bytes, Entry | None] = {}
        with self._as_artifact_error():
            self._directory: Directory = find_directory(file)

    def inspect(self) -> JarInfo:
        """Read the manifest's main section.

        A JAR without manifest or without Main-Class is no error here (see `require_main_class`),
        since ``class`` may name another class. Raises `ArtifactError` when Java could not open it.
        """
        with self._as_artifact_error():
            found = find_entries(
                self._file,
                self._directory,
                lambda name: len(name) == len(MANIFEST) and name.upper() == MANIFEST,
            )
            if not found:
                return JarInfo(has_manifest=False)
            entry = found.get(MANIFEST) or next(iter(found.values()))
            section = read_main_section(entry_chunks(self._file, entry), _NAMES)
        attributes = section.attributes
        return JarInfo(
            main_class=_class_name(attributes.get("main-class", "")),
            start_class=_class_name(attributes.get("start-class", "")),
            classes_dir=attributes.get("spring-boot-classes", "").strip(),
            class_path=tuple(attributes.get("class-path", "").split(None, MAX_CLASS_PATH))[
                :MAX_CLASS_PATH
            ],
            multi_release=attributes.get("multi-release", "").strip().lower() == "true",
            ignored_line=section.ignored_line.strip(),
        )

    def class_version(
        self, class_name: str, *, java_major: int = 0, folder: str = ""
    ) -> int | None:
        """Return the class file major version of a class in it (61 for Java 17).

        ``java_major`` is the Java that will run a multi-release JAR, which loads the class from
        the highest META-INF/versions/N up to it; 0 for any other JAR. ``folder`` is where the
        classes lie in the JAR, e.g. ``BOOT-INF/classes/``. None when the class is not in the JAR.

        Raises `ArtifactError` when the JAR cannot be read or the entry is no class.
        """
        if len(folder) + len(class_name) > _MAX_NAME_BYTES:
            return None
        plain = f"{folder}{class_name.replace('.', '/')}.class"
        releases = range(_MAX_VERSIONED, _FIRST_VERSIONED - 1, -1) if java_major else ()
        paths = {release: f"META-INF/versions/{release}/{plain}" for release in releases}
        names = {release: path.encode("utf-8", "replace") for release, path in paths.items()}
        names[0] = plain.encode("utf-8", "replace")
        with self._as_artifact_error():
            self._look_up(frozenset(names.values()))
            # The highest first, and the plain one last.
            loaded = (self._known[name] for release, name in names.items() if release <= java_major)
            entry = next((entry for entry in loaded if entry is not None), None)
            if entry is None:
                return None
            head = read_head(self._file, entry, 8)
        # JVMS 4.1: u4 magic, u2 minor_version, u2 major_version, big-endian
        major = int.from_bytes(head[6:8], "big")
        if len(head) < 8 or not head.startswith(b"\xca\xfe\xba\xbe") or major < FIRST_CLASS_MAJOR:
            raise ArtifactError(
                f"In {self.name}, {entry.name.decode('utf-8', 'replace')[:200]} is not a compiled "
                f"class. {_AGAIN}",
                path=self.name,
            )
        return major

    def _look_up(self, names: frozenset[bytes]) -> None:
        if names.issubset(self._known):
            return
        found = find_entries(self._file, self._directory, names.__contains__)
        self._known |= {name: found.get(name) for name in names}

    @contextmanager
    def _as_artifact_error(self) -> Iterator[None]:
        """Turn what the readers and the file system raise into an `ArtifactError`."""
        name = self.name
        try:
            yield
        except NoZipError as error:
            head = read_at(self._file, 0, 512)
            length = self._file.seek(0, 2)
            if head.startswith(b"PK\x03\x04"):
                problem = (
                    f"is cut short: it begins as a ZIP, but its directory, which stands at the "
                    f"end, is missing after {length} bytes"
                )
            else:
                problem = f"is not a JAR. Expected a ZIP file, got {looks_like(head, length)}"
            raise ArtifactError(f"{name} {problem}. {_AGAIN}", path=name) from error
        except ZipLimitError as error:
            raise ArtifactError(
                f"{name} is too large to look into: {error}, which is Milo's limit. {_SPLIT}",
                path=name,
            ) from error
        except ZipError as error:
            raise ArtifactError(
                f"{name} is not a JAR that Java can read: {error}. {_AGAIN}", path=name
            ) from error
        except ManifestLimitError as error:
            raise ArtifactError(
                f"The main section of the manifest of {name} has {error}, which is Milo's limit. "
                f"{_SPLIT}",
                path=name,
            ) from error
        except ManifestError as error:
            raise ArtifactError(
                f"The manifest of {name} is not valid, so that Java does not open it: {error}. "
                "Expected lines such as Main-Class: com.example.Main. Build the JAR again.",
                path=name,
            ) from error
        except OSError as error:
            raise ArtifactError(f"{name} cannot be read: {error.strerror}.", path=name) from error


def require_main_class(info: JarInfo, name: str) -> str:
    """Return the JAR's Main-Class; raise `ArtifactError` that says what to do without one."""
    if info.main_class:
        return info.main_class
    if not info.has_manifest:
        problem = f"{name} has no manifest (META-INF/MANIFEST.MF), which would name its Main-Class"
    elif info.ignored_line.lower().startswith("main-class:"):
        problem = (
            f"The manifest of {name} ends in the line {info.ignored_line[:100]!r} without a "
            "line break, and Java ignores such a line"
        )
    else:
        problem = f"The manifest of {name} has no Main-Class"
    raise ArtifactError(
        f"{problem}. Set class in the job's config to the class to run, or build an executable "
        "JAR (with Maven or Gradle: set the main class of the jar, shade or Spring Boot plugin).",
        path=name,
    )


def missing_class(name: str, class_name: str, *, by_manifest: bool) -> ArtifactError:
    """Return the error for a JAR that does not hold the class it is to run.

    ``by_manifest`` says that its own Main-Class names the class, not the job.
    """
    origin = "its Main-Class" if by_manifest else "the class of the job's config"
    return ArtifactError(
        f"{class_name[:200]}, {origin}, is not in {name}. Expected an entry "
        f"{class_name[:200].replace('.', '/')}.class. Check the name and its package, and that "
        "the JAR was built with its classes"
        + ("." if by_manifest else "; if it lies elsewhere, name that place in class_path."),
        path=name,
    )


def looks_like(head: bytes, length: int) -> str:
    """Return what a file that is no ZIP seems to be, from its first bytes."""
    if not length:
        return "an empty file"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    lower = text[:200].lower()
    if lower.startswith((b"<!doctype html", b"<html", b"<head")):
        return "an HTML page, most likely an error page of the web server"
    for start, kind in _KINDS:
        if head.startswith(start):
            return kind
    if head[257:262] == b"ustar":
        return "a tar archive"
    if lower.startswith((b"<?xml", b"<error")):
        return "an XML document, most likely an error message of the web server"
    if text.startswith((b"{", b"[")):
        return "a JSON document, most likely an error message of the web server"
    if not head.strip(b"\0"):
        return "a file of zero bytes"
    line = text.splitlines()[0][:40] if text else b""
    if head.isascii() and line.decode("ascii").isprintable():
        return f"text that begins with {line.decode('ascii')!r}"
    return f"a file that begins with the bytes {head[:8].hex(' ')}"


_KINDS = (
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x7fELF", "a Linux program (ELF)"),
    (b"\xca\xfe\xba\xbe", "a single compiled class"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"Rar!", "a RAR archive"),
    (b"%PDF", "a PDF document"),
    (b"version https://git-lfs", "a Git LFS pointer in place of the file"),
    (b"#!", "a script"),
)


def _class_name(value: str) -> str:
    """Return a class name of a manifest as Java's launcher takes it."""
    return value.strip().replace("/", ".")
