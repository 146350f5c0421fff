"""Decodes RecoverTaskRequest, but of it no more than the driver needs.

An agent that begins asks to recover all its tasks at once, and gives the whole configuration of
each back. betterproto takes longer to decode that than all else of such a call takes.

The numbers of the fields are those in protos/.
"""

from __future__ import annotations

import attrs

from milo.plugin.wire_format import bytes_of, fields


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
        """Return the request that ``data`` is; raises what `fields` does when it is none."""
        handle = fields(bytes_of(fields(data), 2))
        config = fields(bytes_of(handle, 2))
        return cls(Handle(Config(bytes_of(config, 1).decode()), bytes_of(handle, 4)))
