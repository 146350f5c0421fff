"""Runs commands in a task's container, through its task process: ``alloc exec``, script checks.

The driver holds one end of the command's streams and moves bytes. The task process starts the
command, and kills it when this connection closes.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import signal
import socket
import struct
import termios
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

import trio

from milo import command_memory
from milo.cgroup_files import signal_member
from milo.core import control
from milo.core.container import exec_limits
from milo.core.exec_io import (
    EOT,
    CommandEnd,
    ExecInput,
    ExecOutput,
    Printed,
    TerminalSize,
    Typed,
)
from milo.errors import ControlError, MiloError, StateError
from milo.host.state_store import StateStore
from milo.host.task_client import open_control
from milo.unix_sockets import close_all, passed_descriptors, passing

CHUNK_BYTES: Final = 32 * 1024
SILENCE_S: Final = 0.5
"""After the command's end, how long output may still take to come: what it has left running in
the background may hold its streams open for ever."""
START_TIMEOUT_S: Final = 40.0
"""More than the task process gives crun."""
WAITING_CHUNKS: Final = 4
"""Read from a streamed command and not yet taken; then the command waits."""
KEPT_BYTES: Final = 4096
"""What Nomad's own drivers keep of a script check's output (drivers.CheckBufSize)."""

Emit = Callable[[Printed], Awaitable[None]]


class Inputs(Protocol):
    """Where a command's input comes from: a generator, or a memory channel."""

    def __aiter__(self) -> AsyncIterator[ExecInput]:
        """As of any asynchronous iterator."""

    def aclose(self) -> Awaitable[None]:
        """Let go of it; it may be in the middle of its work."""


async def run_command(
    state_dir: str,
    argv: tuple[str, ...],
    *,
    tty: bool,
    inputs: Inputs,
    emit: Emit,
    combined: bool = False,
) -> CommandEnd:
    """Run ``argv`` in the container of the task behind ``state_dir``; return how it ended.

    ``inputs`` may go on for ever, and is closed with the command. ``emit`` gets the output, each
    stream's end included, and may take its time: then the command waits. With ``combined``,
    standard error goes where standard output does. Cancellation kills the command and all that its
    session holds.

    Raises:
        ConfigError: no kernel passes on so much.
        ControlError: the task does not run, its process is of an older Milo, or it died.
    """
    async with contextlib.AsyncExitStack() as stack:
        # One that was begun and is only dropped, Trio warns of.
        await stack.enter_async_context(contextlib.aclosing(inputs))
        exec_limits.check_request({"command": argv}, {})
        sock, welcome = await open_control(state_dir, control.ROLE_EXEC)
        stack.enter_context(sock)
        request, passed = control.Exec(argv=argv, tty=tty), []
        if not control.fits(request):
            if not welcome.long_commands:
                raise ControlError(
                    "Error: An older Milo started the task, and it cannot run so long a command. "
                    "Restart the task (nomad alloc restart)"
                )
            passed = [command_memory.pack(argv)]
            stack.callback(os.close, passed[0])
            request = control.Exec(argv=(), tty=tty)
        return await _Session(sock, emit, _cgroup_path(state_dir)).run(
            request, aiter(inputs), passed, combined=combined
        )


async def run_script(
    state_dir: str, argv: tuple[str, ...], timeout_s: float
) -> tuple[bytes, CommandEnd]:
    """Run ``argv`` without input; return the last `KEPT_BYTES` of its output, and its end.

    Raises:
        ControlError: as `run_command`, or it took longer than ``timeout_s`` and was killed.
    """
    kept = bytearray()

    async def keep(printed: Printed) -> None:
        kept.extend(printed.data)
        del kept[:-KEPT_BYTES]

    with trio.move_on_after(timeout_s):
        end = await run_command(
            state_dir, argv, tty=False, inputs=_no_input(), emit=keep, combined=True
        )
        return bytes(kept), end
    raise ControlError(
        f"Error: The command {argv[0]!r} did not end within its timeout of {timeout_s:g} s, "
        f"and was killed. It printed: {kept.decode(errors='replace') or 'nothing'}"
    )


