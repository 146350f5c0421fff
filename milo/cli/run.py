"""``milo run``: the driver's own code on one JAR, without spawner, driver and Nomad."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import stat
import tempfile
from collections.abc import Sequence
from typing import Final

import attrs
import trio

from milo import proc, walk
from milo.cli import run_options
from milo.cli.arguments import absolute, size_of
from milo.cli.caller import Caller, enter, own_cgroup
from milo.cli.log_files import RotatingFile
from milo.cli.output import OutputError, ReaderGoneError, warn, write_all
from milo.core import control
from milo.core.describe import exit_sentence
from milo.core.launch import Launch, Network
from milo.core.records import ExitRecord
from milo.errors import ArtifactError, ConfigError, PathError
from milo.host.fingerprint import find_program
from milo.host.java.search import JavaSearch
from milo.host.state_store import StateStore
from milo.proc import become_subreaper
from milo.task.children import Reaper
from milo.task.oci.bundle import missing_limits
from milo.task.preparer import Preparer
from milo.task.supervisor import Supervisor
from milo.unix_sockets import close_all

STOP_TIMEOUT_S: Final = 10.0
"""Between Ctrl-C and SIGKILL; a second Ctrl-C does not wait."""
CHUNK_BYTES: Final = 64 * 1024
INCOMPLETE: Final = 1
"""The exit status instead of 0 when output was lost: ``milo run app.jar > file && use file``."""


def run_jar(options: argparse.Namespace, application: Sequence[str]) -> int:
    """Run the JAR that ``options`` name; return the application's exit code.

    A death by signal is 128 and its number, as shells have it. When not all of its output could
    be written, an exit code of 0 becomes 1.

    Raises:
        MiloError: it could not be started.
    """
    os.umask(0o022)  # as in a task process, see `milo.spawner`
    run_options.require_text(options, application)
    plugin = run_options.plugin_options(options)
    cgroup = own_cgroup()
    # Before there is an event loop, and the search before an ordinary user's namespaces.
    with contextlib.closing(JavaSearch(plugin.java_home, os.environ)) as javas:
        caller = enter(cgroup)
        with contextlib.closing(Preparer.fork()) as preparer:
            outcome, complete, stopped = trio.run(
                _run, options, application, caller, javas, preparer
            )
    if isinstance(outcome, control.StartFailed):
        if caller.rights.ids and "mount `proc`" in outcome.text:
            warn(
                "Without root a container gets no /proc where parts of the host's are hidden. In a "
                "container of docker: --security-opt systempaths=unconfined"
            )
        return 1  # its text has come out of the task's stderr already
    if outcome.signal or outcome.error or outcome.oom_killed:
        warn(exit_sentence(outcome, stopped=stopped))
    if outcome.signal:
        return 128 + outcome.signal
    return outcome.exit_code or (0 if complete else INCOMPLETE)


async def _run(
    options: argparse.Namespace,
    application: Sequence[str],
    caller: Caller,
    search: JavaSearch,
    preparer: Preparer,
) -> tuple[ExitRecord | control.StartFailed, bool, bool]:
    """Return how the application ended.

    And whether all that it printed was written, and whether somebody had it stopped.
    """
    become_subreaper()
    limits = run_options.resources(options)
    if options.cpus is not None and not caller.limits_cpu:
        raise ConfigError(
            "--cpus",
            "the cgroup that systemd gives to this user has no cpu controller",
            "no --cpus, or Delegate=yes in [Service] by: sudo systemctl edit user@.service",
        )
    if (missing := missing_limits(caller.rights)) and run_options.limits_are_asked(options):
        warn(f"milo: {missing}")
    if not caller.rights.limits:
        limits = attrs.evolve(limits, oom_score_adj=proc.oom_score_adj())
    config = run_options.task_config(options, application)
    plugin = run_options.plugin_options(options)
    env = run_options.environment(options)
    name = _task_name(options)
    files = _log_files(options, name)
    base = tempfile.mkdtemp(prefix="", dir=caller.run_directory)
    data = base
    if caller.data_directory:
        data = os.path.join(caller.data_directory, os.path.basename(base))
    store = StateStore(base, caller.owners)
    readers: list[int] = []
    try:
        alloc_dir = os.path.join(data, "alloc-dir")
        _lay_out(alloc_dir, name, options.jar, run_options.jar_name(options))
        logs = os.path.join(alloc_dir, "alloc", "logs")
        fifos = [os.path.join(logs, name) for name in ("stdout.fifo", "stderr.fifo")]
        readers += map(_make_fifo, fifos)
        task_id = f"run/{os.path.basename(base)}"
        launch = Launch(
            task_id=task_id,
            task_name=name,
            alloc_id=os.path.basename(base),
            alloc_dir=alloc_dir,
            stdout_path=fifos[0],
            stderr_path=fifos[1],
            state_dir=store.task_dir(task_id),
            crun_path=find_program("crun", os.environ) or "crun",
            javas=await search.javas(),
            config=config,
            env=env,
            user=options.user or caller.user,
            resources=limits,
            network=Network(mode=options.network),
            plugin=plugin,
            rights=caller.rights,
            cgroup_parent=caller.cgroup,
            log_dir=absolute(options.log_dir) if options.log_dir else "",
        )
        store.make(launch)
        supervisor = Supervisor(
            launch,
            Reaper(reap_all=False),
            listener=store.listen(launch.state_dir),
            observe=_tell if options.verbose else _tell_nothing,
        )
        copies = [
            _Copy(reader, fd, files.get(fd)) for reader, fd in zip(readers, (1, 2), strict=True)
        ]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, supervisor)
            async with trio.open_nursery() as copying:
                for copy in copies:
                    copying.start_soon(copy.run)
                outcome = await supervisor.run(preparer)
                for reader in readers:
                    _end(reader)
            nursery.cancel_scope.cancel()
        return outcome, all(copy.complete for copy in copies), supervisor.stop_requested
    finally:
        close_all(readers)
        for file in files.values():
            file.close()
        for path in {data, base}:
            _remove(path)


def _remove(base: str) -> None:
    """Remove the directory of a run, in which the application may have left anything."""
    with contextlib.suppress(PathError), walk.follow(os.path.dirname(base)) as runs:
        runs.remove_tree(os.path.basename(base))


def _task_name(options: argparse.Namespace) -> str:
    """Return what milo ps calls the task: the JAR's name unless another is given."""
    name = options.name or os.path.basename(options.jar).rpartition(".")[0] or "run"
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", name):
        if options.name:
            raise ConfigError("--name", repr(name), "letters, digits, '.', '_' and '-', 64 at most")
        return "run"
    return name


