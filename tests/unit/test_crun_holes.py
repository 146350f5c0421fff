"""What is known of versions of crun: one table, judged by version."""

from __future__ import annotations

import pytest

from milo.core.container.crun_holes import HOLES, OLDEST, crun_problem, crun_warning, holes
from milo.core.versions import version_numbers

ALL = "+SYSTEMD +SELINUX +APPARMOR +CAP +SECCOMP +EBPF +CRIU +YAJL"


def test_table_is_well_formed() -> None:
    """Each fault was mended in a version that Milo runs with, and ends as a sentence does not."""
    for hole in HOLES:
        assert version_numbers(hole.fixed) > version_numbers(OLDEST)
        assert version_numbers(hole.since) < version_numbers(hole.fixed)
        assert not hole.opens.endswith(".") and not hole.held.endswith(".")
    assert [hole.fixed for hole in HOLES] == sorted(
        (hole.fixed for hole in HOLES), key=version_numbers
    )


@pytest.mark.parametrize(
    ("version", "userns", "fixed"),
    [
        ("1.8.1", False, {"1.9", "1.14.1", "1.15", "1.25.1", "1.27", "1.28"}),
        ("1.8.1", True, {"1.9", "1.11.1", "1.14.1", "1.15", "1.24", "1.25.1", "1.27", "1.28"}),
        ("1.11.1", False, {"1.11.2", "1.14.1", "1.15", "1.25.1", "1.27", "1.28"}),
        ("1.14", False, {"1.14.1", "1.15", "1.25.1", "1.27", "1.28"}),
        ("1.21.0", True, {"1.24", "1.25.1", "1.27", "1.28"}),
        ("1.27", False, {"1.27.1", "1.28"}),
        ("1.29", False, {"1.29.1"}),
        ("1.29.1-dirty", True, set()),
        ("1.30", True, set()),
    ],
)
def test_faults_of_a_version(version: str, userns: bool, fixed: set[str]) -> None:
    """A version has what was there already and is not mended yet."""
    assert {hole.fixed for hole in holes(version, userns=userns)} == fixed


def test_warning_names_what_is_open() -> None:
    """What Milo makes up for is counted, what it cannot is told, with the version to have."""
    assert crun_warning("1.30", userns=True) == ""
    told = crun_warning("1.8.1", userns=False)
    assert told == (
        "crun 1.8.1 has known faults: 6 that Milo makes up for (see docs/reference/crun.md). "
        "crun 1.28 has none of these"
    )
    assert "lose nosuid and nodev" in crun_warning("1.8.1", userns=True)
    assert crun_warning("1.29", userns=False) == (
        "crun 1.29 has known faults: shared memory (/dev/shm) is there for root alone. "
        "crun 1.29.1 has none of these"
    )
    assert "one that Milo makes up for" in crun_warning("1.27.1", userns=False)


@pytest.mark.parametrize(
    ("version", "output", "needs_seccomp", "words"),
    [
        (OLDEST, ALL, True, ""),
        (OLDEST, "", True, ""),
        ("1.8", ALL, True, "crun 1.8 is older than 1.8.1, the oldest that Milo runs with"),
        ("", ALL, True, "older"),
        ("1.20", ALL.replace("+SECCOMP ", ""), True, "built without SECCOMP"),
        ("1.20", ALL.replace("+SECCOMP ", ""), False, ""),
        ("1.20", ALL.replace("+CAP ", ""), False, "built without CAP"),
    ],
)
def test_crun_that_cannot_be_used(
    version: str, output: str, needs_seccomp: bool, words: str
) -> None:
    """Too old, or built without what holds a task."""
    found = crun_problem(
        version, f"crun version {version}\n{output}\n", needs_seccomp=needs_seccomp
    )
    assert words in found and bool(found) == bool(words)
