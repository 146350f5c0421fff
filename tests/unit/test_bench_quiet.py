"""A bench waits for a machine that has nothing else to do, or says that it had none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bench import quiet, report

HEAD = {"quick": False, "load": 0.1, "machine": {"Kernel": "6.1"}, "took_s": {}}


@pytest.mark.parametrize(
    ("after", "share"),
    [
        ("cpu  100 0 0 1000 0 0 0 0 0 0", 0.0),
        ("cpu  150 0 0 1050 0 0 0 0 0 0", 0.5),
        ("cpu  100 0 0 1000 100 0 0 0 0 0", 0.0),
        ("cpu  100 0 0 1000 0 0 0 100 0 0", 1.0),
        ("cpu  125 0 0 1075 0 0 0 0 25 0", 0.25),
    ],
    ids=("no time", "half", "a disk", "stolen", "a guest, counted in user"),
)
def test_what_others_use_is_told_from_what_is_idle(after: str, share: float) -> None:
    """Steal is used by others, waiting for a disk is not, a guest's time counts once."""
    before = "cpu  100 0 0 1000 0 0 0 0 0 0\ncpu0 1 2 3"
    assert quiet.busy_share(before, after + "\ncpu0 9 9 9") == pytest.approx(share)


def test_the_kernel_tells_what_is_used() -> None:
    """The real /proc/stat, for one window."""
    (share,) = quiet.shares(0.0)
    assert 0 <= share <= 1


def test_a_part_begins_as_soon_as_the_machine_is_quiet() -> None:
    """No measurement is taken after that."""
    found = iter([0.9, 0.5, 0.02, 0.9])
    waiting = quiet.Quiet(lambda _patience_s: found)
    waiting.wait("pump")
    assert waiting.loaded == {} and list(found) == [0.9]


def test_a_part_that_began_on_a_busy_machine_is_named_in_the_first_line() -> None:
    """Patience has an end, and the page says in its title and below what its figures are of."""
    asked: list[float] = []

    def measured(patience_s: float) -> Iterator[float]:
        asked.append(patience_s)
        yield from (0.9, 0.43)

    waiting = quiet.Quiet(measured)
    waiting.wait("memory")
    assert asked == [quiet.PATIENCE_S]
    page = report.render({**HEAD, "loaded": waiting.loaded})
    first, *rest = page.splitlines()
    assert first.startswith("# ") and "LOADED" in first
    assert any("memory (43%)" in line for line in rest)
    assert "LOADED" not in report.render({**HEAD, "loaded": {}})
