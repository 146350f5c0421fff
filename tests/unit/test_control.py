"""The control protocol's messages and the records on disk."""

from __future__ import annotations

import os
import string

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo.core import control, records
from milo.core.describe import end_for_nomad, exit_message, exit_sentence
from milo.errors import ControlError, NewerVersionError, StateError

text = st.text(max_size=200)
small = st.integers(0, 2**31 - 1)
process = st.builds(records.ProcessId, small, small)
counters = st.builds(records.StreamCounters, small, small, st.floats(0, 1e9))
exits = st.builds(
    records.ExitRecord,
    exit_code=st.integers(-1, 255),
    signal=st.integers(0, 64),
    oom_killed=st.booleans(),
    error=text,
    ended_at_s=st.floats(0, 1e11),
    stdout=counters,
    stderr=counters,
)
requests = st.one_of(
    st.builds(control.Hello, version=small, role=text),
    st.builds(control.GetStatus, seq=small),
    st.builds(control.Stop, seq=small, signal=st.integers(1, 64), timeout_s=st.floats(0, 1e6)),
    st.builds(control.Kill, seq=small, signal=st.integers(1, 64)),
    st.builds(control.GetDescriptors, seq=small),
)
notices = st.one_of(
    st.builds(control.Welcome, version=small, supervisor=process),
    st.builds(control.StartFailed, text=text, recoverable=st.booleans()),
    st.builds(control.Exited, record=exits),
    st.builds(control.Event, text=text, at_s=st.floats(0, 1e11)),
    st.builds(control.Done, seq=small, error=text),
    st.builds(control.Status, seq=small, phase=text, stdout=counters, stderr=counters),
    st.builds(
        control.Started,
        container=process,
        container_id=text,
        cgroup_path=text,
        started_at_s=st.floats(0, 1e11),
    ),
)


@given(requests)
def test_requests_come_back_as_they_were(message: control.Request) -> None:
    """What a client encodes is what the task process decodes."""
    assert control.decode_request(control.encode(message)) == message


@given(notices)
def test_notices_come_back_as_they_were(message: control.Notice) -> None:
    """What a task process encodes is what the driver decodes."""
    assert control.decode_notice(control.encode(message)) == message


@given(st.binary(max_size=300))
def test_garbage_is_a_control_error(packet: bytes) -> None:
    """Bytes that are no message raise ControlError and nothing else."""
    for decode in (control.decode_request, control.decode_notice):
        try:
            decode(packet)
        except ControlError:
            continue


def test_unknown_keys_are_ignored_and_unknown_types_refused() -> None:
    """A newer peer may add keys; a type that this Milo does not know is an error."""
    packet = b'{"type":"status","seq":3,"colour":"red"}'
    assert control.decode_request(packet) == control.GetStatus(seq=3)
    with pytest.raises(ControlError, match="Not a request"):
        control.decode_request(b'{"type":"dance","seq":3}')


def test_a_message_has_a_bound() -> None:
    """A message that is too large is refused by its sender; a text is cut to fit."""
    with pytest.raises(ControlError, match="limit"):
        control.encode(control.Event(text="x" * control.MAX_MESSAGE_BYTES, at_s=0))
    long = "ä" * (control.MAX_TEXT_CHARS + 5)
    assert len(control.cut(long)) == control.MAX_TEXT_CHARS
    control.encode(control.Event(text=control.cut("\x00" * 100_000), at_s=0))


@given(exits)
def test_exit_records_come_back_as_they_were(record: records.ExitRecord) -> None:
    """What is written at the end of a task is what a later driver reads."""
    data = records.encode(record)
    assert records.decode(data, records.ExitRecord, where="exit.json") == record


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "no valid ExitRecord"),
        (b"{", "no valid ExitRecord"),
        (b"[]", "no valid ExitRecord"),
        (b'{"exit_code":"1"}', "exit_code"),
        (b'{"exit_code":0,"version":99}', "version 99"),
        (b'{"exit_code":0,"version":0}', "version 0"),
        (b'\xff{"exit_code":0}', "no valid ExitRecord"),
    ],
)
def test_a_bad_record_is_a_state_error(data: bytes, problem: str) -> None:
    """A record that is damaged or of a newer Milo says what and where."""
    with pytest.raises(StateError, match=problem) as caught:
        records.decode(data, records.ExitRecord, where="/x/exit.json")
    assert caught.value.path == "/x/exit.json"


