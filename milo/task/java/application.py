"""Finds a task's application before its container is created.

Small, bounded file reads on the host; what they mean is decided in `milo.core`.
"""

from __future__ import annotations

import contextlib
import functools
import os
from typing import BinaryIO, Final

import attrs

from milo import walk
from milo.core.config.task_options import TaskOptions
from milo.core.container.mounts import TASK_ROOT, is_inside, normalized
from milo.core.java.application import (
    MAX_LISTED,
    PLACES,
    Found,
    check_jar_name,
    choose_jar,
    compose,
    listed,
)
from milo.core.java.choice import Requirement, candidates, parse_requirement, reason
from milo.core.java.jar import Jar, JarInfo, missing_class, require_main_class
from milo.core.java.versions import runtime_name, too_new
from milo.core.launch import SHARED_DIRECTORY, Application, JavaRuntime, Launch, Mount
from milo.core.text import shortened
from milo.errors import ArtifactError, JavaError, NoJavaError, PathError, Reason
from milo.task.java.task_java import find_task_java
from milo.task.root import brought

OWN: Final = ("local", "secrets", SHARED_DIRECTORY)
"""The task's directories at the root that may hold its JAR or its Java."""


def resolve_application(launch: Launch, options: TaskOptions) -> Application:
    """Return what the task's JVM is to run, on which Java.

    ``jar_path`` is a path in the container, where one that is relative begins at ``work_dir``
    or at ``/``; the host's own paths are not taken, as they hold the allocation's id, which no
    job can know.
    Without ``jar_path`` and ``class``, the one JAR directly under ``local/`` is run. The JAR
    and the Java release of its main class are checked first, in bounded memory and time; the
    class path of a job with ``class`` alone is not looked into.

    Blocks for some milliseconds. Raises `NoJavaError` when the host has no Java, `JavaError`
    when the chosen one is too old, `ArtifactError` when no JAR can be run.
    """
    requirement = parse_requirement(options.java_version) if options.java_version else None
    javas = _javas(launch, options, requirement)
    find = functools.partial(_find, launch, options)
    if options.jar_path:
        check_jar_name(options.jar_path)
        jar = _named_jar(launch, options)
    elif options.main_class:
        notes = [_chosen(javas[0], launch, options, requirement)]
        return _placed(compose(javas[0], options, "", notes, find), launch)
    else:
        jar = "/local/" + _the_one_jar(launch)
    shown = shortened(options.jar_path or jar[1:])
    with _open_jar(launch, jar, shown) as file:
        java, notes = _first_that_runs(Jar(file, shown), options, javas, launch.javas)
    notes = [_chosen(java, launch, options, requirement), *notes]
    return _placed(compose(java, options, jar, notes, find), launch)


def _find(launch: Launch, options: TaskOptions, path: str) -> str:
    """Return the absolute path of what the task finds at a relative one."""
    if options.work_dir:
        return f"{options.work_dir.rstrip('/')}/{path}"
    return brought.from_root(launch, path)


def _placed(app: Application, launch: Launch) -> Application:
    """Return ``app`` with the container's path of a Java that came with the task."""
    for name, path in _places(launch).items():
        if app.java.home.startswith(f"{path}/"):
            return attrs.evolve(app, java_home=f"/{name}{app.java.home[len(path) :]}")
    return app


def _javas(
    launch: Launch, options: TaskOptions, requirement: Requirement | None
) -> tuple[JavaRuntime, ...]:
    """Return the Javas to try, in order."""
    if not options.java_home:
        if not launch.javas:
            raise NoJavaError
        return candidates(launch.javas, requirement)
    java = _named_java(launch, options.java_home)
    if requirement is not None and not requirement.allows(java):
        raise JavaError(
            f"java_home is {runtime_name(java)}, which is not java_version = "
            f'"{requirement.text}". Change one of the two.'
        )
    return (java,)


