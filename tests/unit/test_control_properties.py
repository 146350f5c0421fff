"""Both ends of the control socket against peers that do whatever they like.

The server is `ControlServer` on a real SEQPACKET socket; the client is `TaskClient` against a
server that lies. Neither may fail, wait for ever or keep a descriptor.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from milo.core import control, records
from milo.core.records import ProcessId, StreamCounters
from milo.errors import ControlError, MiloError, NewerVersionError
from milo.host import exec_client
from milo.host.task_client import TaskClient
from milo.task import control_server, missed
from milo.task.control_server import ControlServer
from milo.unix_sockets import close_all
from tests.support.log_rig import descriptors
from tests.support.waiting import fail_after

ME = ProcessId(os.getpid(), 1)
ANCILLARY_BYTES = socket.CMSG_SPACE(16 * 4)


# ---- the server ------------------------------------------------------------------------


class Backend:
    """A supervisor that keeps what it was asked for."""

    def __init__(self) -> None:
        self.stops: list[tuple[int, float]] = []
        self.keepers: list[int] = []
        self.pair = os.pipe()

    def status(self, seq: int, *, figures: bool) -> control.Status:
        return control.Status(
            seq=seq, phase="running", stdout=StreamCounters(), stderr=StreamCounters()
        )

    def request_stop(self, signal: int, timeout_s: float) -> None:
        self.stops.append((signal, timeout_s))

    def send_signal(self, signal: int) -> None:
        if signal == 9:
            raise ControlError("Error: not now")
        if signal == 10:
            raise ZeroDivisionError  # a bug

    async def run_command(self, sock: trio.socket.SocketType) -> None:
        """Whatever comes next is answered by the end of the connection."""
        await sock.recv(1)

    def descriptors(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        return ("stdout.pipe", "stdout.fifo"), self.pair

    keeper_pid = 0

    def be_kept(self, channel: socket.socket, pid: int) -> None:
        channel.send(b"kept")
        channel.close()
        self.keepers.append(pid)

    def be_unkept(self) -> None:
        self.keepers.append(0)

    def current(self) -> list[control.Message]:
        return [
            control.Started(container=ME, container_id="milo-x", cgroup_path="/x", started_at_s=1.0)
        ]

    def close(self) -> None:
        for fd in self.pair:
            os.close(fd)


@attrs.frozen
class Connect:
    """A client connects, and becomes the current one."""


@attrs.frozen
class Send:
    """The current client sends a packet."""

    packet: bytes
    descriptors: int = 0


@attrs.frozen
class Receive:
    """The current client reads so many messages, if there are any."""

    count: int


@attrs.frozen
class Leave:
    """The current client goes, possibly in the middle of everything."""


@attrs.frozen
class Publish:
    """The task has something to say."""

    message: control.Message


ServerStep = Connect | Send | Receive | Leave | Publish

numbers = st.one_of(st.integers(-2, 70), st.integers())
requests = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(
                ["hello", "status", "stop", "signal", "descriptors", "welcome", "exited", "dance"]
            )
        },
        optional={
            "version": numbers,
            "role": st.sampled_from(["driver", "observer", "", "x" * 70_000]),
            "seq": numbers,
            "signal": st.one_of(numbers, st.sampled_from([9, 10, 15])),
            "timeout_s": st.one_of(numbers, st.floats(allow_nan=False, allow_infinity=False)),
            "more": st.sampled_from([None, {}, [[]]]),
        },
    ).map(lambda message: json.dumps(message).encode()),
    st.sampled_from(
        [
            b'{"type":"hello","version":1,"role":"driver"}',
            b'{"type":"descriptors","seq":1}',
            b'{"type":"status","seq":1,"x":' + b"[" * 30_000,
            b"\x00",
            b"{",
            b"\xff\xfe",
        ]
    ),
    st.binary(min_size=1, max_size=60),
)
published = st.one_of(
    st.builds(control.Event, text=st.text(max_size=30), at_s=st.just(1.0)),
    st.builds(
        control.Log,
        level=st.just("info"),
        text=st.sampled_from(["said", "x" * 70_000, os.fsdecode(b"\xff")]),
    ),
    st.builds(control.DescriptorsChanged),
)
server_scripts = st.lists(
    st.one_of(
        st.builds(Connect),
        st.builds(Send, requests, st.integers(0, 2)),
        st.builds(Send, requests, st.just(0)),
        st.builds(Receive, st.integers(1, 20)),
        st.builds(Leave),
        st.builds(Publish, published),
    ),
    max_size=40,
)


class Crowd:
    """Clients that speak to one server in raw packets."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._clients: list[socket.socket] = []

    def connect(self) -> None:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.setblocking(False)
        client.connect(self._path)
        self._clients.append(client)

    def send(self, packet: bytes, count: int) -> None:
        if self._clients:
            null = os.open(os.devnull, os.O_RDONLY)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * count))]
            with contextlib.suppress(OSError):
                self._clients[-1].sendmsg([packet], rights if count else [])
            os.close(null)

    def receive(self, count: int) -> None:
        for _ in range(count if self._clients else 0):
            try:
                packet, rights, _, _ = self._clients[-1].recvmsg(
                    control.MAX_MESSAGE_BYTES, ANCILLARY_BYTES
                )
            except OSError:
                return
            close_rights(rights)
            if not packet:
                return
            control.decode_notice(packet)

    def leave(self) -> None:
        if self._clients:
            self._clients.pop().close()

    def close(self) -> None:
        while self._clients:
            self.leave()


