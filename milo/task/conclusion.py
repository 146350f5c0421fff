"""The end of a task that has run: what is left is removed, and what is known is recorded."""

from __future__ import annotations

import os
import time
from typing import Final

import attrs
import trio

from milo.core import records
from milo.core.java.jvm_figures import JvmFigures
from milo.core.launch import Launch
from milo.task import containment
from milo.task.children import WaitStatus
from milo.task.java.jvm import Jvm, files_of
from milo.task.java.startup_recording import StartupArchive
from milo.task.journal import Journal
from milo.task.ladder import StopLadder
from milo.task.logs.streams import Streams
from milo.task.oci.cgroup_state import GONE_TIMEOUT_S
from milo.task.oci.container import Container, MemoryEnd

LOW_PRIORITY: Final = 10
"""A ninth of an ordinary process's weight; sched(7)."""
UNSEEN_EXIT: Final = "the process that supervised it was killed, so nobody saw its exit code"


@attrs.frozen
class Running:
    """What there is of a task whose application runs."""

    container: Container
    streams: Streams
    jvm: Jvm
    archive: StartupArchive
    timings_s: dict[str, float] = attrs.field(factory=dict)


@attrs.define
class End:
    """What is known of the container's end so far."""

    status: WaitStatus | None = None
    at_s: float = 0.0
    """Unix time; 0 while it has not ended."""
    problem: str = ""


def give_way() -> None:
    """Let this process, and the crun that it still starts, come behind the driver and other tasks.

    Its application's output has been delivered. With a hundred that end at once, the driver, which
    answers for all tasks, would be one of a hundred. Of a single one it changes nothing: on a busy
    machine the end of one in thirty took as long (docs/architecture.md). Somebody else's choice is
    left as it is.
    """
    if os.getpriority(os.PRIO_PROCESS, 0) == 0:
        os.setpriority(os.PRIO_PROCESS, 0, LOW_PRIORITY)


async def end_container(container: Container, end: End, log: containment.Log) -> None:
    """Kill a container that nobody waits for any more, and note how it ended. Never raises."""
    container.kill()
    with containment.contained("waiting for the container", log):
        with trio.move_on_after(GONE_TIMEOUT_S):
            end.status = await container.wait()
    end.at_s = time.time()


async def conclude(
    launch: Launch, running: Running, end: End, journal: Journal, ladder: StopLadder
) -> records.ExitRecord:
    """Remove what is left of a task whose container has ended; return its record. Never raises.

    ``ladder`` knows when a stop has to be over, if one was asked for.
    """
    container, streams, log = running.container, running.streams, journal.log
    stop_asked = ladder.requested  # and not while its startup archive is kept
    killed, memory = MemoryEnd(), records.MemoryPeak()
    with containment.contained("reading the container's memory", log):
        killed, memory = container.memory_end(end.status), container.memory()
    crash, figures = "", records.LastFigures()
    with containment.contained("looking for what the JVM has left", log):
        running.jvm.tell_of_dump(journal)
        if end.status != WaitStatus(0, 0):
            crash = running.jvm.crash(container.process.pid)
            figures = _last_figures(running.jvm.last_figures(container.started_at_s))
    running.jvm.close()
    with containment.contained("closing the streams", log):
        streams.close()
    with containment.contained("keeping the startup archive", log):
        await running.archive.keep(container, end.status, ladder)
    with containment.contained("removing the container", log):
        if trouble := await container.destroy():
            log("warn", f"{trouble}; removed without it")
    error = end.problem or (UNSEEN_EXIT if end.status is None else "")
    if (pause := container.pause_status) is not None and not killed.oom_killed:
        error = (
            "its pause process, which is process 1 of the container, ended too early "
            f"({pause}), and the kernel ends everything in the container with it"
        )
    stdout = stderr = records.StreamCounters()
    with containment.contained("reading the counters", log):
        stdout, stderr = streams.counters()
    return records.ExitRecord(
        exit_code=-1 if end.status is None else end.status.exit_code,
        signal=0 if end.status is None else end.status.signal,
        oom_killed=killed.oom_killed,
        oom_kills=killed.oom_kills,
        stop_killed=killed.stop_killed,
        stop_asked=stop_asked,
        memory=memory,
        error=error,
        ended_at_s=end.at_s,
        started_at_s=container.started_at_s,
        task_id=launch.task_id,
        alloc_dir=launch.alloc_dir,
        stdout=stdout,
        stderr=stderr,
        crash=crash,
        java_oom=streams.java_oom,
        last_stderr_line=streams.last_stderr_line,
        recording=running.jvm.recording,
        files=files_of(launch),
        figures=figures,
        thread_dump=running.jvm.asked_for_threads,
        thread_dump_files=running.jvm.thread_dump_files,
        names=launch.names,
    )


def _last_figures(found: JvmFigures | None) -> records.LastFigures:
    if found is None:
        return records.LastFigures()
    times = [one.seconds for one in found.gc if one.seconds is not None]
    return records.LastFigures(
        collector=found.collector,
        heap_used_bytes=found.heap_used_bytes,
        heap_committed_bytes=found.heap_committed_bytes,
        heap_max_bytes=found.heap_max_bytes,
        metaspace_used_bytes=found.metaspace_used_bytes,
        collections=sum(one.collections for one in found.gc) if found.gc else None,
        collections_s=sum(times) if times else None,
        threads=found.threads,
        peak_threads=found.peak_threads,
        classes=found.classes,
    )
