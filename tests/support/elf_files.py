"""Writes small ELF files that ask for libraries: enough for a search, not for the kernel."""

from __future__ import annotations

import struct

X86_64 = 62


def elf(
    *needed: str,
    soname: str = "",
    rpath: str = "",
    runpath: str = "",
    interpreter: str = "",
    machine: int = X86_64,
    wide: bool = True,
    order: str = "<",
) -> bytes:
    """Return an ELF shared library, of 64 or 32 bits, in the byte order ``<`` or ``>``."""
    strings = b"\0"
    entries: list[tuple[int, int]] = []
    for tag, text in (
        *((1, name) for name in needed),
        (14, soname),
        (15, rpath),
        (29, runpath),
    ):
        if text:
            entries.append((tag, len(strings)))
            strings += text.encode() + b"\0"
    header_size, entry_size, dyn = (64, 56, "qQ") if wide else (52, 32, "iI")
    count = 3 if interpreter else 2
    interp_at = header_size + count * entry_size
    path = interpreter.encode() + b"\0" if interpreter else b""
    strings_at = interp_at + len(path)
    dynamic_at = strings_at + len(strings)
    base = 0x10000
    entries += [(5, base + strings_at), (0, 0)]
    dynamic = b"".join(struct.pack(order + dyn, *entry) for entry in entries)
    total = dynamic_at + len(dynamic)

    def segment(kind: int, offset: int, size: int) -> bytes:
        address = base + offset
        if wide:
            return struct.pack(order + "IIQQQQQQ", kind, 4, offset, address, 0, size, size, 8)
        return struct.pack(order + "IIIIIIII", kind, offset, address, 0, size, size, 4, 4)

    segments = segment(1, 0, total) + segment(2, dynamic_at, len(dynamic))
    if interpreter:
        segments += segment(3, interp_at, len(path))
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    form = "HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"
    fields = (3, machine, 1, 0, header_size, 0, 0, header_size, entry_size, count, 0, 0, 0)
    return ident + struct.pack(order + form, *fields) + segments + path + strings + dynamic
