"""The bridge between grpclib and Trio: errors are contained, cancellation crosses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import trio
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.protocol import H2Protocol
from grpclib.server import Server
from h2.connection import H2Connection

from milo.errors import ArtifactError, ConfigError, CrunMissingError, TaskNotFoundError
from milo.plugin import rpc
from milo.plugin.broker_service import BrokerService
from milo.plugin.event_loop import open_loop, trio_asyncio
from milo.plugin.health_service import HealthService
from milo.plugin.http2 import KEPT_STREAMS, STREAMS_A_CALL, Responses, UnlimitedServer
from milo.plugin.recover_message import Config, Handle, RecoverTaskRequest
from milo.wire import plugin
from milo.wire.grpc.health import v1 as health
from milo.wire.hashicorp.nomad.plugins.drivers import proto as drivers
from milo.wire.hashicorp.nomad.plugins.shared.structs import RecoverableError


@asynccontextmanager
async def serving(
    path: str | Path, *services: rpc.Service, kind: type[Server] = UnlimitedServer
) -> AsyncIterator[None]:
    """Serve ``services`` at a socket within a loop of asyncio's, and leave nothing of it."""
    async with open_loop():
        server = kind([rpc.bridged(service) for service in services])
        await trio_asyncio.aio_as_trio(server.start)(path=str(path))
        yield
        server.close()
        await trio_asyncio.aio_as_trio(server.wait_closed)()
    Path(path).unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("error", "status", "recoverable"),
    [
        (ConfigError("k", "p", "e"), Status.INVALID_ARGUMENT, False),
        (TaskNotFoundError("x"), Status.NOT_FOUND, False),
        (ArtifactError("a"), Status.FAILED_PRECONDITION, False),
        (CrunMissingError("crun"), Status.FAILED_PRECONDITION, True),
    ],
)
def test_an_expected_error_becomes_its_status(
    error: Exception, status: Status, recoverable: bool
) -> None:
    """The text is the error's own, the detail says whether to try again."""
    with pytest.raises(GRPCError) as caught, rpc.contained("StartTask"):
        raise error
    assert (caught.value.status, caught.value.message) == (status, str(error))
    assert caught.value.details.recoverable is recoverable
    assert caught.value.__cause__ is error


def test_a_status_has_a_bounded_text() -> None:
    """An id of any length comes from outside; as a header field it would stop the plugin."""
    with pytest.raises(GRPCError) as caught, rpc.contained("InspectTask"):
        raise TaskNotFoundError("x" * 1_000_000)
    message = caught.value.message or ""
    assert len(message) == rpc.MAX_MESSAGE_CHARS and message.startswith("Error: No task 'xxx")


