"""Commands that are too long for a message: their memory, and who knows of it."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio

from milo import command_memory
from milo.core import control, records
from milo.core.container.exec_limits import MAX_STRING_BYTES, MAX_TOTAL_BYTES
from milo.core.exec_io import ExecInput, Printed
from milo.errors import ConfigError, ControlError
from milo.host.exec_client import run_command
from milo.proc import this_process


@pytest.mark.parametrize("words", [("a",), ("/bin/echo", "", "é\n", "x" * 100_000)])
def test_words_arrive_as_they_are(words: tuple[str, ...]) -> None:
    """Empty ones and long ones too; nobody can change them any more."""
    fd = command_memory.pack(words)
    try:
        assert command_memory.unpack(fd) == words
        for change in (lambda: os.write(fd, b"x"), lambda: os.ftruncate(fd, 0)):
            with pytest.raises(PermissionError):
                change()
        assert command_memory.unpack(fd) == words
    finally:
        os.close(fd)


@pytest.mark.parametrize("word", ["a\0b", "\udc80"])
def test_what_no_command_line_holds(word: str) -> None:
    """It is refused, instead of becoming two words."""
    with pytest.raises(ControlError, match="A word of the command"):
        command_memory.pack(["/bin/echo", word])


def test_only_sealed_memory_is_read(tmp_path: Path) -> None:
    """No file and no pipe, which may change or never end; no more than any kernel passes on."""
    reader, writer = os.pipe()
    file = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR)
    unsealed = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    large = command_memory.pack(["x" * MAX_TOTAL_BYTES])
    for fd in (reader, writer, file, unsealed, large):
        with pytest.raises(ControlError, match="sealed memory"):
            command_memory.unpack(fd)
        os.close(fd)


async def no_input() -> AsyncGenerator[ExecInput, None]:
    for _ in ():
        yield _


async def emit(_: Printed) -> None:
    """Take no notice of the output."""


async def run(state_dir: Path, *argv: str) -> None:
    await run_command(str(state_dir), argv, tty=True, inputs=no_input(), emit=emit)


@pytest.mark.parametrize("knows", [True, False])
async def test_an_older_task_process_is_not_asked_for_it(tmp_path: Path, knows: bool) -> None:
    """A short command goes as ever; a long one where it is understood."""
    received: list[control.Exec] = []

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            await listener.bind(str(tmp_path / records.CONTROL_SOCKET))
            listener.listen(5)
            task_status.started()
            while True:
                sock, _ = await listener.accept()
                with sock:
                    await sock.recv(control.MAX_MESSAGE_BYTES)
                    welcome = control.Welcome(
                        version=1, supervisor=this_process(), long_commands=knows
                    )
                    data = control.encode(welcome)
                    await sock.send(data if knows else data.replace(b"long_commands", b"other"))
                    packet = await sock.recv(control.MAX_MESSAGE_BYTES)
                    if packet:
                        request = control.decode_request(packet)
                        assert isinstance(request, control.Exec)
                        received.append(request)
                        await sock.send(control.encode(control.ExecEnded(exit_code=0)))

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        await run(tmp_path, "/bin/true", "short")
        assert received.pop().argv == ("/bin/true", "short")
        if knows:
            await run(tmp_path, "/bin/true", "x" * 100_000)
            assert received.pop().argv == ()
        else:
            with pytest.raises(ControlError, match="older Milo started the task"):
                await run(tmp_path, "/bin/true", "x" * 100_000)
        nursery.cancel_scope.cancel()


async def test_what_no_kernel_passes_on_is_not_sent(tmp_path: Path) -> None:
    """Nobody is even asked: a word, or all of them, with number and size."""
    with pytest.raises(ConfigError, match=r"command\[1\]: it has 131072 bytes"):
        await run(tmp_path, "/bin/true", "x" * (MAX_STRING_BYTES + 1))
    with pytest.raises(ConfigError, match="bytes in all"):
        await run(tmp_path, "/bin/true", *["x" * 100_000] * 100)
