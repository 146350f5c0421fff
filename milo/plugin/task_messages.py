"""Decodes the requests that an agent makes for each of its tasks at once, or again and again.

betterproto takes ten times as long. The numbers of the fields are those in protos/.
"""

from __future__ import annotations

from datetime import timedelta

import attrs

from milo.plugin.wire_format import bytes_of, fields, number_of


@attrs.frozen
class TaskRequest:
    """What is read of a WaitTaskRequest or an InspectTaskRequest."""

    task_id: str = ""

    @classmethod
    def FromString(cls, data: bytes) -> TaskRequest:  # noqa: N802 - grpclib calls it
        """Return the request that ``data`` is; raises what `fields` does when it is none."""
        return cls(bytes_of(fields(data), 1).decode())


@attrs.frozen
class TaskStatsRequest:
    """The request of the same name."""

    task_id: str = ""
    collection_interval: timedelta = timedelta()

    @classmethod
    def FromString(cls, data: bytes) -> TaskStatsRequest:  # noqa: N802 - grpclib calls it
        """Return the request that ``data`` is; raises what `fields` does when it is none."""
        found = fields(data)
        return cls(bytes_of(found, 1).decode(), _duration(bytes_of(found, 2)))


@attrs.frozen
class StopTaskRequest:
    """The request of the same name."""

    task_id: str = ""
    timeout: timedelta = timedelta()
    signal: str = ""

    @classmethod
    def FromString(cls, data: bytes) -> StopTaskRequest:  # noqa: N802 - grpclib calls it
        """Return the request that ``data`` is; raises what `fields` does when it is none."""
        found = fields(data)
        task_id, signal = bytes_of(found, 1).decode(), bytes_of(found, 3).decode()
        return cls(task_id, _duration(bytes_of(found, 2)), signal)


@attrs.frozen
class DestroyTaskRequest:
    """The request of the same name."""

    task_id: str = ""
    force: bool = False

    @classmethod
    def FromString(cls, data: bytes) -> DestroyTaskRequest:  # noqa: N802 - grpclib calls it
        """Return the request that ``data`` is; raises what `fields` does when it is none."""
        found = fields(data)
        return cls(bytes_of(found, 1).decode(), bool(number_of(found, 2)))


def _duration(data: bytes) -> timedelta:
    """Return a google.protobuf.Duration, in whole microseconds."""
    found = fields(data)
    return timedelta(seconds=number_of(found, 1), microseconds=number_of(found, 2) / 1e3)
