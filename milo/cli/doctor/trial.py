"""A real container, made as a task's is, that runs /usr/bin/true."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import Final

import attrs
import msgspec
import trio

from milo import walk
from milo.cli.caller import Caller, enter, own_cgroup
from milo.core.config.plugin_options import PluginOptions
from milo.core.config.task_options import parse_task_options
from milo.core.launch import Application, JavaRuntime, Launch, Resources
from milo.core.records import short_id
from milo.errors import CrunError, MiloError, PathError
from milo.host import state_dirs
from milo.host.fork import Fork
from milo.proc import become_subreaper
from milo.task.children import Reaper
from milo.task.oci.bundle import cgroup_path, write_bundle
from milo.task.oci.container import Container, create, discard_bundle
from milo.task.root.mount_check import MountCheck

TASK_NAME: Final = "doctor"
ROOT: Final = Caller("/run")
WAIT_S: Final = 30.0
"""For ``true`` to end; all else that may hang has a bound of its own."""


@attrs.frozen
class Trial:
    """How the container fared."""

    error: str | None
    seconds: float
    limited: bool = True
    """Whether it had a cgroup of its own."""


def try_without_root(crun_path: str) -> Trial:
    """Do as `try_container` does, as ``milo run`` of an ordinary user would: as this one."""

    def work() -> bytes:
        try:
            trial = try_container(crun_path, PluginOptions(), enter(own_cgroup()))
        except MiloError as exc:
            trial = Trial(str(exc), 0.0)
        return msgspec.json.encode(trial)

    made = [
        path
        for directory in (state_dirs.run_directories()[0], state_dirs.data_directory())
        for path in _missing(directory)
    ]
    with contextlib.closing(Fork("milo-doctor", work)) as fork:
        data = trio.run(fork.result)
    for path in made:
        with contextlib.suppress(OSError):  # it is in use by now, or was never made
            os.rmdir(path)
    return msgspec.json.decode(data, type=Trial) if data else Trial("it was killed", 0.0)


def _missing(path: str) -> Iterator[str]:
    """Yield ``path`` and the directories above it that are not there, the innermost first."""
    while not os.path.lexists(path):
        yield path
        path = os.path.dirname(path)


def try_container(crun_path: str, options: PluginOptions, caller: Caller = ROOT) -> Trial:
    """Make, run and remove a container with the privileges that ``options`` give to tasks.

    Leaves nothing behind. ``caller`` makes it.
    """
    begin = time.monotonic()
    error: str | None = None
    try:
        base = tempfile.mkdtemp(prefix="milo-doctor-", dir=caller.run_directory)
    except OSError as exc:
        return Trial(f"no directory can be made in {caller.run_directory}: {exc.strerror}", 0.0)
    try:
        umask = os.umask(0o022)  # as in a task process, see `milo.spawner`
        try:
            trio.run(_run, base, crun_path, options, caller)
        finally:
            os.umask(umask)
    except* (MiloError, OSError) as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        error = str(first)
    finally:
        with contextlib.suppress(PathError), walk.hold_directory(os.path.dirname(base)) as run:
            run.remove_tree(os.path.basename(base))
    return Trial(error, time.monotonic() - begin, caller.rights.cgroups)


async def _run(base: str, crun_path: str, options: PluginOptions, caller: Caller) -> None:
    become_subreaper()
    task_id = f"{TASK_NAME}/{os.path.basename(base)}"
    launch = Launch(
        task_id=task_id,
        task_name=TASK_NAME,
        alloc_id=os.path.basename(base),
        alloc_dir=f"{base}/alloc-dir",
        stdout_path=os.devnull,
        stderr_path=os.devnull,
        state_dir=f"{base}/{short_id(task_id)}",
        crun_path=crun_path,
        javas=(),
        resources=Resources(memory_bytes=64 << 20, cpu_shares=100),
        plugin=options,
        user=caller.user,
        rights=caller.rights,
        cgroup_parent=caller.cgroup,
    )
    os.chmod(base, 0o711)  # noqa: S103 - a container in a user namespace has to pass
    for path in (launch.state_dir, launch.shared_dir):
        os.makedirs(path, 0o700)
    for name in ("local", "secrets", "tmp"):
        os.makedirs(f"{launch.task_dir}/{name}", 0o755)
    reaper = Reaper(reap_all=False)
    # The root file system is the same without a JDK, which a host may not have yet.
    app = Application(JavaRuntime(home="/usr", version="", major=0, source=""))
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        async with reaper.running():
            arguments = (shutil.which("true") or "/usr/bin/true",)
            try:
                bundle = write_bundle(launch, parse_task_options({}, options), app, arguments)
                check = MountCheck(
                    bundle.binds,
                    alloc_dir=launch.alloc_dir,
                    java_home=app.java.home,
                    root=bundle.root,
                    work_dir=bundle.work_dir,
                )
                with contextlib.closing(check):
                    container = await create(
                        launch, reaper, bundle, check, stdout=null, stderr=null
                    )
            except BaseException:
                discard_bundle(launch, cgroup_path(launch))
                raise
            trouble = await _run_true(container)
    finally:
        os.close(null)
    if trouble:
        raise CrunError("delete", "the container was removed by hand", trouble)


async def _run_true(container: Container) -> str:
    """Run the created container; return what went wrong with its removal."""
    try:
        await container.start()
        with trio.move_on_after(WAIT_S):
            status = await container.wait()
            if status is None or status.exit_code or status.signal:
                raise CrunError("start", f"true ended with {status}", "")
    finally:
        with trio.CancelScope(shield=True):
            trouble = await container.destroy()
    return trouble
