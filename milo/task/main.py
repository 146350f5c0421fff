"""The entry of a task process: what happens between its fork and its nursery."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Sequence
from typing import Final

import attrs
import trio

from milo.core.config.plugin_options import PluginOptions
from milo.core.launch import Launch
from milo.core.spawning import (
    ADOPT,
    CLEAN,
    LOCK,
    MAX_DESCRIPTORS,
    MAX_REQUEST_BYTES,
    TAKEN,
    adopted_names,
)
from milo.errors import StateError
from milo.files import take_lock
from milo.proc import (
    PR_SET_PDEATHSIG,
    become_subreaper,
    die_with,
    prctl,
    set_oom_score_adj,
    set_process_name,
)
from milo.task.children import Reaper
from milo.task.keeper import Keeper
from milo.task.logs.idle_wait import IdleWait
from milo.task.logs.streams import Takeover
from milo.task.oci.container import remove
from milo.task.oci.unwritable import executable
from milo.task.preparer import Preparer, read_launch, read_record
from milo.task.rehearsal import rehearse_preparation, rehearse_task
from milo.task.supervisor import Supervisor
from milo.unix_sockets import passed_descriptors

OOM_SCORE_ADJ: Final = 0
"""An ordinary process's, whatever the agent has (-1000 in HashiCorp's unit, which forbids to end
it at all). With a few MiB it is the last that the OOM killer takes; what it would be taken for is
memory that it should never have, and then its successor goes on with the task."""


STANDBY_NAME: Final = "milo-standby"


@attrs.frozen
class Order:
    """What a task process is to do; see `main`."""

    mode: str
    state_dir: str
    fds: Sequence[int]

    @property
    def text(self) -> bytes:
        """What is sent to one that `stand_by`, with ``fds``."""
        return os.fsencode(f"{self.mode} {self.state_dir}")


def stand_by(channel: socket.socket, spawner: int) -> tuple[Order, Preparer] | None:
    """Get ready to run a task, and wait for the order to over ``channel``, the keeper's.

    The process ``spawner`` has forked this one, which ends with it until there is the order.

    Returns that order, and the preparer that is ready for it; None when nobody will give one.
    """
    _begin(STANDBY_NAME)
    die_with(spawner)  # also while it is stopped
    preparer = Preparer.fork(rehearse_preparation)
    with contextlib.suppress(Exception):  # which would show in the task too
        rehearse_task()
    text, ancillary, flags, _ = channel.recvmsg(
        MAX_REQUEST_BYTES, socket.CMSG_SPACE(MAX_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
    )
    if not text or flags & socket.MSG_CTRUNC:  # some descriptors found no room
        return None
    prctl(PR_SET_PDEATHSIG, 0)
    channel.send(TAKEN)
    mode, _, state_dir = os.fsdecode(text).partition(" ")
    return Order(mode, state_dir, passed_descriptors(ancillary)), preparer


def main(order: Order, channel: socket.socket, preparer: Preparer | None = None) -> int:
    """Run the task whose launch is in ``state_dir``; ``fds[0]`` is its listening socket.

    ``channel`` leads to its keeper, see `milo.task.keeper`. ``preparer`` comes from `stand_by`.

    ``mode`` is ``run``, or `milo.core.spawning.RUN_KEPT`; or ``adopt:<names>``: go on with a task
    whose own process was killed, the rest of ``fds`` being its descriptors, named in order and
    separated by commas; or ``clean``: remove what such a task left, ``fds[0]`` being a socket whose
    end tells the driver that it is done.

    Returns the exit status of the task process: 0 when the task was run to its end, whatever
    that was.
    """
    if preparer is None:
        _begin("milo-task")
    else:
        set_process_name("milo-task")
    mode, state_dir, fds = order.mode, order.state_dir, order.fds
    if mode == CLEAN:
        trio.run(clean, _launch_to_clean(state_dir), Reaper(reap_all=True))
    else:
        start: Takeover | Preparer
        if mode.startswith(ADOPT):
            start = _takeover(mode, state_dir, fds)
        else:
            # Before there is an event loop. It reads and checks while this process gets ready.
            start = preparer or Preparer.fork()
            start.ask(state_dir)
        launch = read_launch(state_dir)
        if isinstance(start, Preparer):
            executable(launch.crun_path)  # makes its mount, which waits for the kernel
        if preparer is not None and not preparer.has_begun():
            # It was killed or stopped while it stood by.
            start = Preparer.fork()
            start.ask(state_dir)
        if isinstance(start, Preparer) or LOCK not in start.descriptors:
            # Held until this process ends, however it does. A read-only one can be locked too.
            with contextlib.suppress(OSError):
                take_lock(state_dir)
        listener = socket.socket(fileno=fds[0])
        supervisor = Supervisor(
            launch, Reaper(reap_all=True), listener=listener, keeper=Keeper(channel)
        )
        trio.run(supervisor.run, start, instruments=[IdleWait()])
    return 0


def _begin(name: str) -> None:
    set_process_name(name)
    become_subreaper()
    # Without the right to lower it, the agent's own stays, which is higher then.
    with contextlib.suppress(OSError):
        set_oom_score_adj(os.getpid(), OOM_SCORE_ADJ)
    # Only a stop, asked for over the control socket, ends a task: not a Ctrl-C in the agent's
    # terminal, nor a service manager that signals everything in the agent's control group.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _takeover(mode: str, state_dir: str, fds: Sequence[int]) -> Takeover:
    """Return what a successor of ``mode`` goes on with; raises `StateError`."""
    record = read_record(state_dir)
    if record is None:
        raise StateError(state_dir, "there is no record of a task to take over")
    return Takeover(record, dict(zip(adopted_names(mode), fds[1:], strict=False)))


def _launch_to_clean(state_dir: str) -> Launch:
    """Return the launch in ``state_dir``, or one that has just what removing it needs.

    A launch that is damaged, or a newer Milo's, must not keep its container alive: that is
    found by `TaskRecord` and by its names, and removed without crun.
    """
    try:
        return read_launch(state_dir)
    except StateError:
        null = os.devnull
        return Launch(
            "",
            "",
            "",
            "",
            null,
            null,
            state_dir=state_dir,
            crun_path=f"{state_dir}/none",
            javas=(),
            plugin=PluginOptions(),
        )


async def clean(launch: Launch, reaper: Reaper) -> None:
    """Remove container, cgroups and bundle of a task whose own process is gone."""
    async with reaper.running():
        await remove(launch, reaper, read_record(launch.state_dir))
