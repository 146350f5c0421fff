"""cgroup arithmetic, on both hierarchies. Pure; `milo.cgroup_files` reads and writes."""

from __future__ import annotations

import enum
import hashlib
import math
import re
from typing import Any, Final

import attrs

MIN_SHARES: Final = 2
MAX_SHARES: Final = 262_144
"""What the kernel takes as cpu.shares (kernel/sched/sched.h)."""
MIN_WEIGHT: Final = 1
MAX_WEIGHT: Final = 10_000
"""What it takes as cpu.weight."""

NO_LIMIT_BYTES: Final = 1 << 62
"""v1 has no word for "no limit", but the largest multiple of a page that it can count."""

CPU_PERIOD_US: Final = 100_000
"""The kernel's own default, cpu.cfs_period_us."""
MIN_QUOTA_US: Final = 1_000
"""The kernel refuses less."""

NOMAD_V1_CONTROLLERS: Final = ("cpu", "freezer", "memory")
"""Where Nomad 2.0 makes and removes a task's scope itself (client/lib/cgroupslib)."""

CRUN_CGROUP_ROOT: Final = "/sys/fs/cgroup"
"""Compiled into crun: the hierarchies are always below it."""
UNIFIED: Final = f"{CRUN_CGROUP_ROOT}/unified"
"""Where v1 hosts have their empty v2 hierarchy, and where crun makes a container's directory
even when none is mounted there (measured with 1.8.1)."""


MAX_NAME_BYTES: Final = 255
"""NAME_MAX: no directory has a longer name, and no cgroup."""
_OWN_SCOPE: Final = re.compile(r"~[0-9a-f]{16}(?:\.scope)?$")


class Mode(enum.Enum):
    """Which cgroup hierarchy the host has, as crun tells them apart."""

    V1 = "v1"
    V2 = "v2"
    HYBRID = "hybrid"
    """v1 with an additional, empty v2 hierarchy in ``unified``; crun 1.8 may refuse it."""
    NONE = "none"


@attrs.frozen
class Hierarchy:
    """Where the cgroup file systems are mounted."""

    mode: Mode
    mounts: dict[str, str]
    """v1: controller to directory (``memory`` to ``/sys/fs/cgroup/memory``), named ones as
    ``name=systemd``. v2: only ``""``, to the one root."""

    def directory(self, controller: str, path: str) -> str | None:
        """Return the directory of the cgroup ``path`` for one controller, or None if there is
        no such controller. On v2 all controllers share one directory."""
        root = self.mounts.get("" if self.mode is Mode.V2 else controller)
        return None if root is None else f"{root}/{path.strip('/')}".rstrip("/")


def container_path(parent: str, name: str) -> str:
    """Return ``cgroupsPath`` of one container: a child of its own in Nomad's group.

    A group of its own an invocation, because v2's memory.events and v1's peak accumulate.
    Outside of Nomad (no ``parent``) it is right below the root: a directory shared with other
    containers could be removed by one while another is about to use it.
    """
    return f"/{parent.strip('/')}/{name}" if parent.strip("/") else f"/{name}"


def unified_directories(hierarchy: Hierarchy, cgroup_path: str) -> tuple[str, ...]:
    """Return what crun may have made of a container in `UNIFIED`, innermost first; none on v2."""
    if hierarchy.mode is Mode.V2 or not cgroup_path.strip("/"):
        return ()
    parts = cgroup_path.strip("/").split("/")
    return tuple("/".join((UNIFIED, *parts[:depth])) for depth in range(len(parts), 0, -1))


def scope_that_fits(parent: str) -> str:
    """Return Nomad's scope of a task, or a shorter one where its name is too long to exist.

    The name holds the allocation's id and the task's name, which together pass what the kernel
    takes from 212 or 219 characters of the latter on. Nomad goes on without a scope then.
    """
    name = parent.rpartition("/")[2]
    return parent if len(name.encode()) <= MAX_NAME_BYTES else own_scope(parent)


def own_scope(parent: str) -> str:
    """Return a scope of Milo's own for a task, beside the one that Nomad would have.

    Its name fits in any case, and says to whoever cleans up that it is Milo's to remove.
    """
    above, slash, name = parent.rpartition("/")
    stem = name.removesuffix(".scope")
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    kept = stem.encode()[:128].decode(errors="ignore")
    return f"{above}{slash}{kept}~{digest}{name[len(stem) :]}"


