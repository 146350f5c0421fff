"""Decides, before a task starts, whether its JVM uses a startup archive or records one.

Whatever stands in the way costs the task nothing but a line in its log.
"""

from __future__ import annotations

import hashlib
import os
from typing import Final

import attrs
import msgspec

from milo import walk
from milo.core.config.task_options import TaskOptions
from milo.core.container import userns
from milo.core.container.mounts import Bind, is_inside, normalized
from milo.core.container.spec import User
from milo.core.container.ulimits import RLIM_INFINITY
from milo.core.java import startup_cache
from milo.core.java.heap import Tuning, largest_heap_bytes
from milo.core.java.option_words import UserWords
from milo.core.java.startup_cache import ARCHIVE, PLACE, Method
from milo.core.java.versions import runtime_name
from milo.core.launch import Application, Launch
from milo.core.text import printable
from milo.errors import MiloError, PathError
from milo.task.containment import fault
from milo.task.java.archived_files import (
    ArchivedFile,
    Hashes,
    UnfitError,
    class_path_files,
    java_identity,
    set_times,
)
from milo.task.java.idle_recording import command_lines
from milo.task.java.startup_place import STAGING, make_place
from milo.task.java.startup_store import VERSION, Note, Owner, StartupStore, words_of
from milo.walk import Kind

LEAST_FREE_BYTES: Final = 512 << 20
"""Of that disk, where the JVM is to write an archive at its end: one that cannot ends with an error
of its own."""
LIMITS: Final = ("RLIMIT_FSIZE", "RLIMIT_AS", "RLIMIT_DATA")
"""Of a job, with which a JVM may not be able to write an archive."""
KEEP_TIMEOUT_S: Final = 30.0
"""How long it may take to keep one, where no stop's own time ends before."""
BY_HAND: Final = "milo run"
"""The job of those tasks."""


@attrs.frozen
class StartupPlan:
    """What is decided of a JVM's startup archive; nothing by default."""

    method: Method | None = None
    """None where there is none."""
    arguments: tuple[str, ...] = ()
    """For the JVM, before its user's own."""
    bind: Bind | None = None
    """What the container mounts for it."""
    used_inode: int = 0
    """Of the archive that is used; 0 where one is recorded."""
    owner: Owner | None = None
    key: str = ""
    stamps: dict[str, int] = attrs.field(factory=dict)
    """See `milo.task.java.startup_store.Description`."""
    java: str = ""
    second_step: tuple[str, ...] = ()
    """The command line that makes an archive of what was recorded; empty where that is one."""
    live: tuple[tuple[str, ...], ...] = ()
    """Command lines to run in the container while the JVM runs, for it to record."""
    recorder: int = -1
    """Who the files belong to that the JVM writes, as a number of this host."""
    remark: str = ""
    """A sentence for the task's log; may be empty."""

    @property
    def recording(self) -> str:
        """The host's directory in which the JVM records; empty where it does not."""
        return self.bind.source if self.bind is not None and not self.used_inode else ""


def store_of(launch: Launch) -> StartupStore:
    """Return the cache that the task's archives are in."""
    # In an ordinary user's namespace `milo run` has looked before.
    owners = userns.OWNERS_INSIDE if launch.rights.ids else ()
    path = walk.real_path(launch.plugin.cache_dir)
    return StartupStore(path, launch.plugin.cache_size_bytes, owners)


def plan_startup(
    launch: Launch,
    options: TaskOptions,
    app: Application,
    words: UserWords,
    tuning: Tuning,
    user: User,
) -> StartupPlan:
    """Return the plan for a task's JVM, whose user's options are ``words``.

    Raises nothing but MemoryError.

    Where something is recorded, its directory is made. Reads the class path the first time, and
    afterwards only asks whether it has changed.
    """
    if options.startup_cache == "off":
        return StartupPlan()
    try:
        return _plan(launch, options, app, words, tuning, user)
    except UnfitError as exc:
        why = str(exc)
    except PathError as exc:
        why = f"{exc.path}: {exc.words}"
    except (MiloError, OSError) as exc:
        why = words_of(exc)
    except MemoryError:
        raise
    except Exception as exc:  # without an archive the task starts all the same
        why = f"of a fault of Milo's own: {fault(exc)}"
    return StartupPlan(remark=printable(f"No startup archive, because {why}"))


