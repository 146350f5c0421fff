"""A gRPC client that loads its server's connection as grpc-go does, which is what Nomad uses.

After a frame of data grpc-go opens the connection's window again and sends a PING, if none is on
its way (to estimate the bandwidth-delay product); a stream's window it opens when a quarter has
been used. Source: grpc-go 1.83, internal/transport/{http2_client,bdp_estimator,flowcontrol}.go.
"""

from __future__ import annotations

import math
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import h2.config
import h2.connection
import h2.events
import trio
from h2.settings import SettingCodes

from tests.support.waiting import fail_after

WINDOW = 65_535
"""grpc-go's initial window, of a stream and of the connection."""

MANY = 1000
"""The calls that a server has to take at once."""


@attrs.define(eq=False)
class Call:
    """One call and what has come of it so far."""

    stream_id: int
    is_reading: bool
    """Whether its window is opened again, as by a reader that keeps up."""
    window: int
    messages: list[bytes] = attrs.field(factory=list)
    arrived_s: list[float] = attrs.field(factory=list)
    """trio.current_time() of each message."""
    status: str | None = None
    """The grpc-status, once the call has ended."""
    _partial: bytes = b""
    _unacknowledged: int = 0

    def take(self, data: bytes) -> None:
        """Take in a frame's data."""
        self._partial += data
        while len(self._partial) >= 5:
            _, length = struct.unpack_from(">BI", self._partial)
            if len(self._partial) < 5 + length:
                break
            self.messages.append(self._partial[5 : 5 + length])
            self.arrived_s.append(trio.current_time())
            self._partial = self._partial[5 + length :]

    def to_acknowledge(self, size: int) -> int:
        """Return by how much to open the stream's window after ``size`` more bytes."""
        self._unacknowledged += size if self.is_reading else 0
        if self._unacknowledged < self.window // 4:
            return 0
        opened, self._unacknowledged = self._unacknowledged, 0
        return opened


class GoClient:
    """One connection; use `open_client`."""

    def __init__(self, stream: trio.SocketStream, window: int) -> None:
        self._stream = stream
        self._window = window
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self._h2.initiate_connection()
        self._h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        self._calls: dict[int, Call] = {}
        self._changed = trio.Condition()
        self._sending = trio.Lock()
        self._is_ping_out = False
        self._unacknowledged = 0
        self.pings = 0
        """How many it has sent."""

    async def call(self, path: str, message: bytes, *, is_reading: bool = True) -> Call:
        """Begin a call of the method at ``path`` with one message."""
        stream_id = self._h2.get_next_available_stream_id()
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]
        call = self._calls[stream_id] = Call(stream_id, is_reading, self._window)
        self._h2.send_headers(stream_id, headers)
        self._h2.send_data(
            stream_id, struct.pack(">BI", 0, len(message)) + message, end_stream=True
        )
        await self._flush()
        return call

    async def read_on(self, call: Call) -> None:
        """Read what ``call`` has brought so far, and all that comes from now on."""
        call.is_reading = True
        size = sum(5 + len(message) for message in call.messages) + len(call._partial)
        self._h2.increment_flow_control_window(size, call.stream_id)
        await self._flush()

    async def cancel(self, call: Call) -> None:
        """End a call from this side."""
        self._h2.reset_stream(call.stream_id, 8)  # CANCEL
        await self._flush()

    async def wait_ready(self) -> None:
        """Return once the server has said how many calls it takes, and this side has agreed."""
        async with self._changed:
            while self._h2.remote_settings.get(SettingCodes.MAX_CONCURRENT_STREAMS, 0) < MANY:
                await self._changed.wait()

    async def wait_messages(self, calls: list[Call], count: int) -> None:
        """Return once each of ``calls`` has brought ``count`` messages."""
        async with self._changed:
            while any(len(call.messages) < count for call in calls):
                await self._changed.wait()

    async def wait_end(self, call: Call) -> None:
        """Return once ``call`` has ended."""
        async with self._changed:
            while call.status is None:
                await self._changed.wait()

    async def run(self) -> None:
        """Answer the server until it closes the connection."""
        while data := await self._stream.receive_some(1 << 15):
            for event in self._h2.receive_data(data):
                self._take(event)
            await self._flush()
            async with self._changed:
                self._changed.notify_all()

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.DataReceived():
                assert event.stream_id is not None and event.data is not None
                self._take_data(self._calls[event.stream_id], event.data)
            case h2.events.PingAckReceived():
                self._is_ping_out = False
            case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                for name, value in event.headers or ():
                    if name == b"grpc-status":
                        self._calls[event.stream_id or 0].status = value.decode()
            case h2.events.StreamReset():
                assert event.stream_id is not None
                call = self._calls[event.stream_id]
                call.status = call.status or "reset"
            case _:
                pass

    def _take_data(self, call: Call, data: bytes) -> None:
        size = len(data)
        call.take(data)
        self._unacknowledged += size
        if not self._is_ping_out or self._unacknowledged >= WINDOW // 4:
            self._h2.increment_flow_control_window(self._unacknowledged)
            self._unacknowledged = 0
        if not self._is_ping_out:
            self._is_ping_out = True
            self.pings += 1
            self._h2.ping(bytes(8))
        opened = call.to_acknowledge(size)
        if opened and call.status is None:
            self._h2.increment_flow_control_window(opened, call.stream_id)

    async def _flush(self) -> None:
        async with self._sending:
            if data := self._h2.data_to_send():
                await self._stream.send_all(data)


@asynccontextmanager
async def open_client(
    socket_path: str, timeout_s: float = math.inf, *, window: int = WINDOW
) -> AsyncIterator[GoClient]:
    """Connect to the server at ``socket_path``; all that is done within takes ``timeout_s``,
    scaled.

    ``window`` is how many bytes of a call may be unread.
    """
    with fail_after(timeout_s):
        async with (
            await trio.open_unix_socket(socket_path) as stream,
            trio.open_nursery() as nursery,
        ):
            client = GoClient(stream, window)
            nursery.start_soon(client.run)
            await client.wait_ready()
            try:
                yield client
            finally:
                nursery.cancel_scope.cancel()