def kernel_shares(mhz: int, client_mhz: int) -> int:
    """Return cpu.shares for a job's ``cpu`` in MHz, on a client with so many MHz in all; 0 is 0.

    As Nomad's exec and java drivers have it: on a client with more than the kernel's range holds,
    all tasks are scaled, so that the largest stays within it. ``client_mhz`` 0 is not known.
    """
    if mhz <= 0:
        return 0
    if client_mhz >= MAX_SHARES:
        mhz = int(mhz / client_mhz * MAX_SHARES)
    return min(max(mhz, MIN_SHARES), MAX_SHARES)


def shares_to_weight(shares: int) -> int:
    """Return v2's cpu.weight for v1's cpu.shares, so that a task gets what Nomad's drivers get.

    The curve is that of Nomad's libraries (opencontainers/cgroups 0.0.7) and of crun since 1.23:
    it meets least, default and greatest of both scales. Before, crun had a straight line, which
    gave 1024 shares less than half of the default weight; so Milo writes the weight itself.
    """
    if shares <= MIN_SHARES:
        return MIN_WEIGHT
    if shares >= MAX_SHARES:
        return MAX_WEIGHT
    exponent = math.log2(shares)
    return math.ceil(10 ** ((exponent**2 + 125 * exponent) / 612 - 7 / 34))


def cpu_quota(percent_ticks: float, cores: int, period_us: int = CPU_PERIOD_US) -> int:
    """Return the quota in microseconds a period that holds a task to its share of the host.

    ``percent_ticks`` is LinuxResources.percent_ticks: the task's MHz over all MHz that the
    client offers (1.0: all). ``cores`` is how many the host has. Nomad's docker driver
    computes its ``cpu_hard_limit`` like this.
    """
    return max(int(percent_ticks * period_us * cores), MIN_QUOTA_US)


def memory_limits(memory_bytes: int, memory_max_bytes: int) -> dict[str, Any]:
    """Return the OCI ``memory`` object; empty when there is no limit.

    With memory_max, that is the limit and ``memory`` the reservation (crun writes it to
    memory.soft_limit_in_bytes or memory.low); a negative memory_max is Nomad's "no limit".
    ``swap`` counts memory and swap together, so the same number turns swap off; crun ignores
    a kernel without swap accounting.
    """
    result: dict[str, Any] = {}
    limit = memory_bytes
    if memory_max_bytes < 0:
        limit = 0
        result["reservation"] = memory_bytes
    elif memory_max_bytes > memory_bytes:
        limit = memory_max_bytes
        result["reservation"] = memory_bytes
    if limit > 0:
        result["limit"] = limit
        result["swap"] = limit
    if result.get("reservation", 1) <= 0:
        del result["reservation"]
    return result


def parent_directories(hierarchy: Hierarchy, cgroup_parent: str) -> tuple[str, ...]:
    """Return Nomad's scope of a task as a directory of every v1 controller; none on v2.

    On v2 the scope is one group, which Nomad has made. On v1 Nomad makes it in three
    hierarchies, and crun wants to be in all.
    """
    if hierarchy.mode is Mode.V2 or not cgroup_parent.strip("/"):
        return ()
    directories = (hierarchy.directory(name, cgroup_parent) for name in hierarchy.mounts)
    return tuple(sorted({directory for directory in directories if directory}))


def leftover_directories(
    hierarchy: Hierarchy, cgroup_path: str, cgroup_parent: str
) -> tuple[str, ...]:
    """Return the directories to remove after ``crun delete``, innermost first, if empty.

    The container's own group in every hierarchy; on v1 also Nomad's scope ``cgroup_parent`` and
    what is above it, in the controllers that Nomad leaves alone (`NOMAD_V1_CONTROLLERS`). A
    scope of Milo's own (`scope_that_fits`) goes everywhere.
    """
    own = {hierarchy.directory(name, cgroup_path) for name in hierarchy.mounts}
    result = sorted(directory for directory in own if directory)
    nomads = {hierarchy.directory(name, cgroup_parent) for name in NOMAD_V1_CONTROLLERS}
    above = parent_directories(hierarchy, cgroup_parent)
    for directory in (path for path in above if path not in nomads):
        depth = len(cgroup_parent.strip("/").split("/"))
        # The container's cpuset group is below the scope's path, Nomad's own are beside it.
        levels = 1 if directory == hierarchy.directory("cpuset", cgroup_parent) else depth
        result += [directory.rsplit("/", level)[0] for level in range(levels)]
    if _OWN_SCOPE.search(cgroup_parent):
        scopes = {hierarchy.directory(name, cgroup_parent) for name in hierarchy.mounts}
        result += sorted(path for path in scopes if path and path not in result)
    return tuple(result)
