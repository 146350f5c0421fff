"""``milo job``: prints a job file that runs a JAR."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence

from milo import walk
from milo.cli import job_file
from milo.cli.arguments import MIB, WrongValueError, absolute, size_of
from milo.cli.job_file import JobPlan
from milo.core.java.jar import Jar, missing_class, require_main_class
from milo.core.java.versions import release_of_class
from milo.errors import ArtifactError, PathError
from milo.walk import Kind


def print_job(options: Namespace, application: Sequence[str]) -> int:
    """Print the job file, with the application's arguments; returns the exit status.

    Raises:
        ArtifactError: a local JAR cannot be read, or cannot be run.
        ConfigError: an argument is not valid.
    """
    for key, value in (("--cpu", options.cpu), ("--count", options.count)):
        if value < 1:
            raise WrongValueError(key, f"got {value}", "a whole number from 1")
    bare = options.memory.isascii() and options.memory.isdigit()
    memory = size_of("--memory", f"{options.memory}m" if bare else options.memory, MIB)
    main_class, release = "", 0
    jar = options.jar
    if not job_file.is_url(jar):
        jar = absolute(jar)
        main_class, release = _inspect(jar, options.main_class)
    plan = JobPlan(
        jar=jar,
        name=options.name,
        service=options.service,
        count=options.count,
        cpu_mhz=options.cpu,
        memory_mib=memory // MIB,
        args=tuple(application),
        asked_class=options.main_class,
        main_class=main_class,
        java_release=release,
    )
    # A job file is UTF-8, whatever this terminal's encoding is.
    sys.stdout.buffer.write(job_file.write_job(plan).encode())
    return 0


def _inspect(jar: str, asked_class: str) -> tuple[str, int]:
    """Return the class that is run of the JAR, and the Java release it is compiled for."""
    try:
        with walk.follow(jar, Kind.FILE) as held:
            file = os.fdopen(held.open(), "rb")
    except PathError as exc:
        raise ArtifactError(f"{jar} cannot be read: {exc.words}", path=jar) from exc
    with file:
        looked_into = Jar(file, jar)
        info = looked_into.inspect()
        name = asked_class or require_main_class(info, jar)
        major = looked_into.class_version(name)
        if major is None and not info.class_path:
            raise missing_class(jar, name, by_manifest=not asked_class)
        if info.start_class and not asked_class:
            # Spring Boot's launcher is older than what it launches.
            started = looked_into.class_version(info.start_class, folder=info.classes_dir)
            if started is not None and (major is None or started > major):
                name, major = info.start_class, started
    return name, 0 if major is None else release_of_class(major)