def close_rights(rights: list[tuple[int, int, bytes]]) -> None:
    """Close what was received with a packet."""
    for _, _, data in rights:
        fds = array.array("i")
        fds.frombytes(data)
        for fd in fds:
            os.close(fd)


async def with_server(play: Callable[[ControlServer, str], Awaitable[None]]) -> Backend:
    """Run ``play`` with a server and the path of its directory; nothing may stay open."""
    before = descriptors()
    backend = Backend()
    with tempfile.TemporaryDirectory() as directory:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(f"{directory}/{records.CONTROL_SOCKET}")
        listener.listen(16)
        server = ControlServer(listener, backend, ME)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            await play(server, directory)
            nursery.cancel_scope.cancel()
    backend.close()
    assert descriptors() == before
    return backend


async def ask_everything(directory: str) -> None:
    """Be a good client: each request is answered."""
    notices: list[control.Notice] = []
    with trio.fail_after(5):
        client = await TaskClient.connect(directory, notices.append)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            assert (await client.status()).phase == "running"
            await client.stop(15, 1.0)
            await client.signal(3)
            with pytest.raises(ControlError, match="not now"):
                await client.signal(9)
            with pytest.raises(ControlError, match="ZeroDivisionError"):
                await client.signal(10)
            fds = await client.descriptors()
            assert set(fds) == {"stdout.pipe", "stdout.fifo"}
            for fd in fds.values():
                os.close(fd)
            client.close()
    assert any(isinstance(notice, control.Started) for notice in notices)


@settings(max_examples=100)
@given(server_scripts)
async def test_the_server_outlives_its_clients(script: list[ServerStep]) -> None:
    """Garbage, wrong order, greed and sudden ends cost a client its connection, no more."""

    async def play(server: ControlServer, directory: str) -> None:
        crowd = Crowd(f"{directory}/{records.CONTROL_SOCKET}")
        try:
            for step in script:
                match step:
                    case Connect():
                        with contextlib.suppress(BlockingIOError):
                            crowd.connect()
                    case Send(packet, count):
                        crowd.send(packet, count)
                    case Receive(count):
                        crowd.receive(count)
                    case Leave():
                        crowd.leave()
                    case Publish(message):
                        server.publish(message)
                await trio.testing.wait_all_tasks_blocked()
            await ask_everything(directory)
        finally:
            crowd.close()

    backend = await with_server(play)
    assert all(0 <= signal <= 64 for signal, _ in backend.stops)


async def test_a_client_that_never_reads_is_cut_off() -> None:
    """What waits for it is bounded, and the descriptors among that are closed."""

    async def play(server: ControlServer, directory: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.setblocking(False)
            client.connect(f"{directory}/{records.CONTROL_SOCKET}")
            client.send(b'{"type":"hello","version":1,"role":"driver"}')
            await trio.testing.wait_all_tasks_blocked()
            for number in range(10 * control_server.QUEUED_NOTICES):
                with contextlib.suppress(OSError):
                    client.send(b'{"type":"descriptors","seq":%d}' % number)
                server.publish(control.Event(text="x" * 1000, at_s=1.0))
                if number % 50 == 0:
                    await trio.testing.wait_all_tasks_blocked()
            await trio.testing.wait_all_tasks_blocked()
            with contextlib.suppress(OSError):
                while True:
                    packet, rights, _, _ = client.recvmsg(1 << 16, ANCILLARY_BYTES)
                    close_rights(rights)
                    if not packet:
                        break
            await ask_everything(directory)

    await with_server(play)


async def test_many_clients_at_once() -> None:
    """A hundred clients are served side by side, also beside as many silent ones."""

    async def play(server: ControlServer, directory: str) -> None:
        crowd = Crowd(f"{directory}/{records.CONTROL_SOCKET}")
        for _ in range(100):
            crowd.connect()
            await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask_everything, directory)
        crowd.close()

    await with_server(play)