async def stream_command(
    nursery: trio.Nursery,
    state_dir: str,
    argv: tuple[str, ...],
    *,
    tty: bool,
    inputs: AsyncGenerator[ExecInput, None],
) -> AsyncGenerator[ExecOutput, None]:
    """Run a command and yield its output, then its end. Closing the generator kills it.

    ``inputs`` is closed with the command.

    The command runs in ``nursery``, which outlives the generator: one that yields may hold no
    nursery of its own. Raises what `run_command` does.
    """
    send, receive = trio.open_memory_channel[ExecOutput](WAITING_CHUNKS)
    scope = trio.CancelScope()
    failure: list[Exception] = []

    async def run() -> None:
        with scope, send:
            try:
                end = await run_command(state_dir, argv, tty=tty, inputs=inputs, emit=send.send)
                await send.send(end)
            except Exception as exc:
                failure.append(exc)

    nursery.start_soon(run)
    try:
        with receive:
            async for item in receive:
                yield item
    finally:
        scope.cancel()
    for error in failure:
        raise error


class _Session:
    """One command, from the request to the last byte of its output."""

    def __init__(self, sock: trio.socket.SocketType, emit: Emit, cgroup_path: str) -> None:
        self._sock = sock
        self._cgroup_path = cgroup_path
        self._emit = emit
        self._readers: list[_Reader] = []

    async def run(
        self,
        request: control.Exec,
        inputs: AsyncIterator[ExecInput],
        passed: Sequence[int],
        *,
        combined: bool,
    ) -> CommandEnd:
        answer: control.ExecEnded | MiloError
        async with trio.open_nursery() as nursery:
            try:
                answer = await self._talk(nursery, request, inputs, passed, combined=combined)
            except MiloError as exc:
                answer = exc  # raised outside, where no group wraps it
            nursery.cancel_scope.cancel()
        if isinstance(answer, MiloError):
            raise answer
        return CommandEnd(answer.exit_code, answer.signal)

    async def _talk(
        self,
        nursery: trio.Nursery,
        request: control.Exec,
        inputs: AsyncIterator[ExecInput],
        passed: Sequence[int],
        *,
        combined: bool,
    ) -> control.ExecEnded:
        stdin: trio.lowlevel.FdStream | None = None
        if request.tty:
            await self._send(request, passed)
        else:
            ours, theirs = _pipes(combined=combined)
            stdin = trio.lowlevel.FdStream(ours[0])
            for number, fd in enumerate(ours[1:]):
                self._read(nursery, fd, to_stderr=number == 1)
            try:
                await self._send(request, [*theirs, *passed])
            finally:
                close_all(theirs)
        try:
            answer, fds = await self._receive(START_TIMEOUT_S)
            if fds:  # a terminal, for both directions
                stdin = trio.lowlevel.FdStream(os.dup(fds[0]))
                self._read(nursery, fds[0], to_stderr=False)
            if isinstance(answer, control.ExecStarted):
                assert stdin is not None
                nursery.start_soon(_feed, stdin, inputs, request.tty)
                answer = await self._until_ended(answer)
            for reader in self._readers:
                reader.end()
            for reader in self._readers:
                await reader.done.wait()
        finally:
            if stdin is not None:
                await stdin.aclose()
        if answer.error and not any(reader.had_data for reader in self._readers):
            # Without a terminal, crun has said it on the command's standard error itself.
            text = answer.error.encode() + (b"\r\n" if request.tty else b"\n")
            await self._emit(Printed(text, to_stderr=not request.tty))
        return answer

    def _read(self, nursery: trio.Nursery, fd: int, *, to_stderr: bool) -> None:
        reader = _Reader(trio.lowlevel.FdStream(fd), self._emit, to_stderr=to_stderr)
        self._readers.append(reader)
        nursery.start_soon(reader.run)

    async def _until_ended(self, started: control.ExecStarted) -> control.ExecEnded:
        try:
            answer, fds = await self._receive()
            close_all(fds)
        except ControlError:
            # The task process was killed, and the command is nobody's now. Which one that is has
            # the peer said: believed only of a process of the task's own container.
            signal_member(started.process, self._cgroup_path, signal.SIGKILL)
            raise
        if not isinstance(answer, control.ExecEnded):
            raise ControlError("Error: The task process sent an unexpected answer")
        return answer

    async def _send(self, request: control.Exec, fds: Iterable[int]) -> None:
        try:
            await self._sock.sendmsg([control.encode(request)], passing(fds))
        except OSError as exc:
            raise ControlError(f"Error: The task process has ended: {exc}") from exc

    async def _receive(
        self, timeout_s: float = math.inf
    ) -> tuple[control.ExecStarted | control.ExecEnded, list[int]]:
        try:
            with trio.fail_after(timeout_s):
                packet, ancillary, _, _ = await self._sock.recvmsg(
                    control.MAX_MESSAGE_BYTES, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
                )
        except trio.TooSlowError as exc:
            raise ControlError(
                f"Error: The task process did not run the command within {timeout_s:g} s"
            ) from exc
        except OSError as exc:
            raise ControlError(f"Error: The task process has ended: {exc}") from exc
        fds = passed_descriptors(ancillary)
        try:
            if not packet:
                raise ControlError("Error: The task or its task process has ended")
            answer = control.decode_notice(packet)
            if isinstance(answer, control.ExecStarted | control.ExecEnded):
                received, fds = fds, []
                return answer, received
        finally:
            close_all(fds)
        raise ControlError(
            "Error: An older Milo started the task, and it cannot run commands in a task. "
            "Restart the task (nomad alloc restart)"
        )


