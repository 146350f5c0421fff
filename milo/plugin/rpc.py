"""The bridge between grpclib's asyncio server and services written for Trio.

A service is a subclass of a class that betterproto generated. Its methods are Trio functions (a
request in, a response out) and Trio async generators (for streams). `bridged` keeps the generated
table of paths and types, and replaces what each path calls.

An exception in a handler ends that call only. A `MiloError` becomes an error status with its text;
any other exception is logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Final, Protocol

import trio
from grpclib.const import Handler, Status
from grpclib.encoding.base import StatusDetailsCodecBase
from grpclib.exceptions import GRPCError
from grpclib.server import Stream

from milo.core.text import printable
from milo.errors import ConfigError, MiloError, TaskNotFoundError
from milo.plugin.calls import Calls
from milo.plugin.event_loop import trio_asyncio
from milo.plugin.http2 import Outlet, Responses
from milo.wire.google.rpc import Detail
from milo.wire.google.rpc import Status as WireStatus
from milo.wire.hashicorp.nomad.plugins.shared.structs import RecoverableError

log = logging.getLogger(__name__)

MAX_MESSAGE_CHARS: Final = 8 * 1024
"""Of a status; as many as a task process may say at once."""
CANCELLED_WITHIN_S: Final = 10
"""How long a call that the client has ended waits to be cancelled: some turns of the event loop."""

ONE_BY_ONE: Final = frozenset(
    ("StartTask", "RecoverTask", "WaitTask", "TaskStats", "StopTask", "DestroyTask")
)
"""Calls that an agent makes for all its tasks at once, and that may wait some milliseconds."""

AnyStream = Stream[Any, Any]
Method = Callable[[Any], Any]


class Service(Protocol):
    """What betterproto generates for a service, and what grpclib serves."""

    def __mapping__(self) -> Mapping[str, Handler]:
        """The handler of each path."""
        ...


class Gate:
    """Lets calls begin one after the other, the first to come first.

    The event loop does one small step of each call after the other. A hundred calls that begin at
    once would make every step of any other call wait for a hundred of theirs.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def passed(self) -> None:
        """Return when it is this call's turn, and what was waiting meanwhile has had a step."""
        async with self._lock:
            await asyncio.sleep(0)


class Bridged:
    """A service as grpclib's server takes it."""

    def __init__(self, mapping: dict[str, Handler]) -> None:
        self._mapping = mapping

    def __mapping__(self) -> dict[str, Handler]:
        return self._mapping


def bridged(service: Service, calls: Calls | None = None) -> Bridged:
    """``service`` with its Trio methods behind asyncio handlers; ``calls`` counts them.

    A service may have ``request_types``: what is decoded in place of a generated message, by the
    name of the call.
    """
    types: Mapping[str, type] = getattr(service, "request_types", {})
    calls = calls or Calls()
    mapping: dict[str, Handler] = {}
    outlet, gate = Outlet(), Gate()
    for path, generated in service.__mapping__().items():
        # betterproto names its handler of the method stop_task __rpc_stop_task.
        method = getattr(service, generated.func.__name__.removeprefix("__rpc_"))
        name = path.rpartition("/")[2]
        handler = _handler(name, method, generated, outlet, gate, calls)
        request_type = types.get(name, generated.request_type)
        mapping[path] = generated._replace(func=handler, request_type=request_type)
    return Bridged(mapping)


def _handler(
    name: str, method: Method, generated: Handler, outlet: Outlet, gate: Gate, calls: Calls
) -> Callable[[AnyStream], Any]:
    # The others last as long as the client, or a task, does.
    timed = not generated.cardinality.server_streaming and name != "WaitTask"

    async def stream_responses(stream: AnyStream, argument: Any) -> None:
        sink = Responses(stream, outlet)
        async with aclosing(method(argument)) as responses:
            async for response in responses:
                # Some are bytes already, see `milo.plugin.stats_message`.
                if not await sink.send(bytes(response)):
                    # Its cancellation is on the way: an end before that, grpclib logs as a
                    # fault with a traceback, for each of the tasks whose client goes.
                    await trio.sleep(CANCELLED_WITHIN_S)
                    return

    # When the client cancels or goes, grpclib cancels this, and that cancels what is in Trio. The
    # one way to Trio and back: each one more is several turns of both loops.
    async def in_asyncio(stream: AnyStream) -> None:
        if name in ONE_BY_ONE:
            await gate.passed()
        with contained(name), calls.counted(name, timed=timed):
            argument: Any
            if generated.cardinality.client_streaming:
                argument = _requests(stream)
            else:
                argument = await _message(stream, name)
            if generated.cardinality.server_streaming:
                await trio_asyncio.trio_as_aio(stream_responses)(stream, argument)
                return
            response = await trio_asyncio.trio_as_aio(method)(argument)
            # Some are bytes already, see `milo.plugin.inspect_message`.
            await outlet.answer(stream, bytes(response))

    return in_asyncio


