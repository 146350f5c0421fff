"""The table of all figures that are exported: names, types, help texts, and where they come from.

docs/metrics.md lists them, the dashboard in examples/ shows them, and tests compare. Names follow
https://prometheus.io/docs/practices/naming; the labels of a task are those of Nomad's own figures,
so that both can be joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal

import attrs

from milo.core.java.jvm_figures import JvmFigures
from milo.core.records import StreamCounters
from milo.core.text import shortened
from milo.host.figures import TaskFigures

TASK_LABELS: Final = ("namespace", "job", "task_group", "task", "alloc_id")
MAX_LABEL_CHARS: Final = 255
"""A task's name is also one of a directory, and so never longer."""

Value = tuple[tuple[str, ...], float | None]
"""The values of a family's own labels, and the figure; None is no figure."""


@attrs.frozen
class Family:
    """One name with its figures of each task."""

    name: str
    """Without the ``_total`` that a counter ends with."""
    kind: Literal["gauge", "counter"]
    help: str
    values: Callable[[TaskFigures], Iterable[Value]]
    labels: tuple[str, ...] = ()
    """Beside `TASK_LABELS`."""


def task_labels(task: TaskFigures) -> tuple[str, ...]:
    """Return the values of `TASK_LABELS`: printable and bounded, since a job chooses them."""
    names = task.names
    told = (task.namespace, names.job_name, names.group_name, names.task_name, names.alloc_id)
    return tuple(shortened(value, MAX_LABEL_CHARS) for value in told)


def _one(read: Callable[[TaskFigures], float | None]) -> Callable[[TaskFigures], Iterable[Value]]:
    return lambda task: (((), read(task)),)


def _jvm(read: Callable[[JvmFigures], float | None]) -> Callable[[TaskFigures], Iterable[Value]]:
    return lambda task: () if task.jvm is None else (((), read(task.jvm)),)


def _memory(field: str) -> Callable[[TaskFigures], Iterable[Value]]:
    return _one(lambda task: task.sample.memory.get(field))


def _streams(read: Callable[[StreamCounters], float]) -> Callable[[TaskFigures], Iterable[Value]]:
    return lambda task: [((name,), read(one)) for name, one in task.streams.items()]


def _gc(task: TaskFigures) -> Iterator[Value]:
    if task.jvm is not None:
        for one in task.jvm.gc:
            yield (task.jvm.collector, one.kind), one.collections


def _gc_seconds(task: TaskFigures) -> Iterator[Value]:
    if task.jvm is not None:
        for one in task.jvm.gc:
            yield (task.jvm.collector, one.kind), one.seconds


def _cpu(task: TaskFigures) -> Iterator[Value]:
    yield ("user",), _seconds(task.sample.user_ns)
    yield ("system",), _seconds(task.sample.system_ns)


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e9


FAMILIES: Final = (
    Family(
        "milo_jvm_heap_used_bytes",
        "gauge",
        "Heap in use, as the JVM says: at the latest after its last collection.",
        _jvm(lambda jvm: jvm.heap_used_bytes),
    ),
    Family(
        "milo_jvm_heap_committed_bytes",
        "gauge",
        "Heap that the JVM has from the system.",
        _jvm(lambda jvm: jvm.heap_committed_bytes),
    ),
    Family(
        "milo_jvm_heap_max_bytes",
        "gauge",
        "What the heap may become.",
        _jvm(lambda jvm: jvm.heap_max_bytes),
    ),
    Family(
        "milo_jvm_metaspace_used_bytes",
        "gauge",
        "Metaspace in use, which holds the classes.",
        _jvm(lambda jvm: jvm.metaspace_used_bytes),
    ),
    Family(
        "milo_jvm_metaspace_committed_bytes",
        "gauge",
        "Metaspace that the JVM has from the system.",
        _jvm(lambda jvm: jvm.metaspace_committed_bytes),
    ),
    Family(
        "milo_jvm_gc_collections",
        "counter",
        "Collections; with ZGC pauses, with Shenandoah phases.",
        _gc,
        labels=("collector", "kind"),
    ),
    Family(
        "milo_jvm_gc_seconds",
        "counter",
        "Time in them: the application stood still, but not with Shenandoah.",
        _gc_seconds,
        labels=("collector", "kind"),
    ),
    Family(
        "milo_jvm_threads",
        "gauge",
        "Java threads, daemons included.",
        _jvm(lambda jvm: jvm.threads),
    ),
    Family(
        "milo_jvm_peak_threads",
        "gauge",
        "The most Java threads that there were at a time.",
        _jvm(lambda jvm: jvm.peak_threads),
    ),
    Family(
        "milo_jvm_daemon_threads",
        "gauge",
        "Java threads that are daemons.",
        _jvm(lambda jvm: jvm.daemon_threads),
    ),
    Family(
        "milo_jvm_classes",
        "gauge",
        "Classes that are loaded.",
        _jvm(lambda jvm: jvm.classes),
    ),
    Family(
        "milo_jvm_safepoints",
        "counter",
        "Stops of all threads, for collections and for other reasons.",
        _jvm(lambda jvm: jvm.safepoints),
    ),
    Family(
        "milo_jvm_safepoint_seconds",
        "counter",
        "Time in these stops.",
        _jvm(lambda jvm: jvm.safepoint_s),
    ),
    Family(
        "milo_jvm_safepoint_sync_seconds",
        "counter",
        "Time until all threads had stopped.",
        _jvm(lambda jvm: jvm.safepoint_sync_s),
    ),
    Family(
        "milo_task_cpu_seconds",
        "counter",
        "CPU time of the container.",
        _cpu,
        labels=("mode",),
    ),
    Family(
        "milo_task_cpu_throttled_seconds",
        "counter",
        "How long cpu_hard_limit held the container back.",
        _one(lambda task: _seconds(task.sample.throttled_ns)),
    ),
    Family(
        "milo_task_memory_bytes",
        "gauge",
        "What counts towards the memory limit, the page cache included.",
        _memory("usage"),
    ),
    Family(
        "milo_task_memory_rss_bytes",
        "gauge",
        "Memory of the processes.",
        _memory("rss"),
    ),
    Family(
        "milo_task_memory_limit_bytes",
        "gauge",
        "The limit that the kernel holds the container to.",
        _one(lambda task: task.memory_limit_bytes),
    ),
    Family(
        "milo_task_log_bytes",
        "counter",
        "Output that was handed to Nomad's log collector.",
        _streams(lambda one: one.bytes_moved),
        labels=("stream",),
    ),
    Family(
        "milo_task_log_dropped_bytes",
        "counter",
        "Output that was dropped, since nobody read it.",
        _streams(lambda one: one.bytes_dropped),
        labels=("stream",),
    ),
    Family(
        "milo_task_log_stalled_seconds",
        "counter",
        "How long output waited for its reader.",
        _streams(lambda one: one.stalled_s),
        labels=("stream",),
    ),
    Family(
        "milo_task_process_restarts",
        "counter",
        "Task processes that were killed and replaced, since this driver knows the task.",
        _one(lambda task: task.process_restarts),
    ),
    Family(
        "milo_task_start_seconds",
        "gauge",
        "What each step of the task's start took.",
        lambda task: [((step,), seconds) for step, seconds in task.start_s.items()],
        labels=("step",),
    ),
)
"""What is told of each task."""
