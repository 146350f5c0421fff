"""What InspectTask tells of a task."""

from __future__ import annotations

from typing import Final

import trio

from milo.core.lifecycle import Phase
from milo.core.report import TaskStatus
from milo.errors import ControlError
from milo.host.managed import ManagedTask

FIRST_PATIENCE_S: Final = 1.0
PATIENCE_S: Final = 0.030
"""How long a task process may take to answer, the first time and later: 1 ms on a busy host.
One that is stuck in the kernel, or ends with a hundred others, does not hold up the RPC; what
it said last is told then, and how long ago that was."""


async def inspect_task(task: ManagedTask) -> TaskStatus:
    """Return what is known of ``task``; its process is asked for the streams' counters.

    The attribute ``status_age_seconds`` is there when it did not answer in time.
    """
    attributes = {"state_dir": task.launch.state_dir}
    if task.started is not None:
        attributes["container_id"] = task.started.container_id
        attributes["container_pid"] = str(task.started.container.pid)
    if task.exit is not None:
        streams = {"stdout": task.exit.stdout, "stderr": task.exit.stderr}
        if task.exit.java_oom:
            attributes["java_oom"] = task.exit.java_oom
    elif task.client is not None:
        with trio.move_on_after(FIRST_PATIENCE_S if task.last_status is None else PATIENCE_S):
            try:
                task.last_status = await task.client.status()
                task.last_status_at = trio.current_time()
            except ControlError:
                pass  # it is ending at this moment: the rest still holds
        status, streams = task.last_status, {}
        attributes["phase"] = Phase.RUNNING.value if status is None else status.phase
        if status is not None:
            streams = {"stdout": status.stdout, "stderr": status.stderr}
            age_s = trio.current_time() - task.last_status_at
            if age_s >= PATIENCE_S:
                attributes["status_age_seconds"] = f"{age_s:.3f}"
    else:
        streams = {}
    for name, counters in streams.items():
        attributes[f"{name}.bytes_moved"] = str(counters.bytes_moved)
        attributes[f"{name}.bytes_dropped"] = str(counters.bytes_dropped)
        attributes[f"{name}.stalled_seconds"] = f"{counters.stalled_s:.3f}"
    return task.status(attributes)
