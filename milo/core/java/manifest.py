"""The main section of a JAR's manifest, read as Java reads it.

It is read as a stream, up to its end and no further, and nothing is kept but what was asked for:
a JAR of 8 KB can hold a manifest of millions of lines.

Rules: JAR File Specification, "JAR Manifest" and "Notes on Manifest and Signature Files".
Where it leaves things open, what JDK 17 and 25 do (tried with ``java -jar``): a line of 512
bytes or more, a line without ``": "`` and an invalid name make the JAR unusable; a last line
without a line break is ignored; of a name given twice the last one counts.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator

import attrs

MAX_LINE_BYTES = 511
"""The longest line that a JDK reads (measured: 512 fail); the specification says 72."""

MAX_BYTES = 16 * 1024 * 1024
"""Of the main section. Java reads as much of a whole manifest (measured, JDK 17 and 25)."""
MAX_LINES = 1_000_000
"""With lines of 72 bytes, as they are written, `MAX_BYTES` have 230,000."""

_BREAK = re.compile(rb"\r\n|\r|\n")
_NAME = re.compile(rb"[0-9A-Za-z_-]{1,70}")


class ManifestError(ValueError):
    """A manifest that Java refuses; the text says in which line and why."""


class ManifestLimitError(ValueError):
    """A manifest that is larger than Milo reads; the text says in what."""


@attrs.frozen
class MainSection:
    """What was asked for of a manifest's main section."""

    attributes: dict[str, str]
    """Names in lower case."""
    ignored_line: str = ""
    """The last line when it lacks its line break, so that Java ignores it."""


def read_main_section(chunks: Iterable[bytes], names: Container[str]) -> MainSection:
    """Return the attributes with ``names``, in lower case, of the manifest in ``chunks``.

    Lines end in CR LF, LF or CR; a line that begins with a space continues the one before
    it, also within a character. The section ends at the first empty line, behind which nothing
    is asked of ``chunks`` any more. Values are taken for UTF-8.

    Raises:
        ManifestError: where Java does.
        ManifestLimitError: it is beyond `MAX_BYTES` or `MAX_LINES`.
    """
    lines = _Lines(chunks)
    values: dict[str, bytearray] = {}
    value: bytearray | None = None
    number = 0
    for line in lines:
        number += 1
        if not line:
            break
        if number > MAX_LINES:
            raise ManifestLimitError(f"more than {MAX_LINES} lines")
        if len(line) > MAX_LINE_BYTES:
            raise ManifestError(f"line {number} is longer than {MAX_LINE_BYTES} bytes")
        if line.startswith(b" "):
            if number == 1:
                raise ManifestError("line 1 continues a line, but there is none before it")
            if value is not None:
                value += line[1:]
            continue
        name, separator, begin = line.partition(b": ")
        if not separator:
            raise ManifestError(f'line {number} has no ": " between a name and a value')
        if _NAME.fullmatch(name) is None:
            raise ManifestError(f"line {number} begins with no valid name")
        key = name.decode("ascii").lower()
        value = None
        if key in names:
            value = values[key] = bytearray(begin)
    return MainSection(
        {key: value.decode("utf-8", "replace") for key, value in values.items()},
        lines.rest[:MAX_LINE_BYTES].decode("utf-8", "replace"),
    )


class _Lines:
    """Cuts chunks into lines; `rest` is what has no line break behind it, in the end."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.rest = b""

    def __iter__(self) -> Iterator[bytes]:
        count = 0
        for chunk in self._chunks:
            count += len(chunk)
            if count > MAX_BYTES:
                raise ManifestLimitError(f"more than {MAX_BYTES >> 20} MiB")
            data = self.rest + chunk
            # Whether a CR is a line break by itself shows with the next byte.
            end = len(data) - data.endswith(b"\r")
            *lines, rest = _BREAK.split(data[:end])
            self.rest = b""
            yield from lines
            # No line is so long: what comes of it does not matter any more.
            self.rest = rest[: MAX_LINE_BYTES + 1] + data[end:]
        if self.rest.endswith(b"\r"):
            line, self.rest = self.rest[:-1], b""
            yield line
