"""The processes around a task, found from outside by what /proc shows of them."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec

from milo.core import control, records
from milo.proc import start_ticks
from tests.support.agent import Agent

STREAMS = ("stdout", "stderr")
ANSWER_S = 5.0


def _processes() -> Iterator[tuple[int, str, bytes]]:
    """Yield pid, name and command line of every process."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                directory = Path("/proc", name)
                words = (directory / "cmdline").read_bytes()
                if words:
                    yield int(name), (directory / "comm").read_text().strip(), words


def plugins(agent: Agent) -> list[int]:
    """Return the plugin processes of this agent: one, or more while the agent starts."""
    path = os.fsencode(agent.plugin_dir / "milo")
    return [pid for pid, name, words in _processes() if name == "milo" and path in words]


def spawners(plugin: int) -> list[int]:
    """Return the spawners that a plugin process has as its children."""
    return [
        pid
        for pid, name, _ in _processes()
        if name == "milo-spawner" and start_ticks(pid) is not None and parent(pid) == plugin
    ]


def parent(pid: int) -> int:
    """Return the parent of a process, 0 when the process is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def open_files(pid: int) -> set[str]:
    """Return what the descriptors of a process lead to, as its links in /proc say."""
    found = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def logmons(fifo: Path) -> list[int]:
    """Return the log collectors that have this FIFO open."""
    return [
        pid
        for pid, _, words in _processes()
        if b"\0logmon\0" in words and str(fifo) in open_files(pid)
    ]


def task_records(agent: Agent, alloc: str) -> list[records.TaskRecord]:
    """Return what the state directory says of an allocation's task; mostly one record."""
    found = []
    for path in agent.state_dir.glob(f"*/{records.TASK_FILE}"):
        with contextlib.suppress(OSError, msgspec.DecodeError):
            record = msgspec.json.decode(path.read_bytes(), type=records.TaskRecord)
            if record.alloc_id == alloc:
                found.append(record)
    return found


def answers(agent: Agent, record: records.TaskRecord) -> bool:
    """Whether the record's task process answers on its control socket as who it says it is."""
    directory = agent.state_dir / records.short_id(record.task_id)
    hello = control.Hello(version=control.PROTOCOL_VERSION, role=control.ROLE_OBSERVER)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(ANSWER_S)
        try:
            sock.connect(str(directory / records.CONTROL_SOCKET))
            sock.send(control.encode(hello))
            welcome = control.decode_notice(sock.recv(control.MAX_MESSAGE_BYTES))
        except OSError:
            return False
    return isinstance(welcome, control.Welcome) and welcome.supervisor == record.supervisor