def _log_files(options: argparse.Namespace, name: str) -> dict[int, RotatingFile]:
    """Return the log files by the descriptor whose output they keep."""
    if not options.log_dir:
        return {}
    size = size_of("--log-max-size", options.log_max_size, 1024)
    if not 1 <= options.log_max_files <= 10_000:
        raise ConfigError("--log-max-files", f"got {options.log_max_files}", "1 to 10000")
    return {
        fd: RotatingFile(options.log_dir, name, stream, size=size, count=options.log_max_files)
        for fd, stream in ((1, "stdout"), (2, "stderr"))
    }


def _tell(message: control.Message) -> None:
    """Print what Nomad would show as events."""
    lines: tuple[str, ...] = ()
    if isinstance(message, control.Started):
        lines = (f"Container {message.container_id}, process {message.container.pid}",)
    elif isinstance(message, control.Event):
        lines = (message.text,)
    for line in lines:
        warn(f"milo: {line}")


def _tell_nothing(message: control.Message) -> None:
    pass


def _lay_out(alloc_dir: str, name: str, jar: str, jar_name: str) -> None:
    """Make the directories that Nomad makes for a task, with the JAR in its place."""
    try:
        found = os.stat(jar)
    except OSError as exc:
        raise ArtifactError(f"{jar} cannot be read: {exc.strerror}", path=jar) from exc
    if not stat.S_ISREG(found.st_mode):
        raise ArtifactError(f"{jar} is not a file. Give the path of a JAR.", path=jar)
    task_dir = os.path.join(alloc_dir, name)
    shared = os.path.join(alloc_dir, "alloc")
    for parent, names in ((task_dir, ("local", "secrets", "tmp")), (shared, ("logs", "data"))):
        for name in names:
            path = os.path.join(parent, name)
            os.makedirs(path)
            # The application's user is not known here; Nomad's own directories are the same.
            os.chmod(path, 0o777)  # noqa: S103
    target = os.path.join(task_dir, "local", jar_name)
    shutil.copyfile(jar, target)
    os.chmod(target, 0o644)


def _make_fifo(path: str) -> int:
    """Make a FIFO and return its read end.

    Opened once, before the application runs: it can put something else there.
    """
    os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)


def _end(reader: int) -> None:
    """Let a FIFO have an end of file, also when no writer ever came to it."""
    os.close(proc.reopen(reader, os.O_RDWR | os.O_NONBLOCK))


class _Copy:
    """Copies what the pump delivers to ``target``, a standard stream, and to a log file.

    Where one of them fails, the application goes on and the other one is still written.
    """

    def __init__(self, source: int, target: int, file: RotatingFile | None) -> None:
        self.complete = True
        """False when output was lost, but for what a reader that has gone did not want."""
        self._source = source
        self._target = target
        self._file = file

    async def run(self) -> None:
        """Copy until the writer has gone."""
        to_terminal = True
        while True:
            await trio.lowlevel.wait_readable(self._source)
            try:
                data = os.read(self._source, CHUNK_BYTES)
            except BlockingIOError:
                continue
            if not data:
                return
            if self._file is not None:
                try:
                    await trio.to_thread.run_sync(self._file.write, data)
                except OSError as exc:
                    self._lose(f"Error: the log file cannot be written: {exc.strerror}")
                    self._file = None
            if to_terminal:
                try:
                    # In a thread: a terminal stopped with Ctrl-S must not stop the pumps.
                    await trio.to_thread.run_sync(write_all, self._target, data)
                except ReaderGoneError:
                    # Piped into head, say: what else comes is read, so that the application
                    # can end.
                    to_terminal = False
                except OutputError as exc:
                    self._lose(str(exc))
                    to_terminal = False

    def _lose(self, problem: str) -> None:
        self.complete = False
        text = f"{problem}. The application keeps running, but this output is lost"
        warn(text)


async def _stop_on_signal(supervisor: Supervisor) -> None:
    asked = False
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            supervisor.request_stop(signal.SIGTERM, 0.0 if asked else STOP_TIMEOUT_S)
            asked = True
