"""The task process's side of the control socket, for any number of clients at once."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from typing import Final, Protocol

import trio

from milo.core import control
from milo.core.records import ProcessId
from milo.errors import ControlError, MiloError
from milo.task.missed import Missed
from milo.unix_sockets import close_all, has_roots_peer, passed_descriptors, passing

QUEUED_NOTICES: Final = 256
"""Notices that wait for a slow client; a client that is further behind is dropped."""
HELLO_TIMEOUT_S: Final = 10.0
MAX_DESCRIPTORS: Final = 16
"""With one request; the kernel drops what is more."""
ANCILLARY_BYTES: Final = socket.CMSG_SPACE(MAX_DESCRIPTORS * 4)
FLUSH_TIMEOUT_S: Final = 1.0
"""At the end, how long a client may take to read what it was sent."""


class Backend(Protocol):
    """What the supervisor answers to clients."""

    def status(self, seq: int, *, figures: bool) -> control.Status:
        """Return the task's status, and the JVM's figures where they are wanted."""

    def request_stop(self, signal: int, timeout_s: float) -> None:
        """Begin the stop ladder."""

    def send_signal(self, signal: int) -> None:
        """Send a signal to the application; raises MiloError."""

    def descriptors(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Return names and numbers of the descriptors that a successor would need."""

    @property
    def keeper_pid(self) -> int:
        """The keeper's process, see `milo.task.keeper`; 0 where there is none."""

    def be_kept(self, channel: socket.socket, pid: int) -> None:
        """Let the process ``pid`` behind ``channel`` be the keeper."""

    def be_unkept(self) -> None:
        """Have no keeper from now on."""

    async def run_command(self, sock: trio.socket.SocketType) -> None:
        """Run the command that the client of role ``exec`` asks for next."""

    def current(self) -> Sequence[control.Message]:
        """Return what a driver that connects late has missed: Started, StartFailed, Exited.

        An application may be over by then. Without the first, its start has failed for Nomad.
        """


_Packet = tuple[control.Message, tuple[int, ...]]
"""A message and the descriptors that go with it."""


class _Client:
    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.sock = sock
        self.role = ""
        self.done = trio.Event()
        # Annotated, because `open_memory_channel[...]` makes a type at each call.
        self.outbox: trio.MemorySendChannel[_Packet]
        self.queue: trio.MemoryReceiveChannel[_Packet]
        self.outbox, self.queue = trio.open_memory_channel(QUEUED_NOTICES)
        self._unsent: list[control.Message] = []

    def post(self, message: control.Message, fds: Sequence[int] = ()) -> bool:
        """Queue ``message`` with ``fds``, which are this object's to close from now on.

        Returns whether there was room for it.
        """
        try:
            self.outbox.send_nowait((message, tuple(fds)))
            return True
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            # It does not read. Its connection is cut, so that it notices that it missed something.
            close_all(fds)
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
            return False

    async def write(self) -> None:
        """Send what is queued until there will be no more, or the client has gone."""
        async for message, fds in self.queue:
            self._unsent = [message]
            try:
                await self.sock.sendmsg([control.encode(message)], passing(fds))
            except ControlError:
                pass  # too large for a packet: what follows it is not
            except OSError:
                return
            finally:
                close_all(fds)
            self._unsent = []

    def close(self) -> list[control.Message]:
        """Return what could not be sent, once nobody sends it any more."""
        self.outbox.close()
        with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                message, fds = self.queue.receive_nowait()
                close_all(fds)
                self._unsent.append(message)
        self.queue.close()
        return self._unsent


