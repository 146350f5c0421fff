"""What InspectTask tells of a task."""

from __future__ import annotations

from milo.core.report import TaskStatus
from milo.errors import ControlError
from milo.host.managed import ManagedTask


async def inspect_task(task: ManagedTask) -> TaskStatus:
    """Return what is known of ``task``; its process is asked for the streams' counters."""
    attributes = {"state_dir": task.launch.state_dir}
    if task.started is not None:
        attributes["container_id"] = task.started.container_id
        attributes["container_pid"] = str(task.started.container.pid)
    if task.exit is not None:
        streams = {"stdout": task.exit.stdout, "stderr": task.exit.stderr}
    elif task.client is not None:
        try:
            status = await task.client.status()
        except ControlError:
            # It is ending at this moment, or stopped by a debugger: the rest still holds.
            return task.status(attributes)
        attributes["phase"] = status.phase
        streams = {"stdout": status.stdout, "stderr": status.stderr}
    else:
        streams = {}
    for name, counters in streams.items():
        attributes[f"{name}.bytes_moved"] = str(counters.bytes_moved)
        attributes[f"{name}.bytes_dropped"] = str(counters.bytes_dropped)
        attributes[f"{name}.stalled_seconds"] = f"{counters.stalled_s:.3f}"
    return task.status(attributes)
