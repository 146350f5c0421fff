"""``milo run``: the driver's own code on one JAR, without spawner, driver and Nomad."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Sequence
from typing import Final

import trio

from milo.core import control
from milo.core.describe import exit_sentence
from milo.core.launch import Launch, PluginOptions, Resources
from milo.core.records import ExitRecord
from milo.errors import ArtifactError, ConfigError, MiloError
from milo.host.fingerprint import find_program
from milo.host.java import JavaFinder
from milo.processes import become_subreaper
from milo.task.children import Reaper
from milo.task.supervisor import Supervisor

TASK_NAME: Final = "run"
STOP_TIMEOUT_S: Final = 10.0
"""Between Ctrl-C and SIGKILL; a second Ctrl-C does not wait."""
CHUNK_BYTES: Final = 64 * 1024
DIRECTORY: Final = "/run/milo-run"


class NotRootError(MiloError):
    """Containers with limits need root."""

    def __init__(self) -> None:
        super().__init__("Error: milo run needs root, to make a container. Try: sudo milo run ...")


def run_jar(options: argparse.Namespace, application: Sequence[str]) -> int:
    """Run the JAR that ``options`` name; return the application's exit code.

    A death by signal is 128 and its number, as shells have it.

    Raises:
        MiloError: it could not be started.
    """
    if os.geteuid() != 0:
        raise NotRootError
    os.umask(0o022)  # as in a task process, see `milo.spawner`
    outcome = trio.run(_run, options, application)
    if isinstance(outcome, control.StartFailed):
        return 1  # its text has come out of the task's stderr already
    if outcome.signal or outcome.error or outcome.oom_killed:
        print(exit_sentence(outcome, stopped=True), file=sys.stderr)
    return 128 + outcome.signal if outcome.signal else outcome.exit_code


async def _run(
    options: argparse.Namespace, application: Sequence[str]
) -> ExitRecord | control.StartFailed:
    become_subreaper()
    javas = await JavaFinder().find(options.java, os.environ)
    os.makedirs(DIRECTORY, mode=0o700, exist_ok=True)
    base = tempfile.mkdtemp(prefix="", dir=DIRECTORY)
    try:
        alloc_dir = os.path.join(base, "alloc-dir")
        _lay_out(alloc_dir, options.jar)
        logs = os.path.join(alloc_dir, "alloc", "logs")
        launch = Launch(
            task_id=f"{TASK_NAME}/{os.path.basename(base)}",
            task_name=TASK_NAME,
            alloc_id=os.path.basename(base),
            alloc_dir=alloc_dir,
            stdout_path=os.path.join(logs, "stdout.fifo"),
            stderr_path=os.path.join(logs, "stderr.fifo"),
            state_dir=os.path.join(base, "state"),
            crun_path=find_program("crun", os.environ) or "crun",
            javas=javas,
            config={
                "jar_path": f"local/{os.path.basename(options.jar)}",
                "args": list(application),
                "jvm_options": options.jvm_option,
            },
            env=_environment(options.env),
            user=options.user,
            resources=Resources(memory_bytes=options.memory * 1024 * 1024),
            plugin=PluginOptions(allow_root=True),
        )
        os.mkdir(launch.state_dir, 0o700)
        supervisor = Supervisor(launch, Reaper(reap_all=False))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, supervisor)
            async with trio.open_nursery() as readers:
                for path, fd in ((launch.stdout_path, 1), (launch.stderr_path, 2)):
                    readers.start_soon(_copy, _open_reader(path), fd)
                outcome = await supervisor.run()
                # A writer that was never there leaves a FIFO without an end of file.
                for path in (launch.stdout_path, launch.stderr_path):
                    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
            nursery.cancel_scope.cancel()
        return outcome
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _lay_out(alloc_dir: str, jar: str) -> None:
    """Make the directories that Nomad makes for a task, with the JAR in its place."""
    try:
        found = os.stat(jar)
    except OSError as exc:
        raise ArtifactError(f"{jar} cannot be read: {exc.strerror}", path=jar) from exc
    if not stat.S_ISREG(found.st_mode):
        raise ArtifactError(f"{jar} is no file. Name the JAR to run.", path=jar)
    task_dir = os.path.join(alloc_dir, TASK_NAME)
    shared = os.path.join(alloc_dir, "alloc")
    for parent, names in ((task_dir, ("local", "secrets", "tmp")), (shared, ("logs", "data"))):
        for name in names:
            path = os.path.join(parent, name)
            os.makedirs(path)
            # The application's user is not known here; Nomad's own directories are the same.
            os.chmod(path, 0o777)  # noqa: S103
    target = os.path.join(task_dir, "local", os.path.basename(jar))
    shutil.copyfile(jar, target)
    os.chmod(target, 0o644)
    for name in ("stdout.fifo", "stderr.fifo"):
        os.mkfifo(os.path.join(shared, "logs", name), 0o600)


def _environment(pairs: Sequence[str]) -> dict[str, str]:
    env = {"NOMAD_TASK_DIR": "/local", "NOMAD_ALLOC_DIR": "/alloc", "NOMAD_SECRETS_DIR": "/secrets"}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigError("--env", repr(pair), "NAME=VALUE")
        env[name] = value
    return env


def _open_reader(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


async def _copy(source: int, target: int) -> None:
    """Copy what the pump delivers to the terminal, until the writer has come and gone."""
    try:
        while True:
            await trio.lowlevel.wait_readable(source)
            try:
                data = os.read(source, CHUNK_BYTES)
            except BlockingIOError:
                continue
            if not data:
                return
            # In a thread: a terminal that is stopped with Ctrl-S must not stop the pumps.
            await trio.to_thread.run_sync(_write_all, target, data)
    except BrokenPipeError:
        # Piped into head, say: what else comes is read, so that the application can end.
        await _discard(source)
    finally:
        os.close(source)


async def _discard(source: int) -> None:
    while True:
        await trio.lowlevel.wait_readable(source)
        with contextlib.suppress(BlockingIOError):
            if not os.read(source, CHUNK_BYTES):
                return


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


async def _stop_on_signal(supervisor: Supervisor) -> None:
    asked = False
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            supervisor.request_stop(signal.SIGTERM, 0.0 if asked else STOP_TIMEOUT_S)
            asked = True