def _named_java(launch: Launch, home: str) -> JavaRuntime:
    """Return the Java that the job's java_home names: in the task, or one that Milo has found.

    No other path of the host is taken, since it would show the task whatever is there.
    """
    first = next((part for part in home.split("/") if part not in ("", ".")), "")
    if brought.has(launch, first):
        return find_task_java(_places(launch), f"{TASK_ROOT}/{home}")
    if first in _places(launch):
        return find_task_java(_places(launch), home)
    real = walk.real_path(home)
    for java in launch.javas:
        if java.home == real:
            return java
    there = ", ".join(runtime_name(java) for java in launch.javas[:10]) or "none"
    raise JavaError(
        f"java_home {shortened(home)} is neither a Java that Milo has found on this host "
        f"({there}) nor a path in the task's local/, secrets/ or /alloc/. The operator of the "
        "client adds one by installing it below /usr/lib/jvm or /opt."
    )


def _chosen(
    java: JavaRuntime, launch: Launch, options: TaskOptions, requirement: Requirement | None
) -> str:
    if options.java_home:
        return f"Runs on {runtime_name(java)}, the job's java_home"
    return f"Runs on {runtime_name(java)}, {reason(java, launch.javas, requirement)}"


def _first_that_runs(
    jar: Jar,
    options: TaskOptions,
    javas: tuple[JavaRuntime, ...],
    there: tuple[JavaRuntime, ...],
) -> tuple[JavaRuntime, list[str]]:
    """Return the first of ``javas`` that is new enough for the JAR, and notes."""
    info = jar.inspect()
    failure: JavaError | None = None
    for java in javas:
        try:
            return java, _check_jar(jar, info, options, java, there)
        except JavaError as exc:
            failure = failure or exc
    assert failure is not None
    raise failure


def _check_jar(
    jar: Jar,
    info: JarInfo,
    options: TaskOptions,
    java: JavaRuntime,
    javas: tuple[JavaRuntime, ...],
) -> list[str]:
    """Check that ``java`` runs the JAR, and return notes for the start event."""
    shown = jar.name
    by_manifest = not options.main_class
    class_name = require_main_class(info, shown) if by_manifest else options.main_class
    release = java.major if info.multi_release else 0
    version = jar.class_version(class_name, java_major=release)
    notes = []
    if version is not None:
        _check_version(shown, class_name, version, java, javas)
    elif info.class_path or options.class_path:
        notes.append(f"{shortened(class_name)} is not in {shown}, but may be on its class path")
    else:
        raise missing_class(shown, class_name, by_manifest=by_manifest)
    if by_manifest and info.start_class and info.classes_dir:
        version = jar.class_version(info.start_class, folder=info.classes_dir)
        if version is not None:
            _check_version(shown, info.start_class, version, java, javas)
    return notes


def _check_version(
    shown: str, class_name: str, version: int, java: JavaRuntime, javas: tuple[JavaRuntime, ...]
) -> None:
    problem = too_new(shown, shortened(class_name), version, java, javas)
    if problem:
        raise JavaError(problem)


def _places(launch: Launch) -> dict[str, str]:
    return brought.places(launch, OWN)


def _the_one_jar(launch: Launch) -> str:
    try:
        names, complete = _local_names(launch)
    except PathError as error:
        raise ArtifactError(
            f"The task's local/ cannot be read: {error.words}.", path=error.path
        ) from error
    return choose_jar([Found(*found) for found in names], complete=complete)


def _local_names(launch: Launch) -> tuple[list[tuple[str, bool]], bool]:
    """Return what lies in ``local/``, and if that is all; one that is not there is empty."""
    try:
        with walk.hold(f"{launch.task_dir}/local", beneath=launch.alloc_dir) as local:
            return local.names(MAX_LISTED)
    except PathError as error:
        if error.reason is Reason.MISSING:
            return [], True
        raise


