"""What the application's JVM is going to open, for `milo.task.root.access`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Final

from milo import walk
from milo.core.container.mounts import Bind, innermost
from milo.core.launch import Application, Launch
from milo.core.text import shortened
from milo.errors import PathError
from milo.task.java.application import hold_named
from milo.task.root.access import Need
from milo.walk import Kind

MAX_ENTRIES: Final = 1000
"""So many entries of a class path are looked at."""

JDK_FILES: Final = (("bin/java", os.X_OK), ("lib/modules", os.R_OK), ("lib/rt.jar", os.R_OK))
"""Relative to a JDK's, or before Java 9 to a JRE's, home. None of them has to be there."""


def needs(launch: Launch, app: Application, binds: Sequence[Bind], work_dir: str) -> Iterator[Need]:
    """Yield what the application needs to be able to use; ``work_dir`` is in the container.

    What is not there is left out: a JVM ignores it, or others have told of it.
    """
    with contextlib.suppress(PathError):
        yield from _java(launch, app)
    if bind := innermost(binds, work_dir):
        path = f"{bind.source}{work_dir[len(bind.destination) :]}"
        yield Need(f"work_dir {shortened(work_dir)}", path, os.X_OK)
    if app.jar:
        yield from _file(launch, f"the JAR {shortened(app.jar)}", app.jar)
    for entry in app.class_path.split(":")[:MAX_ENTRIES]:
        what = f"the class path's {shortened(entry)}"
        if entry.endswith("/*"):
            yield from _file(launch, what, entry.removesuffix("*"), os.R_OK)
        elif entry != app.jar:
            yield from _file(launch, what, entry)


def _java(launch: Launch, app: Application) -> Iterator[Need]:
    home = app.java.home
    what = f"the JDK {shortened(app.java_home or home)}"
    with walk.hold(home, beneath=launch.alloc_dir, kind=Kind.DIRECTORY) as held:
        yield Need(what, home, os.X_OK)
        for top in ("", "jre/"):
            for name, use in JDK_FILES:
                with contextlib.suppress(PathError), held.within(top + name, Kind.FILE) as file:
                    yield Need(what, file.path, use)


def _file(launch: Launch, what: str, path: str, directory_use: int = os.X_OK) -> Iterator[Need]:
    """Yield what it takes to use a file or directory at a path in the container."""
    with contextlib.suppress(PathError), hold_named(launch, path, None) as held:
        for link in held.links:
            yield Need(what, os.path.dirname(link), os.X_OK)
        is_directory = held.kind is Kind.DIRECTORY
        yield Need(what, held.path, directory_use if is_directory else os.R_OK)
