"""The main section of a JAR's manifest, read as Java reads it.

Rules: JAR File Specification, "JAR Manifest" and "Notes on Manifest and Signature Files".
Where it leaves things open, what JDK 17 and 25 do (tried with ``java -jar``): a line of 512
bytes or more, a line without ``": "`` and an invalid name make the JAR unusable; a last line
without a line break is ignored; of a name given twice the last one counts.
"""

from __future__ import annotations

import re

MAX_LINE_BYTES = 511
"""The longest line that a JDK reads (measured: 512 fail); the specification says 72."""

_BREAK = re.compile(rb"\r\n?|\n")
_NAME = re.compile(rb"[0-9A-Za-z_-]{1,70}")


class ManifestError(ValueError):
    """A manifest that Java refuses; the text says in which line and why."""


def parse_main_section(data: bytes) -> dict[str, str]:
    """Return the attributes of the main section, names in lower case, values as UTF-8.

    Lines end in CR LF, LF or CR; a line that begins with a space continues the one before
    it, also within a character. The section ends at the first empty line.

    Raises `ManifestError` where Java does.
    """
    attributes: dict[str, str] = {}
    for number, line in _logical_lines(data):
        name, separator, value = line.partition(b": ")
        if not separator:
            raise ManifestError(f'line {number} has no ": " between a name and a value')
        if _NAME.fullmatch(name) is None:
            raise ManifestError(f"line {number} begins with no valid name")
        attributes[name.decode("ascii").lower()] = value.decode("utf-8", "replace")
    return attributes


def unterminated_line(data: bytes) -> str:
    """Return the last line if it lacks its line break, so that Java ignores it; else empty."""
    end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
    return data[end : end + MAX_LINE_BYTES].decode("utf-8", "replace")


def _logical_lines(data: bytes) -> list[tuple[int, bytes]]:
    """Return the main section's lines with their continuations, and their numbers."""
    lines: list[tuple[int, list[bytes]]] = []
    begin = 0
    # By the breaks alone: a pattern for whole lines takes time by the square of a last line
    # without a break, which can be megabytes long.
    for number, found in enumerate(_BREAK.finditer(data), 1):
        line, begin = data[begin : found.start()], found.end()
        if not line:
            break
        if len(line) > MAX_LINE_BYTES:
            raise ManifestError(f"line {number} is longer than {MAX_LINE_BYTES} bytes")
        if not line.startswith(b" "):
            lines.append((number, [line]))
        elif lines:
            lines[-1][1].append(line[1:])
        else:
            raise ManifestError(f"line {number} continues a line, but there is none before it")
    return [(number, b"".join(parts)) for number, parts in lines]
