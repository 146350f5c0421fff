"""What is read of RecoverTaskRequest, against what betterproto reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo.plugin.recover_message import RecoverTaskRequest
from milo.wire.hashicorp.nomad.plugins.drivers import proto as drivers


@given(st.text(), st.binary(), st.integers(0, 3), st.dictionaries(st.text(min_size=1), st.text()))
def test_id_and_state_are_those_that_betterproto_reads(
    task_id: str, state: bytes, version: int, env: dict[str, str]
) -> None:
    """Whatever else is in the configuration, and in whatever order."""
    config = drivers.TaskConfig(
        id=task_id,
        name="app",
        env=env,
        stdout_path="/out",
        resources=drivers.Resources(linux_resources=drivers.LinuxResources(cpu_shares=500)),
    )
    handle = drivers.TaskHandle(version=version, config=config, driver_state=state)
    read = RecoverTaskRequest.FromString(bytes(drivers.RecoverTaskRequest("", handle)))
    assert (read.handle.config.id, read.handle.driver_state) == (task_id, state)


def test_a_request_without_a_handle_has_no_state() -> None:
    """The registry then says that it cannot be read."""
    assert RecoverTaskRequest.FromString(b"") == RecoverTaskRequest()


@pytest.mark.parametrize("data", [b"\x10\x01", b"\x12\x02\x20\x01"])
def test_a_number_in_place_of_a_message_is_none(data: bytes) -> None:
    """As every decoder takes a field of another type for one that it does not know."""
    assert RecoverTaskRequest.FromString(data) == RecoverTaskRequest()


def test_bytes_that_end_too_early_are_refused() -> None:
    """The agent is told so, and no task is touched."""
    with pytest.raises(EOFError):
        RecoverTaskRequest.FromString(b"\xff")
