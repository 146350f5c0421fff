"""Encodes InspectTaskResponse directly to bytes.

This message has more fields than any other answer. betterproto takes longer to build and encode it
than all else of such a call takes. A test compares the two.
"""

from __future__ import annotations

from typing import Final

from milo.core.report import ExitResult, TaskState, TaskStatus
from milo.plugin.convert import exit_code
from milo.plugin.wire_format import message, number, text, timestamp

_STATES: Final = {TaskState.RUNNING: 1, TaskState.EXITED: 2}

# Go's zero time, year 1, for a time that is not known or has not come: Nomad refuses a status
# without one ("nil Timestamp").
_ZERO_TIME_S: Final = -62_135_596_800


def encode(status: TaskStatus) -> bytes:
    """Return the answer to InspectTask."""
    task = (
        text(1, status.task_id)
        + text(2, status.name)
        + number(3, _STATES[status.state])
        + message(4, _timestamp(status.started_at_s))
        + message(5, _timestamp(status.completed_at_s))
        + message(6, _exit_result(status.result or ExitResult()))
    )
    attributes = (
        message(1, message(1, name.encode()) + message(2, value.encode()))
        for name, value in status.attributes.items()
    )
    return message(1, task) + message(2, b"".join(attributes))


def _timestamp(unix_s: float | None) -> bytes:
    return timestamp(unix_s or _ZERO_TIME_S)


def _exit_result(result: ExitResult) -> bytes:
    return (
        number(1, exit_code(result)) + number(2, result.signal) + number(3, int(result.oom_killed))
    )
