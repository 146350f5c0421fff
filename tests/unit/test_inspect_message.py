"""InspectTaskResponse written directly, against betterproto's own encoding of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import betterproto
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo.core.report import ExitResult, TaskState, TaskStatus
from milo.plugin import inspect_message
from milo.wire.hashicorp.nomad.plugins.drivers import proto as drivers

times_s = st.none() | st.integers(0, 2**31 * 1_000_000).map(
    lambda microseconds: microseconds / 1_000_000
)
codes = st.integers(-(2**31), 2**31 - 1)
results = st.builds(
    ExitResult, exit_code=codes, signal=st.integers(0, 64), oom_killed=st.booleans()
)
statuses = st.builds(
    TaskStatus,
    task_id=st.text(),
    name=st.text(),
    state=st.sampled_from(TaskState),
    started_at_s=times_s,
    completed_at_s=times_s,
    result=st.none() | results,
    attributes=st.dictionaries(st.text(min_size=1), st.text()),
)


def by_betterproto(status: TaskStatus) -> drivers.InspectTaskResponse:
    """Return the message that a status is, field by field."""
    result = status.result or ExitResult()
    return drivers.InspectTaskResponse(
        task=drivers.TaskStatus(
            id=status.task_id,
            name=status.name,
            state=drivers.TaskState.from_string(status.state.name),
            started_at=_time(status.started_at_s),
            completed_at=_time(status.completed_at_s),
            result=drivers.ExitResult(
                128 + result.signal if result.signal else result.exit_code,
                result.signal,
                result.oom_killed,
            ),
        ),
        driver=drivers.TaskDriverStatus(attributes=dict(status.attributes)),
    )


def _time(unix_s: float | None) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC) if unix_s else datetime(1, 1, 1, tzinfo=UTC)


def parsed(status: TaskStatus) -> drivers.InspectTaskResponse:
    """Return what a client reads of it."""
    return drivers.InspectTaskResponse().parse(inspect_message.encode(status))


@given(statuses)
def test_it_is_the_message_that_betterproto_writes(status: TaskStatus) -> None:
    """It decodes to the message that betterproto's own encoder makes, to the microsecond."""
    message = by_betterproto(status)
    assert parsed(status) == drivers.InspectTaskResponse().parse(bytes(message))
    assert parsed(status).to_dict() == message.to_dict()


def test_status_of_a_running_task_still_has_a_completion_time() -> None:
    """Nomad refuses a status without one, so it gets Go's zero time, year 1."""
    task = parsed(TaskStatus("x", "app", TaskState.RUNNING, 1.25)).task
    assert task.started_at == datetime(1970, 1, 1, 0, 0, 1, 250_000, UTC)
    assert task.completed_at == datetime(1, 1, 1, tzinfo=UTC)
    assert task.state == drivers.TaskState.RUNNING


def test_status_of_an_ended_task() -> None:
    """Result, times and attributes are all there."""
    answer = parsed(
        TaskStatus("x", "app", TaskState.EXITED, 1.0, 2.0, ExitResult(42), {"k": "v", "e": ""})
    )
    assert (answer.task.state, answer.task.result.exit_code) == (drivers.TaskState.EXITED, 42)
    assert answer.task.completed_at == datetime(1970, 1, 1, 0, 0, 2, tzinfo=UTC)
    assert answer.driver.attributes == {"k": "v", "e": ""}


def test_an_unknown_exit_code_stays_negative() -> None:
    """It is -1, which the wire has as ten bytes."""
    ended = TaskStatus("x", "app", TaskState.EXITED, 1.0, 2.0, ExitResult(exit_code=-1))
    assert parsed(ended).task.result.exit_code == -1


NOTHING = TaskStatus("x", "app", TaskState.RUNNING, None)
EPOCH = TaskStatus("x", "app", TaskState.EXITED, 0.0, 0.0, ExitResult(exit_code=0))


@pytest.mark.parametrize("status", [NOTHING, EPOCH])
@pytest.mark.parametrize(
    "needed", ["task.started_at", "task.completed_at", "task.result", "driver"]
)
def test_no_part_vanishes_because_it_is_empty(status: TaskStatus, needed: str) -> None:
    """Nomad's client takes a missing time for an error, and falls over a missing result."""
    data, kind = inspect_message.encode(status), cast(Any, drivers.InspectTaskResponse)
    for name in needed.split("."):
        number = kind._betterproto.meta_by_field_name[name].number
        found = [field for field in betterproto.parse_fields(data) if field.number == number]
        assert found, f"{name} is not on the wire"
        data, kind = found[0].value, kind._betterproto.cls_by_field.get(name)
