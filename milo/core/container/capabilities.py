"""Linux capabilities by name, and which of them a job gets. Pure.

As in Nomad's java driver, a name may be in any case, with or without ``CAP_``, and ``all`` means
every capability except those that have to be named. Unlike there, a job starts with none and gets
only those of `cap_add`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from milo.errors import ConfigError

ALL: Final = "all"

KNOWN: Final = (
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
)
"""Each at the place of its number; linux/capability.h of Linux 5.9 and all later ones so far."""

NAMED_ONLY: Final = ("mknod",)
"""Not among `ALL`: a device node on the host's disk opens the device to whoever finds it there."""

EXPECTED: Final = 'names of capabilities such as "net_bind_service", or "all"; see capabilities(7)'


def parse_name(key: str, name: str) -> str:
    """Return a capability's name in lower case and without ``cap_``.

    Raises:
        ConfigError: Linux has no such capability.
    """
    plain = name.strip().lower().removeprefix("cap_")
    if plain not in KNOWN and plain != ALL:
        raise ConfigError(key, f"there is no capability {name[:40]!r}", EXPECTED)
    return plain


def check_allowed(add: Iterable[str], drop: Iterable[str], allowed: Collection[str]) -> None:
    """Hold a job's ``cap_add`` to the plugin's ``allow_caps``; all parsed names.

    Raises:
        ConfigError: naming what is not allowed.
    """
    missing = [name for name in wanted(add, drop) if not holds(allowed, name)]
    if missing:
        raise ConfigError(
            "cap_add",
            f"the plugin's allow_caps does not allow {', '.join(missing)}",
            "only " + (", ".join(allowed) or "an empty list"),
        )


def granted(add: Collection[str], drop: Iterable[str], available: int) -> tuple[str, ...]:
    """Return what the job gets, in the order of the kernel's numbers.

    ``cap_drop`` takes away from what ``all`` brought; a name that ``cap_add`` gives itself wins
    over it, as in Nomad. ``available`` is the set of capabilities that can be given on this
    host, as a bit mask: ``all`` is all of these.

    Raises:
        ConfigError: a name that the job gives itself is not among them.
    """
    names = wanted(add, drop)
    missing = [name for name in names if not available >> KNOWN.index(name) & 1]
    named = [name for name in missing if name in add]
    if named:
        raise ConfigError(
            "cap_add",
            f"this client cannot give {', '.join(named)}: "
            "its kernel or its own bounding set is without it",
            "other capabilities, or a client that has it",
        )
    return tuple(name for name in names if name not in missing)


def oci_name(name: str) -> str:
    """Return the name as the OCI specification spells it."""
    return f"CAP_{name.upper()}"


def holds(names: Collection[str], name: str) -> bool:
    """Whether a list that may hold `ALL` holds a capability."""
    return name in names or (ALL in names and name not in NAMED_ONLY)


def wanted(add: Iterable[str], drop: Iterable[str]) -> tuple[str, ...]:
    """Return what a job asks for, in the order of the kernel's numbers."""
    names = {*add}
    if ALL in names:
        dropped = {*KNOWN} if ALL in (removed := {*drop}) else removed
        names |= {*KNOWN} - {*NAMED_ONLY} - dropped
    return tuple(name for name in KNOWN if name in names)
