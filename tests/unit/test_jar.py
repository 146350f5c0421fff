"""JAR inspection: what a manifest says, and what a hostile file may not do."""

from __future__ import annotations

import gzip
import io
import random
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milo.core.java import manifest as manifests
from milo.core.java import zip_reader
from milo.core.java.jar import MAX_CLASS_PATH, Jar, JarInfo, require_main_class
from milo.core.java.manifest import (
    MainSection,
    ManifestError,
    ManifestLimitError,
    read_main_section,
)
from milo.errors import ArtifactError
from tests.support.waiting import scaled

PLAIN = b"Manifest-Version: 1.0\r\nMain-Class: com.example.Main\r\n\r\n"
MANIFEST = "META-INF/MANIFEST.MF"


def class_file(major: int) -> bytes:
    """Return the head of a class file, as much as is ever looked at, and some more."""
    return struct.pack(">LHH", 0xCAFEBABE, 0, major) + b"constant pool" * 100


MAIN = {"com/example/Main": class_file(61)}


def jar(
    manifest: bytes | None = PLAIN,
    classes: Mapping[str, bytes] | None = None,
    compression: int = zipfile.ZIP_DEFLATED,
) -> bytes:
    """Return a JAR with classes, whose names have neither dots nor ``.class``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        if manifest is not None:
            archive.writestr(MANIFEST, manifest)
        for name, data in (classes or {}).items():
            archive.writestr(f"{name}.class", data)
    return buffer.getvalue()


def inspect(data: bytes) -> JarInfo:
    """Inspect a JAR given as bytes."""
    return Jar(io.BytesIO(data), "app.jar").inspect()


class Everything:
    """All names of attributes."""

    def __contains__(self, name: object) -> bool:
        return True


def read_whole(data: bytes, pieces: int = 100) -> MainSection:
    """Read all of a manifest that comes in pieces of a size."""
    return read_main_section(
        (data[at : at + pieces] for at in range(0, len(data), pieces)), Everything()
    )


def parse_main_section(data: bytes, pieces: int = 100) -> dict[str, str]:
    """Return all attributes of a manifest."""
    return read_whole(data, pieces).attributes


def refused(data: bytes) -> str:
    """Return the text of the error for a JAR given as bytes."""
    with pytest.raises(ArtifactError) as caught:
        inspect(data)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).startswith("Error: ")
    return str(caught.value)


# manifests


def test_a_manifest_tells_what_runs() -> None:
    """Main-Class, Class-Path, Multi-Release and Spring Boot's attributes are read."""
    manifest = (
        b"Manifest-Version: 1.0\nMain-Class:  org/springframework/boot/Launcher \n"
        b"Start-Class: com.example.App\nSpring-Boot-Classes: BOOT-INF/classes/\n"
        b"Class-Path: lib/a.jar\n  lib/b.jar\nMulti-Release: TRUE\n\n"
        b"Name: x\nMain-Class: com.example.Other\n\n"
    )
    assert inspect(jar(manifest)) == JarInfo(
        main_class="org.springframework.boot.Launcher",
        start_class="com.example.App",
        classes_dir="BOOT-INF/classes/",
        class_path=("lib/a.jar", "lib/b.jar"),
        multi_release=True,
    )


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_lines_end_in_any_of_three_ways(end: bytes) -> None:
    """CR, LF and CR LF all end a line, and continuations are joined over them."""
    data = end.join([b"MAIN-class: com.exam", b" ple.Main", b"X: y", b"", b"Name: z", b""])
    for pieces in range(1, len(data) + 1):
        found = parse_main_section(data, pieces)
        assert found == {"main-class": "com.example.Main", "x": "y"}, pieces


def test_a_character_may_be_split_over_lines() -> None:
    """A line is cut by bytes, so a character of UTF-8 may lie in two lines."""
    data = "Main-Class: Größe".encode()
    at = data.index(b"\xc3") + 1
    assert parse_main_section(data[:at] + b"\r\n " + data[at:] + b"\r\n")["main-class"] == "Größe"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"Main-Class:Main\n", "line 1"),
        (b"Main-Class: A\nnonsense\n", "line 2"),
        (b" Main-Class: A\n", "continues"),
        (b"\xef\xbb\xbfMain-Class: A\n", "name"),
        (b"a b: c\n", "name"),
        (b"X: " + b"y" * 509 + b"\n", "longer"),
    ],
)
def test_a_manifest_that_java_refuses_is_refused(data: bytes, words: str) -> None:
    """What makes java -jar fail with an unclear message is told clearly, with its line."""
    with pytest.raises(ManifestError, match=words):
        parse_main_section(data)
    assert words in refused(jar(data))


