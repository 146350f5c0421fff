"""Finds a task's application before its container is created.

Small, bounded file reads on the host; what they mean is decided in `milo.core`.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from milo.core.application import (
    MAX_LISTED,
    PLACES,
    Found,
    check_jar_name,
    choose_jar,
    compose,
    listed,
    printable,
)
from milo.core.jar import class_version, inspect_jar, missing_class, require_main_class
from milo.core.java import runtime_name, too_new
from milo.core.launch import Application, JavaRuntime, Launch, TaskOptions
from milo.errors import ArtifactError, JavaError, NoJavaError
from milo.task.inside import OutsideError, list_names, open_inside


def resolve_application(launch: Launch, options: TaskOptions) -> Application:
    """Return what the task's JVM is to run, on which Java.

    ``jar_path`` is a path in the container, where one that is relative begins at ``/``; the
    host's own paths are not taken, as they hold the allocation's id, which no job can know.
    Without ``jar_path`` and ``class``, the one JAR directly under ``local/`` is run. The JAR
    and the Java release of its main class are checked first, in bounded memory and time; the
    class path of a job with ``class`` alone is not looked into.

    Blocks for some milliseconds. Raises `NoJavaError` when the host has no Java, `JavaError`
    when the chosen one is too old, `ArtifactError` when no JAR can be run.
    """
    if not launch.javas:
        raise NoJavaError
    java = launch.javas[0]
    notes = [f"Runs on {runtime_name(java)}, found by {java.source}"]
    if options.jar_path:
        check_jar_name(options.jar_path)
        jar = "/" + "/".join(part for part in options.jar_path.split("/") if part not in ("", "."))
    elif options.main_class:
        return compose(java, options, "", notes)
    else:
        jar = "/local/" + _the_one_jar(launch)
    shown = printable(options.jar_path or jar[1:])
    with _open_jar(launch, jar, shown) as file:
        notes += _check_jar(file, shown, options, java, launch.javas)
    return compose(java, options, jar, notes)


def _check_jar(
    file: BinaryIO,
    shown: str,
    options: TaskOptions,
    java: JavaRuntime,
    javas: tuple[JavaRuntime, ...],
) -> list[str]:
    """Check that the JAR can be run, and return notes for the start event."""
    info = inspect_jar(file, shown)
    by_manifest = not options.main_class
    class_name = require_main_class(info, shown) if by_manifest else options.main_class
    release = java.major if info.multi_release else 0
    version = class_version(file, class_name, shown, java_major=release)
    notes = []
    if version is not None:
        _check_version(shown, class_name, version, java, javas)
    elif info.class_path or options.class_path:
        notes.append(f"{printable(class_name)} is not in {shown}, but may be on its class path")
    else:
        raise missing_class(shown, class_name, by_manifest=by_manifest)
    if by_manifest and info.start_class and info.classes_dir:
        version = class_version(file, info.start_class, shown, folder=info.classes_dir)
        if version is not None:
            _check_version(shown, info.start_class, version, java, javas)
    return notes


def _check_version(
    shown: str, class_name: str, version: int, java: JavaRuntime, javas: tuple[JavaRuntime, ...]
) -> None:
    problem = too_new(shown, printable(class_name), version, java, javas)
    if problem:
        raise JavaError(problem)


def _the_one_jar(launch: Launch) -> str:
    local = f"{launch.task_dir}/local"
    try:
        names, complete = list_names(local, MAX_LISTED)
    except OSError as error:
        raise ArtifactError(
            f"The task's local/ cannot be read: {_reason(error)}.", path=local
        ) from error
    return choose_jar([Found(*found) for found in names], complete=complete)


def _open_jar(launch: Launch, jar: str, shown: str) -> BinaryIO:
    """Open the JAR at the container's path ``jar``; ``shown`` is what texts call it."""
    places = {
        "local": f"{launch.task_dir}/local",
        "secrets": f"{launch.task_dir}/secrets",
        "alloc": launch.shared_dir,
    }
    try:
        return os.fdopen(open_inside(places, jar), "rb")
    except OutsideError as error:
        raise ArtifactError(
            f"jar_path {shown} does not lead to a file in the task's directories: {error}. "
            f"Expected a path in {PLACES}.{_similar(places['local'], jar)}",
            path=shown,
        ) from error
    except FileNotFoundError as error:
        raise ArtifactError(
            f"jar_path {shown} does not exist. Expected a JAR in {PLACES}, where an artifact "
            f"block downloads it to.{_similar(places['local'], jar)}",
            path=shown,
        ) from error
    except OSError as error:
        raise ArtifactError(
            f"jar_path {shown} cannot be opened: {_reason(error)}. Expected a regular file in "
            f"{PLACES}.",
            path=shown,
        ) from error


def _similar(local: str, jar: str) -> str:
    """Return a sentence on what ``local/`` holds, to correct a path with; may be empty."""
    try:
        found, _ = list_names(local, MAX_LISTED)
    except OSError:
        return ""
    name = jar.rpartition("/")[2]
    names = sorted(entry + "/" * is_directory for entry, is_directory in found)
    if name in names:
        return f" There is a local/{printable(name)}: set jar_path to that."
    if not names:
        return " The task's local/ is empty."
    return f" The task's local/ holds {listed(names)}."


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
