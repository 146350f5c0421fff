"""The driver's connection to one task process."""

from __future__ import annotations

import errno
import itertools
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import trio

from milo.core import control, records
from milo.errors import ControlError, NewerVersionError, NoAnswerError
from milo.unix_sockets import close_all, has_roots_peer, passed_descriptors, passing

CONNECT_TIMEOUT_S: Final = 10.0
CONNECT_PAUSE_S: Final = 0.01
ANSWER_TIMEOUT_S: Final = 10.0
MAX_DESCRIPTORS: Final = 16
ANCILLARY_BYTES: Final = socket.CMSG_SPACE(MAX_DESCRIPTORS * 4)

T = TypeVar("T")


class TaskClient:
    """Reads what one task process says and asks it for things.

    `run` feeds every notice to ``on_notice``, which must not block or raise.
    """

    def __init__(
        self,
        sock: trio.socket.SocketType,
        welcome: control.Welcome,
        on_notice: Callable[[control.Notice], None],
    ) -> None:
        self.welcome = welcome
        self.keeper = welcome.keeper
        """The process that forks a successor unasked; see `control.Welcome`."""
        self._sock = sock
        self._on_notice = on_notice
        self._answers: dict[int, control.Notice | None] = {}
        self._answered: dict[int, trio.Event] = {}
        self._wanted: set[int] = set()
        self._received: dict[int, dict[str, int]] = {}
        self._numbers = itertools.count(1)
        self._sending = trio.Lock()
        """Trio lets one task at a time wait until a socket has room again."""
        self._closed = False

    @classmethod
    async def connect(
        cls,
        state_dir: str,
        on_notice: Callable[[control.Notice], None],
        *,
        role: str = control.ROLE_DRIVER,
    ) -> TaskClient:
        """Connect to the task process that serves ``state_dir``.

        Raises:
            ControlError: nobody answers there, or not in this protocol.
            NewerVersionError: a newer Milo's task process does.
        """
        sock, welcome = await open_control(state_dir, role)
        return cls(sock, welcome, on_notice)

    async def run(self) -> None:
        """Hand on what the task process says until it closes the connection.

        What this Milo does not understand it passes over: one packet is one message.
        """
        try:
            while True:
                try:
                    packet, rights, _, _ = await self._sock.recvmsg(
                        control.MAX_MESSAGE_BYTES, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
                    )
                except ConnectionResetError:
                    # It has ended and not read all requests. The kernel tells that first, and
                    # once: what it has said before, how the task ended say, is still to come.
                    continue
                fds = passed_descriptors(rights)
                if not packet:
                    close_all(fds)
                    return
                try:
                    notice = control.decode_notice(packet)
                except ControlError:
                    close_all(fds)
                    continue
                if isinstance(notice, control.Descriptors) and self._expects(notice, len(fds)):
                    self._received[notice.seq] = dict(zip(notice.names, fds, strict=True))
                    fds = []
                close_all(fds)
                if isinstance(notice, control.Status | control.Done | control.Descriptors):
                    self._take(notice.seq, notice)
                else:
                    self._on_notice(notice)
        except (OSError, trio.ClosedResourceError):
            return
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection; pending requests fail. The task is not touched."""
        self._closed = True
        self._sock.close()
        for number in list(self._answered):
            self._take(number, None)

    async def status(self, *, figures: bool = False) -> control.Status:
        """Return the task's phase and counters, and with ``figures`` those of its JVM."""
        answer = await self._ask(control.GetStatus(seq=next(self._numbers), figures=figures))
        if not isinstance(answer, control.Status):
            raise ControlError("Error: The task process gave no status")
        return answer

    async def stop(self, signal: int, timeout_s: float) -> None:
        """Begin the stop ladder; returns when it was accepted."""
        await self._do(control.Stop(seq=next(self._numbers), signal=signal, timeout_s=timeout_s))

    async def descriptors(self) -> dict[str, int]:
        """Return duplicates, by name, of what a successor would need. The caller closes them."""
        request = control.GetDescriptors(seq=next(self._numbers))
        self._wanted.add(request.seq)
        answer: control.Notice | None = None
        try:
            answer = await self._ask(request)
        finally:
            self._wanted.discard(request.seq)
            received = self._received.pop(request.seq, None)
            if received is not None and not isinstance(answer, control.Descriptors):
                close_all(received.values())
        if received is None or not isinstance(answer, control.Descriptors):
            told = answer.error if isinstance(answer, control.Done) else ""
            raise ControlError(told or "Error: The task process gave no descriptors")
        return received

    async def signal(self, signal: int) -> None:
        """Send a signal to the application."""
        await self._do(control.Kill(seq=next(self._numbers), signal=signal))

    async def keep(self, channel: int, pid: int) -> None:
        """Have the task kept by the process ``pid``, which has the other end of ``channel``."""
        await self._do(control.Keep(seq=next(self._numbers), pid=pid), [channel])
        self.keeper = pid

    async def _do(
        self, request: control.Stop | control.Kill | control.Keep, fds: Sequence[int] = ()
    ) -> None:
        answer = await self._ask(request, fds)
        if isinstance(answer, control.Done) and answer.error:
            raise ControlError(answer.error)

    async def _ask(
        self,
        request: control.GetStatus
        | control.GetDescriptors
        | control.Stop
        | control.Kill
        | control.Keep,
        fds: Sequence[int] = (),
    ) -> control.Notice:
        if self._closed:
            raise ControlError("Error: The task process has ended")
        event = self._answered[request.seq] = trio.Event()
        try:
            with trio.fail_after(ANSWER_TIMEOUT_S):
                async with self._sending:
                    await self._sock.sendmsg([control.encode(request)], passing(fds))
                await event.wait()
        except trio.TooSlowError as exc:
            raise NoAnswerError(
                f"Error: The task process did not answer in {ANSWER_TIMEOUT_S:g} s"
            ) from exc
        except (OSError, trio.ClosedResourceError) as exc:
            raise ControlError(f"Error: The task process has ended: {exc}") from exc
        finally:
            self._answered.pop(request.seq, None)
            answer = self._answers.pop(request.seq, None)
        if answer is None:
            raise ControlError("Error: The task process ended before it answered")
        return answer

    def _expects(self, answer: control.Descriptors, count: int) -> bool:
        """Whether ``answer``, with ``count`` descriptors, was asked for and is in order."""
        return (
            answer.seq in self._wanted
            and answer.seq not in self._received
            and count == len(answer.names) == len(set(answer.names))
        )

    def _take(self, number: int, answer: control.Notice | None) -> None:
        event = self._answered.get(number)
        if event is not None and not event.is_set():
            self._answers[number] = answer
            event.set()


