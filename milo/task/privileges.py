"""What the application may do, from the job's and the plugin's words and this host's limits."""

from __future__ import annotations

import resource
from typing import Final

from milo.core.confinement import RLIM_INFINITY, Confinement
from milo.core.launch import Launch, TaskOptions
from milo.task import cgroups

CAP_SYS_RESOURCE: Final = 24
"""Its holder may raise hard limits; capabilities(7)."""


def confine(launch: Launch, options: TaskOptions) -> Confinement:
    """Return the container's privileges.

    Raises:
        ConfigError: the job asks for what the plugin's configuration does not allow.
    """
    return Confinement(
        pids_limit=options.pids_limit or launch.plugin.pids_limit,
        nofile_limit=_hard_limit(resource.RLIMIT_NOFILE),
        nproc_limit=_hard_limit(resource.RLIMIT_NPROC),
    )


def _hard_limit(kind: int) -> int:
    """Return the highest limit that crun may set: it cannot pass its own without the capability."""
    if cgroups.has_capability(CAP_SYS_RESOURCE):
        if kind != resource.RLIMIT_NOFILE:
            return RLIM_INFINITY
        with open("/proc/sys/fs/nr_open", encoding="ascii") as file:
            return int(file.read())
    hard = resource.getrlimit(kind)[1]
    return RLIM_INFINITY if hard == resource.RLIM_INFINITY else hard