async def test_a_task_gets_another_keeper() -> None:
    """Its channel comes with the request; a request without one is refused."""

    async def play(server: ControlServer, directory: str) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reader, writer = os.pipe()
        client = await TaskClient.connect(directory, lambda _: None)
        assert client.keeper == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            await client.keep(theirs.fileno(), 4711)
            assert client.keeper == 4711 and ours.recv(10) == b"kept"
            with pytest.raises(ControlError, match="No channel came with the request"):
                await client._do(control.Keep(seq=99, pid=4712))
            with pytest.raises(ControlError, match="No channel"):
                await client.keep(reader, 4713)
            client.close()
        for fd in (reader, writer):
            os.close(fd)
        ours.close()
        theirs.close()

    assert (await with_server(play)).keepers == [4711]


@pytest.mark.parametrize(("role", "keepers"), [(control.ROLE_DRIVER, [0]), ("observer", [])])
async def test_beside_an_older_driver_a_task_has_no_keeper(role: str, keepers: list[int]) -> None:
    """Such a one asks for a successor without the lock, so that there would be two."""

    async def play(server: ControlServer, directory: str) -> None:
        client = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with client:
            await client.connect(f"{directory}/{records.CONTROL_SOCKET}")
            await client.send(b'{"type":"hello","version":1,"role":"%s"}' % role.encode())
            assert isinstance(control.decode_notice(await client.recv(9999)), control.Welcome)

    assert (await with_server(play)).keepers == keepers


async def test_a_message_too_large_to_send_is_left_out() -> None:
    """What does not fit a packet, or is no text, does not keep the next message back."""

    async def play(server: ControlServer, directory: str) -> None:
        notices: list[control.Notice] = []
        client = await TaskClient.connect(directory, notices.append)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            await client.status()
            server.publish(control.Event(text="x" * control.MAX_MESSAGE_BYTES, at_s=1.0))
            server.publish(control.Event(text=os.fsdecode(b"\xff"), at_s=1.0))
            server.publish(control.Event(text="after it", at_s=1.0))
            await client.status()
            client.close()
        texts = [notice.text for notice in notices if isinstance(notice, control.Event)]
        assert texts == ["after it"]

    await with_server(play)


def said(notices: list[control.Notice], kind: type[control.Event | control.Log]) -> list[str]:
    """Return the texts of the events, or the log lines, in order."""
    return [notice.text for notice in notices if isinstance(notice, kind)]


def numbers_of(lines: list[str]) -> list[int]:
    """Return the number that each line begins with."""
    return [int(line.partition(":")[0]) for line in lines]


async def listen(directory: str, role: str = control.ROLE_DRIVER) -> list[control.Notice]:
    """Return what a client is told that connects and goes again."""
    notices: list[control.Notice] = []
    client = await TaskClient.connect(directory, notices.append, role=role)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        await client.status()  # what was there before is told before
        client.close()
    return notices


async def test_log_lines_wait_for_a_driver() -> None:
    """Those of the start, and those between two drivers; an observer takes them from nobody."""

    async def play(server: ControlServer, directory: str) -> None:
        for number in range(2):
            server.publish(control.Log(level="info", text=f"line {number}", at_s=float(number)))
            server.publish(control.Event(text=f"event {number}", at_s=1.0))
            assert said(await listen(directory, control.ROLE_OBSERVER), control.Log) == []
            notices = await listen(directory)
            assert control.Log(level="info", text=f"line {number}", at_s=float(number)) in notices
            assert said(notices, control.Log) == [f"line {number}"]
            assert said(notices, control.Event) == [f"event {number}"]
            await trio.testing.wait_all_tasks_blocked()  # its end has been noticed
        assert said(await listen(directory), control.Log) == []

    await with_server(play)


