"""What a soak's samples say: a trend and a verdict for each figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import attrs

from tests.soak.census import KINDS, Census, Process
from tests.soak.trend import HOUR_S, Point, Trend, Verdict, fit, judge

KIB = 1 << 10
MIB = 1 << 20
COUNT_LIMIT = 4.0
"""How much a count may grow in an hour, in which 200 tasks come and go and the agent is started
12 times: what one of 50 tasks, or one of 3 restarts, leaves behind is found."""
MEMORY_LIMIT = 1.0 * MIB
"""The same for a process's memory: 5 KiB a task."""
TOTAL_LIMIT = 2.0 * MIB
STATE_LIMIT = 64.0 * KIB
"""A running task's own log gets some lines at each restart of the agent, up to a bound."""
WARM_UP = 1 / 6
"""Of a run, and of each process in it, so much is not judged: of an hour ten minutes. Until then
allocators and caches fill; Trio alone keeps up to 1,000 deadlines that have passed."""


@attrs.frozen
class Figure:
    """One figure of a soak."""

    name: str
    points: tuple[Point, ...]
    limit: float
    """How much it may grow in an hour."""

    @property
    def trend(self) -> Trend:
        """The line through its samples."""
        return fit(self.points)

    @property
    def verdict(self) -> Verdict:
        """Whether it grows."""
        return judge(self.trend, self.limit)

    @property
    def level(self) -> float:
        """The mean of its samples."""
        return sum(point.value for point in self.points) / max(1, len(self.points))


Measure = Callable[[Process], float]
MEASURES: dict[str, tuple[Measure, float]] = {
    "memory": (lambda one: one.memory_bytes, MEMORY_LIMIT),
    "descriptors": (lambda one: one.descriptors, COUNT_LIMIT),
    "threads": (lambda one: one.threads, COUNT_LIMIT),
}
WHOLE: dict[str, tuple[Callable[[Census], float], float]] = {
    "processes": (lambda one: len(one.processes), COUNT_LIMIT),
    "threads of all": (lambda one: sum(p.threads for p in one.processes), COUNT_LIMIT),
    "descriptors of all": (lambda one: sum(p.descriptors for p in one.processes), COUNT_LIMIT),
    "memory of all": (lambda one: sum(p.memory_bytes for p in one.processes), TOTAL_LIMIT),
    "state directories": (lambda one: one.state_directories, COUNT_LIMIT),
    "state bytes": (lambda one: one.state_bytes, STATE_LIMIT),
    "mounts": (lambda one: one.mounts, COUNT_LIMIT),
    "cgroups": (lambda one: one.cgroups, COUNT_LIMIT),
}


def figures(samples: list[Census]) -> list[Figure]:
    """Return every figure of a run, without its warm-up."""
    if not samples:
        return []
    warm_up_s = samples[-1].at_s * WARM_UP
    settled = [one for one in samples if one.at_s >= warm_up_s]
    found = [
        Figure(f"{kind}: {name}", tuple(_of_kind(samples, warm_up_s, key, measure)), limit)
        for key, kind in KINDS.items()
        for name, (measure, limit) in MEASURES.items()
    ]
    found += [
        Figure(name, tuple(Point(one.at_s, measure(one)) for one in settled), limit)
        for name, (measure, limit) in WHOLE.items()
    ]
    return found


def _of_kind(
    samples: list[Census], warm_up_s: float, key: str, measure: Measure
) -> Iterator[Point]:
    """Yield the samples of the processes of one kind, without each one's warm-up."""
    first_s: dict[tuple[int, int], float] = {}
    for sample in samples:
        for process in sample.processes:
            began_s = first_s.setdefault(process.life, sample.at_s)
            if process.name == key and sample.at_s >= began_s + warm_up_s:
                yield Point(sample.at_s, measure(process), process.life)


def table(found: Iterable[Figure]) -> str:
    """Return the figures as a table for docs/reliability.md."""
    rows = [
        "| figure | mean | slope an hour | error | permitted | verdict |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in found:
        unit = 1 / KIB if "memory" in one.name or "bytes" in one.name else 1.0
        name = f"{one.name}, KiB" if unit != 1 else one.name
        values = (one.level, one.trend.per_hour, one.trend.error, one.limit)
        mean, slope, error, limit = (value * unit for value in values)
        rows.append(
            f"| {name} | {mean:,.1f} | {slope:+,.2f} | {error:,.2f} | {limit:,.0f} "
            f"| {one.verdict.value} |"
        )
    return "\n".join(rows)


def failures(found: Iterable[Figure], took_s: float) -> list[str]:
    """Return a sentence for each figure that grows, or of which an hour's run cannot tell."""
    is_long = took_s >= 0.9 * HOUR_S
    return [
        f"{one.name}: {one.verdict.value}, {one.trend.per_hour:+,.0f} an hour, "
        f"error {one.trend.error:,.0f}, permitted {one.limit:,.0f}"
        for one in found
        if one.verdict is Verdict.GROWS or (is_long and one.verdict is Verdict.UNCLEAR)
    ]


def processes_by_name(sample: Census) -> dict[str, int]:
    """Return how many processes of each name there were."""
    return dict(Counter(process.name for process in sample.processes))
