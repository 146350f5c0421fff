"""Decodes RecoverTaskRequest, but of it no more than the driver needs.

An agent that begins asks to recover all its tasks at once, and gives the whole configuration of
each back. betterproto takes longer to decode that than all else of such a call takes.

The numbers of the fields are those in protos/.
"""

from __future__ import annotations

import attrs
from betterproto import parse_fields


@attrs.frozen
class Config:
    """What is read of a TaskConfig."""

    id: str = ""


@attrs.frozen
class Handle:
    """What is read of a TaskHandle."""

    config: Config = Config()
    driver_state: bytes = b""


@attrs.frozen
class RecoverTaskRequest:
    """What is read of the request; its own task_id is always empty."""

    handle: Handle = Handle()

    @classmethod
    def FromString(cls, data: bytes) -> RecoverTaskRequest:  # noqa: N802 - grpclib calls it
        """Return the request that ``data`` is; raises what betterproto does when it is none."""
        handle = _last(data, 2)
        return cls(Handle(Config(_last(_last(handle, 2), 1).decode()), _last(handle, 4)))


def _last(message: bytes, number: int) -> bytes:
    """Return a field of bytes; of several the last one counts, and none is an empty one."""
    found = b""
    for field in parse_fields(message):
        if field.number == number and isinstance(field.value, bytes):
            found = field.value
    return found