@pytest.mark.parametrize(
    ("chars", "kept"),
    [(10, missed.KEPT_LINES), (missed.KEPT_LINES_BYTES // 10, 9)],
)
async def test_the_last_log_lines_wait(chars: int, kept: int) -> None:
    """They are bounded in number and in size; how many went is told, and no event goes for them."""

    async def play(server: ControlServer, directory: str) -> None:
        server.publish(control.Event(text="here", at_s=1.0))
        for number in range(1000):
            server.publish(control.Log(level="info", text=f"{number}:".ljust(chars)))
        notices = await listen(directory)
        assert said(notices, control.Event) == ["here"]
        first, *lines = said(notices, control.Log)
        assert numbers_of(lines) == list(range(1000 - kept, 1000))
        assert first.startswith(f"{1000 - kept} earlier lines are in the task's own log alone")

    await with_server(play)


async def test_a_line_that_fits_no_packet_waits_for_nobody() -> None:
    """It could not be sent; those before and after it are."""

    async def play(server: ControlServer, directory: str) -> None:
        for text in ("before", "x" * control.MAX_MESSAGE_BYTES, os.fsdecode(b"\xff"), "after"):
            server.publish(control.Log(level="info", text=text))
        assert said(await listen(directory), control.Log) == ["before", "after"]

    await with_server(play)


async def test_a_client_stays_what_it_is() -> None:
    """One that says hello again becomes no driver, which would have to be told what was missed."""

    async def play(server: ControlServer, directory: str) -> None:
        server.publish(control.Log(level="info", text="here"))
        client = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with client:
            await client.connect(f"{directory}/{records.CONTROL_SOCKET}")
            for role in (b"observer", b"driver"):
                await client.send(b'{"type":"hello","version":1,"role":"%s"}' % role)
                with fail_after(10):
                    answer = control.decode_notice(await client.recv(9999))
            assert isinstance(answer, control.Done) and "says hello once" in answer.error
        assert said(await listen(directory), control.Log) == ["here"]

    await with_server(play)


@pytest.mark.parametrize("count", [250, 1000])
async def test_what_a_dead_driver_was_not_sent_waits_for_the_next_one(count: int) -> None:
    """A driver that does not read takes with it what its socket holds, whether it dies or is cut
    off."""

    async def play(server: ControlServer, directory: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(f"{directory}/{records.CONTROL_SOCKET}")
            client.send(b'{"type":"hello","version":1,"role":"driver"}')
            await trio.testing.wait_all_tasks_blocked()
            for number in range(count):
                server.publish(control.Log(level="info", text=f"{number}:".ljust(20_000)))
            server.publish(control.Event(text="the last", at_s=1.0))
            await trio.testing.wait_all_tasks_blocked()
        await trio.testing.wait_all_tasks_blocked()
        server.publish(control.Log(level="info", text=f"{count}:"))
        notices = await listen(directory)
        assert said(notices, control.Event) == ["the last"]
        left_out, *lines = said(notices, control.Log)
        assert "earlier lines" in left_out
        assert numbers_of(lines) == list(range(count - 3, count + 1))

    await with_server(play)


async def test_out_of_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request for descriptors that cannot be duplicated is an answer, and leaves none."""

    async def play(server: ControlServer, directory: str) -> None:
        client = await TaskClient.connect(directory, lambda _: None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            await client.status()
            made: list[int] = []
            duplicate = os.dup

            def dup(fd: int) -> int:
                if made:
                    raise OSError(24, "Too many open files")
                made.append(fd)
                return duplicate(fd)

            with monkeypatch.context() as patch:
                patch.setattr(os, "dup", dup)
                with pytest.raises(ControlError, match="Too many open files"):
                    await client.descriptors()
            client.close()

    await with_server(play)


# ---- the client ------------------------------------------------------------------------


@attrs.frozen
class Say:
    """The lying server sends a packet with so many descriptors."""

    packet: bytes
    descriptors: int


notices = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(
                [
                    "welcome",
                    "started",
                    "start_failed",
                    "exited",
                    "descriptors_changed",
                    "event",
                    "log",
                    "status_reply",
                    "descriptors_reply",
                    "done",
                    "hello",
                    "dance",
                ]
            )
        },
        optional={
            "version": numbers,
            "supervisor": st.just({"pid": 1, "start_ticks": 1}),
            "container": st.just({"pid": 1, "start_ticks": 1}),
            "container_id": st.just("x"),
            "cgroup_path": st.just("/x"),
            "started_at_s": st.just(0),
            "seq": st.integers(-1, 4),
            "names": st.lists(st.sampled_from(["stdout.pipe", "stdout.fifo"]), max_size=3),
            "text": st.text(max_size=5),
            "at_s": st.just(1),
            "level": st.sampled_from(["info", "x"]),
            "error": st.sampled_from(["", "no"]),
            "phase": st.just("running"),
            "stdout": st.just({}),
            "stderr": st.just({}),
            "recoverable": st.booleans(),
            "record": st.just({"exit_code": 1}),
        },
    ).map(lambda message: json.dumps(message).encode()),
    st.sampled_from(
        [
            b'{"type":"done","seq":1}',
            b'{"type":"status_reply","seq":1,"phase":"x","stdout":{},"stderr":{}}',
            b'{"type":"descriptors_reply","seq":1,"names":["a","b"]}',
            b'{"type":"descriptors_reply","seq":1,"names":["a","a"]}',
            b'{"type":"event","text":"x","at_s":1,"y":' + b"[" * 30_000,
        ]
    ),
    st.binary(min_size=1, max_size=60),
)
WELCOME = Say(b'{"type":"welcome","version":1,"supervisor":{"pid":1,"start_ticks":2}}', 0)
says = st.lists(st.builds(Say, notices, st.sampled_from([0, 0, 1, 2, 3])), max_size=12)


async def with_liar(lies: list[Say], stays: bool, play: Callable[[str], Awaitable[None]]) -> None:
    """Run ``play`` beside a server that says ``lies`` to its client, and then goes or stays."""
    before = descriptors()

    async def lie(listener: trio.socket.SocketType) -> None:
        client, _ = await listener.accept()
        null = os.open(os.devnull, os.O_RDONLY)
        with client, contextlib.suppress(OSError):
            try:
                await client.recv(control.MAX_MESSAGE_BYTES)
                for number, say in enumerate(lies):
                    fds = array.array("i", [null] * say.descriptors)
                    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
                    await client.sendmsg([say.packet], rights)
                    if number == 0:  # the rest answers a request
                        await client.recv(control.MAX_MESSAGE_BYTES)
                while stays and await client.recv(control.MAX_MESSAGE_BYTES):
                    pass
            finally:
                os.close(null)

    with (
        tempfile.TemporaryDirectory() as directory,
        trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
    ):
        await listener.bind(f"{directory}/{records.CONTROL_SOCKET}")
        listener.listen(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lie, listener)
            await play(directory)
            nursery.cancel_scope.cancel()
    assert descriptors() == before


@settings(max_examples=120)
@given(
    says,
    st.booleans(),
    st.booleans(),
    st.sampled_from(["status", "stop", "signal", "descriptors"]),
)
def test_the_client_survives_any_server(
    lies: list[Say], polite: bool, stays: bool, request_name: str
) -> None:
    """Whatever comes back, a request returns its answer or raises an error of Milo's, in time."""

    async def play(directory: str) -> None:
        heard: list[control.Notice] = []
        try:
            client = await TaskClient.connect(directory, heard.append)
        except MiloError:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            ask: dict[str, Callable[[], Awaitable[Any]]] = {
                "status": client.status,
                "stop": lambda: client.stop(15, 1.0),
                "signal": lambda: client.signal(3),
                "descriptors": client.descriptors,
            }
            with contextlib.suppress(ControlError):
                answer = await ask[request_name]()
                if request_name == "descriptors":
                    for fd in answer.values():
                        os.close(fd)
            await trio.testing.wait_all_tasks_blocked()
            client.close()
        answers = control.Status | control.Done | control.Descriptors
        assert not any(isinstance(notice, answers) for notice in heard)

    trio.run(
        with_liar,
        [WELCOME, *lies] if polite else lies,
        stays,
        play,
        clock=trio.testing.MockClock(autojump_threshold=0),
    )


@pytest.mark.parametrize("version", [control.PROTOCOL_VERSION + 1, 99])
async def test_a_newer_server_is_told_apart(version: int) -> None:
    """A task process of a newer Milo is not taken for a dead one."""

    async def play(directory: str) -> None:
        with pytest.raises(NewerVersionError) as caught:
            await TaskClient.connect(directory, lambda _: None)
        assert caught.value.version == version

    packet = WELCOME.packet.replace(b'"version":1', b'"version":%d' % version)
    await with_liar([Say(packet, 2)], True, play)


async def test_what_comes_after_garbage_is_heard(tmp_path: Path) -> None:
    """A message that this Milo does not know does not end the connection."""
    heard: list[control.Notice] = []
    lies = [
        WELCOME,
        Say(b'{"type":"from_the_future"}', 3),
        Say(b"\xff", 1),
        Say(b'{"type":"event","text":"here","at_s":1}', 1),
        Say(b'{"type":"done","seq":1}', 0),
    ]

    async def play(directory: str) -> None:
        client = await TaskClient.connect(directory, heard.append)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            await client.stop(15, 1.0)
            client.close()

    await with_liar(lies, True, play)
    assert heard == [control.Event(text="here", at_s=1)]


async def test_a_process_that_reads_nothing_keeps_any_number_waiting(autojump_clock: Any) -> None:
    """Once its socket is full, each request still ends in time with an error of Milo's."""

    async def play(directory: str) -> None:
        client = await TaskClient.connect(directory, lambda _: None)
        client._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        failed = 0

        async def ask() -> None:
            nonlocal failed
            with pytest.raises(ControlError, match="did not answer in 10 s"):
                await client.status()
            failed += 1

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
        assert failed == 20
        client.close()

    async with trio.open_nursery() as nursery:
        with tempfile.TemporaryDirectory() as directory:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listener.bind(f"{directory}/{records.CONTROL_SOCKET}")
            listener.listen(1)

            async def greet() -> None:
                with trio.socket.from_stdlib_socket(listener) as server:
                    client, _ = await server.accept()
                    with client:
                        await client.recv(control.MAX_MESSAGE_BYTES)
                        await client.send(WELCOME.packet)
                        await trio.sleep_forever()

            nursery.start_soon(greet)
            await play(directory)
            nursery.cancel_scope.cancel()


async def test_the_answer_to_a_request_that_was_cancelled_is_nobodys() -> None:
    """The next request gets its own answer, and what came with the other one is closed."""
    lies = [
        WELCOME,
        Say(b'{"type":"descriptors_reply","seq":1,"names":["first"]}', 1),
        Say(b'{"type":"descriptors_reply","seq":2,"names":["second"]}', 1),
    ]

    async def play(directory: str) -> None:
        client = await TaskClient.connect(directory, lambda _: None)
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.descriptors()
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            fds = await client.descriptors()
            assert list(fds) == ["second"]
            close_all(fds.values())
            client.close()

    await with_liar(lies, True, play)


@pytest.mark.parametrize(
    "lie",
    [
        b'{"type":"event","text":"x","at_s":1}',
        b"\xff",
        b'{"type":"exec_started","process":{"pid":1,"start_ticks":1}}',
    ],
)
async def test_a_command_keeps_no_descriptor_of_a_liar(lie: bytes) -> None:
    """Whatever comes instead of an answer is an error, and what came with it is closed."""

    async def play(directory: str) -> None:
        with pytest.raises(ControlError):
            await exec_client.run_script(directory, ("true",), 5.0)

    await with_liar([WELCOME, Say(lie, 1)], False, play)


@pytest.mark.parametrize("state_dir", ["/nonexistent", "/tmp/" + "x" * 200, "/tmp/\0"])
async def test_nobody_there(state_dir: str) -> None:
    """A socket that is not there, or can not be, is an error of Milo's."""
    with pytest.raises(ControlError, match="No task process answers"):
        await TaskClient.connect(state_dir, lambda _: None)


async def test_a_silent_server_is_not_waited_for_for_ever(autojump_clock: object) -> None:
    """Neither to be welcomed nor for an answer, and afterwards the client can be used no more."""

    async def unwelcome(directory: str) -> None:
        with pytest.raises(ControlError, match="did not answer in 10 s"):
            await TaskClient.connect(directory, lambda _: None)

    await with_liar([], True, unwelcome)

    async def unanswered(directory: str) -> None:
        client = await TaskClient.connect(directory, lambda _: None)
        with pytest.raises(ControlError, match="did not answer in 10 s"):
            await client.status()
        client.close()
        with pytest.raises(ControlError, match="has ended"):
            await client.status()

    await with_liar([WELCOME], True, unanswered)


async def test_an_answer_before_the_end_counts() -> None:
    """A stop that was accepted is a success even when the task process goes at once."""

    async def play(directory: str) -> None:
        client = await TaskClient.connect(directory, lambda _: None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            await client.stop(9, 0.0)

    await with_liar([WELCOME, Say(b'{"type":"done","seq":1}', 0)], False, play)