def _plan(
    launch: Launch,
    options: TaskOptions,
    app: Application,
    words: UserWords,
    tuning: Tuning,
    user: User,
) -> StartupPlan:
    java = app.java
    method = startup_cache.method_of(java.major, openj9=java.openj9)
    if method is None:
        raise UnfitError(f"{runtime_name(java)} makes none that Milo could use")
    if launch.env.get("CLASSPATH") and not (app.jar or app.class_path):
        raise UnfitError("its class path is not known to Milo")
    if own := startup_cache.obstacle(words):
        raise UnfitError(f"{own} is among its options")
    _check_place(launch, options)
    store = store_of(launch)
    store.prepare()
    owner = _owner(launch, user)
    hashes = Hashes(store.hashes(owner))
    base = method is Method.DYNAMIC
    try:
        identity = java_identity(app, launch.alloc_dir, hashes, base=base)
        files = class_path_files(launch, app, hashes)
    finally:
        store.remember_hashes(owner, hashes.used)
    own_words = startup_cache.relevant(words.words)
    key = _key(method, identity, files, own_words, tuning)
    kept = store.find(owner, key)
    fits = kept is not None and set_times(launch, files, kept.description.stamps)
    if kept is not None and fits:
        with walk.hold(kept.path, kind=Kind.FILE) as held:
            inode = held.status.st_ino
        return StartupPlan(
            method=method,
            arguments=startup_cache.using(method),
            bind=Bind(kept.path, ARCHIVE, directory=False, origin="task"),
            used_inode=inode,
            owner=owner,
            key=key,
            java=kept.description.java,
            remark=f"Starts with its {method} of {-(-kept.description.size_bytes >> 20)} MiB",
        )
    if store.has_note(owner, key, Note.FAILED):
        raise UnfitError(
            f"the JVM could not write its {method} the last time. To try again: milo gc --yes"
        )
    if forbids := startup_cache.no_recording((*tuning.arguments, *words.words)):
        raise UnfitError(
            f"a JVM that records one does not obey {forbids}, which is among its options"
        )
    for name in LIMITS:
        if min(options.ulimit.get(name, (RLIM_INFINITY,))) < RLIM_INFINITY:
            raise UnfitError(f"a JVM that records one may not meet its {name}")
    _check_memory(launch, words, tuning, files)
    has_jcmd = _has_jcmd(launch, options, app)
    late_s = store.late_s(owner, key)
    if late_s >= KEEP_TIMEOUT_S and not has_jcmd:
        raise UnfitError(
            f"the last {method} was not made in {late_s:.0f} s. To try again: milo gc --yes"
        )
    outside = _outside(launch, user)
    _check_disk(launch)
    source = make_place(launch, outside)
    second_step = _second_step(app, own_words, tuning) if method is Method.AOT else ()
    live: tuple[tuple[str, ...], ...] = ()
    arguments = startup_cache.recording(method)
    if has_jcmd and (late_s or store.has_note(owner, key, Note.KILLED)):
        live = command_lines(method, app.java_home or java.home, second_step)
        arguments = startup_cache.recording_live() if method is Method.DYNAMIC else arguments
    return StartupPlan(
        method=method,
        arguments=arguments,
        live=live,
        bind=Bind(source, PLACE, readonly=False, origin="task"),
        owner=owner,
        key=key,
        stamps={file.path: file.changed_at_s for file in files if file.digest},
        java=runtime_name(java),
        recorder=outside[0],
        second_step=second_step,
        remark=f"Records for its next start: {method}",
    )