def test_the_longest_line_that_java_reads_passes() -> None:
    """JDK 17 and 25 read lines of 511 bytes."""
    assert len(parse_main_section(b"X: " + b"y" * 508 + b"\n")["x"]) == 508


def test_megabytes_without_a_line_break_take_no_time() -> None:
    """The time to read a manifest grows with its size, not with the square of it."""
    assert parse_main_section(b"x" * manifests.MAX_BYTES, 1 << 16) == {}


def test_nothing_is_read_behind_the_main_section() -> None:
    """A section for each entry follows in signed JARs, and may be long or broken."""

    def chunks() -> Iterator[bytes]:
        yield b"Main-Class: Main\r\n\r\nName: a\r\n"
        raise AssertionError("asked for more")

    assert read_main_section(chunks(), {"main-class"}).attributes == {"main-class": "Main"}


def test_only_what_is_asked_for_is_kept() -> None:
    """Other attributes are checked, with their continuations, and dropped."""
    data = b"A: 1\n 2\nB: 3\n 4\nA: 5\n 6\nC: 7\n"
    found = read_main_section([data], {"a"})
    assert found == MainSection({"a": "56"}, "")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"A: b\n", "more than 1000000 lines"),
        (b" \n", "more than 1000000 lines"),
        (b"A: b\n" + b" " + b"c" * 70 + b"\n", "more than 16 MiB"),
    ],
    ids=["short lines", "continuations", "long"],
)
def test_a_manifest_of_millions_of_lines_is_bounded(line: bytes, words: str) -> None:
    """An 8 KB JAR with such a manifest costs little memory, and is told to pass Milo's limit."""
    data = b"Main-Class: Main\n" + line * ((20 << 20) // len(line))
    hostile = jar(data)
    assert len(hostile) < 100_000
    tracemalloc.start()
    try:
        text = refused(hostile)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert words in text and "which is Milo's limit" in text
    assert peak < 16 << 20
    with pytest.raises(ManifestLimitError):
        read_whole(data, 1 << 16)


def test_a_value_of_megabytes_is_no_class_and_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Main-Class longer than any entry's name is not in the JAR; a Class-Path is cut."""
    fold = b"\n ".join([b"x" * 500] * 20_000)
    found = Jar(io.BytesIO(jar(b"Main-Class: " + fold[12:] + b"\n")))
    tracemalloc.start()
    try:
        assert found.class_version(found.inspect().main_class, java_major=25) is None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20
    many = b"Class-Path: " + b"\n ".join([b"a " * 240] * 4000) + b"\n"
    assert len(inspect(jar(many)).class_path) == MAX_CLASS_PATH


def test_a_last_line_without_line_break_is_ignored_and_told() -> None:
    """Java ignores such a line, and the error for the missing Main-Class says it."""
    info = inspect(jar(b"Manifest-Version: 1.0\nMain-Class: com.example.Main"))
    assert info.main_class == ""
    with pytest.raises(ArtifactError, match="without a line break"):
        require_main_class(info, "app.jar")
    assert read_whole(b"A: b\n").ignored_line == ""


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z0-9_-]{1,70}", fullmatch=True),
        st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])),
    ),
    st.integers(2, 72),
    st.sampled_from([b"\n", b"\r", b"\r\n"]),
)
def test_whatever_is_written_by_the_rules_is_read(
    attributes: dict[str, str], width: int, end: bytes
) -> None:
    """Attributes folded at any width, within characters too, are read as they were."""
    lines = []
    for name, value in attributes.items():
        rest = f"{name}: {value}".encode()
        first = max(width, len(name) + 2)
        lines.append(rest[:first])
        lines += [b" " + rest[at : at + width] for at in range(first, len(rest), width)]
    expected = {name.lower(): value for name, value in attributes.items()}
    assert parse_main_section(b"".join(line + end for line in lines) + end) == expected


@given(st.binary(max_size=300))
def test_no_bytes_break_the_manifest_parser(data: bytes) -> None:
    """Any bytes are a manifest or a ManifestError."""
    try:
        parse_main_section(data)
    except ManifestError as error:
        assert "line " in str(error)