def _named_jar(launch: Launch, options: TaskOptions) -> str:
    """Return the container's path of the job's ``jar_path``.

    To Nomad's java driver a relative one begins at the working directory, which is the task's
    unless there is a ``work_dir``; here it may begin there in any case.
    """
    parts = _parts(options.jar_path)
    jar = "/" + "/".join(parts)
    if options.jar_path.startswith("/"):
        return jar
    jar = brought.from_root(launch, jar)
    if options.work_dir:
        # work_dir has no symlink in it, and may not be there yet: its own parts are left by name.
        above = next((n for n, part in enumerate(parts) if part != ".."), len(parts))
        base = _parts(options.work_dir)
        there = "/" + "/".join(base[: max(0, len(base) - above)] + parts[above:])
        if above:
            return there
        with contextlib.suppress(PathError):
            hold_named(launch, there).close()
            return there
    return jar


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def hold_named(launch: Launch, path: str, kind: walk.Kind | None = walk.Kind.FILE) -> walk.Held:
    """Hold what is at a path of the container, in the task's directories or one of its volumes.

    Raises `PathError`, as `milo.walk.hold_in_container` does.
    """
    volumes = {}
    mount = _volume_around(launch, path)
    if mount:
        source = walk.real_path(mount.host_path)
        inner = path[len(normalized(mount.task_path).rstrip("/")) :]
        if not inner:  # the volume is the file itself, as `milo run` has it
            source, inner = os.path.dirname(source), f"/{os.path.basename(source)}"
        volumes["volume"] = source
        path = f"/volume{inner}"
    return brought.hold(launch, path, OWN, volumes, kind)


def _volume_around(launch: Launch, path: str) -> Mount | None:
    around = [mount for mount in launch.mounts if is_inside(path, normalized(mount.task_path))]
    return max(around, key=lambda mount: len(normalized(mount.task_path)), default=None)


def _open_jar(launch: Launch, jar: str, shown: str) -> BinaryIO:
    """Open the JAR at the container's path ``jar``; ``shown`` is what texts call it."""
    try:
        with hold_named(launch, jar) as held:
            return os.fdopen(held.open(), "rb")
    except PathError as error:
        similar = _hint(launch, jar, error)
        match error.reason:
            case Reason.OUTSIDE | Reason.TOO_LONG:
                text = (
                    f"jar_path {shown} does not lead to a file in the task's directories: "
                    f"{error.words}. Expected a path in {PLACES}.{similar}"
                )
            case Reason.MISSING:
                text = (
                    f"jar_path {shown} does not exist. Expected a JAR in {PLACES}, where an "
                    f"artifact block downloads it to.{similar}"
                )
            case _:
                text = (
                    f"jar_path {shown} cannot be opened: {error.words}. Expected a regular file "
                    f"in {PLACES}."
                )
        raise ArtifactError(text, path=shown) from error


def _hint(launch: Launch, jar: str, error: PathError) -> str:
    """Return sentences that say why a JAR was not found, or where one is; may be empty."""
    mount = _volume_around(launch, jar)
    if mount is not None:
        at = normalized(mount.task_path)
        text = f" It was looked for in the volume at {shortened(at)}"
        if at.removeprefix(TASK_ROOT).strip("/") in ("", *OWN):
            return f"{text}, which hides the task's own directory: mount that elsewhere."
        return f"{text}.{_similar(launch, jar)}"
    if normalized(jar).removeprefix(TASK_ROOT) == f"/local/{os.path.basename(jar)}":
        similar = _similar(launch, jar)
        if "set jar_path to that" not in similar:
            return similar
        return " It is a symlink to what is not there." if error.reason is Reason.MISSING else ""
    return _similar(launch, jar)


def _similar(launch: Launch, jar: str) -> str:
    """Return a sentence on what ``local/`` holds, to correct a path with; may be empty."""
    try:
        found, _ = _local_names(launch)
    except PathError:
        return ""
    name = jar.rpartition("/")[2]
    names = sorted(entry + "/" * is_directory for entry, is_directory in found)
    if name in names:
        return f" There is a local/{shortened(name)}: set jar_path to that."
    if not names:
        return " The task's local/ is empty."
    return f" The task's local/ holds {listed(names)}."
