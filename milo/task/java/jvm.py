"""The JVM of one task: the options that Milo adds, and what the running JVM reports of itself."""

from __future__ import annotations

import os
import re
import zlib
from typing import Final

import attrs
import trio

from milo import cgroup_files, walk
from milo.core.config.task_options import TaskOptions
from milo.core.container.crun import container_name
from milo.core.container.mounts import TASK_ROOT
from milo.core.java import crash_report, hsperf
from milo.core.java.flight_recorder import FlightRecorder, flight_recorder
from milo.core.java.heap import Tuning, sees_no_limits, tune
from milo.core.java.jvm_figures import JvmFigures, figures
from milo.core.java.jvm_view import OPENJ9_POLICY, Limits, SelfTold, describe
from milo.core.java.option_words import UserWords, gather
from milo.core.launch import Application, Launch
from milo.core.text import shortened
from milo.errors import PathError
from milo.task.java import thread_dump
from milo.task.java.perf_data import PerfData
from milo.task.java.recordings import can_record, is_commercial
from milo.task.java.silent_jvm import past_perf_data
from milo.task.journal import Journal
from milo.task.oci.container import Container
from milo.task.root import brought
from milo.walk import Kind

MAX_ARGFILE_BYTES: Final = 64 * 1024
DATA_DIRECTORY: Final = "/alloc/data"
OWN_ID: Final = "2"
"""The JVM's process id in a PID namespace of its own, where the pause process is the first."""

FIRST_LOOK_S: Final = 0.05
LAST_PAUSE_S: Final = 1.0
GIVE_UP_S: Final = 10.0
"""A JVM has written down what it chose some 0.1 s after its start; on a busy host, later."""
DUMP_CHECK_S: Final = 5.0
BLOCK_BYTES: Final = 512
"""Of st_blocks, whatever the file system's own are; stat(2)."""

MAX_TASK_NAME: Final = 64
_ODD: Final = re.compile(r"[^A-Za-z0-9._-]")


@attrs.frozen
class JvmPlan:
    """What is decided of a JVM before it starts."""

    runs_on: str
    """Which Java, and why."""
    java_major: int
    words: UserWords
    tuning: Tuning
    work_dir: str = ""
    """In the container, where the JVM's relative paths begin; empty is Milo's default."""
    host_pids: bool = False
    """Whether the JVM's own process id is the host's."""
    remarks: tuple[str, ...] = ()
    """Sentences that the start event ends with: Nomad keeps ten events a task."""
    openj9: bool = False
    dump_on_kill: bool = False
    """Whether to ask it for its threads before it is killed."""
    recording: str = ""
    """What the paths of its flight recording begin with in the container; empty for none."""


def plan_jvm(launch: Launch, options: TaskOptions, app: Application) -> JvmPlan:
    """Decide what to add to the user's options, which may be in files of the task's."""
    words = user_words(launch, options, app.java.major, openj9=app.java.openj9)
    unseen_bytes = _unseen_bytes(launch, app)
    tuning = _tuning(launch, options, words, openj9=app.java.openj9, unseen_bytes=unseen_bytes)
    recorder = FlightRecorder()
    if options.flight_recorder:
        recorder = flight_recorder(
            words.words,
            app.java.version,
            files_of(launch),
            openj9=app.java.openj9,
            installed=can_record(launch, app.java),
            commercial=is_commercial(launch, app.java),
        )
    return JvmPlan(
        runs_on=app.notes[0] if app.notes else f"Runs on Java {app.java.version}",
        java_major=app.java.major,
        # The others have no part in what the start event tells.
        words=attrs.evolve(words, words=tuple(filter(_may_be_told, words.words))),
        tuning=attrs.evolve(tuning, arguments=(*tuning.arguments, *recorder.arguments)),
        openj9=app.java.openj9,
        dump_on_kill=(
            options.dump_on_kill
            and not words.leaves_signals
            # What HotSpot prints, nobody sees then.
            and (app.java.openj9 or launch.stdout_path != os.devnull)
        ),
        work_dir=options.work_dir,
        host_pids=options.pid_mode == "host",
        remarks=(*app.notes[1:], *((recorder.remark,) if recorder.remark else ())),
        recording=files_of(launch) if recorder.arguments else "",
    )


def plan_of_past(launch: Launch) -> JvmPlan:
    """Return what there is of a Milo's that wrote down no plan: nothing of the job's is read."""
    return JvmPlan("", 0, UserWords(), _tuning(launch, TaskOptions(), UserWords()))


def _may_be_told(word: str) -> bool:
    return word.startswith(("-XX:", "-Xoptionsfile=", OPENJ9_POLICY))