async def _message(stream: AnyStream, name: str) -> Any:
    """Return the one message of the call ``name``."""
    try:
        message = await stream.recv_message()
    except (ValueError, EOFError, OverflowError) as exc:
        raise GRPCError(
            Status.INVALID_ARGUMENT, f"Invalid value for {name}: it cannot be decoded ({exc})"
        ) from exc
    if message is None:
        raise GRPCError(Status.INVALID_ARGUMENT, f"{name} came without its message")
    return message


async def _requests(stream: AnyStream) -> AsyncIterator[Any]:
    """The client's messages, until it says that there are no more."""
    while (message := await trio_asyncio.aio_as_trio(stream.recv_message)()) is not None:
        yield message


@contextlib.contextmanager
def contained(name: str) -> Iterator[None]:
    """Turn what the RPC ``name`` raises into a `GRPCError`."""
    try:
        yield
    except GRPCError:
        raise
    except Exception as error:
        expected = _first_milo_error(error)
        if expected is not None:
            log.info("%s failed: %s", name, expected)
            raise status_error(expected) from error
        log.exception("%s failed unexpectedly", name)
        text = f"Error: Unexpected failure in {name}: {type(error).__name__}: {error}"
        raise GRPCError(Status.INTERNAL, _bounded(text)) from error


def _first_milo_error(error: BaseException) -> MiloError | None:
    """The error itself, or the first one in the groups that nurseries wrap around it."""
    if isinstance(error, MiloError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_first_milo_error, error.exceptions)), None)
    return None


def status_error(error: MiloError) -> GRPCError:
    """The error status for ``error``.

    UNAVAILABLE and CANCELLED are never used: Nomad takes them for the plugin's death. The
    detail is what Nomad's client reads of a failed StartTask to decide whether the job's
    restart policy applies; the result field of the response it does not read at all.
    Source: Nomad 2.0.5, plugins/drivers/client.go.
    """
    status = Status.FAILED_PRECONDITION
    if isinstance(error, TaskNotFoundError):
        status = Status.NOT_FOUND
    elif isinstance(error, ConfigError):
        status = Status.INVALID_ARGUMENT
    return GRPCError(status, _bounded(str(error)), RecoverableError(recoverable=error.recoverable))


def _bounded(text: str) -> str:
    """Return ``text`` as a status's message may be, which is a header field.

    To encode one takes time by the square of its length: of 140 KB, an id's say, 10 s (measured).
    """
    text = printable(text)
    return text if len(text) <= MAX_MESSAGE_CHARS else text[: MAX_MESSAGE_CHARS - 1] + "…"


class StatusDetails(StatusDetailsCodecBase):
    """The trailer grpc-status-details-bin, with a `RecoverableError` as its one detail."""

    TYPE_URL = "type.googleapis.com/hashicorp.nomad.plugins.shared.structs.RecoverableError"

    def encode(self, status: Status, message: str | None, details: Any) -> bytes:
        """The bytes for ``details``, a `RecoverableError`."""
        detail = Detail(type_url=self.TYPE_URL, value=bytes(details))
        return bytes(WireStatus(code=status.value, message=message or "", details=[detail]))

    def decode(self, status: Status, message: str | None, data: bytes) -> RecoverableError | None:
        """The `RecoverableError` in ``data``, for clients (the tests)."""
        for detail in WireStatus().parse(data).details:
            if detail.type_url == self.TYPE_URL:
                return RecoverableError().parse(detail.value)
        return None
