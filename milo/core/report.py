"""What the driver reports about tasks and about itself: plain values, no I/O.

`milo.host` fills them, and `milo.plugin.convert` turns them into Nomad's messages. Texts for
people may contain a tenant's words and are made `printable` here.
"""

from __future__ import annotations

import enum

import attrs

from milo.core.text import printable


@attrs.frozen
class ExitResult:
    """How a task ended."""

    exit_code: int = 0
    signal: int = 0
    """The signal's number; 0 when the task was not ended by one."""
    oom_killed: bool = False
    error: str = attrs.field(default="", converter=printable)
    """Not empty: the outcome is not known, and this says why. Never a success then."""
    message: str = attrs.field(default="", eq=False, converter=printable)
    """Not empty: this was no success, and why, for people. Nomad shows it as the exit message."""


@attrs.frozen
class TaskEvent:
    """A line for the task's event list (``nomad alloc status`` keeps the last ten)."""

    task_id: str
    alloc_id: str
    task_name: str
    message: str = attrs.field(converter=printable)
    timestamp_s: float
    """Unix time."""
    annotations: dict[str, str] = attrs.field(factory=dict)


class TaskState(enum.Enum):
    """What is known of a task."""

    RUNNING = "running"
    EXITED = "exited"


@attrs.frozen
class TaskStatus:
    """The answer to InspectTask."""

    task_id: str
    name: str
    state: TaskState
    started_at_s: float | None
    """Unix time; None when it is not known."""
    completed_at_s: float | None = None
    result: ExitResult | None = None
    attributes: dict[str, str] = attrs.field(factory=dict)


@attrs.frozen
class CpuUsage:
    """CPU use since the last sample, in the units of Nomad's CpuStats."""

    system_percent: float = 0.0
    user_percent: float = 0.0
    percent: float = 0.0
    """Of one core: two busy cores are 200."""
    total_ticks: float = 0.0
    """MHz."""
    throttled_periods: int = 0
    throttled_time_ns: int = 0
    measured: tuple[str, ...] = ()
    """Nomad's names of what was sampled: ``System Mode``, ``User Mode``, ``Total Ticks``,
    ``Throttled Periods``, ``Throttled Time``, ``Percent``."""


@attrs.frozen
class MemoryUsage:
    """Memory use in bytes."""

    rss: int = 0
    cache: int = 0
    swap: int = 0
    usage: int = 0
    max_usage: int = 0
    kernel_usage: int = 0
    kernel_max_usage: int = 0
    measured: tuple[str, ...] = ()
    """Nomad's names of what was sampled: ``RSS``, ``Cache``, ``Swap``, ``Usage``,
    ``Max Usage``, ``Kernel Usage``, ``Kernel Max Usage``."""


@attrs.frozen
class TaskUsage:
    """One sample of a task's resource use."""

    task_id: str
    timestamp_s: float
    """Unix time."""
    cpu: CpuUsage = attrs.field(factory=CpuUsage)
    memory: MemoryUsage = attrs.field(factory=MemoryUsage)


@attrs.frozen
class Fingerprint:
    """The driver's health and the node attributes that it adds."""

    health: str
    """``healthy``, ``unhealthy`` or ``undetected``."""
    description: str = ""
    attributes: dict[str, str | bool | int | float] = attrs.field(factory=dict)
