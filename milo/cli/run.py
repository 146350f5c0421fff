"""``milo run``: the driver's own code on one JAR, without spawner, driver and Nomad."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import stat
import time
from collections.abc import Sequence
from typing import Final

import attrs
import trio

from milo import proc
from milo.cli import jvm_tools, run_options
from milo.cli.arguments import WrongValueError, absolute, size_of
from milo.cli.background import Background
from milo.cli.caller import Caller, enter, own_cgroup
from milo.cli.keyboard import Keyboard
from milo.cli.log_files import RotatingFile, hold_log_directory
from milo.cli.output import READER_GONE, warn
from milo.cli.run_name import RunName
from milo.cli.run_place import Place
from milo.cli.run_signals import STOP_TIMEOUT_S, Signals
from milo.cli.run_streams import Copy
from milo.core import control
from milo.core.describe import exit_sentence
from milo.core.java.startup_cache import RECORDED
from milo.core.launch import JavaRuntime, Launch, Network
from milo.core.records import COUNTERS_FILE, ExitRecord
from milo.errors import ArtifactError, ConfigError
from milo.host.java.search import JavaSearch
from milo.host.programs import trusted_crun
from milo.host.state_store import StateStore
from milo.proc import become_subreaper
from milo.task.children import Reaper
from milo.task.logs.byte_counts import ByteCountsFile
from milo.task.logs.idle_wait import IdleWait
from milo.task.oci.bundle import missing_limits
from milo.task.preparer import Preparer
from milo.task.supervisor import Supervisor
from milo.walk import Held

WATCH_S: Final = 0.5
"""A JAR that did not change for so long is written."""
AT_ONCE_S: Final = 0.3
"""After the JVM has made its heap: a class that cannot be loaded, say, has ended it by then."""
FAILED: Final = 1
STDERR: Final = 2
INCOMPLETE: Final = 1
"""The exit status instead of 0 when output was lost: ``milo run app.jar > file && use file``."""


@attrs.frozen
class _End:
    """How one run ended."""

    outcome: ExitRecord | control.StartFailed
    complete: bool = True
    """Whether all that it printed was written, and the recording that was asked for."""
    unread: bool = False
    """Whether the program that read its output ended first."""
    stopped: bool = False
    """Whether somebody had it stopped."""
    changed: bool = False
    """It was stopped because its JAR has changed."""
    signal: int = 0
    """The first signal to this process that asked for its end; 0 for none."""


def run_jar(options: argparse.Namespace, application: Sequence[str]) -> int:
    """Run the JAR that ``options`` name; return the application's exit code.

    A death by signal is 128 and its number, as shells have it. When not all of its output could
    be written, an exit code of 0 becomes 1.

    Raises:
        MiloError: it could not be started.
    """
    os.umask(0o022)  # as in a task process, see `milo.spawner`
    run_options.require_text(options, application)
    run_options.require_jar(options)
    recording = jvm_tools.Recording(options.jfr)
    logs = hold_log_directory(options.log_dir) if options.log_dir else None
    crun = trusted_crun("crun", os.environ)
    jvm_tools.check_ports(options)
    # Found before an ordinary user's namespaces, as all that tells users apart.
    plugin = options.plugin = run_options.plugin_options(options)
    config = run_options.task_config(options, application)
    run_options.check_config(config, plugin, options.network)
    run_options.resources(options)
    env = run_options.environment(options)  # once: a file of variables may be a pipe
    for doubt in run_options.doubts(options):
        warn(f"milo: {doubt}")
    with RunName.choose(options) as name:
        options.name = name.text
        return _run_prepared(options, application, env, crun, recording, logs)


def _run_prepared(
    options: argparse.Namespace,
    application: Sequence[str],
    env: dict[str, str],
    crun: str,
    recording: jvm_tools.Recording,
    logs: Held | None,
) -> int:
    """Do the same with options that were looked at."""
    background = Background.fork() if options.detach else None
    if background is not None and background.is_parent:
        return background.wait()
    cgroup = own_cgroup()
    # Before there is an event loop, and the search before an ordinary user's namespaces.
    java_home = options.plugin.java_home
    with contextlib.closing(JavaSearch(java_home, os.environ)) as search:
        caller = enter(cgroup)
        javas: list[tuple[JavaRuntime, ...]] = []
        again = False
        while True:
            seen = _stamp(options.jar)
            with contextlib.closing(Preparer.fork()) as preparer:
                run = _Run(options, application, env, caller, crun, background, recording, logs)
                try:
                    end = trio.run(run.run, search, javas, preparer, instruments=[IdleWait()])
                except ArtifactError as exc:  # the JAR is away while it is built anew
                    if not again or background is not None:
                        raise
                    warn(options.spell(str(exc)))
                    end = _End(control.StartFailed(text=str(exc), recoverable=False))
            again = True
            status = _tell_end(end, caller, background, options)
            if _is_over(end, watch=options.watch, background=background is not None):
                return status
            if not end.changed:
                warn("milo: waiting for the JAR to change")
                _wait_for_change(options.jar, seen)
            warn("milo: the JAR has changed: starting again")


def _is_over(end: _End, *, watch: bool, background: bool) -> bool:
    """Whether nothing more is run: nobody would see, or could stop, one that waits unseen."""
    return not end.changed and (not watch or end.stopped or end.unread or background)


def _tell_end(
    end: _End, caller: Caller, background: Background | None, options: argparse.Namespace
) -> int:
    """Say how the application ended, where that was no success; return the exit status."""
    outcome = end.outcome
    if end.unread:
        return READER_GONE
    if isinstance(outcome, control.StartFailed):
        if background is not None:
            background.tell_failure(outcome.text)
        if caller.rights.ids and "mount `proc`" in outcome.text:
            warn(
                "Without root a container gets no /proc where parts of the host's are hidden. In a "
                "container of docker: --security-opt systempaths=unconfined"
            )
        if end.stopped and not end.changed:
            if not end.signal and background is None:
                warn(outcome.text)  # by milo stop: who has started it does not know
            return 128 + (end.signal or signal.SIGTERM)
        return 1  # else its text has come out of the task's stderr already
    if background is not None and not (background.told or end.changed):
        if outcome.successful:
            background.tell_start(options.name)
        else:
            text = options.spell(exit_sentence(outcome, stopped=end.stopped))
            warn(f"{text.removesuffix('.')}. For its output: milo logs {options.name}")
            return 128 + outcome.signal if outcome.signal else outcome.exit_code or FAILED
    if (outcome.signal or outcome.error or outcome.oom_killed) and not end.changed:
        warn(options.spell(exit_sentence(outcome, stopped=end.stopped)))
    if outcome.signal:
        return 128 + outcome.signal
    return outcome.exit_code or (0 if end.complete else INCOMPLETE)


def _stamp(jar: str) -> tuple[int, int, int] | None:
    """Return what changes when a JAR is written anew; None when there is none, but a FIFO, say."""
    try:
        found = os.stat(jar)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _wait_for_change(jar: str, seen: tuple[int, int, int] | None) -> None:
    before = seen
    while True:
        time.sleep(WATCH_S)
        now = _stamp(jar)
        if now is not None and now == before and now != seen:
            return
        before = now


class _Run:
    """One run of the JAR, from its directories to their removal."""

    def __init__(
        self,
        options: argparse.Namespace,
        application: Sequence[str],
        env: dict[str, str],
        caller: Caller,
        crun: str,
        background: Background | None,
        recording: jvm_tools.Recording,
        logs: Held | None,
    ) -> None:
        self._options = options
        self._application = application
        self._env = env
        self._caller = caller
        self._crun = crun
        self._background = background
        self._recording = recording
        self._logs = logs
        self._changed = False
        self._unread = False
        self._started = trio.Event()
        self._told = trio.Event()
        """The JVM has told what it chose, or will not tell."""

    async def run(
        self, search: JavaSearch, javas: list[tuple[JavaRuntime, ...]], preparer: Preparer
    ) -> _End:
        """Run it. What ``search`` finds is kept in ``javas`` for the next one."""
        become_subreaper()
        options = self._options
        name = options.name
        tmp_bytes = size_of("--tmp-size", options.tmp_size, 1 << 20) if options.tmp_size else 0
        files = _log_files(options, name, self._logs)
        with contextlib.ExitStack() as undo:
            # Before there is anything to clean up.
            signals = undo.enter_context(Signals.received())
            for file in files.values():
                undo.callback(file.close)
            place = Place(self._caller)
            keep = False
            try:
                place.lay_out(name, options.jar, run_options.jar_name(options), tmp_bytes)
                launch = self._launch(name, place)
                if self._background is not None and not files:
                    logs = undo.enter_context(hold_log_directory(place.log_dir))
                    files = _files_in(logs, name)
                    for file in files.values():
                        undo.callback(file.close)
                if not javas:
                    javas.append(await search.javas())
                quiet = jvm_tools.quiet_options(options, javas[0])
                words = [*quiet, *launch.config["jvm_options"]]
                config = {**launch.config, "jvm_options": words}
                launch = attrs.evolve(launch, javas=javas[0], config=config)
                end = await self._supervise(launch, place, files, preparer, signals)
                has_run = isinstance(end.outcome, ExitRecord)
                keep = self._background is not None and has_run and not end.changed
                if has_run and not self._recording.keep(place.alloc_dir):
                    end = attrs.evolve(end, complete=False)
                    keep = keep or self._recording.stays
                if dumps := place.dumps():
                    keep = True
                    warn(f"milo: what the JVM left is kept: {', '.join(dumps)}")
            finally:
                place.close(keep=keep, records=self._background is not None and keep)
        return end

    def _launch(self, name: str, place: Place) -> Launch:
        options, caller = self._options, self._caller
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
        config = run_options.task_config(options, self._application)
        config["jvm_options"] = [*jvm_tools.jvm_options(options), *config["jvm_options"]]
        stdout, stderr = place.make_fifos()
        task_id = f"run/{os.path.basename(place.base)}"
        store = StateStore(place.base, caller.owners)
        return Launch(
            task_id=task_id,
            task_name=name,
            alloc_id=os.path.basename(place.base),
            alloc_dir=place.alloc_dir,
            stdout_path=stdout,
            stderr_path=stderr,
            state_dir=store.task_dir(task_id),
            crun_path=self._crun,
            javas=(),
            config=config,
            env=self._env,
            terminal=options.tty,
            user=options.user or caller.user,
            resources=limits,
            mounts=place.mounts,
            network=Network(mode=options.network),
            plugin=options.plugin,
            rights=caller.rights,
            cgroup_parent=caller.cgroup,
            log_dir=absolute(options.log_dir) if options.log_dir else "",
            by_hand=True,
        )

    async def _supervise(
        self,
        launch: Launch,
        place: Place,
        files: dict[int, RotatingFile],
        preparer: Preparer,
        signals: Signals,
    ) -> _End:
        options = self._options
        store = StateStore(place.base, self._caller.owners)
        store.make(launch)
        keyboard = Keyboard.of(options, background=self._background is not None)
        supervisor = Supervisor(
            launch,
            Reaper(reap_all=False),
            listener=store.listen(launch.state_dir),
            observe=self._observe,
            console=keyboard.console,
            spell=options.spell,
        )

        def stop_unread() -> None:
            if not self._unread:
                self._unread = True
                warn("milo: nobody reads the output any more: stopping the application")
                supervisor.request_stop(signal.SIGTERM, STOP_TIMEOUT_S)

        targets = (1, 2) if self._background is None else (-1, -1)
        said = RECORDED.replace(b"\n", b"\r\n") if options.tty else RECORDED
        counters = ByteCountsFile(os.path.join(launch.state_dir, COUNTERS_FILE))
        copies = [
            Copy(
                reader,
                target,
                files.get(number),
                stop_unread,
                counters.counts(number - 1),
                said if number == STDERR or options.tty else b"",
            )
            for number, reader, target in zip((1, STDERR), place.readers, targets, strict=True)
        ]
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(signals.obey, supervisor)
                if options.watch:
                    nursery.start_soon(self._watch, supervisor)
                nursery.start_soon(keyboard.run)
                nursery.start_soon(self._tell_start)
                async with trio.open_nursery() as copying:
                    for copy in copies:
                        copying.start_soon(copy.run)
                    outcome = await supervisor.run(preparer)
                    place.end_fifos()
                nursery.cancel_scope.cancel()
            if isinstance(outcome, ExitRecord) and any(copy.lost_bytes for copy in copies):
                outcome = _with_losses(outcome, copies)
                store.write_exit(launch.state_dir, outcome)
        finally:
            keyboard.close()
            counters.close()
        complete = all(copy.complete for copy in copies)
        changed = self._changed and not signals.asked
        stopped = supervisor.stop_requested
        return _End(outcome, complete, self._unread, stopped, changed, signals.asked)

    def _observe(self, message: control.Message) -> None:
        """Print what Nomad would show as events, where somebody wants it."""
        lines: tuple[str, ...] = ()
        if isinstance(message, control.Started):
            self._started.set()
            lines = (f"Container {message.container_id}, process {message.container.pid}",)
        elif isinstance(message, control.Event):
            if self._started.is_set():
                self._told.set()
            lines = (self._options.spell(message.text),)
        if self._options.verbose:
            for line in lines:
                warn(f"milo: {line}")

    async def _tell_start(self) -> None:
        """Say that the application runs, in the background once it has not ended at once."""
        await self._started.wait()
        if self._background is not None:
            await self._told.wait()  # an option that it does not know has ended it before
            await trio.sleep(AT_ONCE_S)
        jvm_tools.say_where(self._options)
        if self._background is not None:
            self._background.tell_start(self._options.name)

    async def _watch(self, supervisor: Supervisor) -> None:
        """Stop the application when its JAR has changed, and is written."""
        seen = before = _stamp(self._options.jar)
        while True:
            await trio.sleep(WATCH_S)
            now = _stamp(self._options.jar)
            if now is not None and now == before and now != seen:
                self._changed = True
                supervisor.request_stop(signal.SIGTERM, STOP_TIMEOUT_S)
                return
            before = now


def _with_losses(record: ExitRecord, copies: Sequence[Copy]) -> ExitRecord:
    """Return the record with what the log files did not take, also after the task's end."""
    stdout, stderr = (
        attrs.evolve(stream, bytes_moved=copy.counts.moved, bytes_dropped=copy.counts.dropped)
        for stream, copy in zip((record.stdout, record.stderr), copies, strict=True)
    )
    return attrs.evolve(record, stdout=stdout, stderr=stderr)


def _files_in(logs: Held, name: str) -> dict[int, RotatingFile]:
    """Return the log files of a run without ``--log-dir``."""
    return {
        fd: RotatingFile(logs, name, stream, size=10 << 20, count=10)
        for fd, stream in ((1, "stdout"), (2, "stderr"))
    }


def _log_files(
    options: argparse.Namespace, name: str, logs: Held | None
) -> dict[int, RotatingFile]:
    """Return the log files by the descriptor whose output they keep."""
    if logs is None:
        return {}
    size = size_of("--log-max-size", options.log_max_size, 1024)
    if not 1 <= options.log_max_files <= 10_000:
        raise WrongValueError("--log-max-files", f"got {options.log_max_files}", "1 to 10000")
    return {
        fd: RotatingFile(logs, name, stream, size=size, count=options.log_max_files)
        for fd, stream in ((1, "stdout"), (2, "stderr"))
    }
