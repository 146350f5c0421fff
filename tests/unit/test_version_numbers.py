"""Versions of kernels and programs as numbers."""

from __future__ import annotations

import pytest

from milo.core.container.crun import version_from_output
from milo.core.java.versions import parse_version
from milo.core.versions import version_numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("6.1.0-18-amd64", (6, 1, 0)),
        ("5.15.167.4-microsoft-standard-WSL2", (5, 15, 167, 4)),
        ("4.18.0-553.el8_10.x86_64", (4, 18, 0)),
        ("6.12-rc1", (6, 12)),
        ("v2.0.5", (2, 0, 5)),
        ("1.14.0.0.0.23-0bc6", (1, 14, 0, 0, 0, 23)),
        *(("unknown", ()), ("", ()), ("\u0666.\u0661", ())),
    ],
)
def test_what_a_distribution_appends_does_not_matter(text: str, numbers: tuple[int, ...]) -> None:
    """The numbers in front count, however many there are."""
    assert version_numbers(text) == numbers


def test_versions_compare() -> None:
    """A version is not older than its own beginning, and what is no version is older than all."""
    assert version_numbers("6.3.1") >= (6, 3)
    assert version_numbers("6.3-rc1") >= (6, 3)
    assert version_numbers("6.2.99") < (6, 3)
    assert version_numbers("unknown") < (0, 1)


def test_java_counts_its_feature_release_first() -> None:
    """The 1 before it, which Java 8 and older have, is left out, and the update counts."""
    assert parse_version("1.8.0_402-b06").numbers == (8, 0, 402)
    assert parse_version("17.0.15+6-Debian-1").numbers == (17, 0, 15)
    assert parse_version("1.8.0-internal").numbers == (8, 0)


def test_crun_says_its_version() -> None:
    """In the first line of its own; another program's answer has none."""
    assert version_from_output("crun version 1.14.1\ncommit: x\n") == "1.14.1"
    assert version_from_output("runc version 1.1.5\n") == ""
