"""What became of the output in a chaos run, and whether that is what is promised."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import attrs

from tests.chaos.account import Account, Gap, log_files, read_files
from tests.chaos.faults import Done
from tests.chaos.world import Subject

MORE_STALL_MS = 50.0
"""A stall of the application under Milo may be so much longer than under raw_exec."""
LOGMON_BUFFER_BYTES = (64 + 32) << 10
"""What a log collector holds: a buffered writer of 64 KiB, and a copy of 32 KiB on its way
there. Source: Nomad 2.0.5, client/logmon/logging/rotator.go and Go's io.Copy."""
LOSING = ("logmon kill",)
"""The faults that may lose something."""
COLLECTOR = ("logmon pause", "logmon kill")
"""The faults in which nobody reads the log, so that whoever prints has to wait."""
STALLING = ("bare task kill",)
"""Two faults at once, in which Milo's log is not read for longer than its pipes can bridge: nobody
can fork a successor before there is another spawner."""
BETWEEN = "between faults"
EARLIER_MS = 3000
"""Output that a fault destroys was printed at most so long before: two full pipes of 1 MiB."""
LATER_MS = 500


@attrs.frozen
class Stall:
    """A write of the application that took long."""

    began_ms: int
    ms: float


@attrs.define
class Report:
    """What the program wrote down about itself: see ChaosLines.java."""

    starts: int = 0
    stalls: list[Stall] = attrs.field(factory=list)
    refused_ms: list[int] = attrs.field(factory=list)
    """When writes were refused, since nobody held the other end of the pipe."""
    ends: dict[str, tuple[int, int]] = attrs.field(factory=dict)
    """Lines and bytes that were written in all, for each stream that has ended properly."""


def read_report(text: str) -> Report:
    """Return the program's own report."""
    report = Report()
    for line in text.splitlines():
        word, *rest = line.split()
        match word:
            case "start":
                report.starts += 1
            case "stall":
                report.stalls.append(Stall(int(rest[1]), int(rest[2]) / 1000))
            case "refused":
                report.refused_ms.append(int(rest[1]))
            case "end":
                report.ends[rest[0]] = (int(rest[1]), int(rest[2]))
    return report


@attrs.frozen
class Result:
    """One task that has ended."""

    driver: str
    alloc: str
    report: Report
    accounts: tuple[Account, ...]
    restarts: int
    may_restart: bool
    """Whether a fault hit its start, so that Nomad may have started it twice."""


def read_results(subjects: Iterable[tuple[Subject, int, bool]], now_ms: int) -> list[Result]:
    """Account for tasks that have ended: each with its restarts and whether it may have any."""
    results = []
    with ProcessPoolExecutor(2) as pool:
        for subject, restarts, may_restart in subjects:
            report = read_report(subject.report.read_text())
            accounts = pool.map(
                read_stream,
                [subject.logs] * 2,
                ["stdout", "stderr"],
                [report.ends.get(letter, (0, 0))[0] for letter in "oe"],
                [now_ms] * 2,
            )
            results.append(
                Result(
                    subject.driver, subject.alloc, report, tuple(accounts), restarts, may_restart
                )
            )
    return results


def read_stream(logs: Path, stream: str, lines: int, now_ms: int) -> Account:
    """Account for one stream of which the program says that it printed ``lines`` lines."""
    account = Account({"stdout": "o", "stderr": "e"}[stream])
    account.read(read_files(log_files(logs, f"app.{stream}")))
    account.finish(lines, now_ms)
    return account


class Timeline:
    """Which fault was going on when."""

    def __init__(self, done: Iterable[Done]) -> None:
        self._done = list(done)

    def at(self, began_ms: float, ended_ms: float) -> str:
        """Return the name of the fault that something falls into, or `BETWEEN`."""
        for one in self._done:
            if one.began_ms <= ended_ms and began_ms <= one.ended_ms:
                return one.name
        return BETWEEN

    def loser(self, gap: Gap) -> Done | None:
        """Return the fault that may have caused a gap, if one of `LOSING` did."""
        for one in self._done:
            if (
                one.name in LOSING
                and gap.after_ms <= one.ended_ms + LATER_MS
                and gap.before_ms >= one.began_ms - EARLIER_MS
            ):
                return one
        return None

    def longest_stalls(self, results: Iterable[Result]) -> dict[str, float]:
        """Return the longest stall in milliseconds within each kind of fault."""
        found: dict[str, float] = {}
        for result in results:
            for stall in result.report.stalls:
                name = self.at(stall.began_ms, stall.began_ms + stall.ms)
                found[name] = max(found.get(name, 0.0), stall.ms)
        return found


def broken_promises(results: list[Result], done: list[Done], timeline: Timeline) -> list[str]:
    """Return a sentence for each promise about output and processes that was not kept."""
    broken = [f"{one.name}: {one.problem}" for one in done if one.problem]
    kills: dict[int, int] = {}
    for result in results:
        if result.driver != "milo":
            continue
        name = f"task {result.alloc[:8]}"
        if result.report.refused_ms:
            broken.append(f"{name}: {len(result.report.refused_ms)} writes were refused")
        if (result.report.starts != 1 or result.restarts) and not result.may_restart:
            broken.append(f"{name}: {result.report.starts} JVMs, {result.restarts} restarts")
        if result.report.starts != 1:
            continue
        broken += [
            f"{name}: the program did not end properly: no count of {letter}"
            for letter in "oe"
            if letter not in result.report.ends
        ]
        for account in result.accounts:
            broken += _broken_by(account, f"{name} {account.stream}", timeline, kills)
    return broken


def _broken_by(account: Account, name: str, timeline: Timeline, kills: dict[int, int]) -> list[str]:
    broken = []
    if account.repeated or account.out_of_order:
        broken.append(f"{name}: {account.repeated} repeated, {account.out_of_order} out of order")
    excused = 0
    for gap in account.gaps:
        cause = timeline.loser(gap)
        if cause is None:
            around = timeline.at(gap.after_ms, gap.before_ms)
            broken.append(f"{name}: {gap.lost_bytes} bytes lost ({around}): {gap}")
            continue
        excused += 1
        if cause.name == "logmon kill" and gap.lost_bytes > LOGMON_BUFFER_BYTES:
            broken.append(f"{name}: {gap.lost_bytes} bytes lost, more than logmon held: {gap}")
    if account.damaged > excused:
        broken.append(f"{name}: {account.damaged} damaged lines")
    return broken


def longer_stalls(results: list[Result], steady: set[str], timeline: Timeline) -> list[str]:
    """Return a sentence where ``steady`` allocations waited longer than raw_exec's did.

    Compared apart: when nobody collects the log, and otherwise.
    """
    broken = []
    milo = timeline.longest_stalls(one for one in results if one.alloc in steady)
    raw = timeline.longest_stalls(one for one in results if one.driver == "raw_exec")
    for title, disturbed in (
        ("while the log collector was disturbed", True),
        ("otherwise", False),
    ):
        ours, theirs = (
            max(
                (
                    ms
                    for name, ms in one.items()
                    if (name in COLLECTOR) is disturbed and name not in STALLING
                ),
                default=0.0,
            )
            for one in (milo, raw)
        )
        if ours > theirs + MORE_STALL_MS:
            broken.append(
                f"stalls {title}: {ours:.0f} ms under Milo, {theirs:.0f} ms under raw_exec"
            )
    return broken
