"""``milo exec``: a command in a task's container, on this terminal."""

from __future__ import annotations

import contextlib
import os
from argparse import Namespace
from collections.abc import AsyncGenerator, Sequence
from typing import Final

import trio

from milo.cli.arguments import WrongValueError, is_text
from milo.cli.output import write_all
from milo.cli.tasks import tasks_of_host
from milo.cli.terminal import follow_size, raw_terminal
from milo.core.exec_io import CommandEnd, ExecInput, Printed, TerminalSize, Typed
from milo.errors import MiloError, TaskEndedError
from milo.host.exec_client import run_command
from milo.host.tasks import find_task

CHUNK_BYTES: Final = 32 * 1024


class InputError(MiloError):
    """Standard input is something that cannot be read."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(f"Error: standard input cannot be read: {problem}. Try: < /dev/null")


def execute(options: Namespace, command: Sequence[str]) -> int:
    """Run ``command`` in a task; return its exit code, 128 and the number for a signal.

    Raises:
        MiloError: there is no such task, or it does not run.
    """
    argv = tuple(command)
    if not argv:
        raise WrongValueError(
            "COMMAND", "no command was given", "milo exec TASK COMMAND [ARGUMENT ...]"
        )
    for word in argv:
        if not is_text(word):  # crun reads the command from JSON
            raise WrongValueError("COMMAND", f"{word!r} is not UTF-8", "words in UTF-8")
    on_terminal = os.isatty(0) and os.isatty(1)
    terminal = on_terminal if options.tty is None else options.tty
    task = find_task(options.task, tasks_of_host(options))
    if task.exit is not None:
        raise TaskEndedError(task.name, "no command runs in it")
    with raw_terminal() if terminal and on_terminal else contextlib.nullcontext():
        end = trio.run(_run, task.state_dir, argv, terminal)
    return end.shell_code


async def _run(state_dir: str, argv: tuple[str, ...], terminal: bool) -> CommandEnd:
    send, receive = trio.open_memory_channel[ExecInput](1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_read_stdin, send.clone())
        if terminal:

            async def resize(rows: int, columns: int) -> None:
                await send.send(TerminalSize(rows=rows, columns=columns))

            nursery.start_soon(follow_size, resize)
        end = await run_command(state_dir, argv, tty=terminal, inputs=_items(receive), emit=_write)
        nursery.cancel_scope.cancel()
    return end


async def _items(
    channel: trio.MemoryReceiveChannel[ExecInput],
) -> AsyncGenerator[ExecInput, None]:
    async for item in channel:
        yield item


async def _read_stdin(send: trio.MemorySendChannel[ExecInput]) -> None:
    while True:
        try:
            await trio.lowlevel.wait_readable(0)
        except PermissionError:
            # A file or /dev/null, which epoll does not take, is always ready.
            await trio.lowlevel.checkpoint()
        try:
            data = os.read(0, CHUNK_BYTES)
        except BlockingIOError:
            continue
        except OSError as exc:
            raise InputError(exc.strerror or str(exc)) from exc
        await send.send(Typed(data, closed=not data))
        if not data:
            return


async def _write(printed: Printed) -> None:
    # In a thread: a terminal that is stopped with Ctrl-S holds up nothing else.
    await trio.to_thread.run_sync(write_all, 2 if printed.to_stderr else 1, printed.data)
