"""A Java that came with the task: it is only read on the host, and run in the container alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from milo.core.java.versions import version_from_release
from milo.core.launch import JavaRuntime
from milo.errors import JavaError
from milo.task.root.inside import OutsideError, open_inside

MAX_RELEASE_BYTES: Final = 64 * 1024
SOURCE: Final = "the job's java_home"


def find_task_java(places: Mapping[str, str], home: str) -> JavaRuntime:
    """Return the Java at ``home``, a path in the container below one of ``places``.

    ``places`` as for `open_inside`. Its version comes from the file ``release``, which every
    JDK since 7 has.

    Raises:
        JavaError: there is none, or none that tells its version.
    """
    parts = [part for part in home.split("/") if part not in ("", ".")]
    inside = "/".join(parts)
    try:
        if ".." in parts:
            raise ValueError('".." is not followed')
        os.close(open_inside(places, f"{inside}/bin/java"))
        with os.fdopen(open_inside(places, f"{inside}/release"), "rb") as file:
            text = file.read(MAX_RELEASE_BYTES).decode("utf-8", "replace")
        version = version_from_release(text)
    except (OutsideError, OSError, ValueError) as exc:
        words = getattr(exc, "strerror", None) or str(exc)
        raise JavaError(
            f"java_home /{inside}: {words}. Expected a complete JDK or JRE, with bin/java and "
            "release, in the task's local/, secrets/ or /alloc/, where an artifact block "
            "unpacks it to."
        ) from exc
    return JavaRuntime(
        home="/".join((places[parts[0]], *parts[1:])),
        version=version.text,
        major=version.major,
        source=SOURCE,
        trusted=False,
    )
