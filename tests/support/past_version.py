"""A task of an earlier version: its recorded files, and a task process that replays it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import attrs
import trio

from milo.core import control, records
from milo.core.records import ProcessId
from milo.proc import start_ticks

DATA = Path(__file__).parents[1] / "data"
VERSIONS = sorted(DATA.glob("v[0-9]*"), key=lambda path: int(path.name[1:]))


DONE = {"message": {"type": "done", "seq": 0}, "descriptors": 0}
"""The answer to a request that no earlier version has known."""


def sleeper() -> subprocess.Popen[bytes]:
    """Start a process that stands for a container's."""
    return subprocess.Popen(["/bin/sleep", "1000"], stdin=subprocess.DEVNULL)


def identity(pid: int) -> ProcessId:
    """Return the identity of a running process."""
    ticks = start_ticks(pid)
    assert ticks is not None
    return ProcessId(pid, ticks)


@attrs.define
class PastTask:
    """What a task of the version in ``source`` left below ``root``."""

    source: Path
    root: Path
    supervisor: ProcessId
    container: ProcessId

    @property
    def handle(self) -> bytes:
        return json.dumps(self.read("handle.json")).encode()

    @property
    def task_id(self) -> str:
        return str(self.read("handle.json")["task_id"])

    @property
    def state_dir(self) -> Path:
        return Path(self.read("handle.json")["state_dir"])

    @property
    def alloc_dir(self) -> Path:
        return self.root / "alloc"

    def read(self, name: str) -> Any:
        """Return one recorded file, with what this machine has in place of placeholders."""
        return self._placed(json.loads((self.source / name).read_text()))

    def write(self, *names: str, **changes: object) -> None:
        """Put the recorded files ``names`` where the driver will look, with ``changes``."""
        self.state_dir.mkdir(parents=True, exist_ok=True)
        (self.alloc_dir / "alloc/logs").mkdir(parents=True, exist_ok=True)
        for name in names:
            (self.state_dir / name).write_text(json.dumps({**self.read(name), **changes}))

    def exchange(self) -> list[dict[str, Any]]:
        """Return the recorded messages in their order."""
        lines = (self.source / "exchange.jsonl").read_text().splitlines()
        return [self._placed(json.loads(line)) for line in lines]

    def _placed(self, value: Any) -> Any:
        match value:
            case "@SUPERVISOR@":
                return attrs.asdict(self.supervisor)
            case "@CONTAINER@":
                return attrs.asdict(self.container)
            case dict():
                return {key: self._placed(item) for key, item in value.items()}
            case list():
                return [self._placed(item) for item in value]
            case str():
                places = {
                    "@STATE@": str(self.root / "state"),
                    "@ALLOC@": str(self.alloc_dir),
                    "@CRUN@": "/bin/true",
                }
                for name, place in places.items():
                    value = value.replace(name, place)
                return value
        return value


class Replay:
    """A task process of an earlier version: answers each request as was recorded of it."""

    def __init__(self, past: PastTask, **welcome: object) -> None:
        self.requests: list[str] = []
        self._past = past
        self._welcome = welcome
        self._answers = _answers(past.exchange())

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve one driver until it goes, or the recorded end."""
        path = str(self._past.state_dir / records.CONTROL_SOCKET)
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            await listener.bind(path)
            listener.listen(1)
            task_status.started()
            client, _ = await listener.accept()
        with client, contextlib.suppress(OSError):  # a driver may go without a word
            while packet := await self._receive(client):
                request = json.loads(packet)
                self.requests.append(request["type"])
                for line in self._answers.get(request["type"], [DONE]):
                    await self._send(client, line, request.get("seq"))
                    if line["message"]["type"] == "exited":
                        return

    async def _receive(self, client: trio.socket.SocketType) -> bytes:
        try:
            return await client.recv(control.MAX_MESSAGE_BYTES)
        except ConnectionResetError:
            return b""  # it went without reading all that it was told

    async def _send(
        self, client: trio.socket.SocketType, line: dict[str, Any], seq: int | None
    ) -> None:
        message = dict(line["message"])
        if "seq" in message:
            message["seq"] = seq
        if message["type"] == "welcome":
            message.update(self._welcome)
        # A pipe's read end, or a FIFO's write end, as a successor can use them.
        ends = [os.pipe() for _ in range(line["descriptors"])]
        fds = [fd for pair in ends for fd in pair]
        try:
            wanted = [
                pair[0 if name.endswith(".pipe") else 1]
                for name, pair in zip(message.get("names", ()), ends, strict=True)
            ]
            packed = b"".join(fd.to_bytes(4, "little") for fd in wanted)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)] if fds else []
            await client.sendmsg([json.dumps(message).encode()], rights)
        finally:
            for fd in fds:
                os.close(fd)


def _answers(exchange: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return, for each type of request, what the task process said between it and the next."""
    answers: dict[str, list[dict[str, Any]]] = {}
    current: list[dict[str, Any]] = []
    for line in exchange:
        if line["from"] == "driver":
            current = answers[line["message"]["type"]] = []
        else:
            current.append(line)
    return answers
