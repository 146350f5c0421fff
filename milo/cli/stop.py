"""``milo stop``: ends a task, also one whose task process was killed."""

from __future__ import annotations

import os
import signal
from argparse import Namespace
from functools import partial

import trio

from milo.cli.arguments import WrongValueError, seconds_of
from milo.cli.caller import enter
from milo.cli.output import progress, say
from milo.cli.run_leftovers import GONE_S, POLL_S, ends_within, is_run, remove_run
from milo.cli.tasks import tasks_of_host
from milo.core.describe import exit_sentence
from milo.core.signals import NO_SIGNAL, parse_signal
from milo.errors import ConfigError, ControlError, TaskEndedError
from milo.host.state_store import StateStore
from milo.host.task_client import TaskClient, observed
from milo.host.tasks import HostTask, find_task
from milo.process_signals import signal_process


def stop_task(options: Namespace) -> int:
    """Stop one task, and wait for its end; returns the exit status."""
    timeout_s = seconds_of("--timeout", options.timeout)
    try:
        number = parse_signal(options.signal, "--signal")
    except ConfigError as exc:
        raise WrongValueError(exc.key, exc.problem, exc.expected) from exc
    task = find_task(options.task, tasks_of_host(options))
    if task.exit is not None or not (task.running or task.supervised):
        raise TaskEndedError(task.name, "there is nothing to stop. To see how: milo ps --all")
    alone = task.running and not task.supervised
    ordinary, of_run = os.geteuid() != 0, is_run(os.path.dirname(task.state_dir))
    if alone and of_run and ordinary:
        # What his tasks leave may belong to subordinate users. Before a sign of progress is shown,
        # which is a thread's.
        enter()
    with progress(f"Stopping {task.name}"):
        if not alone:
            text = trio.run(_stop, task, number, timeout_s)
        else:
            text = trio.run(_end_alone, task, number, timeout_s)
            if of_run:
                trio.run(partial(remove_run, os.path.dirname(task.state_dir), ordinary=ordinary))
    say(text)
    return 0


async def _stop(task: HostTask, number: int, timeout_s: float) -> str:
    async def ask(client: TaskClient) -> None:
        await client.stop(number, timeout_s)

    store = StateStore(os.path.dirname(task.state_dir))
    try:
        await observed(task.state_dir, ask)
    except ControlError:
        if store.read_exit(task.state_dir) is None:
            raise  # else it has ended meanwhile
    # The exit is written before the task process ends, and nothing tells an observer of it.
    while (ended := store.read_exit(task.state_dir)) is None:
        if not task.supervised and not task.running:
            return "The task has ended"
        await trio.sleep(POLL_S)
    return exit_sentence(ended, stopped=True)


async def _end_alone(task: HostTask, number: int, timeout_s: float) -> str:
    """End a task whose own process was killed."""
    assert task.record is not None and task.record.container is not None
    container = task.record.container
    for signal_number, patience_s in ((number, timeout_s), (signal.SIGKILL, GONE_S)):
        if signal_number != NO_SIGNAL:
            signal_process(container, signal_number)
        if await ends_within(container, patience_s):
            break
    return "The task has ended; its exit code is not known, as its task process was killed"
