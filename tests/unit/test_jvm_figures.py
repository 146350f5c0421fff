"""What a JVM counts of itself, whoever wrote it."""

from __future__ import annotations

import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo.core import control
from milo.core.java.heap import MIB
from milo.core.java.jvm_figures import OTHER_COLLECTOR, GcFigures, JvmFigures, figures
from milo.core.java.jvm_view import COLLECTORS
from milo.core.records import StreamCounters
from tests.support.perf_data import G1, perf_data


def told(**changes: int | str | None) -> JvmFigures | None:
    """Return the figures of `G1` with some entries changed, or left out; ``__`` is a dot."""
    entries: dict[str, int | str] = dict(G1)
    for key, value in changes.items():
        name = key.replace("__", ".")
        entries.pop(name, None)
        if value is not None:
            entries[name] = value
    return figures(perf_data(entries))


def test_all_figures() -> None:
    """Spaces and generations are added up, ticks are seconds, and classes are those loaded now."""
    assert told() == JvmFigures(
        collector="G1",
        heap_used_bytes=9 * MIB,
        heap_committed_bytes=24 * MIB,
        heap_max_bytes=200 * MIB,
        metaspace_used_bytes=78_416,
        metaspace_committed_bytes=327_680,
        gc=(
            GcFigures("young", 3, 0.013),
            GcFigures("full", 1, 0.019),
            GcFigures("concurrent", 0, 0.0),
        ),
        threads=6,
        daemon_threads=5,
        peak_threads=7,
        classes=416,
        safepoints=4,
        safepoint_s=0.032,
        safepoint_sync_s=0.000022,
    )


def test_no_jvm() -> None:
    """A JVM that is not up yet, and bytes that are no JVM's, have no figures."""
    assert told(sun__rt__vmInitDoneTime=0) is None
    assert told(sun__rt__vmInitDoneTime=None) is None
    assert figures(b"") is None
    assert figures(b"\xca\xfe\xc0\xc0" + bytes(4096)) is None


@pytest.mark.parametrize(
    ("names", "collector", "kinds"),
    [
        ({"sun.gc.policy.name": "Copy:MSC"}, "Serial", ("young", "full", "concurrent")),
        ({"sun.gc.policy.name": "ParNew:CMS"}, "CMS", ("young", "old", "concurrent")),
        ({"sun.gc.collector.2.name": "ZGC major"}, "ZGC", ("minor", "full", "major")),
        (
            {"sun.gc.collector.1.name": "Shenandoah full"},
            "Shenandoah",
            ("partial", "phase", "concurrent"),
        ),
        ({"sun.gc.policy.name": "Mine\n1"}, OTHER_COLLECTOR, ("young", "full", "concurrent")),
    ],
)
def test_words_are_of_fixed_lists(
    names: dict[str, int | str], collector: str, kinds: tuple[str, ...]
) -> None:
    """What a task calls its collector is never told on: it could be another name every time."""
    entries = {
        key: value
        for key, value in G1.items()
        if key != "sun.gc.policy.name" and not (key.endswith(".name"))
    }
    found = figures(perf_data(entries | names))
    assert found is not None
    assert found.collector == collector
    assert tuple(one.kind for one in found.gc) == kinds


@pytest.mark.parametrize("wrong", [-1, -(2**63), 2**63 - 1, 2**60, "many", "", None])
def test_what_is_no_figure_is_absent(wrong: int | str | None) -> None:
    """Negative, impossible, or a text: that figure is absent, not 0, and the others stand."""
    assert told() == attrs.evolve(told(java__threads__live=wrong), threads=6)  # type: ignore[misc]
    found = told(sun__gc__generation__0__space__0__used=wrong)
    assert found is not None
    assert found.heap_used_bytes == (8 * MIB if wrong is None else None)
    assert found.heap_committed_bytes == 24 * MIB
    found = told(sun__gc__collector__1__invocations=wrong)
    assert found is not None
    assert [one.kind for one in found.gc] == ["young", "concurrent"]


def test_before_the_first_collection() -> None:
    """JDK 25 writes the use of its heap down at collections alone: until then it is not known."""
    spaces = {f"sun__gc__generation__{space}__used": 0 for space in ("0__space__0", "1__space__0")}
    metaspace = {"sun__gc__metaspace__used": 0, "sun__gc__metaspace__capacity": 0}
    found = told(**spaces, sun__gc__generation__0__space__2__used=0, **metaspace)
    assert found is not None
    assert (found.heap_used_bytes, found.metaspace_used_bytes) == (None, None)
    assert found.metaspace_committed_bytes is None
    assert found.heap_committed_bytes == 24 * MIB


@pytest.mark.parametrize("frequency", [0, -1, 2**62, None])
def test_a_clock_that_is_none(frequency: int | None) -> None:
    """Without the clock's frequency there are no times; counts there are."""
    found = told(sun__os__hrt__frequency=frequency)
    assert found is not None
    assert (found.safepoints, found.safepoint_s) == (4, None)
    assert found.gc[0] == GcFigures("young", 3, None)


def test_more_classes_gone_than_come() -> None:
    """A number of classes below 0 is none."""
    found = told(java__cls__unloadedClasses=5000)
    assert found is not None and found.classes is None


@given(st.dictionaries(st.sampled_from(sorted(G1)), st.integers(-(2**63), 2**63 - 1)))
def test_any_numbers(changes: dict[str, int | str]) -> None:
    """Whatever the numbers, the figures are finite, not negative, and fit a message."""
    found = figures(perf_data(G1 | changes))
    if found is None:
        return
    assert found.collector in COLLECTORS | {OTHER_COLLECTOR}
    values = [
        value for value in attrs.astuple(found, recurse=False) if isinstance(value, int | float)
    ]
    values += [
        value for one in found.gc for value in (one.collections, one.seconds) if value is not None
    ]
    assert all(value >= 0 and math.isfinite(value) for value in values)
    none = StreamCounters()
    status = control.Status(seq=1, phase="running", stdout=none, stderr=none, jvm=found)
    assert control.decode_notice(control.encode(status)) == status


@given(st.binary(max_size=400), st.integers(0, 2000))
def test_any_bytes(noise: bytes, at: int) -> None:
    """Bytes that are no JVM's end in figures or in none."""
    data = perf_data(G1)
    figures(data[:at] + noise + data[at + len(noise) :])
