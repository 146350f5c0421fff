"""What is read of ELF files and of the dynamic linker's cache."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo.core.container.elf import ElfFile, parse_elf
from milo.core.container.ld_cache import parse_ld_cache
from tests.support.elf_files import elf


def parse(data: bytes) -> ElfFile:
    """Read a file that is in memory."""
    return parse_elf(lambda offset, size: data[offset : offset + size])


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
def test_all_that_the_loader_reads(wide: bool, order: str) -> None:
    """Libraries, names and paths are read in both classes and byte orders."""
    found = parse(
        elf(
            "libc.so.6",
            "liba.so",
            soname="libx.so.1",
            rpath="/a:$ORIGIN",
            runpath="/b",
            interpreter="/lib64/ld.so",
            wide=wide,
            order=order,
        )
    )
    assert found == ElfFile(
        kind=(2 if wide else 1, 1 if order == "<" else 2, 62),
        needed=("libc.so.6", "liba.so"),
        soname="libx.so.1",
        rpath=("/a", "$ORIGIN"),
        runpath=("/b",),
        interpreter="/lib64/ld.so",
    )


def test_a_library_that_needs_nothing() -> None:
    """A library without any name in its dynamic section is one all the same."""
    assert parse(elf()) == ElfFile(kind=(2, 1, 62))


def test_names_that_lie_far_apart() -> None:
    """Names at both ends of a large string table are read one by one."""
    data = elf("liba.so", "x" * 3000, *("y" * 3000 for _ in range(30)), "libz.so")
    assert parse(data).needed[0] == "liba.so"
    assert parse(data).needed[-1] == "libz.so"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"#!/bin/sh\n" + bytes(100),
        b"\x7fELF" + bytes(100),
        elf("liba.so")[:90],
        elf(*(f"lib{n}.so" for n in range(300))),
        elf("x" * 5000),
    ],
)
def test_what_cannot_be_loaded_is_refused(data: bytes) -> None:
    """What is no ELF file, cut off or out of bounds is a ValueError."""
    with pytest.raises(ValueError):
        parse(data)


@given(
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=12),
    cut=st.integers(0, 500),
)
def test_damaged_files_are_refused_or_read(changes: list[tuple[int, int]], cut: int) -> None:
    """Whatever a hostile file holds, it is read or a ValueError, within bounds."""
    data = bytearray(elf("liba.so", "libb.so", rpath="$ORIGIN", interpreter="/lib/ld.so")[:cut])
    for position, value in changes:
        if position < len(data):
            data[position] = value
    asked: list[int] = []

    def read(offset: int, size: int) -> bytes:
        asked.append(size)
        return bytes(data[offset : offset + size])

    try:
        found = parse_elf(read)
    except ValueError:
        found = None
    assert found is None or len(found.needed) <= 256
    assert max(asked) <= 65536 + 4096
    assert len(asked) <= 300


def cache(*entries: tuple[str, str], prefix: bytes = b"") -> bytes:
    """Return a linker cache in glibc's format."""
    strings = b""
    places = []
    start = 48 + 24 * len(entries)
    for name, path in entries:
        places.append((start + len(strings), start + len(strings) + len(name) + 1))
        strings += name.encode() + b"\0" + path.encode() + b"\0"
    header = struct.pack("=20sII20x", b"glibc-ld.so.cache1.1", len(entries), len(strings))
    table = b"".join(struct.pack("=iIIIQ", 0x303, *place, 0, 0) for place in places)
    return prefix + header + table + strings


def test_cache_names_all_places_of_a_library() -> None:
    """Each name has all its paths in their order, also behind a cache of the older format."""
    data = cache(
        ("libz.so.1", "/lib/x/libz.so.1"),
        ("libc.so.6", "/lib/libc.so.6"),
        ("libz.so.1", "/lib/libz.so.1"),
        prefix=b"ld.so-1.7.0" + bytes(37),
    )
    assert parse_ld_cache(data) == {
        "libz.so.1": ("/lib/x/libz.so.1", "/lib/libz.so.1"),
        "libc.so.6": ("/lib/libc.so.6",),
    }


@pytest.mark.parametrize("data", [b"", b"ld.so-1.7.0" + bytes(200), cache(("a", "/b"))[:60]])
def test_cache_that_is_none_is_empty(data: bytes) -> None:
    """Another format, or a damaged file, names no library."""
    assert parse_ld_cache(data) == {}


@given(st.binary(max_size=300))
def test_any_cache_can_be_read(rest: bytes) -> None:
    """No content of the file is an error."""
    parse_ld_cache(b"glibc-ld.so.cache1.1" + rest)


@pytest.mark.skipif(not Path("/etc/ld.so.cache").exists(), reason="the host has no linker cache")
def test_cache_of_this_host() -> None:
    """The host's own cache names its C library."""
    assert any(
        Path(path).exists()
        for path in parse_ld_cache(Path("/etc/ld.so.cache").read_bytes())["libc.so.6"]
    )
