"""Whether a figure grows: a regression line through its samples, with how sure that line is.

Pure. The slope is that of least squares. Samples that follow each other closely are alike, and so
say less than as many independent ones: the slope's error is widened by the correlation of
neighbouring residuals, as for an autoregression of first order.
"""

from __future__ import annotations

import enum
import math
from collections import defaultdict
from collections.abc import Hashable, Iterable
from itertools import pairwise

import attrs

HOUR_S = 3600.0
SURE = 3.0
"""How many errors lie between a slope and what it is said to be above or below: 1 in 700."""
FEWEST = 8
"""Degrees of freedom below which nothing is said."""
MOST_ALIKE = 0.98
"""Neighbouring samples are taken to be at most so alike, as otherwise nothing would be left."""


@attrs.frozen
class Point:
    """One sample."""

    at_s: float
    value: float
    life: Hashable = None
    """Of what it is a sample: those of different processes are not compared with each other."""


@attrs.frozen
class Trend:
    """A slope with its standard error, both an hour."""

    per_hour: float
    error: float


class Verdict(enum.Enum):
    """What a trend says about a limit."""

    FLAT = "flat"
    GROWS = "grows"
    UNCLEAR = "unclear"


def fit(points: Iterable[Point]) -> Trend:
    """Return the slope that all lives have in common, each around its own mean.

    The error is infinite where there are too few samples.
    """
    lives: dict[Hashable, list[tuple[float, float]]] = defaultdict(list)
    for point in points:
        lives[point.life].append((point.at_s / HOUR_S, point.value))
    centred = [_around_mean(life) for life in lives.values() if len(life) > 1]
    pairs = [pair for life in centred for pair in life]
    width = sum(x * x for x, _ in pairs)
    freedom = len(pairs) - len(centred) - 1
    if freedom < FEWEST or not width:
        return Trend(0.0, math.inf)
    slope = sum(x * y for x, y in pairs) / width
    residuals = [[y - slope * x for x, y in life] for life in centred]
    squares = sum(rest * rest for life in residuals for rest in life)
    if not squares:
        return Trend(slope, 0.0)
    products = sum(one * other for life in residuals for one, other in pairwise(life))
    alike = min(max(products / squares, 0.0), MOST_ALIKE)
    return Trend(slope, math.sqrt(squares / freedom / width * (1 + alike) / (1 - alike)))


def judge(trend: Trend, limit: float) -> Verdict:
    """Say whether ``limit`` an hour is surely kept, surely exceeded, or neither."""
    if trend.per_hour + SURE * trend.error <= limit:
        return Verdict.FLAT
    if trend.per_hour - SURE * trend.error > limit:
        return Verdict.GROWS
    return Verdict.UNCLEAR


def _around_mean(life: list[tuple[float, float]]) -> list[tuple[float, float]]:
    mean_x, mean_y = (sum(values) / len(life) for values in zip(*life, strict=True))
    return [(x - mean_x, y - mean_y) for x, y in life]
