"""Records a startup archive of a JVM that goes on running, once it has nothing to do.

A service that is killed at every end, or crashes, writes nothing at that end. So the start after
such an end records in another way: the JDK's own ``jcmd``, run in the container as the
application's user, asks the JVM for the archive.
"""

from __future__ import annotations

import os
from typing import Final

import trio

from milo import cgroup_files, proc
from milo.core.java.startup_cache import ARCHIVE, Method
from milo.core.records import ProcessId

UP_S: Final = 120.0
"""An application has loaded by then what it begins with."""
LOOK_S: Final = 10.0
IDLE_SHARE: Final = 0.1
"""Of one processor, over `LOOK_S`: less is idle."""
ROOM_BYTES: Final = {Method.DYNAMIC: 128 << 20, Method.AOT: 256 << 20}
"""What the task's limit has to leave: ``jcmd`` is a JVM too, and an AOT cache takes another one."""
RUN_TIMEOUT_S: Final = 120.0
ENDING_S: Final = 10.0
"""A JVM that is ending refuses, too; by then it has ended."""
OWN_ID: Final = "2"
"""The JVM's process id in a PID namespace of its own."""


def command_lines(
    method: Method, java_home: str, second_step: tuple[str, ...]
) -> tuple[tuple[str, ...], ...]:
    """Return what is run in the container, one after the other; ``java_home`` is its own."""
    jcmd = f"{java_home}/bin/jcmd"
    if method is Method.DYNAMIC:
        return ((jcmd, OWN_ID, "VM.cds", "dynamic_dump", ARCHIVE),)
    return ((jcmd, OWN_ID, "AOT.end_recording"), second_step)


def has_room(cgroup_path: str, method: Method) -> bool:
    """Whether the task's limit has room for the JVMs that record, beside all that it uses."""
    limit_bytes = cgroup_files.memory_limit_bytes(cgroup_path) if cgroup_path else 0
    if not limit_bytes:
        return True
    return limit_bytes - cgroup_files.memory_in_use_bytes(cgroup_path) >= ROOM_BYTES[method]


async def until_idle(process: ProcessId, cgroup_path: str, method: Method) -> bool:
    """Wait until the process has been up for a while, has nothing to do, and memory is left.

    Returns whether it still lives.
    """
    await trio.sleep(UP_S)
    before = proc.times_and_memory(process.pid)
    while True:
        await trio.sleep(LOOK_S)
        now = proc.times_and_memory(process.pid)
        if not proc.lives(process):
            return False
        used_s = (sum(now[:2]) - sum(before[:2])) / os.sysconf("SC_CLK_TCK")
        if used_s < IDLE_SHARE * LOOK_S and has_room(cgroup_path, method):
            return True
        before = now
