"""How a task has ended, also where nobody has seen that."""

from __future__ import annotations

import contextlib
from typing import Final

from milo.core.records import ExitRecord, TaskNames
from milo.errors import MiloError
from milo.host.tasks import HostTask
from milo.task.java.jvm import files_of
from milo.task.preparer import Prepared, read_prepared

UNSEEN: Final = "its task process has ended before it, so nobody has seen its exit code"


def end_of(task: HostTask) -> ExitRecord | None:
    """Return how a task has ended; None for one that has not.

    Of a lost one, whose task process was killed as well, its directory tells what there was.
    """
    if task.exit is not None or task.state != "lost" or task.record is None:
        return task.exit
    seen, launch, prepared = task.record.ended, task.launch, prepared_of(task)
    return ExitRecord(
        exit_code=-1 if seen is None else seen.exit_code,
        signal=0 if seen is None else seen.signal,
        error=UNSEEN if seen is None else "",
        ended_at_s=0.0 if seen is None else seen.at_s,
        started_at_s=task.started_at_s,
        task_id=task.record.task_id,
        alloc_dir=task.alloc_dir,
        recording=prepared.jvm.recording if prepared is not None else "",
        files=files_of(launch) if launch is not None else "",
        names=launch.names if launch is not None else TaskNames(),
    )


def prepared_of(task: HostTask) -> Prepared | None:
    """Return what was decided of a task before its start; None where that cannot be known."""
    with contextlib.suppress(MiloError):  # another Milo's record
        return read_prepared(task.state_dir)
    return None