async def open_control(state_dir: str, role: str) -> tuple[trio.socket.SocketType, control.Welcome]:
    """Connect to the task process that serves ``state_dir``, as a client of ``role``.

    Raises:
        ControlError: nobody serves it, or not in this protocol; `NoAnswerError`: somebody does,
            and does not answer.
        NewerVersionError: a newer Milo's task process does.
    """
    path = os.path.join(state_dir, records.CONTROL_SOCKET)
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    sock = trio.socket.from_stdlib_socket(raw)
    try:
        with trio.fail_after(CONNECT_TIMEOUT_S):
            # A full backlog is EAGAIN here, which Trio's own connect takes for "in progress".
            while (code := raw.connect_ex(path)) == errno.EAGAIN:  # noqa: ASYNC110
                await trio.sleep(CONNECT_PAUSE_S)
            if code:
                raise OSError(code, os.strerror(code))
            if not has_roots_peer(sock):
                raise ControlError(f"Error: The process that serves {path} does not belong to root")
            hello = control.Hello(version=control.PROTOCOL_VERSION, role=role, keepers=True)
            await sock.send(control.encode(hello))
            welcome = control.decode_notice(await sock.recv(control.MAX_MESSAGE_BYTES))
    except trio.TooSlowError as exc:
        sock.close()
        raise NoAnswerError(
            f"Error: The task process behind {path} did not answer in {CONNECT_TIMEOUT_S:g} s"
        ) from exc
    except (OSError, ValueError) as exc:
        sock.close()
        words = getattr(exc, "strerror", None) or exc
        raise ControlError(f"Error: No task process answers at {path}: {words}") from exc
    except BaseException:
        sock.close()
        raise
    if not isinstance(welcome, control.Welcome):
        sock.close()
        raise ControlError(f"Error: The process behind {path} is not a task process of Milo")
    if welcome.version > control.PROTOCOL_VERSION:
        sock.close()
        raise NewerVersionError(path, welcome.version, control.PROTOCOL_VERSION)
    return sock, welcome


async def observed(state_dir: str, ask: Callable[[TaskClient], Awaitable[T]]) -> T:
    """Return what ``ask`` does with a connection to the task process that serves ``state_dir``.

    Raises:
        ControlError: nobody answers there, or what ``ask`` raises.
    """
    client = await TaskClient.connect(state_dir, lambda _: None, role=control.ROLE_OBSERVER)
    answers: list[T] = []
    failures: list[ControlError] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        try:
            answers.append(await ask(client))
        except ControlError as exc:
            failures.append(exc)  # raised outside, where no group wraps it
        client.close()
        nursery.cancel_scope.cancel()
    for failure in failures:
        raise failure
    return answers[0]
