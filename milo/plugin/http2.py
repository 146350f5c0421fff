"""All uses of private names of grpclib and h2.

They allow any number of calls on one connection, and sending messages without a detour.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import replace
from typing import Any, Final

from grpclib.protocol import Connection, H2Protocol
from grpclib.protocol import Stream as GrpcStream
from grpclib.server import Server, Stream
from h2.connection import H2Connection
from h2.settings import SettingCodes
from h2.utilities import SizeLimitDict

from milo.plugin.event_loop import trio_asyncio

MAX_STREAMS: Final = 2**31 - 1
"""The largest number that every client takes; HTTP/2 sets no limit of its own."""

KEPT_STREAMS: Final = 1024
"""How many ended calls a connection remembers, for frames of theirs that come late."""

STREAMS_A_CALL: Final = 8
"""So many streams are looked at for each call that begins, whether they have ended."""

# Of a message in a gRPC stream: not compressed, and its length.
_PREFIX = struct.Struct(">?I")

_HEADERS: Final = ((":status", "200"), ("content-type", "application/grpc+proto"))
_TRAILERS: Final = (("grpc-status", "0"),)


READ_BYTES: Final = 8192
"""At a time, and not asyncio's 256 KiB: what a hundred starts take of it is no one step."""


class _Count:
    """Takes the place of h2's count of open streams, which also forgets those that have ended.

    h2 counts anew at each call that begins. With two calls pending for each of a thousand tasks,
    that is a quarter of what a recovery takes. The count is for a limit that this server has not.
    """

    def __init__(self, connection: H2Connection) -> None:
        self._connection = connection
        self._calls = 0

    def __call__(self, remainder: int) -> int:
        """Return 0, and now and then, by the number of streams, what h2 has counted."""
        self._calls += 1
        if self._calls * STREAMS_A_CALL < len(self._connection.streams):
            return 0
        self._calls = 0
        return H2Connection._open_streams(self._connection, remainder)


class UnlimitedProtocol(H2Protocol):
    """A connection that bears any number of calls at once.

    The h2 package allows 100. The agent keeps two calls pending for each task, on one
    connection: with 50 tasks nothing could be started or stopped any more, since a client
    waits in silence for a call to end.

    Nor does it grow with the calls that have been: h2 remembers 65,536, in some 8 MiB.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        connection = self.connection._connection
        connection._closed_streams = SizeLimitDict(size_limit=KEPT_STREAMS)
        connection._open_streams = _Count(connection)  # type: ignore[method-assign]
        connection.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS})
        self.connection.flush()


class UnlimitedServer(Server):
    """grpclib's server with an `UnlimitedProtocol` for each connection."""

    async def take(self, connection: socket.socket) -> None:
        """Serve a connection that somebody else has accepted, and that does not block."""
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(self._protocol_factory, connection)

    def _protocol_factory(self) -> H2Protocol:
        made = super()._protocol_factory()
        # grpclib asks after two hours whether the client is still there; a unix socket tells that
        # by itself. With a timer so far away, each wait of trio-asyncio's loop leaves a deadline
        # in Trio, a thousand of them.
        config = replace(made.config, _keepalive_time=None)
        return UnlimitedProtocol(made.handler, config, made.h2_config)


class Outlet:
    """Where messages leave: all that are sent in one turn of the event loop, in one piece.

    That is one system call for the statistics of all tasks, and one answer from the client, which
    asks for a sign of life (PING) whenever data has arrived.
    """

    def __init__(self) -> None:
        self._waiting: set[Connection] = set()

    def send(self, stream: GrpcStream, data: bytes) -> None:
        """Send ``data``, for which the stream must have `room`."""
        assert stream.id is not None
        stream.connection._connection.send_data(stream.id, data)
        self._let_leave(stream.connection)

    def begin(self, call: Stream[Any, Any]) -> None:
        """Send that messages of a call follow, which the client may not have ended."""
        stream = call._stream
        assert stream.id is not None
        stream.connection._connection.send_headers(stream.id, _HEADERS)
        call._send_initial_metadata_done = True  # grpclib need not do it
        self._let_leave(stream.connection)

    async def answer(self, call: Stream[Any, Any], message: bytes) -> None:
        """Send the one message of a call, and that it has succeeded. In asyncio.

        grpclib's own way takes three system calls, and several times as long. It is taken where
        there is no `room`, or the client has ended the call.
        """
        stream = call._stream
        data = _PREFIX.pack(False, len(message)) + message
        if not stream.closable or len(data) > room(stream):
            await call.send_initial_metadata()
            await stream.send_data(data)
            call._send_message_done = True
            return
        assert stream.id is not None
        h2 = stream.connection._connection
        h2.send_headers(stream.id, _HEADERS)
        h2.send_data(stream.id, data)
        h2.send_headers(stream.id, _TRAILERS, end_stream=True)
        call._send_trailing_metadata_done = True  # grpclib need do no more
        self._let_leave(stream.connection)

    def _let_leave(self, connection: Connection) -> None:
        if not self._waiting:
            trio_asyncio.current_loop.get().call_soon(self._leave)
        self._waiting.add(connection)

    def _leave(self) -> None:
        while self._waiting:
            connection = self._waiting.pop()
            if not connection.is_closing():
                connection.flush()


def room(stream: GrpcStream) -> int:
    """Return how many bytes can be sent at once: what the client and the transport take now."""
    assert stream.id is not None
    if not stream.connection.write_ready.is_set():
        return 0
    h2 = stream.connection._connection
    return min(h2.local_flow_control_window(stream.id), h2.max_outbound_frame_size)


class Responses:
    """The messages of one streaming call, sent from Trio.

    grpclib's own way takes an asyncio task and a system call for each message, several times as
    long as everything else together. Only when the client does not keep up does a message
    wait, in grpclib's way: then no further one is made, and no other call is held up.
    """

    def __init__(self, call: Stream[Any, Any], outlet: Outlet) -> None:
        self._call = call
        self._outlet = outlet
        self._has_begun = False

    async def send(self, message: bytes) -> bool:
        """Send a message; return False when the client has ended the call.

        Waits as long as the client's flow control or the transport's buffer has no room.
        """
        stream = self._call._stream
        if not stream.closable:
            return False
        if not self._has_begun:
            self._outlet.begin(self._call)
            self._has_begun = True
        data = _PREFIX.pack(False, len(message)) + message
        if len(data) <= room(stream):
            self._outlet.send(stream, data)
        else:
            await trio_asyncio.aio_as_trio(stream.send_data)(data)
        return True
