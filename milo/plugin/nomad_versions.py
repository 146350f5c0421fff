"""What older Nomads do otherwise than 2.0, each with the version that ended it.

They are told apart by what they send, since Nomad does not tell a driver its version.
"""

from __future__ import annotations


def v1_parent_before_1_7(cpuset_group: str) -> str | None:
    """Return the parent of all tasks' groups on cgroup v1; None for Nomad 1.7 and later.

    Until 1.7 ``cpuset_group``, below the cpuset controller, is ``<parent>/shared``, or
    ``<parent>/reserved/<alloc id>-<task>``, and Nomad has no scope for a task in any controller:
    whoever makes one has to remove it.
    Source: Nomad 1.6.10, client/lib/cgutil/cpuset_manager_v1.go.
    """
    above, _, last = cpuset_group.rpartition("/")
    if last == "shared":
        return above
    parent, _, reserved = above.rpartition("/")
    return parent if reserved == "reserved" else None
