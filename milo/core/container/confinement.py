"""What the application in a container may do, and how it is isolated. Pure values."""

from __future__ import annotations

from typing import Any, Final

import attrs

from milo.core.container.rights import ROOT, Rights

PIDS_LIMIT: Final = 4096
"""Threads and processes together. podman's default is 2048; a JVM with a thread for each
connection gets twice that, and a fork bomb still ends far below the host's own limit."""

NOFILE_LIMIT: Final = 1_048_576
"""Open files; podman's default for a container of root's. The JVM uses its hard limit."""

RLIM_INFINITY: Final = 2**64 - 1

SHM_SIZE_BYTES: Final = 64 * 1024 * 1024
"""As podman and docker size /dev/shm. What is in it counts as the task's memory."""


@attrs.frozen
class Confinement:
    """The privileges of one container; the defaults are Milo's own."""

    nofile_limit: int = NOFILE_LIMIT
    nproc_limit: int = RLIM_INFINITY
    """RLIMIT_NPROC counts all processes of a user on the host, and every task is ``nobody``
    by default, so it may not be what holds a task back: `PIDS_LIMIT` is."""
    rlimits: dict[str, tuple[int, int]] = attrs.field(factory=dict)
    """The job's own, by their OCI names: soft and hard limit. They win over the two above."""
    pids_limit: int = PIDS_LIMIT
    capabilities: tuple[str, ...] = ()
    """Lower case, without ``cap_``; effective in the application even when it is not root."""
    seccomp: dict[str, Any] | None = None
    """The OCI ``linux.seccomp`` object."""
    masked_paths: tuple[str, ...] = ()
    """Beside those of every container."""
    sysctl: dict[str, str] = attrs.field(factory=dict)
    shm_size_bytes: int = SHM_SIZE_BYTES
    host_pids: bool = False
    """Whether the container shares the host's PID namespace."""
    host_ipc: bool = False
    rights: Rights = ROOT
    """What Milo itself may do, and so what the container can be given."""
