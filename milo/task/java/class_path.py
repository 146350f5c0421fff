"""Which files the manifest of the application's JAR names that are not there.

A JVM ignores them without a word, and fails when it needs a class of theirs, perhaps hours later. A
JAR may well name what it can do without, so this is told, and refuses nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Sequence
from typing import Final

from milo import walk
from milo.core.container.mounts import Bind, innermost, is_inside
from milo.core.java.application import listed
from milo.core.java.class_path import resolve
from milo.core.java.jar import Jar
from milo.core.launch import Launch
from milo.core.text import shortened
from milo.errors import ArtifactError, PathError, Reason
from milo.task.java.application import hold_named
from milo.walk import Held, Kind

MAX_JARS: Final = 100
"""So many manifests are read: a JAR of a Class-Path may have one of its own."""
MAX_ENTRIES: Final = 2000
"""So many entries are looked for, of all of them."""


def missing_sentence(launch: Launch, jar: str, binds: Sequence[Bind]) -> str:
    """Return which files that ``jar`` names, a path in the container, are not there; or nothing.

    ``binds`` is what the container mounts. What cannot be looked at is not told.
    """
    missing: list[str] = []
    jars, seen, read = deque([jar]), {jar}, 0
    while jars and read < MAX_JARS:
        by = jars.popleft()
        read += 1
        for entry in _entries(launch, by, binds):
            path = resolve(by, entry)
            if path is None or path in seen or len(seen) > MAX_ENTRIES:
                continue
            seen.add(path)
            try:
                with _hold(launch, path, binds) as held:
                    if held.kind is Kind.FILE:
                        jars.append(path)
            except PathError as exc:
                if exc.reason in (Reason.MISSING, Reason.NOT_DIRECTORY):
                    missing.append(entry if by == jar else f"{entry} (of {os.path.basename(by)})")
    if not missing:
        return ""
    return (
        f"The Class-Path of {shortened(jar)} names what is not there: {listed(missing)}. Java goes "
        "on without, and fails with NoClassDefFoundError where it needs a class of it. Bring it "
        "beside the JAR, in an archive or by another artifact block"
    )


def _entries(launch: Launch, jar: str, binds: Sequence[Bind]) -> tuple[str, ...]:
    try:
        with _hold(launch, jar, binds) as held, contextlib.ExitStack() as stack:
            file = stack.enter_context(os.fdopen(held.open(), "rb"))
            return Jar(file).inspect().class_path
    except (ArtifactError, PathError, OSError):
        return ()


def _hold(launch: Launch, path: str, binds: Sequence[Bind]) -> Held:
    """Hold what is at a path in the container, as far as it can be told. Raises `PathError`."""
    with contextlib.suppress(PathError):
        return hold_named(launch, path, None)
    bind = innermost(binds, path)
    if bind is None:
        return _hold_seen(path, binds)
    rest = path[len(bind.destination) :]
    if bind.origin == "host":
        return walk.follow(bind.source + rest)
    with walk.hold(bind.source, beneath=launch.alloc_dir) as top:
        return top.within(rest)


def _hold_seen(path: str, binds: Sequence[Bind]) -> Held:
    """Hold what one of the root's symlinks leads to, as /lib does, and nothing else of the host.

    A JAR may name any path: what the task cannot see is missing, whether the host has it or not.
    """
    missing = PathError(path, Reason.MISSING, "it does not exist")
    try:
        held = walk.follow(path)
    except PathError as exc:
        raise missing from exc
    if any(bind.origin == "host" and is_inside(held.path, bind.source) for bind in binds):
        return held
    with held:
        raise missing