def test_a_jar_without_main_class_says_what_to_do() -> None:
    """Without manifest, and without Main-Class in it, the error names class and the build."""
    for data, words in ((jar(None), "no manifest"), (jar(b"A: b\n\n"), "no Main-Class")):
        with pytest.raises(ArtifactError, match=words) as caught:
            require_main_class(inspect(data), "app.jar")
        assert "Set class in the job's config" in str(caught.value)
    assert require_main_class(inspect(jar()), "app.jar") == "com.example.Main"


def test_the_name_of_the_manifest_counts_in_any_case() -> None:
    """Java finds meta-inf/manifest.mf too, but not a name that only begins like it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("meta-inf/Manifest.mf", PLAIN)
    assert inspect(buffer.getvalue()).main_class == "com.example.Main"
    lured = buffer.getvalue().replace(b"meta-inf/Manifest.mf", b"META-INF/MANIFEST.M\0")
    assert not inspect(lured).has_manifest


# class versions


def test_the_version_of_a_class_is_read() -> None:
    """The major version stands in the class file; a class that is not there is None."""
    found = Jar(io.BytesIO(jar(classes=MAIN)))
    assert found.class_version("com.example.Main") == 61
    assert found.class_version("com.example.Other") is None


def test_a_multi_release_jar_has_the_class_of_the_running_java() -> None:
    """The highest META-INF/versions up to the chosen Java counts."""
    entries = {
        "Main": class_file(52),
        "META-INF/versions/11/Main": class_file(55),
        "META-INF/versions/21/Main": class_file(65),
    }
    found = Jar(io.BytesIO(jar(classes=entries)))
    versions = [found.class_version("Main", java_major=java) for java in (0, 8, 11, 17, 21, 25)]
    assert versions == [52, 52, 55, 55, 65, 65]


def test_a_class_of_a_spring_boot_jar_is_found_in_its_folder() -> None:
    """The application's classes lie below BOOT-INF/classes/."""
    found = Jar(io.BytesIO(jar(classes={"BOOT-INF/classes/App": class_file(65)})))
    assert found.class_version("App", folder="BOOT-INF/classes/") == 65
    assert found.class_version("App") is None


@pytest.mark.parametrize("data", [b"", b"\xca\xfe\xba\xbe", b"not a class at all", class_file(44)])
def test_an_entry_that_is_no_class_is_refused(data: bytes) -> None:
    """A truncated or foreign entry under the class's name is an error."""
    with pytest.raises(ArtifactError, match="not a compiled class"):
        Jar(io.BytesIO(jar(classes={"Main": data}))).class_version("Main")


# files that are no JAR


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "an empty file"),
        (b"\n<!DOCTYPE html><html><body>404", "an HTML page"),
        (b"<html><head>", "error page"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><Error><Code>AccessDenied", "an XML document"),
        (b'{"errors": [{"status": 404}]}', "a JSON document"),
        (gzip.compress(b"x", mtime=0), "a gzip archive"),
        (b"\x7fELF\x02\x01\x01" + bytes(60), "ELF"),
        (class_file(61), "a single compiled class"),
        (b"#!/usr/bin/env python3\nprint()\n", "a script"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"Not Found\nreally", "text that begins with 'Not Found'"),
        (bytes(1000), "zero bytes"),
        (bytes(257) + b"ustar\x0000", "a tar archive"),
        (b"\x80\x81\x82" * 50, "80 81 82"),
        (b"PK\x05\x06", "50 4b 05 06"),
        (b"\xff\xff<\0" * 30, "ff ff 3c"),
    ],
)
def test_what_is_no_zip_is_told_for_what_it_looks_like(data: bytes, words: str) -> None:
    """The error says what the file seems to be and what to do."""
    text = refused(data)
    assert "Expected a ZIP file, got" in text
    assert words in text
    assert "Download or build it again" in text


def test_a_jar_that_is_cut_short_is_told_so_wherever_it_ends() -> None:
    """A prefix of a JAR never passes; most are recognised as cut short."""
    whole = jar(classes=MAIN)
    for length in range(4, len(whole)):
        assert "is cut short" in refused(whole[:length])


def test_a_jar_whose_beginning_is_missing_is_refused() -> None:
    """When the directory does not fit the file, the error says so."""
    whole = jar(classes=MAIN)
    assert "part of it is missing" in refused(whole[100:])


