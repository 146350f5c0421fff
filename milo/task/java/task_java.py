"""A Java that came with the task: it is only read on the host, and run in the container alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from milo import walk
from milo.core.java.versions import version_from_release
from milo.core.launch import JavaRuntime
from milo.errors import JavaError, PathError
from milo.walk import Kind

MAX_RELEASE_BYTES: Final = 64 * 1024
SOURCE: Final = "the job's java_home"


def find_task_java(places: Mapping[str, str], home: str) -> JavaRuntime:
    """Return the Java at ``home``, a path in the container below one of ``places``.

    ``places`` as for `milo.walk.hold_in_container`. Its version comes from the file ``release``,
    which every JDK since 7 has. Its home is told without symlinks: nothing that the task has
    planted lies on the way to it.

    Raises:
        JavaError: there is none, or none that tells its version.
    """
    parts = [part for part in home.split("/") if part not in ("", ".")]
    inside = "/".join(parts)
    try:
        if ".." in parts:
            raise ValueError('".." is not followed')
        with walk.hold_in_container(places, inside, Kind.DIRECTORY) as held:
            found = held.path
        walk.hold_in_container(places, f"{inside}/bin/java", Kind.FILE).close()
        with walk.hold_in_container(places, f"{inside}/release", Kind.FILE) as file:
            text = file.read(MAX_RELEASE_BYTES).decode("utf-8", "replace")
        version = version_from_release(text)
    except (PathError, ValueError) as exc:
        at, words = (exc.path, exc.words) if isinstance(exc, PathError) else (inside, str(exc))
        raise JavaError(
            f"java_home /{at}: {words}. Expected a complete JDK or JRE, with bin/java and "
            "release, in the task's local/, secrets/ or /alloc/, where an artifact block "
            "unpacks it to."
        ) from exc
    return JavaRuntime(
        home=found,
        version=version.text,
        major=version.major,
        source=SOURCE,
        trusted=False,
        openj9=version.openj9,
    )
