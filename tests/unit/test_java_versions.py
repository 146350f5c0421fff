"""Java's versions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo.core.java.versions import (
    class_of_release,
    java_name,
    parse_version,
    release_of_class,
    too_new,
    version_from_output,
    version_from_release,
)
from milo.core.launch import JavaRuntime

JAVA_17 = JavaRuntime("/usr/lib/jvm/java-17", "17.0.15", 17, "/usr/lib/jvm")
JAVA_21 = JavaRuntime("/opt/jdk-21", "21.0.2", 21, "/opt")


@pytest.mark.parametrize(
    ("text", "major"),
    [
        ("1.8.0_402", 8), ("1.8.0_402-b06", 8), ("1.7.0", 7), ("9", 9), ("11.0.22+7", 11),
        ("17.0.15", 17), ("21-ea", 21), ("25.0.1+8-LTS", 25), ("17.0.15+6-Debian-1deb12u1", 17),
        ("22.0.0.2", 22), ("10-internal+0-adhoc.user", 10), (" 21.0.2\n", 21),
        ("1.8.0_402-internal-b06", 8), ("1.4.2_19", 4),
    ],
)  # fmt: skip
def test_the_feature_release_of_a_version(text: str, major: int) -> None:
    """The first number counts, and before Java 9 the second one."""
    version = parse_version(text)
    assert version.major == major
    assert version.text == text.strip()


@pytest.mark.parametrize(
    "text", ["", "java", "v17", "17 0", "17.", "1.", "0", "-17", "17\n18", "9" * 12, "17;rm"]
)
def test_what_is_no_version_is_refused(text: str) -> None:
    """Any other text is a ValueError."""
    with pytest.raises(ValueError):
        parse_version(text)


PROPERTIES = """\
Property settings:
    java.library.path = /usr/java/packages/lib
        /usr/lib64
    java.specification.version = 25
    java.vendor.version = Temurin-25.0.3+9
    java.version = 25.0.3
    java.version.date = 2026-04-21

openjdk version "25.0.3" 2026-04-21 LTS
OpenJDK Runtime Environment Temurin-25.0.3+9 (build 25.0.3+9-LTS)
"""


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (PROPERTIES, "25.0.3"),
        ('java version "1.8.0_402"\nJava(TM) SE Runtime Environment\n', "1.8.0_402"),
        ('Picked up nothing\nopenjdk version "21-ea" 2023-09-19\n', "21-ea"),
        (
            'openjdk version "1.8.0_392"\n'
            "IBM Semeru Runtime Open Edition (build 1.8.0_392-b08)\n"
            "Eclipse OpenJ9 VM (build openj9-0.41.0, JRE 1.8.0 Linux amd64-64-Bit)\n",
            "1.8.0_392",
        ),
        (
            'java version "21.0.1" 2023-10-17\n'
            "Java(TM) SE Runtime Environment Oracle GraalVM 21.0.1+12.1\n",
            "21.0.1",
        ),
    ],
)
def test_the_version_is_found_in_the_output(output: str, text: str) -> None:
    """The property java.version counts, else the quoted version of the banner."""
    assert version_from_output(output).text == text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            'IMPLEMENTOR="Debian"\nJAVA_RUNTIME_VERSION="17.0.15+6"\nJAVA_VERSION="17.0.15"\n',
            "17.0.15",
        ),
        ("JAVA_VERSION=21\r\n", "21"),
        ('JAVA_VERSION="1.8.0_402"', "1.8.0_402"),
        ('JVM_VARIANT="Openj9"\nJVM_VERSION="0.41.0"\nJAVA_VERSION="17.0.9"\n', "17.0.9"),
        ('JAVA_VERSION="21.0.1"\nGRAALVM_VERSION="23.1.1"\n', "21.0.1"),
    ],
)
def test_the_version_is_found_in_the_release_file(content: str, text: str) -> None:
    """The key JAVA_VERSION counts, with or without quotes."""
    assert version_from_release(content).text == text


def test_output_and_release_file_without_version_are_refused() -> None:
    """There is no guessing from other keys."""
    for text in ("", "Error: could not find libjava.so", 'JAVA_VERSION_DATE="2026-04-21"'):
        with pytest.raises(ValueError):
            version_from_output(text)
        with pytest.raises(ValueError):
            version_from_release(text)


@given(st.text(max_size=200))
def test_no_text_breaks_the_version_parsers(text: str) -> None:
    """Any text gives a sane version or a ValueError."""
    for parse in (parse_version, version_from_output, version_from_release):
        try:
            version = parse(text)
        except ValueError:
            continue
        assert 1 <= version.major < 1000
        assert version.text.isprintable()


@given(
    st.integers(9, 99),
    st.lists(st.integers(0, 999), max_size=5),
    st.sampled_from(["", "-ea", "+8-LTS"]),
)
def test_every_version_since_java_9_parses(major: int, more: list[int], rest: str) -> None:
    """The form of JEP 223 is read whatever its length."""
    assert parse_version(".".join(map(str, [major, *more])) + rest).major == major


def test_class_files_and_releases_belong_together() -> None:
    """The table of the JVM specification: 45 is Java 1.1, 52 is 8, 61 is 17."""
    assert [release_of_class(major) for major in (45, 46, 49, 52, 61, 69)] == [1, 2, 5, 8, 17, 25]
    assert all(class_of_release(release_of_class(major)) == major for major in range(45, 100))
    with pytest.raises(ValueError):
        release_of_class(44)
    assert (java_name(4), java_name(8)) == ("Java 1.4", "Java 8")


def test_a_class_for_this_java_or_an_older_one_is_not_too_new() -> None:
    """Java runs every class file up to its own version."""
    for major in (45, 52, 61):
        assert too_new("app.jar", "Main", major, JAVA_17, (JAVA_17,)) == ""


def test_a_class_for_a_newer_java_says_all_that_is_needed() -> None:
    """The text names the class, its version, the chosen Java, the others, and what to do."""
    text = too_new("local/app.jar", "com.example.Main", 65, JAVA_17, (JAVA_17, JAVA_21))
    for part in (
        "local/app.jar needs Java 21 or newer", "com.example.Main", "65", "Java 17.0.15",
        "/usr/lib/jvm/java-17", "/usr/lib/jvm", "up to version 61", "Java 21.0.2 (/opt/jdk-21)",
        "Choose 21.0.2 with java_version or java_home", "--release 17",
    ):  # fmt: skip
        assert part in text


def test_a_class_newer_than_every_java_asks_for_another() -> None:
    """When no runtime of the host fits, the text says which to install."""
    text = too_new("app.jar", "Main", 69, JAVA_17, (JAVA_17, JAVA_21))
    assert "Install Java 25 or newer" in text
    assert "no other Java" in too_new("app.jar", "Main", 69, JAVA_17, (JAVA_17,))
