"""When the pump pauses: under a load of small chunks, and only where that helps."""

from __future__ import annotations

from milo.task.logs.pacer import NO_PAUSE_S, PAUSE_S, SMALL_BYTES, STREAK, Pacer

MIB = 1 << 20


def pauses(pacer: Pacer, count: int, moved: int, *, every_s: float, pipe: int = MIB) -> list[float]:
    """The pauses after ``count`` chunks that come ``every_s`` apart."""
    return [
        pacer.pause_after(moved, 1 + index * every_s, smallest_pipe_bytes=pipe)
        for index in range(count)
    ]


def test_no_pause_at_a_thousand_lines_a_second() -> None:
    """Chunks a millisecond apart are passed on at once: latency counts there."""
    assert set(pauses(Pacer(), 1000, 120, every_s=0.001)) == {0.0}


def test_no_pause_after_a_burst() -> None:
    """A burst of some lines, as a stack trace is, is passed on at once."""
    pacer = Pacer()
    for _ in range(10):
        assert set(pauses(pacer, STREAK // 2, 120, every_s=0.00001)) == {0.0}
        assert pacer.pause_after(120, 2, smallest_pipe_bytes=MIB) == 0.0


def test_pause_under_load() -> None:
    """A streak of small chunks in quick succession is followed by a pause, and so is the next."""
    pacer = Pacer()
    taken = pauses(pacer, STREAK + 3, 120, every_s=0.0001)
    assert taken == [0.0] * STREAK + [PAUSE_S] * 3
    assert pacer.pause_after(5 * SMALL_BYTES, 1.005, smallest_pipe_bytes=MIB) == PAUSE_S
    pacer.ran_dry()
    assert pacer.pause_after(120, 1.006, smallest_pipe_bytes=MIB) == 0.0
    pacer.ran_dry()


def test_no_pause_for_large_chunks() -> None:
    """Large chunks need no gathering, and end a streak."""
    assert set(pauses(Pacer(), 100, SMALL_BYTES, every_s=0.0001)) == {0.0}
    pacer = Pacer()
    pauses(pacer, STREAK - 1, 120, every_s=0.0)
    assert pacer.pause_after(SMALL_BYTES, 1, smallest_pipe_bytes=MIB) == 0.0
    assert pacer.pause_after(120, 1, smallest_pipe_bytes=MIB) == 0.0


def test_no_pause_with_small_pipes() -> None:
    """Pipes that would fill up during a pause are emptied at once."""
    assert set(pauses(Pacer(), 100, 120, every_s=0.0001, pipe=64 << 10)) == {0.0}


def test_rest_after_a_pause_that_was_too_long() -> None:
    """A pipe that filled up during the pause is not paused for again in a while."""
    pacer = Pacer()
    assert pauses(pacer, STREAK + 1, 120, every_s=0.0001)[-1] == PAUSE_S
    assert pacer.pause_after(MIB, 1.005, smallest_pipe_bytes=MIB) == 0.0
    quick = [pacer.pause_after(9, 1.005, smallest_pipe_bytes=MIB) for _ in range(3 * STREAK)]
    assert set(quick) == {0.0}
    later = 1.005 + NO_PAUSE_S
    rested = [pacer.pause_after(9, later, smallest_pipe_bytes=MIB) for _ in range(STREAK + 1)]
    assert rested == [0.0] * STREAK + [PAUSE_S]