@pytest.mark.parametrize(
    "error", [EOFError("it ends"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no text")]
)
def test_a_message_that_cannot_be_decoded_is_the_clients_fault(error: Exception) -> None:
    """No failure of Milo's, and nothing for the agent's log."""

    class Undecodable:
        async def recv_message(self) -> None:
            raise error

    mapping = rpc.bridged(drivers.DriverBase()).__mapping__()
    [handler] = (one for path, one in mapping.items() if path.endswith("/InspectTask"))
    stream: Any = Undecodable()
    with pytest.raises(GRPCError, match="Invalid value for InspectTask") as caught:
        asyncio.run(handler.func(stream))
    assert caught.value.status is Status.INVALID_ARGUMENT


def test_an_error_inside_of_groups_is_found() -> None:
    """A nursery's group around a Milo error changes nothing for the user."""
    group = ExceptionGroup("", [ExceptionGroup("", [ValueError(), ArtifactError("no JAR")])])
    with pytest.raises(GRPCError) as caught, rpc.contained("StartTask"):
        raise group
    assert caught.value.message == "Error: no JAR"


def test_an_unexpected_error_is_internal_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A bug shows its kind to the user and its traceback in the log."""
    with pytest.raises(GRPCError) as caught, rpc.contained("StopTask"):
        raise RuntimeError("oops")
    assert caught.value.status is Status.INTERNAL
    assert caught.value.message == "Error: Unexpected failure in StopTask: RuntimeError: oops"
    assert caplog.records[0].exc_info is not None


def test_cancellation_is_not_contained() -> None:
    """What is no Exception passes through untouched."""
    with pytest.raises(KeyboardInterrupt), rpc.contained("WaitTask"):
        raise KeyboardInterrupt


def test_status_details_are_googles_status_with_nomads_detail() -> None:
    """The bytes are those that Go's status.WithDetails writes, and can be read again."""
    codec = rpc.StatusDetails()
    data = codec.encode(Status.FAILED_PRECONDITION, "m", RecoverableError(recoverable=True))
    url = b"type.googleapis.com/hashicorp.nomad.plugins.shared.structs.RecoverableError"
    detail = b"\x0a" + bytes([len(url)]) + url + b"\x12\x02\x08\x01"
    assert data == b"\x08\x09\x12\x01m\x1a" + bytes([len(detail)]) + detail
    again = codec.decode(Status.FAILED_PRECONDITION, "m", data)
    assert again is not None and again.recoverable
    assert codec.decode(Status.FAILED_PRECONDITION, "m", b"") is None


class Stdio(plugin.GrpcStdioBase):
    """Streams without end, and tells when it was ended."""

    def __init__(self) -> None:
        self.closed = trio.Event()

    async def stream_stdio(self, request: plugin.Empty) -> AsyncIterator[plugin.StdioData]:
        """Count until cancelled."""
        try:
            while True:
                yield plugin.StdioData(data=b"x")
                await trio.lowlevel.checkpoint()
        finally:
            self.closed.set()


class Controller(plugin.GrpcControllerBase):
    """Never answers, and tells when it was called and when it was cancelled."""

    def __init__(self) -> None:
        self.called = trio.Event()
        self.cancelled = trio.Event()

    async def shutdown(self, request: plugin.Empty) -> plugin.Empty:
        """Wait for ever, as a WaitTask does."""
        self.called.set()
        try:
            await trio.sleep_forever()
        finally:
            self.cancelled.set()


async def _offers() -> AsyncIterable[plugin.ConnInfo]:
    yield plugin.ConnInfo(service_id=1)
    yield plugin.ConnInfo(service_id=2, knock=plugin.ConnInfoKnock(knock=True))


async def _wait(event: trio.Event) -> None:
    with trio.fail_after(30):
        await event.wait()


async def test_handlers_run_in_trio_and_end_with_their_client(tmp_path: Path) -> None:
    """Streams and calls are cancelled when the client leaves them; nothing else ends."""
    path = str(tmp_path / "s")
    stdio, controller = Stdio(), Controller()
    async with serving(path, stdio, controller, BrokerService(), kind=Server):

        async def talk() -> None:
            channel = Channel(path=path)
            stub = plugin.GrpcControllerStub(channel)
            call = asyncio.ensure_future(stub.shutdown(plugin.Empty()))
            await trio_asyncio.trio_as_aio(_wait)(controller.called)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            count = 0
            async for chunk in plugin.GrpcStdioStub(channel).stream_stdio(plugin.Empty()):
                assert chunk.data == b"x"
                count += 1
                if count == 100:
                    break
            answers = [a async for a in plugin.GrpcBrokerStub(channel).start_stream(_offers())]
            assert [a.service_id for a in answers] == [2]
            assert answers[0].knock.error
            channel.close()

        await trio_asyncio.aio_as_trio(talk)()
        await _wait(controller.cancelled)
        await _wait(stdio.closed)


class Driver(drivers.DriverBase):
    """Begins starts, and tells how many had begun when it was asked for a task."""

    def __init__(self) -> None:
        self.begun = 0
        self.begun_when_asked = -1

    async def start_task(self, request: drivers.StartTaskRequest) -> drivers.StartTaskResponse:
        """Begin one."""
        self.begun += 1
        return drivers.StartTaskResponse()

    async def inspect_task(
        self, request: drivers.InspectTaskRequest
    ) -> drivers.InspectTaskResponse:
        """Note how many have begun."""
        self.begun_when_asked = self.begun
        return drivers.InspectTaskResponse()


async def test_a_call_does_not_wait_for_all_starts_that_came_before_it(tmp_path: Path) -> None:
    """Of a hundred StartTask that came at once few have begun when an InspectTask is answered."""
    path, driver, count = str(tmp_path / "s"), Driver(), 100

    async def talk() -> None:
        channel = Channel(path=path)
        stub = drivers.DriverStub(channel)
        await stub.inspect_task(drivers.InspectTaskRequest())
        starts = [stub.start_task(drivers.StartTaskRequest()) for _ in range(count)]
        await asyncio.gather(*starts, stub.inspect_task(drivers.InspectTaskRequest()))
        channel.close()

    async with serving(path, driver):
        await trio_asyncio.aio_as_trio(talk)()
    assert driver.begun == count
    assert driver.begun_when_asked < count / 2


class Inspected(drivers.DriverBase):
    """Answers with as many bytes as a task's id says."""

    async def inspect_task(
        self, request: drivers.InspectTaskRequest
    ) -> drivers.InspectTaskResponse:
        """Answer."""
        return drivers.InspectTaskResponse(drivers.TaskStatus(id="x" * int(request.task_id)))


async def _inspected(path: Path, lengths: Sequence[int]) -> tuple[list[int], list[int]]:
    """Ask for answers of so many bytes; return how long they were, and the writes of each."""
    writes: list[bytes] = []
    found: list[int] = []
    counts: list[int] = []

    class Watched(UnlimitedServer):
        def _protocol_factory(self) -> H2Protocol:
            made = super()._protocol_factory()
            connected = made.connection_made

            def connection_made(transport: Any) -> None:
                written = transport.write

                def write(data: bytes) -> None:
                    writes.append(data)
                    written(data)

                transport.write = write
                connected(transport)

            made.connection_made = connection_made  # type: ignore[method-assign]
            return made

    async def talk() -> None:
        channel = Channel(path=str(path))
        stub = drivers.DriverStub(channel)
        for length in (1, *lengths):
            writes.clear()
            answer = await stub.inspect_task(drivers.InspectTaskRequest(str(length)))
            found.append(len(answer.task.id))
            counts.append(len([data for data in writes if data]))
        channel.close()

    async with serving(path, Inspected(), kind=Watched):
        await trio_asyncio.aio_as_trio(talk)()
    return found[1:], counts[1:]


async def test_an_answer_leaves_in_one_piece(tmp_path: Path) -> None:
    """Its headers, its message and its end are one write: each wakes the client up."""
    assert await _inspected(tmp_path / "s", [5, 1000]) == ([5, 1000], [1, 1])


async def test_an_answer_that_the_client_has_no_room_for_arrives_whole(tmp_path: Path) -> None:
    """What is more than a frame, or than the client takes at once, goes in several pieces."""
    found, _ = await _inspected(tmp_path / "s", [20_000, 10_000_000, 1])
    assert found == [20_000, 10_000_000, 1]


async def test_a_connection_does_not_grow_with_its_calls(tmp_path: Path) -> None:
    """However many calls have ended on it, some hundreds are remembered, and no timer runs."""
    path = str(tmp_path / "s")
    protocols: list[H2Protocol] = []

    class Watched(UnlimitedServer):
        def _protocol_factory(self) -> H2Protocol:
            protocols.append(super()._protocol_factory())
            return protocols[-1]

    async def talk() -> None:
        channel = Channel(path=path)
        stub = health.HealthStub(channel)
        for _ in range(KEPT_STREAMS + 50):
            await stub.check(health.HealthCheckRequest(service="plugin"))
        channel.close()

    async with serving(path, HealthService(), kind=Watched):
        await trio_asyncio.aio_as_trio(talk)()
        # Each wait of the event loop for a timer leaves a deadline in Trio until it has passed.
        assert trio_asyncio.current_loop.get()._timers == []
        h2 = protocols[0].connection._connection
        assert KEPT_STREAMS - 1 <= len(h2._closed_streams) + len(h2.streams) <= KEPT_STREAMS + 1


PENDING = 300


class Recovering(drivers.DriverBase):
    """Notes what it was asked with, and has calls that never end."""

    request_types = MappingProxyType({"RecoverTask": RecoverTaskRequest})

    def __init__(self) -> None:
        self.requests: list[object] = []
        self.waiting = 0
        self.all_wait = trio.Event()

    async def recover_task(
        self, request: drivers.RecoverTaskRequest | RecoverTaskRequest
    ) -> drivers.RecoverTaskResponse:
        """Note it."""
        self.requests.append(request)
        return drivers.RecoverTaskResponse()

    async def wait_task(self, request: drivers.WaitTaskRequest) -> drivers.WaitTaskResponse:
        """Never answer."""
        self.waiting += 1
        if self.waiting == PENDING:
            self.all_wait.set()
        await trio.sleep_forever()


async def test_a_service_says_what_is_decoded_of_a_request(tmp_path: Path) -> None:
    """Of a RecoverTaskRequest, which is large, the two fields that are needed."""
    path, driver = str(tmp_path / "s"), Recovering()
    handle = drivers.TaskHandle(config=drivers.TaskConfig(id="x"), driver_state=b"state")

    async def talk() -> None:
        channel = Channel(path=path)
        await drivers.DriverStub(channel).recover_task(drivers.RecoverTaskRequest("", handle))
        channel.close()

    async with serving(path, driver):
        await trio_asyncio.aio_as_trio(talk)()
    assert driver.requests == [RecoverTaskRequest(Handle(Config("x"), b"state"))]


async def test_a_call_does_not_look_at_all_that_are_pending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two calls pending for each of a thousand tasks that would be most of what a call takes.

    Those that have ended are forgotten all the same.
    """
    path, driver, count = str(tmp_path / "s"), Recovering(), PENDING
    looked: list[int] = []
    open_streams = H2Connection._open_streams

    def counted(self: H2Connection, remainder: int) -> int:
        if not self.config.client_side:
            looked.append(len(self.streams))
        return open_streams(self, remainder)

    async def talk() -> None:
        channel = Channel(path=path)
        stub = drivers.DriverStub(channel)
        pending = [
            asyncio.ensure_future(stub.wait_task(drivers.WaitTaskRequest(str(number))))
            for number in range(count)
        ]
        await trio_asyncio.trio_as_aio(_wait)(driver.all_wait)
        looked.clear()
        for _ in range(count):
            await stub.recover_task(drivers.RecoverTaskRequest())
        for call in pending:
            call.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        channel.close()

    monkeypatch.setattr(H2Connection, "_open_streams", counted)
    async with serving(path, driver):
        await trio_asyncio.aio_as_trio(talk)()
    assert sum(looked) <= 2 * STREAMS_A_CALL * count
    assert looked and max(looked) < 1.5 * count


async def test_a_stream_that_its_client_ends_is_no_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is logged as an error, also when a message was due at that very moment."""
    path = str(tmp_path / "s")
    send, late = Responses.send, trio.Event()

    async def send_late(self: Responses, message: bytes) -> bool:
        """Send one message, and another only after the end of the call has come."""
        if not self._has_begun:
            return await send(self, message)
        with trio.CancelScope(shield=True), trio.move_on_after(30):
            while self._call._stream.closable:
                await trio.lowlevel.checkpoint()
        late.set()
        return await send(self, message)

    async def talk() -> None:
        channel = Channel(path=path)
        stream = plugin.GrpcStdioStub(channel).stream_stdio(plugin.Empty())
        assert isinstance(stream, AsyncGenerator)
        async with aclosing(stream) as chunks:
            async for _ in chunks:
                break
        await trio_asyncio.trio_as_aio(_wait)(late)
        await trio_asyncio.trio_as_aio(_wait)(stdio.closed)
        channel.close()

    monkeypatch.setattr(Responses, "send", send_late)
    stdio = Stdio()
    async with serving(path, stdio, kind=Server):
        await trio_asyncio.aio_as_trio(talk)()
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