def _tuning(
    launch: Launch,
    options: TaskOptions,
    words: UserWords,
    *,
    openj9: bool = False,
    unseen_bytes: int = 0,
) -> Tuning:
    return tune(
        words,
        memory_bytes=launch.resources.memory_bytes,
        heap_percent=options.heap_percent,
        dump_on_oom=options.heap_dump_on_oom,
        files=files_of(launch),
        openj9=openj9,
        unseen_bytes=unseen_bytes,
    )


def _unseen_bytes(launch: Launch, app: Application) -> int:
    """Return the task's limit of memory if its JVM does not see it; else 0."""
    resources = launch.resources
    limit = max(resources.memory_bytes, resources.memory_max_bytes)
    if limit <= 0 or resources.memory_max_bytes < 0 or not cgroup_files.is_v2():
        return 0
    controllers = cgroup_files.listed_controllers()
    return limit if sees_no_limits(app.java.major, controllers, openj9=app.java.openj9) else 0


class Jvm:
    """One task's JVM, as far as it tells of itself. `tell` and `watch_dump` run beside it."""

    def __init__(self, launch: Launch, plan: JvmPlan, *, is_new: bool = True) -> None:
        """``is_new``: what it chose has not been told yet, by an earlier task process."""
        self._launch = launch
        self._plan = plan
        self._is_new = is_new
        self._told_of_dump = False
        self._perf_data = PerfData(os.path.join(launch.task_dir, "tmp"))
        self.asked_for_threads = False
        """Whether it has been asked to print them."""

    async def tell(self, container: Container, journal: Journal) -> None:
        """Say in one event what runs and what the JVM chose.

        Waits until the JVM has written that down, at most `GIVE_UP_S`. When cancelled, as at
        the application's end, it says what is known by then.
        """
        if not self._is_new:
            self._perf_data.read(container.started_at_s)  # for its last figures
            return
        limits = read_limits(container.process.pid, container.cgroup_path, self._launch)
        told: SelfTold | None = None
        try:
            told = await self._wait_until_told(container.process.pid, container.started_at_s)
        finally:
            told = told or self._look(container.started_at_s)
            try:
                text = self._choice(told, limits)
            except Exception as exc:
                # The task writes what is read there, and may surprise.
                journal.log("error", f"what the JVM wrote is not understood: {exc!r}")
                text = self._choice(None, limits)
            journal.event(text)

    async def watch_dump(self, journal: Journal) -> None:
        """Say when the JVM has written a heap dump, once that does not grow any more."""
        size = -1
        while self._plan.tuning.dump_expected and not self._told_of_dump:
            await trio.sleep(DUMP_CHECK_S)
            before, size = size, dump_bytes(self._launch, self._plan.tuning.dump_path)
            if size > 0 and size == before:
                self.tell_of_dump(journal)

    def tell_of_dump(self, journal: Journal) -> None:
        """Say that a heap dump was written, if there is one and this was not said before."""
        path = self._plan.tuning.dump_path
        size = 0 if self._told_of_dump or not path else dump_bytes(self._launch, path)
        if size > 0:
            self._told_of_dump = True
            journal.event(
                f"The JVM ran out of memory and wrote a heap dump of {-(-size // 2**20)} MiB "
                f"to {path}"
            )

    @property
    def thread_dump_files(self) -> str:
        """What the files of its thread dumps are called; empty where it prints them."""
        return self._plan.tuning.thread_dump_files

    @property
    def recording(self) -> str:
        """What the paths of its flight recording begin with in the container; empty for none."""
        return self._plan.recording

    def ask_for_threads(self, container: Container, sent: str, journal: Journal) -> None:
        """Have it print what its threads are doing, before it is killed.

        ``sent`` names the signal that it has not ended by.
        """
        if self._plan.dump_on_kill:
            self.asked_for_threads = thread_dump.ask(container, sent, journal)

    def figures(self, started_at_s: float) -> JvmFigures | None:
        """Return what the JVM counts of itself now; None where it tells nothing of use."""
        try:
            return figures(self._perf_data.read(started_at_s))
        except Exception:
            # The task writes what is read there: it can cost the task its figures alone.
            return None

    def last_figures(self, started_at_s: float) -> JvmFigures | None:
        """Return what the JVM had counted when it ended; None where that is not known.

        One that ends by itself removes its file. So there are figures of those alone that have
        lived until a first look at it.
        """
        try:
            return figures(self._perf_data.read_last()) or self.figures(started_at_s)
        except Exception:
            return None  # as above

    def close(self) -> None:
        """Let go of what is held of the task's; may be called again."""
        self._perf_data.close()

    def crash(self, process: int) -> str:
        """Return how the JVM crashed and where its report is; empty when there is no report.

        ``process`` is the host's id that the JVM had.
        """
        number = str(process) if self._plan.host_pids else OWN_ID
        path = self._plan.tuning.report_path.replace("%p", number)
        try:
            with _hold(self._launch, self._plan.work_dir, path) as file:
                head = file.read(crash_report.MAX_BYTES)
        except PathError:
            return ""
        return crash_report.crash_words(head, shortened(path))

    def _choice(self, told: SelfTold | None, limits: Limits) -> str:
        plan = self._plan
        container = container_name(os.path.basename(self._launch.state_dir))
        return describe(
            plan.runs_on,
            told,
            plan.tuning,
            limits,
            plan.java_major,
            plan.words,
            openj9=plan.openj9,
            container=container,
            remarks=plan.remarks,
        )

    async def _wait_until_told(self, pid: int, started_at_s: float) -> SelfTold | None:
        pause_s = FIRST_LOOK_S
        deadline = trio.current_time() + GIVE_UP_S
        while trio.current_time() < deadline:
            await trio.sleep(pause_s)
            # In this order: what is past it now had made the data before it was looked for.
            is_past = past_perf_data(pid)
            data = self._perf_data.read(started_at_s)
            told = hsperf.self_told(data)
            if told is not None or (is_past and not data):
                return told
            pause_s = min(1.5 * pause_s, LAST_PAUSE_S)
        return None

    def _look(self, started_at_s: float) -> SelfTold | None:
        return hsperf.self_told(self._perf_data.read(started_at_s))


