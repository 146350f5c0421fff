"""``milo run``: the driver's own code on one JAR, without spawner, driver and Nomad."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import time
from collections.abc import Sequence
from typing import Final

import attrs
import trio

from milo import proc
from milo.cli import jvm_tools, run_options
from milo.cli.arguments import absolute, size_of
from milo.cli.background import Background
from milo.cli.caller import Caller, enter, own_cgroup
from milo.cli.log_files import RotatingFile
from milo.cli.output import warn
from milo.cli.run_place import Place
from milo.cli.run_streams import Copy, copy_input, input_is_wanted
from milo.core import control
from milo.core.describe import exit_sentence
from milo.core.launch import JavaRuntime, Launch, Network
from milo.core.records import ExitRecord
from milo.errors import ConfigError, ControlError
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
WATCH_S: Final = 0.5
"""A JAR that did not change for so long is written."""
INCOMPLETE: Final = 1
"""The exit status instead of 0 when output was lost: ``milo run app.jar > file && use file``."""


@attrs.frozen
class _End:
    """How one run ended."""

    outcome: ExitRecord | control.StartFailed
    complete: bool = True
    """Whether all that it printed was written."""
    stopped: bool = False
    """Whether somebody had it stopped."""
    changed: bool = False
    """It was stopped because its JAR has changed."""


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
    background = Background.fork() if options.detach else None
    if background is not None and background.is_parent:
        return background.wait()
    cgroup = own_cgroup()
    # Before there is an event loop, and the search before an ordinary user's namespaces.
    with contextlib.closing(JavaSearch(plugin.java_home, os.environ)) as search:
        caller = enter(cgroup)
        javas: list[tuple[JavaRuntime, ...]] = []
        while True:
            seen = _stamp(options.jar)
            with contextlib.closing(Preparer.fork()) as preparer:
                run = _Run(options, application, caller, background)
                end = trio.run(run.run, search, javas, preparer)
            status = _tell_end(end, caller, background)
            if _is_over(end, watch=options.watch, background=background is not None):
                return status
            if not end.changed:
                warn("milo: waiting for the JAR to change")
                _wait_for_change(options.jar, seen)
            warn("milo: the JAR has changed: starting again")


def _is_over(end: _End, *, watch: bool, background: bool) -> bool:
    """Whether nothing more is run: nobody would see, or could stop, one that waits unseen."""
    return not end.changed and (not watch or end.stopped or background)


def _tell_end(end: _End, caller: Caller, background: Background | None) -> int:
    """Say how the application ended, where that was no success; return the exit status."""
    outcome = end.outcome
    if isinstance(outcome, control.StartFailed):
        if background is not None:
            background.tell_failure(outcome.text)
        if caller.rights.ids and "mount `proc`" in outcome.text:
            warn(
                "Without root a container gets no /proc where parts of the host's are hidden. In a "
                "container of docker: --security-opt systempaths=unconfined"
            )
        return 1  # else its text has come out of the task's stderr already
    if (outcome.signal or outcome.error or outcome.oom_killed) and not end.changed:
        warn(exit_sentence(outcome, stopped=end.stopped))
    if outcome.signal:
        return 128 + outcome.signal
    return outcome.exit_code or (0 if end.complete else INCOMPLETE)


def _stamp(jar: str) -> tuple[int, int, int] | None:
    """Return what changes when a JAR is written anew; None when there is none."""
    try:
        found = os.stat(jar)
    except OSError:
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
        caller: Caller,
        background: Background | None,
    ) -> None:
        self._options = options
        self._application = application
        self._caller = caller
        self._background = background
        self._changed = False

    async def run(
        self, search: JavaSearch, javas: list[tuple[JavaRuntime, ...]], preparer: Preparer
    ) -> _End:
        """Run it. What ``search`` finds is kept in ``javas`` for the next one."""
        become_subreaper()
        options = self._options
        name = _task_name(options)
        tmp_bytes = size_of("--tmp-size", options.tmp_size, 1 << 20) if options.tmp_size else 0
        files = _log_files(options, name)
        with contextlib.ExitStack() as undo:
            for file in files.values():
                undo.callback(file.close)
            place = Place(self._caller)
            keep = False
            try:
                place.lay_out(name, options.jar, run_options.jar_name(options), tmp_bytes)
                launch = self._launch(name, place)
                if self._background is not None and not files:
                    files = _files_in(place, name)
                    for file in files.values():
                        undo.callback(file.close)
                if not javas:
                    javas.append(await search.javas())
                launch = attrs.evolve(launch, javas=javas[0])
                end = await self._supervise(launch, place, files, preparer)
                jvm_tools.keep_recording(options, place.alloc_dir)
                ended = isinstance(end.outcome, ExitRecord) and not end.changed
                keep = self._background is not None and ended
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
            crun_path=find_program("crun", os.environ) or "crun",
            javas=(),
            config=config,
            env=run_options.environment(options),
            user=options.user or caller.user,
            resources=limits,
            mounts=place.mounts,
            network=Network(mode=options.network),
            plugin=run_options.plugin_options(options),
            rights=caller.rights,
            cgroup_parent=caller.cgroup,
            log_dir=absolute(options.log_dir) if options.log_dir else "",
            by_hand=True,
        )

    async def _supervise(
        self, launch: Launch, place: Place, files: dict[int, RotatingFile], preparer: Preparer
    ) -> _End:
        options = self._options
        store = StateStore(place.base, self._caller.owners)
        store.make(launch)
        stdin: int | None = None
        writer = -1
        if self._background is None and input_is_wanted(asked=options.interactive):
            stdin, writer = os.pipe2(os.O_CLOEXEC)
        supervisor = Supervisor(
            launch,
            Reaper(reap_all=False),
            listener=store.listen(launch.state_dir),
            observe=self._observe,
            stdin=stdin,
        )
        targets = (1, 2) if self._background is None else (-1, -1)
        copies = [
            Copy(reader, target, files.get(number))
            for number, reader, target in zip((1, 2), place.readers, targets, strict=True)
        ]
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_obey_signals, supervisor)
                if options.watch:
                    nursery.start_soon(self._watch, supervisor)
                if stdin is not None:
                    nursery.start_soon(copy_input, writer)
                async with trio.open_nursery() as copying:
                    for copy in copies:
                        copying.start_soon(copy.run)
                    outcome = await supervisor.run(preparer)
                    place.end_fifos()
                nursery.cancel_scope.cancel()
        finally:
            close_all(() if stdin is None else (stdin,))
        complete = all(copy.complete for copy in copies)
        return _End(outcome, complete, supervisor.stop_requested, self._changed)

    def _observe(self, message: control.Message) -> None:
        """Print what Nomad would show as events, where somebody wants it."""
        lines: tuple[str, ...] = ()
        if isinstance(message, control.Started):
            jvm_tools.say_where(self._options)
            lines = (f"Container {message.container_id}, process {message.container.pid}",)
        elif isinstance(message, control.Event):
            lines = (message.text,)
        if self._options.verbose:
            for line in lines:
                warn(f"milo: {line}")
        if isinstance(message, control.Started) and self._background is not None:
            self._background.tell_start(_task_name(self._options))

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


def _files_in(place: Place, name: str) -> dict[int, RotatingFile]:
    """Return log files where `milo logs` finds those of a run without ``--log-dir``."""
    logs = os.path.join(place.alloc_dir, "alloc", "logs")
    return {
        fd: RotatingFile(logs, name, stream, size=10 << 20, count=10)
        for fd, stream in ((1, "stdout"), (2, "stderr"))
    }


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


async def _obey_signals(supervisor: Supervisor) -> None:
    """Stop at Ctrl-C, SIGTERM and a closed terminal; at a second one of these kill.

    Ctrl-\\ is for the JVM, which prints its threads. A closed terminal is ignored under nohup(1).
    """
    asked = False
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    with trio.open_signal_receiver(*numbers) as signals:
        async for number in signals:
            if number == signal.SIGQUIT:
                with contextlib.suppress(ControlError):  # it starts or ends just now
                    supervisor.send_signal(number)
                continue
            supervisor.request_stop(signal.SIGTERM, 0.0 if asked else STOP_TIMEOUT_S)
            asked = True