def test_data_in_front_and_a_comment_behind_are_allowed() -> None:
    """An executable JAR has a shell script in front; a comment may follow the directory."""
    data = io.BytesIO(jar(classes=MAIN))
    with zipfile.ZipFile(data, "a") as archive:
        archive.comment = b"PK\x05\x06 in a comment " * 100
    script = io.BytesIO(b"#!/bin/sh\nexec java -jar $0\n" + data.getvalue())
    assert inspect(script.getvalue()).main_class == "com.example.Main"
    assert Jar(script).class_version("com.example.Main") == 61


EMPTY_END = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 0, 0, 0, 0)


def with_comment(data: bytes, comment: bytes) -> bytes:
    """Return a ZIP without a comment with one."""
    return data[:-2] + struct.pack("<H", len(comment)) + comment


def test_an_end_record_in_a_comment_is_no_end() -> None:
    """What only looks like the end of the archive leads to no entry; Java goes on searching."""
    whole = jar(classes=MAIN)
    false = EMPTY_END, EMPTY_END[:12] + b"\x2e\0\0\0" + EMPTY_END[16:], b"PK\x05\x06"
    for end in false:
        assert inspect(with_comment(whole, b"x" + end + b"y")).main_class == "com.example.Main"
    # A comment that ends in one ends in the end of an archive without entries, to Java too.
    assert not inspect(with_comment(whole, b"x" + EMPTY_END)).has_manifest


def test_more_than_500000_entries_are_read() -> None:
    """Java runs such a JAR."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *[0] * 16)
    whole = jar(classes=MAIN)
    at = whole.index(b"PK\x01\x02")
    directory = whole[at:-22] + entry * 600_000
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, len(directory), at, 0)
    found = Jar(io.BytesIO(whole[:at] + directory + end))
    assert found.inspect().main_class == "com.example.Main"
    assert found.class_version("com.example.Main", java_major=17) == 61


def zip64(prefix: bytes = b"") -> bytes:
    """Return a JAR whose directory is found by ZIP64 records alone, and entries by theirs."""
    header = struct.pack("<4s5H3L2H", b"PK\x03\x04", 45, 0, 0, 0, 0, zlib.crc32(PLAIN),
                         len(PLAIN), len(PLAIN), len(MANIFEST), 0)  # fmt: skip
    local = header + MANIFEST.encode() + PLAIN
    extra = struct.pack("<2H2H3Q", 9, 0, 1, 24, len(PLAIN), len(PLAIN), 0)
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 45, 45, 0, 0, 0, 0, zlib.crc32(PLAIN),
                        0xFFFFFFFF, 0xFFFFFFFF, len(MANIFEST), len(extra), 0, 0, 0, 0,
                        0xFFFFFFFF)  # fmt: skip
    directory = entry + MANIFEST.encode() + extra
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, len(directory),
                        len(local))  # fmt: skip
    at = len(prefix) + len(local) + len(directory)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return prefix + local + directory + end64 + locator + end


def test_zip64_is_read() -> None:
    """A large JAR has its sizes in the ZIP64 records, also behind data in front of it."""
    assert inspect(zip64()).main_class == "com.example.Main"
    assert inspect(zip64(b"#!/bin/sh\n" * 9)).main_class == "com.example.Main"


# hostile files


def patched(data: bytes, offset: int, value: bytes) -> bytes:
    """Return a JAR whose first directory entry has ``value`` at ``offset``."""
    at = data.index(b"PK\x01\x02") + offset
    return data[:at] + value + data[at + len(value) :]


def test_encrypted_entries_and_other_methods_are_refused() -> None:
    """Java opens no JAR with such an entry, whichever it is."""
    assert "encrypted" in refused(patched(jar(), 8, b"\1\0"))
    assert "compression method 12" in refused(patched(jar(), 10, b"\x0c\0"))


def test_a_manifest_that_is_damaged_is_refused_where_java_refuses_it() -> None:
    """Java looks at no checksum, reads as many bytes as the directory says, and no fewer."""
    stored = jar(compression=zipfile.ZIP_STORED)
    assert inspect(patched(stored, 16, b"\0\0\0\0")).main_class == "com.example.Main"
    assert inspect(patched(jar(), 24, b"\x20\0\0\0")).main_class == ""
    longer = struct.pack("<L", len(PLAIN) + 5)
    assert inspect(patched(jar(), 24, longer)).main_class == "com.example.Main"
    unended = jar(PLAIN[:-2])
    assert "5 of its 58 bytes are missing" in refused(patched(unended, 24, struct.pack("<L", 58)))
    cut = patched(patched(stored, 20, b"\xff\xff\0\0"), 24, b"\xff\xff\0\0")
    assert "before its directory" in refused(cut)
    at = jar().index(MANIFEST.encode()) + len(MANIFEST)
    assert "damaged" in refused(jar()[:at] + b"\xff" * 4 + jar()[at + 4 :])


def test_an_entry_elsewhere_than_its_directory_says_is_refused() -> None:
    """Offsets that lead past the directory, or to no header, are errors."""
    assert "before its directory" in refused(patched(jar(), 42, b"\xff\xff\xff\x7f"))
    assert "not where" in refused(patched(jar(), 42, b"\1\0\0\0"))


def test_a_directory_that_is_damaged_is_refused() -> None:
    """An entry whose name would reach beyond the directory is an error."""
    assert "damaged at entry 0" in refused(patched(jar(), 28, b"\xff\xff"))


def test_a_manifest_that_expands_without_end_costs_nothing() -> None:
    """Decompression stops at the limit, whatever size the entry claims."""
    bomb = jar(b"X: y\n" + b" " * (100 * 1024 * 1024))
    tracemalloc.start()
    try:
        text = refused(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "more than 16 MiB" in text
    assert peak < 1 << 20
    assert inspect(patched(bomb, 24, struct.pack("<L", 10))).main_class == ""


def directory_of(count: int) -> bytes:
    """Return a ZIP of nothing but a directory with many entries."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *[0] * 16)
    body = entry * count
    return body + struct.pack(
        "<4s4H2LH", b"PK\x05\x06", 0, 0, count % 65536, count % 65536, len(body), 0, 0
    )


