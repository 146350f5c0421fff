"""Decides which application a task runs, and with which command line. No I/O.

`milo.task.java.application` reads the task's directories and asks here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from milo.core.config.task_options import TaskOptions
from milo.core.container import capabilities
from milo.core.launch import Application, JavaRuntime
from milo.core.text import shortened
from milo.errors import ArtifactError

SHOWN_NAMES = 10
"""So many names of a directory are listed in an error text."""

MAX_LISTED = 4096
"""So many entries of ``local/`` are looked at when the job names no JAR."""

PLACES = "local/, secrets/ or /alloc/"
"""The task's directories, for texts; jar_path may lead into these alone."""


@attrs.frozen
class Found:
    """One entry directly under the task's ``local/``."""

    name: str
    is_directory: bool = False


def is_jar_name(name: str) -> bool:
    """Tell whether a file's name ends in ``.jar``, in whatever case."""
    return name.lower().endswith(".jar") and len(name) > len(".jar")


def is_war_name(name: str) -> bool:
    """Tell whether it ends in ``.war``: some are executable, and ``java -jar`` runs them."""
    return name.lower().endswith(".war") and len(name) > len(".war")


def check_jar_name(path: str) -> None:
    """Raise `ArtifactError` unless the last component of ``path`` is a JAR's or WAR's name."""
    name = path.rstrip("/").rpartition("/")[2]
    if not is_jar_name(name) and not is_war_name(name):
        raise ArtifactError(
            f"Artifact must be a .jar file, got: {shortened(name or path)}. Expected a jar_path "
            "that ends in .jar or .war: name the JAR there, or rename the file, for example by "
            "the artifact's destination.",
            path=path,
        )


def choose_jar(found: Sequence[Found], *, complete: bool) -> str:
    """Return the name of the one JAR among the entries of ``local/``.

    ``complete`` is false when ``local/`` holds more than was looked at (`MAX_LISTED`).
    Raises `ArtifactError` when it cannot be decided, with what was found and what to do.
    """
    if not complete:
        raise ArtifactError(
            f"The task's local/ holds more than {MAX_LISTED} entries, too many to look for "
            "its JAR. Set jar_path in the job's config to the JAR to run.",
            path="local",
        )
    jars = sorted(entry.name for entry in found if is_jar_name(entry.name))
    jars = [name for name in jars if Found(name, is_directory=True) not in found]
    if len(jars) == 1:
        try:
            jars[0].encode()
        except UnicodeEncodeError as error:
            raise ArtifactError(
                "The name of the JAR under the task's local/ is not valid UTF-8: "
                f"{shortened(jars[0])}. Rename it.",
                path="local",
            ) from error
        return jars[0]
    if jars:
        raise ArtifactError(
            f"Expected one JAR under the task's local/, found {len(jars)}: {listed(jars)}. "
            "Set jar_path in the job's config to the one to run, for example "
            f'jar_path = "local/{jars[0]}".',
            path="local",
        )
    files = sorted(entry.name for entry in found if not entry.is_directory)
    directories = sorted(entry.name + "/" for entry in found if entry.is_directory)
    if files and not directories:
        raise ArtifactError(f"Artifact must be a .jar file, got: {listed(files)}", path="local")
    if not found:
        raise ArtifactError(
            "No JAR was found: the task's local/ is empty. Add an artifact block that "
            "downloads the JAR, or set jar_path in the job's config.",
            path="local",
        )
    raise ArtifactError(
        "No JAR was found directly under the task's local/, which holds "
        f"{listed(directories + files)}. Set jar_path in the job's config to the JAR's path, "
        f'for example jar_path = "local/{directories[0]}app.jar".',
        path="local",
    )


def listed(names: Sequence[str]) -> str:
    """Return the names in one line, at most `SHOWN_NAMES` of them, each safe to print."""
    shown = ", ".join(shortened(name) for name in names[:SHOWN_NAMES])
    more = len(names) - SHOWN_NAMES
    return f"{shown} and {more} more" if more > 0 else shown


def absolute_class_path(class_path: str, find: Callable[[str], str]) -> str:
    """Return a class path without relative entries, of which ``find`` returns the absolute path.

    An empty entry means the working directory, to Java too.
    """
    return ":".join(
        part if part.startswith("/") else find(part.removeprefix("./"))
        for part in class_path.split(":")
    )


def without_effect(options: TaskOptions) -> list[str]:
    """Return a sentence for each key of the job's that changes nothing here."""
    notes = []
    if options.class_path and options.jar_path and not options.main_class:
        notes.append("class_path has no effect beside jar_path alone: java -jar ignores it")
    if options.cap_drop and capabilities.ALL not in options.cap_add:
        notes.append(
            "cap_drop has no effect: a task has no capabilities but those that its cap_add names"
        )
    if options.init:
        notes.append(
            "init has no effect: process 1 of the container is Milo's, and orphans are reaped"
        )
    return notes


def compose(
    java: JavaRuntime,
    options: TaskOptions,
    jar: str,
    notes: Sequence[str],
    find: Callable[[str], str],
) -> Application:
    """Return the application for ``jar``, a path in the container, or empty.

    ``find`` returns the absolute path of a relative one.

    With ``class``, the JAR is put on the class path, in front of ``class_path``, since
    ``java -jar`` runs nothing but the JAR's own Main-Class; without, ``-jar`` runs it.
    """
    class_path = ""
    if options.class_path and options.main_class:
        class_path = absolute_class_path(options.class_path, find)
    if options.main_class and jar:
        class_path = f"{jar}:{class_path}" if class_path else jar
    return Application(
        java=java,
        jar=jar,
        main_class=options.main_class,
        class_path=class_path,
        notes=(*notes, *without_effect(options)),
    )


def java_arguments(
    app: Application, options: TaskOptions, added: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the command line of the JVM, in the order of Nomad's java driver.

    That is the launcher, ``jvm_options``, the class path, the JAR or the main class, and the
    application's own arguments. What Milo has ``added`` (`milo.core.java.heap`) comes before
    ``jvm_options``, since of two options the JVM takes the later one. Paths are the
    container's; the JDK has the host's there.
    """
    arguments = [f"{app.java_home or app.java.home}/bin/java", *added, *options.jvm_options]
    if app.class_path:
        arguments += ["-cp", app.class_path]
    if app.main_class:
        arguments.append(app.main_class)
    else:
        arguments += ["-jar", app.jar]
    return (*arguments, *options.args)


def argument_names(argv: Sequence[str], options: TaskOptions) -> list[str]:
    """Return what the job calls each word of a command line of `java_arguments`."""
    known = {option: f"jvm_options[{number}]" for number, option in enumerate(options.jvm_options)}
    first = len(argv) - len(options.args)
    return [
        f"args[{index - first}]" if index >= first else known.get(word, "class_path")
        for index, word in enumerate(argv)
    ]
