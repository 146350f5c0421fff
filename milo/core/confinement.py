"""What the application in a container may do, and how it is held apart. Pure values."""

from __future__ import annotations

from typing import Any, Final

import attrs

PIDS_LIMIT: Final = 4096
"""Threads and processes together. podman's default is 2048; a JVM with a thread for each
connection gets twice that, and a fork bomb still ends far below the host's own limit."""

NOFILE_LIMIT: Final = 1_048_576
"""Open files; podman's default for a container of root's. The JVM uses its hard limit."""

RLIM_INFINITY: Final = 2**64 - 1


@attrs.frozen
class Confinement:
    """The privileges of one container; the defaults are Milo's own."""

    nofile_limit: int = NOFILE_LIMIT
    nproc_limit: int = RLIM_INFINITY
    """RLIMIT_NPROC counts all processes of a user on the host, and every task is ``nobody``
    by default, so it may not be what holds a task back: `PIDS_LIMIT` is."""
    pids_limit: int = PIDS_LIMIT
    seccomp: dict[str, Any] | None = None
    """The OCI ``linux.seccomp`` object."""