def _check_memory(
    launch: Launch, words: UserWords, tuning: Tuning, files: list[ArchivedFile]
) -> None:
    """Make sure that the kernel does not end a JVM for memory that writes down its classes."""
    resources = launch.resources
    limit = max(resources.memory_bytes, resources.memory_max_bytes)
    if limit <= 0 or resources.memory_max_bytes < 0:
        return
    left = max(0, limit - largest_heap_bytes(words, tuning, limit))
    needed = startup_cache.recording_bytes(sum(file.size_bytes for file in files))
    if left < needed:
        raise UnfitError(
            f"its memory limit leaves {left >> 20} MiB beside the heap, and a JVM that records "
            f"one may take {needed >> 20}"
        )


def _has_jcmd(launch: Launch, options: TaskOptions, app: Application) -> bool:
    """Whether the JDK's own tool can ask the JVM, whose process id has to be known for that."""
    if options.pid_mode == "host" or app.java.major < startup_cache.LIVE_SINCE:
        return False
    try:
        with walk.hold(app.java.home, beneath=launch.alloc_dir, kind=Kind.DIRECTORY) as home:
            home.within("bin/jcmd", Kind.FILE).close()
    except PathError:
        return False
    return True


def _second_step(app: Application, words: list[str], tuning: Tuning) -> tuple[str, ...]:
    """Return the command line of a JVM with the application's options and class path.

    Of its options only those that the archive depends on: a log file that they name is the
    application's.
    """
    run = ("-cp", app.class_path, app.main_class) if app.class_path else ("-jar", app.jar)
    java = f"{app.java_home or app.java.home}/bin/java"
    more = startup_cache.relevant(tuning.arguments)
    return (java, *startup_cache.creating(), *more, *words, *run)


def _owner(launch: Launch, user: User) -> Owner:
    if launch.by_hand:
        jar = launch.mounts[0].host_path if launch.mounts else launch.config.get("jar_path", "")
        return Owner("", BY_HAND, "", str(jar), user.uid, user.gid)
    names = (launch.namespace, launch.job_id, launch.group_name, launch.task_name)
    if not all(names):
        raise UnfitError("Nomad does not say whose task it is")
    return Owner(*names, user.uid, user.gid)


def _key(
    method: Method,
    java: list[str],
    files: list[ArchivedFile],
    words: list[str],
    tuning: Tuning,
) -> str:
    """Return a digest of all that an archive holds for."""
    large = tuning.heap_bytes >= startup_cache.LARGE_HEAP_BYTES
    content = [(file.path, file.size_bytes, file.digest) for file in files]
    data = msgspec.json.encode((VERSION, method, java, content, words, large))
    return hashlib.sha256(data).hexdigest()[:32]


def _check_place(launch: Launch, options: TaskOptions) -> None:
    """Make sure that nothing of the job's is mounted where the archive is to be."""
    targets = [mount.task_path for mount in launch.mounts]
    targets += [mount.target for mount in options.mounts]
    for target in map(normalized, targets):
        path = target.removeprefix("/var") if is_inside(target, "/var/run") else target
        if is_inside(path, "/run") or is_inside(PLACE, path):
            raise UnfitError(f"a mount of the job's is at {target}")
    if launch.task_name == STAGING:
        raise UnfitError(f"it is called {STAGING}")


def _outside(launch: Launch, user: User) -> tuple[int, int]:
    """Return the user and the group that the application is on this host's disks."""
    ids = launch.rights.ids
    if ids is None:
        return user.uid, user.gid
    return userns.outside(ids.uids, user.uid), userns.outside(ids.gids, user.gid)


def _check_disk(launch: Launch) -> None:
    found = os.statvfs(launch.alloc_dir)
    free_bytes = found.f_bavail * found.f_frsize
    if free_bytes < LEAST_FREE_BYTES:
        raise UnfitError(
            f"the allocation's disk has only {free_bytes >> 20} MiB left, and it takes "
            f"{LEAST_FREE_BYTES >> 20}"
        )
