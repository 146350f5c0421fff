"""Filters that crun has compiled: when two containers have the same, and what is taken for one."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from milo.task.oci import filters

PROFILE = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"]}]}
RETURN = bytes(8)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """What is known, which is nothing at first and nothing afterwards."""
    assert filters.KNOWN == {}
    yield filters.KNOWN
    filters.KNOWN.clear()


@pytest.fixture
def crun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A crun, beside the linker's cache."""
    monkeypatch.setattr(filters, "LIBRARIES", str(tmp_path / "ld.so.cache"))
    for name in ("crun", "ld.so.cache"):
        (tmp_path / name).write_text(name)
    return tmp_path / "crun"


@pytest.mark.parametrize("changed", ["crun", "ld.so.cache"])
def test_a_filter_is_of_a_profile_and_of_what_compiles_it(crun: Path, changed: str) -> None:
    """Another crun, or another library, might make another one of the same profile."""
    key = filters.key_of(str(crun), PROFILE)
    assert key == filters.key_of(str(crun), dict(PROFILE)) != ""
    assert key != filters.key_of(str(crun), PROFILE | {"defaultErrnoRet": 38})
    (new := crun.with_name("new")).write_text("another")
    new.rename(crun.with_name(changed))
    assert filters.key_of(str(crun), PROFILE) not in (key, "")


@pytest.mark.parametrize("missing", ["crun", "ld.so.cache"])
def test_where_it_is_not_known_what_compiles_a_filter_none_is_used_again(
    crun: Path, missing: str
) -> None:
    """So it is without a linker's cache; and a task without a filter has none to use."""
    assert filters.key_of(str(crun), None) == ""
    crun.with_name(missing).unlink()
    assert filters.key_of(str(crun), PROFILE) == ""
    assert filters.annotations_of("") == {}


def learn(key: str, path: Path) -> None:
    """Have the filter in the file ``path`` learned."""
    fd = os.open(path, os.O_RDONLY)
    filters.learn(key, fd)
    os.close(fd)


def test_a_filter_is_passed_to_crun_as_it_was(tmp_path: Path) -> None:
    """In the annotation that crun(1) has for it."""
    path = tmp_path / "seccomp.bpf"
    path.write_bytes(RETURN)
    learn("a", path)
    encoded = base64.b64encode(RETURN).decode()
    assert filters.annotations_of("a") == {"run.oci.seccomp_bpf_data": encoded}
    assert filters.annotations_of("b") == {}


@pytest.mark.parametrize("size", [0, 7, filters.MAX_BYTES + 8])
def test_what_can_be_no_filter_is_not_learned(
    tmp_path: Path, size: int, known: dict[str, bytes]
) -> None:
    """An empty file, half an instruction, more of them than the kernel takes; a directory."""
    path = tmp_path / "seccomp.bpf"
    path.write_bytes(bytes(size))
    learn("a", path)
    learn("a", tmp_path)
    assert known == {}


def test_few_are_kept(tmp_path: Path, known: dict[str, bytes]) -> None:
    """However many profiles and capabilities the tasks of a client have."""
    path = tmp_path / "seccomp.bpf"
    path.write_bytes(RETURN)
    for number in range(3 * filters.MAX_KNOWN):
        learn(str(number), path)
        assert str(number) in known and len(known) <= filters.MAX_KNOWN
