"""What is read of the requests about one task, against what betterproto reads."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo.plugin import task_messages, wire_format
from milo.plugin.driver_service import DriverService
from milo.wire.hashicorp.nomad.plugins.drivers import proto as drivers

DURATIONS = st.timedeltas(timedelta(), timedelta(days=10_000))
REQUESTS = (
    st.builds(drivers.WaitTaskRequest, st.text())
    | st.builds(drivers.InspectTaskRequest, st.text())
    | st.builds(drivers.TaskStatsRequest, st.text(), DURATIONS)
    | st.builds(drivers.StopTaskRequest, st.text(), DURATIONS, st.text())
    | st.builds(drivers.DestroyTaskRequest, st.text(), st.booleans())
)
OTHERS = st.sampled_from(
    [
        *(b"", b"\x08\x07", b"\x50\x01", b"\x59" + bytes(8), b"\x5d" + bytes(4), b"\x0a\x03old"),
        b"\x7b\x0a\x01x\x08\x01\x59" + bytes(8) + b"\x0b\x0c\x7c",
    ]
)
"""Fields of another kind or number, one that another one follows, and a group within a group."""


@given(REQUESTS, OTHERS)
def test_a_request_is_what_betterproto_reads(
    request: (
        drivers.WaitTaskRequest
        | drivers.InspectTaskRequest
        | drivers.TaskStatsRequest
        | drivers.StopTaskRequest
        | drivers.DestroyTaskRequest
    ),
    before: bytes,
) -> None:
    """Whatever a newer agent adds to it. An empty field is left out on the wire."""
    if not request.task_id and before.startswith(b"\x0a"):
        before = b""
    kind: Any = DriverService.request_types[type(request).__name__.removesuffix("Request")]
    read = kind.FromString(before + bytes(request))
    told = {name: getattr(request, name) for name in attrs.fields_dict(kind)}
    assert attrs.asdict(read) == told


def test_numbers_may_be_negative() -> None:
    """A negative one is the complement of two in 64 bits."""
    found = wire_format.fields(wire_format.number(3, -5))
    assert (wire_format.number_of(found, 3), wire_format.number_of(found, 4)) == (-5, 0)


@pytest.mark.parametrize(
    "data", [b"\xff", b"\x0a\x05abc", b"\x0a", b"\x08\x80", b"\x59\x00", b"\x0b"]
)
def test_a_message_that_ends_too_early_is_refused(data: bytes) -> None:
    """Half an id would be that of another task."""
    with pytest.raises(EOFError):
        task_messages.TaskRequest.FromString(data)


@pytest.mark.parametrize("data", [b"\x0c", b"\x0f", b"\x0b\x14", b"\x08" + b"\xff" * 10 + b"\x01"])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    """Also a group that another one's end ends."""
    with pytest.raises(ValueError, match=r"kind|64 bits|group"):
        task_messages.TaskRequest.FromString(data)
