"""A task's share of the CPU in Nomad's groups, and its memory at the end, on both hierarchies."""

from __future__ import annotations

from pathlib import Path

import pytest

from milo import cgroup_files
from milo.core.cgroup import Hierarchy, Mode
from milo.core.describe import exit_sentence
from milo.core.java.heap import MIB
from milo.core.records import ExitRecord, MemoryPeak, decode, encode
from milo.errors import StateError
from milo.task.oci import cgroup_placement, cgroup_state

PARENT = "/nomad/a1.web"
OWN = f"{PARENT}/milo-1"


@pytest.fixture(params=[Mode.V1, Mode.V2], ids=["v1", "v2"])
def hierarchy(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Hierarchy:
    """A made-up hierarchy with the groups of one task."""
    mode: Mode = request.param
    names = ("cpu", "memory") if mode is Mode.V1 else ("",)
    found = Hierarchy(mode, {name: str(tmp_path / (name or "root")) for name in names})
    for path in found.mounts.values():
        Path(path + OWN).mkdir(parents=True)
    monkeypatch.setattr(cgroup_files, "detect", lambda: found)
    return found


def files(hierarchy: Hierarchy) -> list[Path]:
    """Return the file of the share of the task's group and of the container's."""
    name = "cpu.weight" if hierarchy.mode is Mode.V2 else "cpu.shares"
    return [Path(hierarchy.directory("cpu", path) or "", name) for path in (PARENT, OWN)]


def test_share_is_given_to_both_groups(hierarchy: Hierarchy) -> None:
    """Nomad's group of the task competes with the other tasks', so it has the task's share."""
    for file in files(hierarchy):
        file.write_text("")
    cgroup_placement.weigh(1500, OWN, PARENT)
    expected = "136" if hierarchy.mode is Mode.V2 else "1500"
    assert [file.read_text() for file in files(hierarchy)] == [expected, expected]


def test_task_outside_of_nomad_has_one_group(hierarchy: Hierarchy) -> None:
    """Without a group of Nomad's, the hierarchy's root is left alone."""
    parent, own = files(hierarchy)
    own.write_text("")
    parent.write_text("")
    root = Path(hierarchy.directory("cpu", "/") or "", own.name)
    root.write_text("")
    cgroup_placement.weigh(1024, OWN, "")
    assert own.read_text() == ("100" if hierarchy.mode is Mode.V2 else "1024")
    assert parent.read_text() == root.read_text() == ""


def test_no_share_and_no_controller(hierarchy: Hierarchy) -> None:
    """Without a share, or where the kernel has none to give, nothing is written."""
    cgroup_placement.weigh(500, OWN, PARENT)
    assert not any(file.exists() for file in files(hierarchy))
    for file in files(hierarchy):
        file.write_text("")
    cgroup_placement.weigh(0, OWN, PARENT)
    assert [file.read_text() for file in files(hierarchy)] == ["", ""]


def test_share_that_the_kernel_refuses(hierarchy: Hierarchy) -> None:
    """A share that cannot be written is an error that names the file."""
    for file in files(hierarchy):
        file.mkdir()
    with pytest.raises(StateError, match=r"cpu\.(shares|weight)"):
        cgroup_placement.weigh(500, OWN, PARENT)


def test_memory_at_the_end(hierarchy: Hierarchy) -> None:
    """The peak and the limit come from the container's own group."""
    v2 = hierarchy.mode is Mode.V2
    directory = Path(hierarchy.directory("memory", OWN) or "")
    assert cgroup_state.memory_peak(OWN) == MemoryPeak()
    peak, limit = directory / "memory.peak", directory / "memory.max"
    if not v2:
        peak = directory / "memory.max_usage_in_bytes"
        limit = directory / "memory.limit_in_bytes"
    peak.write_text(f"{50 * MIB}\n")
    limit.write_text("max\n" if v2 else "9223372036854771712\n")
    assert cgroup_state.memory_peak(OWN) == MemoryPeak(50 * MIB, 0)
    limit.write_text(f"{64 * MIB}\n")
    assert cgroup_state.memory_peak(OWN) == MemoryPeak(50 * MIB, 64 * MIB)


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        (MemoryPeak(), "(OOM)"),
        (MemoryPeak(0, 64 * MIB), "(OOM): its limit of 64 MiB"),
        (
            MemoryPeak(64 * MIB - 100, 64 * MIB),
            "(OOM): it used up to 64 MiB of its limit of 64 MiB",
        ),
        (
            MemoryPeak(100 * MIB + MIB // 2, 128 * MIB),
            "(OOM): it used up to 100.5 MiB of its limit of 128 MiB",
        ),
    ],
)
def test_memory_killer_in_words(memory: MemoryPeak, words: str) -> None:
    """An event tells how much was used, as far as the kernel knows, against what limit."""
    record = ExitRecord(exit_code=0, signal=9, oom_killed=True, memory=memory)
    assert exit_sentence(record).endswith(words)
    assert decode(encode(record), ExitRecord, where="test") == record


def test_exit_record_of_an_earlier_milo() -> None:
    """An exit record without memory figures is read as ever."""
    record = decode(b'{"exit_code": 1, "version": 1}', ExitRecord, where="test")
    assert record.memory == MemoryPeak()
