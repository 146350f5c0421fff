"""The soak's judge finds a slow leak, takes no noise for one, and says when it cannot tell."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import pytest

from tests.soak.trend import Point, Verdict, fit, judge

KIB = 1 << 10
MIB = 1 << 20
HOUR_S = 3600
LIMIT = MIB
"""An hour may add so much in these tests."""
SEEDS = range(100)

Noise = Callable[[Random], list[float]]


def series(noise: list[float], per_hour: float = 0, hours: float = 1) -> list[Point]:
    """Return a value of 20 MiB that grows by ``per_hour``, with noise, over ``hours``."""
    count = len(noise)
    times = [number * hours * HOUR_S / count for number in range(count)]
    return [
        Point(at_s, 20 * MIB + per_hour * at_s / HOUR_S + extra)
        for at_s, extra in zip(times, noise, strict=True)
    ]


def white(random: Random) -> list[float]:
    """Return 120 samples that know nothing of each other."""
    return [random.gauss(0, 200 * KIB) for _ in range(120)]


def slow(random: Random) -> list[float]:
    """Return 120 samples of which each is near the one before, as resident memory is."""
    values, last = [], 0.0
    for _ in range(120):
        last = 0.7 * last + random.gauss(0, 50 * KIB)
        values.append(last)
    return values


def flicker(random: Random) -> list[float]:
    """Return 120 samples of something that is sometimes there."""
    return [random.choice([0.0, 0.0, 0.0, 300 * KIB]) for _ in range(120)]


@pytest.mark.parametrize("noise", [white, slow, flicker])
@pytest.mark.parametrize("leak", [2 * MIB, 5 * MIB, 100 * MIB])
def test_a_leak_is_found(noise: Noise, leak: int) -> None:
    """Twice the limit in an hour is never called flat, and nearly always growth."""
    verdicts = [judge(fit(series(noise(Random(seed)), leak)), LIMIT) for seed in SEEDS]
    assert Verdict.FLAT not in verdicts
    assert verdicts.count(Verdict.GROWS) >= 95


@pytest.mark.parametrize("noise", [white, slow, flicker])
def test_noise_is_no_leak(noise: Noise) -> None:
    """Noise alone is never called growth, and nearly always flat."""
    verdicts = [judge(fit(series(noise(Random(seed)))), LIMIT) for seed in SEEDS]
    assert Verdict.GROWS not in verdicts
    assert verdicts.count(Verdict.FLAT) >= 95


def test_a_small_slope_is_flat() -> None:
    """A tenth of the limit an hour is permitted."""
    verdicts = [judge(fit(series(slow(Random(seed)), LIMIT / 10)), LIMIT) for seed in SEEDS]
    assert verdicts.count(Verdict.FLAT) >= 95


def test_the_slope_is_what_grows_in_an_hour() -> None:
    """Without noise the slope is exact, whatever the length of the run."""
    for hours in (0.1, 1, 7):
        trend = fit(series([0.0] * 50, 3 * MIB, hours))
        assert math.isclose(trend.per_hour, 3 * MIB, rel_tol=1e-6)
        assert trend.error < 1


def test_what_shrinks_is_flat() -> None:
    """Only growth is looked for."""
    assert judge(fit(series([0.0] * 50, -100 * MIB)), LIMIT) is Verdict.FLAT


def test_what_never_changes_is_flat() -> None:
    """A count that is the same in each sample is flat."""
    points = [Point(at_s, 7) for at_s in range(0, HOUR_S, 30)]
    assert judge(fit(points), 0) is Verdict.FLAT


def test_one_step_is_not_called_flat() -> None:
    """A value that rises once by twice the limit and stays there is not waved through."""
    points = series([0.0] * 60 + [2.0 * MIB] * 60)
    assert judge(fit(points), LIMIT) is not Verdict.FLAT


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_few_samples_tell_nothing(count: int) -> None:
    """A handful of samples is no evidence, not even of a steep line."""
    points = series([0.0] * count, 100 * MIB) if count else []
    assert judge(fit(points), LIMIT) is Verdict.UNCLEAR


def test_samples_at_one_time_tell_nothing() -> None:
    """Without any time between the samples there is no slope."""
    assert judge(fit([Point(5, value) for value in range(20)]), LIMIT) is Verdict.UNCLEAR


def test_a_short_run_cannot_tell() -> None:
    """Two minutes of noise say nothing about an hour."""
    verdicts = [judge(fit(series(white(Random(seed)), hours=1 / 30)), LIMIT) for seed in SEEDS]
    assert Verdict.UNCLEAR in verdicts
    assert Verdict.GROWS not in verdicts


def lives(per_hour: float, seed: int = 1) -> list[Point]:
    """Return four processes one after the other, each with a level of its own."""
    random = Random(seed)
    found = []
    for life in range(4):
        level = random.uniform(10, 30) * MIB
        for number in range(30):
            grown = per_hour * number * 30 / HOUR_S + random.gauss(0, 20 * KIB)
            found.append(Point(life * 900 + number * 30, level + grown, life))
    return found


def test_a_new_process_is_no_leak() -> None:
    """What differs from one process to the next is no slope: each is compared with itself."""
    for seed in SEEDS:
        assert judge(fit(lives(0, seed)), LIMIT) is Verdict.FLAT


def test_a_leak_in_each_process_is_found() -> None:
    """What each of several processes gains in its own time is found."""
    for seed in SEEDS:
        assert judge(fit(lives(3 * LIMIT, seed)), LIMIT) is Verdict.GROWS


def test_a_process_seen_once_tells_nothing() -> None:
    """Processes of which each is in one sample say nothing about a slope."""
    points = [Point(at_s, at_s * MIB, at_s) for at_s in range(100)]
    assert judge(fit(points), LIMIT) is Verdict.UNCLEAR