@pytest.mark.parametrize(
    "packet",
    [
        b'{"type":"status","seq":1,"more":' + b"[" * 60_000,  # deeper than any parser goes
        b'{"type":"stop","seq":1,"signal":-1,"timeout_s":1}',
        b'{"type":"signal","seq":1,"signal":0}',
        b'{"type":"signal","seq":1,"signal":65}',
        b'{"type":"status","seq":' + b"9" * 5_000 + b"}",
    ],
)
def test_what_the_host_could_not_do_is_a_control_error(packet: bytes) -> None:
    """Numbers that no signal, process or JSON parser can have are refused when they are read."""
    with pytest.raises(ControlError, match="Not a request"):
        control.decode_request(packet)


def test_text_that_is_no_utf8_passes() -> None:
    """The name of a file that is no valid UTF-8 does not keep its message from being sent."""
    text = os.fsdecode(b"J\xe4va.jar")
    with pytest.raises(ControlError, match="encoded"):
        control.encode(control.Event(text=text, at_s=0))
    control.encode(control.Event(text=control.cut(text), at_s=0))


def test_a_record_of_a_newer_milo_is_told_from_a_damaged_one() -> None:
    """Its version is looked at before anything else, since the rest may have any shape."""
    with pytest.raises(NewerVersionError, match="at least the Milo that started") as caught:
        records.decode(b'{"version":2,"exit_code":"none"}', records.ExitRecord, where="/x")
    assert (caught.value.version, caught.value.known) == (2, records.RECORD_VERSION)
    assert not caught.value.recoverable


@given(st.text(min_size=1, max_size=400))
def test_short_ids_are_short(task_id: str) -> None:
    """A state directory's name is 16 hexadecimal digits, whatever the task's id."""
    name = records.short_id(task_id)
    assert len(name) == records.SHORT_ID_CHARS and set(name) <= set(string.hexdigits)


@pytest.mark.parametrize(
    ("record", "stopped", "expected"),
    [
        (records.ExitRecord(exit_code=0), False, "Task completed successfully"),
        (records.ExitRecord(exit_code=42), False, "Task failed with exit code 42"),
        (
            records.ExitRecord(exit_code=0, signal=9),
            False,
            "Task was ended unexpectedly by SIGKILL (signal 9)",
        ),
        (
            records.ExitRecord(exit_code=0, signal=15),
            True,
            "Task was ended as asked by SIGTERM (signal 15)",
        ),
        (
            records.ExitRecord(exit_code=143, stop_asked=True, last_stderr_line="bye"),
            False,
            "Task was stopped as asked and ended with exit code 143",
        ),
        (
            records.ExitRecord(exit_code=-1, error="nobody saw it"),
            False,
            "How the task ended is not known: nobody saw it",
        ),
        (
            records.ExitRecord(exit_code=0, signal=6, crash="the JVM crashed: so; its report is r"),
            True,
            "Task was ended as asked by SIGABRT (signal 6); the JVM crashed: so; its report is r",
        ),
        (
            records.ExitRecord(exit_code=0, signal=9, oom_killed=True),
            False,
            "Task was killed by the kernel because it reached its memory limit (OOM)",
        ),
    ],
)
def test_an_end_in_words(record: records.ExitRecord, stopped: bool, expected: str) -> None:
    """Each way to end has its sentence for `nomad alloc status`."""
    assert exit_sentence(record, stopped=stopped) == expected
    assert record.successful == (expected == "Task completed successfully")
    message = exit_message(record, stopped=stopped)
    assert message == "" if record.successful else message.endswith(expected)
    assert message.startswith("OOM Killed: ") is record.oom_killed
    more = "" if stopped or record.stop_asked or record.successful else MORE
    assert end_for_nomad(attrs.evolve(record, task_id="a/b/c"), stopped=stopped) == message + more


MORE = "; more: milo post-mortem " + records.short_id("a/b/c")