def _cgroup_path(state_dir: str) -> str:
    """Return the container's cgroup, as its task process has written it down."""
    with contextlib.suppress(StateError):
        record = StateStore(os.path.dirname(state_dir)).read_task(state_dir)
        return "" if record is None else record.cgroup_path
    return ""


class _Reader:
    """Reads one stream of the command until its end, or until it has been silent afterwards."""

    def __init__(self, stream: trio.lowlevel.FdStream, emit: Emit, *, to_stderr: bool) -> None:
        self.done = trio.Event()
        self.had_data = False
        self._stream = stream
        self._emit = emit
        self._to_stderr = to_stderr
        self._ended = False
        self._waiting: trio.CancelScope | None = None

    def end(self) -> None:
        """The command has ended: wait for its last words only."""
        self._ended = True
        if self._waiting is not None:
            self._waiting.deadline = trio.current_time() + SILENCE_S

    async def run(self) -> None:
        """Emit what comes, then the stream's end."""
        async with self._stream:
            while data := await self._receive():
                self.had_data = True
                await self._emit(Printed(data, to_stderr=self._to_stderr))
        await self._emit(Printed(to_stderr=self._to_stderr, closed=True))
        self.done.set()

    async def _receive(self) -> bytes:
        # Only waiting for the command is bounded, never waiting for who reads its output.
        deadline = trio.current_time() + SILENCE_S if self._ended else math.inf
        with trio.CancelScope(deadline=deadline) as self._waiting:
            try:
                return bytes(await self._stream.receive_some(CHUNK_BYTES))
            except trio.BrokenResourceError:
                pass  # EIO: nobody has the terminal open any more
        return b""


async def _feed(stdin: trio.lowlevel.FdStream, inputs: AsyncIterator[ExecInput], tty: bool) -> None:
    """Hand the input on until the command reads no more of it."""
    async with stdin:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for item in inputs:
                match item:
                    case TerminalSize(rows, columns):
                        set_terminal_size(stdin.fileno(), rows, columns)
                    case Typed(data, closed):
                        await stdin.send_all(data + EOT if tty and closed else data)
                        if closed and not tty:
                            await stdin.aclose()
        await trio.sleep_forever()  # a terminal stays open for its output


def set_terminal_size(fd: int, rows: int, columns: int) -> None:
    """Tell a terminal its size, and with it whoever runs there; ioctl_tty(2)."""
    if 0 < rows < 2**16 and 0 < columns < 2**16:
        with contextlib.suppress(OSError):
            fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


async def _no_input() -> AsyncGenerator[ExecInput, None]:
    yield Typed(closed=True)


def _pipes(*, combined: bool) -> tuple[list[int], list[int]]:
    """Return our ends of the command's streams, and its own."""
    stdin, ours_in = os.pipe2(os.O_CLOEXEC)
    ours_out, stdout = os.pipe2(os.O_CLOEXEC)
    if combined:
        return [ours_in, ours_out], [stdin, stdout, os.dup(stdout)]
    ours_err, stderr = os.pipe2(os.O_CLOEXEC)
    return [ours_in, ours_out, ours_err], [stdin, stdout, stderr]