def test_a_directory_with_very_many_entries_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit holds, whatever count the end record claims, and memory stays flat."""
    monkeypatch.setattr(zip_reader, "MAX_ENTRIES", 40_000)
    data = directory_of(40_001)
    tracemalloc.start()
    try:
        assert "more than 40000 entries, which is Milo's limit" in refused(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
    assert not inspect(directory_of(40_000)).has_manifest


def test_a_directory_that_is_too_large_is_not_read() -> None:
    """A directory beyond the limit is refused by what its end record says."""

    class Sparse(io.BytesIO):
        """A file with a gap of 600 MiB in front of its end."""

        gap = 600 * 1024 * 1024

        def seek(self, offset: int, whence: int = 0) -> int:
            self.at = offset + (self.gap + 22 if whence == 2 else 0)
            return self.at

        def read(self, size: int | None = -1) -> bytes:
            assert size is not None and size < 1024 * 1024
            end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, self.gap, 0, 0)
            data = (
                b"".join((b"PK\x01\x02", bytes(size), end))
                if self.at == 0
                else bytes(self.gap) + end
            )
            part = data[self.at : self.at + size]
            self.at += len(part)
            return part

    with pytest.raises(ArtifactError, match="more than 512 MiB, which is Milo's limit"):
        Jar(Sparse(), "app.jar")


def test_a_tail_full_of_end_records_is_bounded() -> None:
    """Each of 16,000 false end records is looked at once."""
    started = time.monotonic()
    refused(b"PK\x05\x06" * 20_000)
    assert time.monotonic() - started < scaled(10)


@settings(max_examples=300)
@given(st.data())
def test_no_damage_breaks_the_inspection(data: st.DataObject) -> None:
    """A JAR with any bytes changed is either read or an ArtifactError."""
    changed = bytearray(jar(classes=MAIN))
    for _ in range(data.draw(st.integers(1, 8))):
        # the interesting fields lie in the last 200 bytes
        at = data.draw(st.integers(-min(len(changed), 250), -1))
        changed[at] = data.draw(st.sampled_from((0, 1, 0x50, 0x7F, 0xFF)) | st.integers(0, 255))
    file = io.BytesIO(bytes(changed))
    try:
        found = Jar(file, "app.jar")
        found.inspect()
        found.class_version("com.example.Main", java_major=25)
    except ArtifactError as error:
        assert len(str(error)) < 1000


@given(st.binary(max_size=400), st.integers(0, 2**32))
def test_no_bytes_break_the_inspection(data: bytes, seed: int) -> None:
    """Any bytes, magic numbers among them, are a JAR or an ArtifactError."""
    chance = random.Random(seed)
    parts = [
        data,
        b"PK\x05\x06",
        b"PK\x01\x02",
        b"PK\x06\x07",
        b"PK\x06\x06",
        bytes(40),
        b"\xff" * 8,
    ]
    chance.shuffle(parts)
    try:
        inspect(b"".join(parts))
    except ArtifactError as error:
        assert str(error).isprintable()
