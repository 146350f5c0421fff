"""Measures a container without a cgroup of its own, as an ordinary user's is: by its processes."""

from __future__ import annotations

import resource
import time

from milo import proc
from milo.host.stats.sampling import NS_PER_TICK, Sample
from milo.namespaces import pid_namespace_members


class ProcessMeter:
    """Adds up the processes in the PID namespace of ``pid``.

    What has ended counts with its parent's time; memory that is shared counts more than once.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def sample(self) -> Sample:
        """Read the counters."""
        taken_ns = time.monotonic_ns()
        figures = [proc.times_and_memory(pid) for pid in pid_namespace_members(self._pid)] or [
            (0, 0, 0)
        ]
        user, system, pages = (sum(column) for column in zip(*figures, strict=True))
        memory = pages * resource.getpagesize()
        return Sample(
            taken_ns,
            cpu_ns=(user + system) * NS_PER_TICK,
            user_ns=user * NS_PER_TICK,
            system_ns=system * NS_PER_TICK,
            memory={"rss": memory, "usage": memory},
        )

    def close(self) -> None:
        """As a `milo.host.stats.sampling.Meter`; there is nothing to let go."""
