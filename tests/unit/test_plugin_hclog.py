"""Log lines reach the agent as hclog's JSON, and never hold the driver up."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo.plugin import hclog


def _record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    record = logging.LogRecord("milo.x", logging.WARNING, "f.py", 1, message, args, None)
    record.__dict__.update(extra)
    return record


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe's read and write ends."""
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            continue


def test_a_line_has_hclogs_keys_and_the_free_ones() -> None:
    """Level, message, module and an RFC 3339 time with microseconds, beside the record's fields."""
    line = hclog.format_line(_record("task %s", "started", fields={"task_id": "x", "n": 3}))
    assert line.endswith(b"\n")
    entry = json.loads(line)
    stamp = entry.pop("@timestamp")
    assert entry == {
        "@level": "warn",
        "@message": "task started",
        "@module": "milo.x",
        "task_id": "x",
        "n": 3,
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", stamp)
    age = datetime.now(UTC) - datetime.fromisoformat(stamp)
    assert abs(age.total_seconds()) < 10


def test_a_line_that_has_waited_bears_its_own_time() -> None:
    """Of a task process's line that is when the task process has said it."""
    line = hclog.format_line(_record("m", at_s=1700000000.25))
    assert json.loads(line)["@timestamp"] == "2023-11-14T22:13:20.250000Z"


@given(st.text(max_size=20_000), st.dictionaries(st.text(max_size=9), st.text(max_size=3000)))
def test_any_line_is_one_json_object_that_a_pipe_takes_whole(
    message: str, fields: dict[str, str]
) -> None:
    """Whatever is logged, the line has no newline within and at most PIPE_BUF bytes."""
    line = hclog.format_line(_record("%s", message, fields=fields))
    assert len(line) <= 4096
    assert line.count(b"\n") == 1
    assert isinstance(json.loads(line), dict)


def test_a_long_traceback_keeps_its_last_line() -> None:
    """What is too long loses its middle."""
    line = hclog.format_line(_record("begin " + "x" * 10_000 + " ValueError: the reason"))
    message = json.loads(line)["@message"]
    assert message.startswith("begin ") and message.endswith(" ValueError: the reason")


def test_fields_cannot_break_the_line() -> None:
    """A value that JSON does not know is written as its text."""
    entry = json.loads(hclog.format_line(_record("m", fields={"p": {1, 2}})))
    assert entry["p"] == "{1, 2}"


def test_an_agent_that_stops_reading_costs_lines_and_no_time(pipe: tuple[int, int]) -> None:
    """A full pipe drops whole lines, counted, while the descriptor itself stays blocking."""
    reader, writer = pipe
    handler = hclog.HclogHandler(writer)
    for _ in range(2000):
        handler.emit(_record("x" * 200))
    assert handler.dropped > 0
    assert os.get_blocking(writer)
    os.set_blocking(reader, False)
    read = b""
    while True:
        try:
            read += os.read(reader, 65536)
        except BlockingIOError:
            break
    lines = read.splitlines()
    assert len(lines) + handler.dropped == 2000
    assert all(json.loads(line)["@level"] == "warn" for line in lines)


def test_a_broken_stderr_is_ignored(pipe: tuple[int, int]) -> None:
    """After the agent was killed, logging goes on without an error."""
    reader, writer = pipe
    handler = hclog.HclogHandler(writer)
    os.close(reader)
    handler.emit(_record("into the void"))
    assert handler.dropped == 1


def test_a_record_that_cannot_be_formatted_is_dropped(pipe: tuple[int, int]) -> None:
    """A mistake in a log call does no harm."""
    handler = hclog.HclogHandler(pipe[1])
    handler.emit(_record("%d", "not a number"))
    assert handler.dropped == 1


def test_a_line_has_no_control_characters_of_a_tenants() -> None:
    """What a terminal could obey is escaped in the message, the keys' values and a traceback."""
    fields = {"task_id": "b\x9b\u202e", "count": 3}
    line = json.loads(hclog.format_line(_record("task %s", "a\n\x1b[31m", fields=fields)))
    assert line["@message"] == r"task a\n\x1b[31m"
    assert (line["task_id"], line["count"]) == (r"b\x9b\u202e", 3)
    try:
        raise ValueError("c\x1b[2J")
    except ValueError:
        failed = _record("failed", exc_info=sys.exc_info())
    lines = json.loads(hclog.format_line(failed))["@message"].split("\n")
    assert lines[0] == "failed" and lines[-1] == r"ValueError: c\x1b[2J" and len(lines) > 2
