"""What every task process would make for itself at a first use: made once, in its spawner.

A task process shares the spawner's memory, and each page that it writes to is its own from then on.
So what is made at a first use and kept is made before there are task processes: what msgspec knows
of the types that are read, a codec, regular expressions, the table of a task's options, and the
forms that CPython gives to code which has run a few times.
It also saves the time of that at each start (measured: 3 ms and 0.8 MiB of a child that reads its
launch and uses Trio as a task process does; this takes 8 ms, once).
"""

from __future__ import annotations

import codecs
import contextlib
import os
from typing import Final

import msgspec
import trio

from milo.core import records
from milo.core.config.plugin_options import PluginOptions
from milo.core.config.task_options import parse_task_options
from milo.core.container import seccomp
from milo.core.container.spec import ContainerPlan, build_spec
from milo.core.launch import Launch
from milo.errors import ConfigError, MiloError, StateError
from milo.proc import thermal_throttle_directories, this_process
from milo.task.children import Reaper
from milo.task.oci import privileges
from milo.task.preparer import Prepared, prepare
from milo.task.root import etc_files, hidden_paths, network, rootfs, volumes
from milo.task.root.root_tree import RootTree

RECORDS: Final = (Launch, Prepared, records.TaskRecord, records.ExitRecord)
"""What a task process reads and writes."""
ROUNDS: Final = 3
"""More gain less than 1 % each (measured)."""
PAUSE_S: Final = 0.001


def rehearse() -> None:
    """Make all that. Leaves no descriptor, handler or thread. Call it where no event loop runs."""
    for kind in RECORDS:
        with contextlib.suppress(StateError):  # there is nothing in it
            records.decode(b"{}", kind, where="a rehearsal")
    with contextlib.suppress(ConfigError):  # nor here
        seccomp.convert(b"{}", "a rehearsal", (), seccomp.Machine("", ()))
    parse_task_options({}, PluginOptions())
    thermal_throttle_directories()
    codecs.lookup("ascii")  # of crun's pid file
    for _ in range(ROUNDS):
        trio.run(_use_trio)


def rehearse_preparation() -> None:
    """Do of a preparation what needs no task, in a preparer that waits for one.

    So the pages that it writes to are copied before there is a task (measured: 4.7 of the 19 ms
    that a preparer works). They end with it. Nothing is written but memory.
    """
    launch = records.decode(records.encode(_launch()), Launch, where="a rehearsal")
    with contextlib.suppress(MiloError, OSError):
        prepare(launch)  # until it needs a Java
    with contextlib.suppress(MiloError, OSError):
        host = rootfs.view_host((), recursive=volumes.kernel_is_recursive())
        hidden = hidden_paths.places(launch)
        RootTree(host.binds, rootfs.SKELETON_LINKS | host.links, hidden=hidden)
    with contextlib.suppress(MiloError, OSError):
        options = parse_task_options(launch.config, launch.plugin)
        user = privileges.permitted_user(launch, options)
        view = network.view_network(launch.network)
        etc_files.etc_files(launch, options, user, "localhost", view)
        confinement = privileges.confine(launch, options)
        plan = ContainerPlan("/", ("java",), {"A": "b"}, user, "", "/a", confinement=confinement)
        msgspec.json.encode(build_spec(plan))


def _launch() -> Launch:
    return Launch(
        *("",) * 4,
        os.devnull,
        os.devnull,
        state_dir="/rehearsal",
        crun_path=os.devnull,
        javas=(),
        plugin=PluginOptions(),
        config={"jar_path": "a.jar"},
    )


def rehearse_task() -> None:
    """Do of a task what needs none, in a task process that waits for one.

    So the pages that it writes to are its own by then. Nothing is written but memory.
    """
    launch = records.decode(records.encode(_launch()), Launch, where="a rehearsal")
    process = this_process()
    record = records.TaskRecord(
        task_id=launch.task_id,
        task_name=launch.task_name,
        alloc_id=launch.alloc_id,
        alloc_dir=launch.alloc_dir,
        supervisor=process,
        container=process,
        pipes={},
    )
    records.decode(records.encode(record), records.TaskRecord, where="a rehearsal")
    trio.run(_use_trio)


async def _use_trio() -> None:
    """Use of Trio what a task process does: children, sockets, timeouts, cancellation."""
    async with Reaper(reap_all=False).running(), trio.open_nursery() as nursery:
        ours, theirs = trio.socket.socketpair()
        with ours, theirs:
            nursery.start_soon(ours.recv, 1)
            await theirs.send(b".")
            with trio.move_on_after(PAUSE_S):
                await trio.sleep_forever()
            nursery.cancel_scope.cancel()