def user_words(
    launch: Launch, options: TaskOptions, java_major: int, *, openj9: bool = False
) -> UserWords:
    """Return the options that the job gives to its JVM, those in files included.

    A file of options is read as the container has it, in the task's own directories alone;
    of any other, and of one that is too large, it is only said that it was not read.
    """

    def read(path: str) -> str | None:
        try:
            return _read_argfile(launch, options, path)
        except (PathError, ValueError):
            return None

    return gather(launch.env, options.jvm_options, java_major, read, openj9=openj9)


def files_of(launch: Launch) -> str:
    """Return how the paths of what the JVM writes in this start begin, in the container.

    The JVM writes over no dump, and its process id is the same at every start: so each start
    has a name of its own, from Nomad's id for it. A successor finds the same name, and no other
    task of the allocation has it: what a name loses here stands for it as a checksum.
    """
    start = launch.task_id.rpartition("/")[2]
    task = _ODD.sub("_", launch.task_name[:MAX_TASK_NAME])
    if task != launch.task_name:
        task += f"_{zlib.crc32(launch.task_name.encode()):08x}"
    return f"{DATA_DIRECTORY}/{task}-{_ODD.sub('_', start[:64])}"


def dump_bytes(launch: Launch, path: str) -> int:
    """Return what a dump occupies on its disk, or 0 when there is no regular file at its path.

    The task writes it, and can give it any length: the holes of a sparse file take no space.
    """
    try:
        with walk.hold_in_container({"alloc": launch.shared_dir}, path, Kind.FILE) as held:
            occupied = held.status.st_blocks * BLOCK_BYTES
            return min(held.status.st_size, max(occupied, 1))
    except PathError:
        return 0


def read_limits(pid: int, cgroup_path: str, launch: Launch) -> Limits:
    """Return the limits of a container's first process as the kernel has them."""
    quota_us, period_us = cgroup_files.cpu_quota(cgroup_path)
    try:
        cpus = len(os.sched_getaffinity(pid))
    except OSError:
        cpus = os.cpu_count() or 1
    wanted = launch.resources
    limited = wanted.memory_bytes > 0 and wanted.memory_max_bytes >= 0
    return Limits(
        memory_bytes=cgroup_files.memory_limit_bytes(cgroup_path) if limited else 0,
        cpus=cpus,
        quota_us=quota_us,
        period_us=period_us,
        shares=wanted.cpu_shares,
    )


def _read_argfile(launch: Launch, options: TaskOptions, path: str) -> str:
    with _hold(launch, options.work_dir, path) as file:
        data = file.read(MAX_ARGFILE_BYTES + 1)
    if len(data) > MAX_ARGFILE_BYTES:
        raise ValueError("it is too large")
    return data.decode("utf-8", "replace")


def _hold(launch: Launch, work_dir: str, path: str) -> walk.Held:
    """Hold a file in the task's own directories, as the JVM finds ``path``. Raises `PathError`."""
    if not path.startswith("/"):
        path = f"{work_dir or TASK_ROOT}/{path}"
    return brought.hold(launch, path)
