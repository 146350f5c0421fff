"""The records on disk and the handle, whatever is in them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milo.core import launch, records
from milo.core.config.plugin_options import PluginOptions
from milo.core.records import ExitRecord, Handle, ProcessId, StreamCounters, TaskRecord
from milo.errors import NewerVersionError, StateError
from tests.support.launches import make_launch

KINDS: list[type[Any]] = [Handle, TaskRecord, ExitRecord, launch.Launch]

text = st.text(max_size=40)
int32 = st.integers(0, 2**31 - 1)
int64 = st.integers(0, 2**63 - 1)
seconds = st.floats(0, 1e11)
processes = st.builds(ProcessId, int32, int64)
streams = st.builds(StreamCounters, int64, int64, seconds)
texts = st.lists(text, max_size=3).map(tuple)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), text),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)),
    max_leaves=5,
)
handles = st.builds(Handle, text, text, processes, st.none() | processes, text, seconds)
tasks = st.builds(
    TaskRecord,
    task_id=text,
    task_name=text,
    alloc_id=text,
    alloc_dir=text,
    supervisor=processes,
    container=st.none() | processes,
    container_id=text,
    cgroup_path=text,
    started_at_s=seconds,
    pipes=st.dictionaries(text, int64, max_size=2),
    ended=st.none() | st.builds(records.SeenEnd, int32, int32, seconds),
)
exits = st.builds(
    ExitRecord,
    exit_code=st.integers(-1, 255),
    signal=st.integers(0, 64),
    oom_killed=st.booleans(),
    error=text,
    ended_at_s=seconds,
    task_id=text,
    stdout=streams,
    stderr=streams,
    names=st.builds(records.TaskNames, *[text] * 5),
)
launches = st.builds(
    launch.Launch,
    plugin=st.builds(PluginOptions, java_home=text, allow_root=st.booleans()),
    task_id=text,
    task_name=text,
    alloc_id=text,
    alloc_dir=text,
    stdout_path=text,
    stderr_path=text,
    state_dir=text,
    crun_path=text,
    javas=st.lists(st.builds(launch.JavaRuntime, text, text, int32, text, texts), max_size=2).map(
        tuple
    ),
    config=st.dictionaries(text, values, max_size=3),
    env=st.dictionaries(text, text, max_size=3),
    user=text,
    resources=st.builds(launch.Resources, *[int64] * 3, st.floats(0, 1), text, int32),
    mounts=st.lists(st.builds(launch.Mount, text, text, st.booleans()), max_size=2).map(tuple),
    network=st.builds(launch.Network, text, text, text, text, texts, texts, texts),
)

LAUNCH = make_launch()


@settings(max_examples=100)
@given(st.one_of(handles, tasks, exits, launches))
def test_records_come_back_as_they_were(record: Any) -> None:
    """What one process writes is what the next one reads."""
    data = records.encode(record)
    assert records.decode(data, type(record), where="/x") == record


@settings(max_examples=100)
@given(st.one_of(handles, tasks, exits, launches), text, values)
def test_unknown_keys_are_ignored(record: Any, key: str, value: Any) -> None:
    """A later Milo of the same version may write more."""
    fields = json.loads(records.encode(record))
    fields.setdefault(key, value)
    assert records.decode(json.dumps(fields).encode(), type(record), where="/x") == record


@settings(max_examples=200)
@given(st.one_of(handles, tasks, exits, launches), st.data())
def test_a_damaged_record_is_a_state_error(record: Any, data: st.DataObject) -> None:
    """A record with any of its values replaced, or cut anywhere, is read or refused."""
    fields = json.loads(records.encode(record))
    if data.draw(st.booleans()):
        fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(values)
        damaged = json.dumps(fields).encode()
    else:
        whole = records.encode(record)
        damaged = whole[: data.draw(st.integers(0, len(whole)))]
    try:
        assert isinstance(records.decode(damaged, type(record), where="/x"), type(record))
    except StateError as error:
        assert error.path == "/x" and str(error)


@given(st.sampled_from(KINDS), st.binary(max_size=200))
def test_garbage_is_a_state_error(kind: type[Any], data: bytes) -> None:
    """Bytes that are no record raise StateError and nothing else."""
    with pytest.raises(StateError):
        records.decode(data, kind, where="/x")


@given(
    st.sampled_from(KINDS),
    st.integers(records.RECORD_VERSION + 1, 2**31 - 1),
    st.dictionaries(text, values),
)
def test_a_newer_record_is_left_to_a_newer_milo(
    kind: type[Any], version: int, rest: dict[str, Any]
) -> None:
    """Whatever else it says, since nothing of it is known."""
    data = json.dumps({**rest, "version": version}).encode()
    with pytest.raises(NewerVersionError) as caught:
        records.decode(data, kind, where="/x")
    assert caught.value.version == version


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_record_deeper_than_any_parser_goes(kind: type[Any]) -> None:
    """Nesting does not end the process."""
    with pytest.raises(StateError):
        records.decode(b'{"config":' + b"[" * 100_000, kind, where="/x")


def test_the_plugins_configuration_in_an_older_record_is_read() -> None:
    """Keys that are gone are ignored, and those that came later have their defaults."""
    fields = json.loads(records.encode(LAUNCH))
    fields["plugin"] = {
        "allow_root": True,
        "volumes_enabled": True,
        "volume_paths": ["/srv"],
        "allow_caps": ["all"],
    }
    found = records.decode(json.dumps(fields).encode(), launch.Launch, where="/x")
    assert found.plugin == PluginOptions(allow_root=True, allow_caps=("all",))
