"""The page that Prometheus reads, in the words of prometheus_client.

Importing that takes 40 ms and 2 MiB, so this module is imported only where figures are served. It
takes 12 us to render a sample, of which a hundred tasks have nearly four thousand: so it renders
the head of each family once, and the labels of each series once, and a page is put together of
these. A test compares that with what it renders itself.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

import attrs
import trio
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest as plain_text
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as open_metrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

import milo
from milo import proc
from milo.host.figures import TaskFigures
from milo.plugin.calls import Calls
from milo.plugin.metrics.families import FAMILIES, TASK_LABELS, task_labels

OPEN_METRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_END: Final = "# EOF\n"


@attrs.frozen
class Driver:
    """What is told of the driver itself."""

    calls: Calls
    spawner_restarts: int


@attrs.frozen
class Series:
    """All samples of one name."""

    name: str
    """Without the ``_total`` that a counter ends with."""
    kind: Literal["gauge", "counter"]
    help: str
    labels: tuple[str, ...]
    samples: Sequence[tuple[tuple[str, ...], float]]
    """The values of the labels, and the figure."""


class Renderer:
    """Makes pages; what it keeps from one to the next is of the series that the last one had."""

    def __init__(self) -> None:
        self._heads: dict[tuple[str, str], str] = {}
        self._labels: dict[tuple[tuple[str, ...], tuple[str, ...]], str] = {}

    async def render(self, format: str, tasks: Iterable[TaskFigures], driver: Driver) -> bytes:
        """Return the page of the content type ``format``; RPCs are answered meanwhile."""
        # Two instances of one task, of which one is being removed, are one to Prometheus.
        known = {task_labels(task): task for task in tasks}
        labels: dict[tuple[tuple[str, ...], tuple[str, ...]], str] = {}
        parts = []
        for series in (*_of_driver(driver, len(known)), *_of_tasks(known)):
            parts.append(self._text(format, series, labels))
            await trio.lowlevel.checkpoint()
        self._labels = labels
        return ("".join(parts) + (_END if format == OPEN_METRICS else "")).encode()

    def _text(
        self,
        format: str,
        series: Series,
        kept: dict[tuple[tuple[str, ...], tuple[str, ...]], str],
    ) -> str:
        head = self._heads.get((format, series.name))
        if head is None:
            head = rendered(format, attrs.evolve(series, samples=[]))
            self._heads[format, series.name] = head
        name = f"{series.name}_total" if series.kind == "counter" else series.name
        lines = [head]
        for values, value in series.samples:
            key = (series.labels, values)
            labels = kept.get(key)
            if labels is None:
                labels = kept[key] = self._labels.get(key) or _rendered_labels(*key)
            number: str = floatToGoString(value)  # type: ignore[no-untyped-call]
            lines.append(f"{name}{labels} {number}\n")
        return "".join(lines)


class _Collected(Collector):
    """One family, for prometheus_client's functions, which take what collects several."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


def rendered(format: str, series: Series) -> str:
    """Return ``series`` as prometheus_client renders it; the end of a page is left out."""
    unit = next((unit for unit in ("bytes", "seconds") if series.name.endswith(f"_{unit}")), "")
    make = CounterMetricFamily if series.kind == "counter" else GaugeMetricFamily
    metric = make(series.name, series.help, labels=series.labels, unit=unit)
    for values, value in series.samples:
        metric.add_metric(values, value)
    registry = CollectorRegistry()
    registry.register(_Collected(metric))
    render = open_metrics if format == OPEN_METRICS else plain_text
    text: bytes = render(registry)
    return text.decode().removesuffix(_END)


def _rendered_labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    """Return the labels of one series as prometheus_client writes them behind its name."""
    series = Series("x", "gauge", "", names, [(values, 0.0)])
    line = rendered(PLAIN_TEXT, series).splitlines()[-1]
    return line.removeprefix("x").removesuffix(" 0.0")


def _of_tasks(known: dict[tuple[str, ...], TaskFigures]) -> Iterator[Series]:
    for family in FAMILIES:
        samples = [
            (labels + own, value)
            for labels, task in known.items()
            for own, value in family.values(task)
            if value is not None
        ]
        names = TASK_LABELS + family.labels
        yield Series(family.name, family.kind, family.help, names, samples)


def _of_driver(driver: Driver, tasks: int) -> Iterator[Series]:
    pages = proc.times_and_memory(os.getpid())[2]
    for name, help, number in (
        ("milo_driver_tasks", "Tasks that run.", tasks),
        (
            "milo_driver_memory_bytes",
            "Resident memory of the driver.",
            pages * resource.getpagesize(),
        ),
    ):
        yield Series(name, "gauge", help, (), [((), number)])
    yield Series(
        "milo_build_info",
        "gauge",
        "The version of the driver.",
        ("version",),
        [((milo.__version__,), 1)],
    )
    for name, help, value in (
        ("milo_driver_cpu_seconds", "CPU time of the driver.", time.process_time()),
        (
            "milo_driver_spawner_restarts",
            "Spawners of task processes that ended and were replaced.",
            driver.spawner_restarts,
        ),
    ):
        yield Series(name, "counter", help, (), [((), value)])
    for name, help, attribute in (
        ("milo_driver_rpcs", "Calls of the driver by Nomad.", "count"),
        ("milo_driver_rpc_failures", "Those that ended in an error.", "failures"),
        (
            "milo_driver_rpc_seconds",
            "How long the calls took; 0 for those that last as long as a task.",
            "seconds",
        ),
    ):
        calls = sorted(driver.calls.by_name.items())
        samples = [((method,), getattr(call, attribute)) for method, call in calls]
        yield Series(name, "counter", help, ("method",), samples)