class ControlServer:
    """Serves one listening SEQPACKET socket for a `Backend`."""

    def __init__(
        self,
        listener: socket.socket,
        backend: Backend,
        supervisor: ProcessId,
        *,
        expects_driver: bool = True,
    ) -> None:
        self._listener = listener
        self._backend = backend
        self._supervisor = supervisor
        self._clients: set[_Client] = set()
        self._met_driver = trio.Event()
        if not expects_driver:
            self._met_driver.set()
        self._missed = Missed()

    def fileno(self) -> int:
        """Return the number of the listening socket."""
        return self._listener.fileno()

    def publish(self, message: control.Message) -> None:
        """Send ``message`` to every connected driver.

        The last events and log lines wait for one to come.
        """
        posted = [client.post(message) for client in self._drivers()]
        if not any(posted):
            self._missed.keep(message)

    def _drivers(self) -> list[_Client]:
        return [client for client in self._clients if client.role == control.ROLE_DRIVER]

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. A client's failure is its own."""
        listener = trio.socket.from_stdlib_socket(self._listener)
        with listener:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    try:
                        sock, _ = await listener.accept()
                    except OSError:
                        # Out of descriptors or an aborted connection: the task is worth more.
                        await trio.sleep(0.1)
                        continue
                    nursery.start_soon(self._serve, _Client(sock))

    async def flush(self) -> None:
        """Wait until every client has been sent what is queued for it, within a bound.

        A task can be over before the driver that asked for it has connected.
        """
        with trio.move_on_after(HELLO_TIMEOUT_S):
            await self._met_driver.wait()
        clients = list(self._clients)
        with trio.move_on_after(FLUSH_TIMEOUT_S):
            for client in clients:
                client.outbox.close()
            for client in clients:
                await client.done.wait()

    async def _serve(self, client: _Client) -> None:
        with client.sock:
            try:
                await self._talk(client)
            except Exception:
                # Whatever a client makes go wrong ends its connection, never the task.
                return
            finally:
                unsent = client.close()
                if client.role == control.ROLE_DRIVER and not self._drivers():
                    self._missed.put_back(unsent)

    async def _talk(self, client: _Client) -> None:
        with contextlib.suppress(OSError, ControlError):
            with trio.move_on_after(HELLO_TIMEOUT_S):
                packet, fds = await self._receive(client)
                close_all(fds)
                hello = control.decode_request(packet)
                if not isinstance(hello, control.Hello) or not has_roots_peer(client.sock):
                    return
                client.role = hello.role
                if hello.role == control.ROLE_DRIVER and not hello.keepers:
                    self._backend.be_unkept()
            if not client.role:
                return
            welcome = control.Welcome(
                version=control.PROTOCOL_VERSION,
                supervisor=self._supervisor,
                long_commands=True,
                keeper=self._backend.keeper_pid,
            )
            if client.role == control.ROLE_EXEC:
                await client.sock.send(control.encode(welcome))
                await self._backend.run_command(client.sock)
                return
            client.post(welcome)
            current = self._backend.current()
            if client.role == control.ROLE_DRIVER:
                for message in self._missed.take():
                    client.post(message)
                for message in current:
                    client.post(message)
            self._clients.add(client)
            if client.role == control.ROLE_DRIVER:
                self._met_driver.set()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read, client, nursery.cancel_scope)
                    await client.write()
                    nursery.cancel_scope.cancel()
            finally:
                self._clients.discard(client)
                client.done.set()

    async def _receive(self, client: _Client) -> tuple[bytes, list[int]]:
        packet, rights, _, _ = await client.sock.recvmsg(
            control.MAX_MESSAGE_BYTES, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
        )
        fds = passed_descriptors(rights)
        if not packet:
            close_all(fds)
            raise ControlError("The client has gone")
        return packet, fds

    async def _read(self, client: _Client, scope: trio.CancelScope) -> None:
        try:
            while True:
                self._answer(client, *await self._receive(client))
        except (OSError, ControlError):
            scope.cancel()

    def _answer(self, client: _Client, packet: bytes, fds: list[int]) -> None:
        """Do what ``packet`` asks for; ``fds`` came with it, and are closed or used up."""
        try:
            request = control.decode_request(packet)
            channel = None
            if isinstance(request, control.Keep) and len(fds) == 1:
                with contextlib.suppress(OSError):
                    channel = socket.socket(fileno=fds[0])
                    fds = []
        except ControlError as exc:
            client.post(control.Done(seq=-1, error=control.cut(str(exc))))
            return
        finally:
            close_all(fds)
        try:
            match request:
                case control.GetStatus():
                    client.post(self._backend.status(request.seq, figures=request.figures))
                case control.GetDescriptors():
                    names, numbers = self._backend.descriptors()
                    answer = control.Descriptors(seq=request.seq, names=names)
                    client.post(answer, _duplicates(numbers))
                case control.Keep():
                    if channel is None:
                        raise ControlError("Error: No channel came with the request")
                    self._backend.be_kept(channel, request.pid)
                    client.post(control.Done(seq=request.seq))
                case control.Stop():
                    self._backend.request_stop(request.signal, request.timeout_s)
                    client.post(control.Done(seq=request.seq))
                case control.Kill():
                    self._backend.send_signal(request.signal)
                    client.post(control.Done(seq=request.seq))
                case control.Hello():
                    # What a driver has missed is told with the first one's answer.
                    raise ControlError("Error: A connection says hello once")
        except MiloError as exc:
            seq = getattr(request, "seq", -1)
            client.post(control.Done(seq=seq, error=control.cut(str(exc))))
        except Exception as exc:
            # No descriptors left, or a bug: the client hears of it, and the task runs on.
            seq = getattr(request, "seq", -1)
            text = f"Error: The task process could not do it: {exc!r}"
            client.post(control.Done(seq=seq, error=control.cut(text)))


def _duplicates(fds: Sequence[int]) -> list[int]:
    """Return duplicates of all of ``fds``; raises OSError, and then leaves none."""
    made: list[int] = []
    try:
        for fd in fds:
            made.append(os.dup(fd))
    except OSError:
        close_all(made)
        raise
    return made
