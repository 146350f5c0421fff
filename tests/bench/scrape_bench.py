"""What the figures for Prometheus cost the driver of a real agent, for docs/benchmarks.md.

``python -m tests.support.private_mounts python -m tests.bench.scrape_bench [--tasks N]
[--seconds S] [--rounds N] [--output FILE]`` writes a section of that page. Needs root, Nomad, crun
and a JDK with javac. The agent asks for each task's use each second all the time; in turns nobody
asks for a page of figures, and somebody does so each 5 s, as Prometheus would.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs

from milo import proc
from tests.bench import machine
from tests.bench.report import SCRAPES, put
from tests.bench.task_processes import children, name
from tests.support import artifacts, jars
from tests.support.agent import Agent, agent, free_ports
from tests.support.jobs import job_file
from tests.support.nomad import Job
from tests.support.waiting import wait_for

PAGE = Path(__file__).parents[2] / "docs/benchmarks.md"
EACH_S = 5.0
"""From one page to the next."""
MOST_PERCENT = 1.0
"""Of a core, what the pages may cost beyond the statistics."""
SETTLE_S = 20.0
"""After the last start, until the driver and the JVMs have come to rest."""
START_S = 1200
JVM_OPTIONS = ("-Xmx16m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


@attrs.frozen
class Cost:
    """What was measured with a number of tasks."""

    tasks: int
    without: list[float]
    """The driver's use of a core, in per cent, of each round in which nobody asked."""
    scraped: list[float]
    """The same where somebody did."""
    page_bytes: int
    page_s: float
    """How long the slowest page took."""

    @property
    def more(self) -> float:
        """By how many per cent of a core the pages raise it, by the medians."""
        return statistics.median(self.scraped) - statistics.median(self.without)


def measure(tasks: int, seconds: float, rounds: int) -> Cost:
    """Run so many tasks, and look at the driver with and without a reader of its figures."""
    address = f"127.0.0.1:{free_ports()[0]}"
    with TemporaryDirectory(prefix="milo-bench-") as directory:
        base = Path(directory)
        base.chmod(0o755)
        jars.build_all(base)
        own = {"metrics": {"address": address}}
        with artifacts.serve(base) as url, agent("scrapes", milo=own) as one:
            job = one.nomad.run(_text(url, tasks))
            wait_for("all tasks to run", lambda: _running(job) == tasks, START_S, pause_s=1)
            time.sleep(SETTLE_S)
            driver = _driver(one)
            without: list[float] = []
            scraped: list[float] = []
            pages: list[tuple[int, float]] = []
            for _ in range(rounds):
                without.append(_percent(driver, seconds, None, pages))
                scraped.append(_percent(driver, seconds, f"http://{address}/metrics", pages))
            job.stop()
    sizes, times = zip(*pages, strict=True)
    return Cost(tasks, without, scraped, max(sizes), max(times))


def _text(url: str, tasks: int) -> str:
    config = {"args": ["100000000", "0"], "jvm_options": list(JVM_OPTIONS)}
    return job_file(
        kind="service",
        config=config,
        artifact=f"{url}/clock.jar",
        cpu=10,
        memory=64,
        group=f"count = {tasks}\n",
    )


def _running(job: Job) -> int:
    states = [alloc["TaskStates"] or {} for alloc in job.allocations()]
    return sum(one["State"] == "running" for tasks in states for one in tasks.values())


def _driver(one: Agent) -> int:
    """Return the process of the agent's plugin."""
    assert one.process is not None
    [driver] = [pid for pid in children(one.process.pid) if name(pid) == "milo"]
    return driver


def _percent(pid: int, seconds: float, url: str | None, pages: list[tuple[int, float]]) -> float:
    """Return the process's use of a core in that time, in which ``url`` is asked if there is one.

    The size of each page and the time that it took are added to ``pages``.
    """
    began = time.monotonic()
    used_s = _used_s(pid)
    while (now := time.monotonic()) < began + seconds:
        if url is not None:
            with urllib.request.urlopen(url, timeout=EACH_S) as response:
                size = len(response.read())
            pages.append((size, time.monotonic() - now))
        time.sleep(max(0.0, min(now + EACH_S, began + seconds) - time.monotonic()))
    return 100 * (_used_s(pid) - used_s) / (time.monotonic() - began)


def _used_s(pid: int) -> float:
    return sum(proc.times_and_memory(pid)[:2]) / os.sysconf("SC_CLK_TCK")


def section(cost: Cost, load: float) -> str:
    """Return the section of the page, with its heading."""
    found = machine.machine()
    verdict = "met" if cost.more < MOST_PERCENT else "**not met**"
    per_cent = [statistics.median(cost.without), statistics.median(cost.scraped), cost.more]
    cells = [f"{one:.2f} %" for one in per_cent]
    cells += [f"{cost.page_bytes / 1000:.0f} KB", f"{1000 * cost.page_s:.0f} ms"]
    return f"""\
{SCRAPES.lstrip()}
Kept by `nox -s bench`; measured on its own by `python -m tests.support.private_mounts python -m
tests.bench.scrape_bench`: {cost.tasks} tasks of one agent, with a small idle JVM each, whose use
Nomad asks for each second. In turns nobody asks for a page of
[figures](metrics.md#milos-own-figures), and somebody does each {EACH_S:g} s. The driver's processor
time is that of one core, medians of {len(cost.without)} rounds. {found["Date"]},
{found["Processors"]}, cgroups {found["cgroups"]}, Milo {found["Milo"]}; load average before:
{load:.2f}.

The target, less than {MOST_PERCENT:g} % of a core beyond the statistics, is {verdict}.

| tasks | statistics alone | with a page each {EACH_S:g} s | the pages | a page | the slowest page |
| ---: | ---: | ---: | ---: | ---: | ---: |
| {cost.tasks} | {" | ".join(cells)} |
"""


def main() -> None:
    """Measure, and write the section; a target that is missed is no failure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scrape_bench")
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args()
    load = machine.load_average()
    text = section(measure(options.tasks, options.seconds, options.rounds), load)
    page = options.output.read_text() if options.output.exists() else ""
    options.output.write_text(put(page, SCRAPES, text))
    print(text)


if __name__ == "__main__":
    main()
