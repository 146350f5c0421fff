"""What is read of StartTaskRequest and what answers it, against what betterproto makes of both."""

from __future__ import annotations

import struct
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo.plugin.start_message import StartTaskRequest, TaskConfig, encode_response
from milo.plugin.wire_format import each_field, message, varint
from milo.wire.hashicorp.nomad.plugins.drivers import proto as drivers

MODES = [
    drivers.NetworkIsolationSpecNetworkIsolationMode.from_string(name)
    for name in ("HOST", "GROUP", "TASK", "NONE")
]
int64 = st.integers(-(2**63), 2**63 - 1)
texts = st.lists(st.text(), max_size=3)
maps = st.dictionaries(st.text(), st.text(), max_size=5)
resources = st.builds(
    drivers.Resources,
    allocated_resources=st.builds(
        drivers.AllocatedTaskResources,
        cpu=st.builds(drivers.AllocatedCpuResources, cpu_shares=int64),
        memory=st.builds(drivers.AllocatedMemoryResources, memory_mb=int64, memory_max_mb=int64),
        networks=st.lists(st.builds(drivers.NetworkResource, ip=st.text()), max_size=2),
    ),
    linux_resources=st.builds(
        drivers.LinuxResources,
        cpu_quota=int64,
        cpu_shares=int64,
        memory_limit_bytes=int64,
        oom_score_adj=int64,
        cpuset_cpus=st.text(),
        percent_ticks=st.floats(allow_nan=False),
        cpuset_cgroup=st.text(),
    ),
    ports=st.lists(st.builds(drivers.PortMapping, label=st.text()), max_size=2),
)
tasks = st.builds(
    drivers.TaskConfig,
    id=st.text(),
    name=st.text(),
    msgpack_driver_config=st.binary(),
    env=maps,
    device_env=maps,
    resources=resources,
    mounts=st.lists(
        st.builds(drivers.Mount, st.text(), st.text(), st.booleans(), st.text()), max_size=3
    ),
    devices=st.lists(st.builds(drivers.Device, st.text(), st.text(), st.text()), max_size=3),
    user=st.text(),
    alloc_dir=st.text(),
    stdout_path=st.text(),
    stderr_path=st.text(),
    task_group_name=st.text(),
    job_name=st.text(),
    alloc_id=st.text(),
    network_isolation_spec=st.builds(
        drivers.NetworkIsolationSpec,
        mode=st.sampled_from(MODES),
        path=st.text(),
        labels=maps,
        hosts_config=st.builds(drivers.HostsConfig, st.text(), st.text()),
    ),
    dns=st.builds(drivers.DnsConfig, texts, texts, texts),
    job_id=st.text(),
    namespace=st.text(),
    node_name=st.text(),
    node_id=st.text(),
    parent_job_id=st.text(),
)


def differences(read: Any, known: Any, place: str = "") -> list[str]:
    """Return where ``read``, an object of this module's, is not as betterproto's ``known``."""
    found = []
    for field in attrs.fields(type(read)):
        name, ours, theirs = f"{place}.{field.name}", getattr(read, field.name), None
        theirs = getattr(known, field.name)
        if attrs.has(type(ours)):
            found += differences(ours, theirs, name)
        elif isinstance(ours, tuple) and ours and attrs.has(type(ours[0])):
            found += [] if len(ours) == len(theirs) else [name]
            for one, other in zip(ours, theirs, strict=False):
                found += differences(one, other, name)
        elif isinstance(ours, tuple):
            found += [] if list(ours) == list(theirs) else [name]
        elif ours != theirs:
            found.append(name)
    return found


@given(tasks)
def test_a_task_is_what_betterproto_reads(task: drivers.TaskConfig) -> None:
    """In every field that is read, whatever the others hold."""
    data = bytes(drivers.StartTaskRequest(task=task))
    request = StartTaskRequest.FromString(data)
    assert not differences(request.task, drivers.StartTaskRequest().parse(data).task)


@given(tasks, st.binary())
def test_the_answer_is_what_betterproto_writes(task: drivers.TaskConfig, state: bytes) -> None:
    """Success, and a handle with the version, the task, its state and the driver's own."""
    request = StartTaskRequest.FromString(bytes(drivers.StartTaskRequest(task=task)))
    answer = drivers.StartTaskResponse().parse(encode_response(request.task_data, state))
    expected = drivers.StartTaskResponse(
        result=drivers.StartTaskResponseResult.from_string("SUCCESS"),
        handle=drivers.TaskHandle(
            version=1,
            config=task,
            state=drivers.TaskState.from_string("RUNNING"),
            driver_state=state,
        ),
    )
    assert answer == drivers.StartTaskResponse().parse(bytes(expected))


def test_handle_holds_the_task_unchanged() -> None:
    """Recovery gets back what StartTask was given, even fields this version does not know."""
    # Field 30, varint 7: something of a later Nomad.
    later = bytes(drivers.TaskConfig(id="x")) + b"\xf0\x01\x07"
    request = StartTaskRequest.FromString(message(1, later))
    assert request.task.id == "x"
    answer = drivers.StartTaskResponse().parse(encode_response(request.task_data, b"state"))
    assert bytes(answer.handle.config) == later
    assert (answer.handle.version, answer.handle.state) == (1, 1)
    assert answer.handle.driver_state == b"state"


def test_a_request_without_a_task_is_an_empty_one() -> None:
    """The registry then says what is wrong with it."""
    assert StartTaskRequest.FromString(b"").task == TaskConfig()


def test_a_mode_that_is_not_known_is_kept_as_a_number() -> None:
    """What Milo does not offer is refused by its number, and never taken for the host's network."""
    data = message(16, b"\x08\x63")
    assert TaskConfig.decode(data).network_isolation_spec.mode == 99


def test_fields_of_another_kind_are_not_known() -> None:
    """As every decoder takes them: a number where a text is meant, four bytes, eight bytes."""
    data = b"\x08\x01" + b"\x15abcd" + b"\x49abcdefgh" + message(10, b"/a")
    assert TaskConfig.decode(data) == TaskConfig(alloc_dir="/a")
    entry = message(4, message(1, b"A") + b"\x10\x01" + message(2, b"b"))
    assert TaskConfig.decode(entry).env == {"A": "b"}


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\xff", EOFError),
        (b"\x0a", EOFError),
        (b"\x0a\x05abcd", EOFError),
        (b"\x41" + bytes(7), EOFError),
        (b"\x0d" + bytes(3), EOFError),
        (b"\x08" + b"\xff" * 10, ValueError),
        (b"\x0b", EOFError),
        (b"\x0c", ValueError),
        (b"\x0a\x01\xff", UnicodeDecodeError),
    ],
)
def test_bytes_that_are_no_message_are_refused(data: bytes, error: type[Exception]) -> None:
    """The agent is told so, and nothing is started."""
    with pytest.raises(error):
        TaskConfig.decode(data)


@given(st.integers(0, 2**64 - 1), st.binary(), st.floats(allow_nan=False))
def test_fields_are_what_was_written(value: int, data: bytes, real: float) -> None:
    """Numbers of any length, bytes, and eight bytes."""
    written = b"\x08" + varint(value) + message(2, data) + b"\x19" + struct.pack("<d", real)
    packed = struct.pack("<d", real)
    assert list(each_field(written)) == [(0x08, value), (0x12, data), (0x19, packed)]
