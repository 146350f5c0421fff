"""System calls that no application needs and that reach beyond its container. Pure.

They come from what docker's default profile refuses (its documentation lists the reasons), from
the history of io_uring, and from what tasks of one user share on a host.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

CLONE_NEWUSER: Final = 0x10000000
"""clone(2). In a user namespace of its own a task has every capability, and so all of the
kernel's code behind them within its reach."""

_NEVER: Final = ("",)
_ADMIN: Final = ("sys_admin",)

_DENIED: Final[dict[tuple[str, ...], str]] = {
    # Key rings belong to a user of the host, and all tasks are `nobody` unless they say so.
    _NEVER: "add_key keyctl request_key"
    # io_uring does what other calls do without being seen here; docker denies it since 2023.
    " io_uring_enter io_uring_register io_uring_setup"
    # Helps exploits more than programs.
    " userfaultfd vmsplice"
    # Of other times.
    " _sysctl create_module get_kernel_syms nfsservctl query_module sysfs uselib ustat"
    " vm86 vm86old",
    _ADMIN: "fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree"
    " open_tree_attr pivot_root umount umount2"
    " lsm_get_self_attr lsm_list_modules lsm_set_self_attr"
    " fanotify_init lookup_dcookie quotactl quotactl_fd setdomainname sethostname setns swapoff"
    " swapon unshare",
    ("sys_admin", "bpf"): "bpf",
    ("sys_admin", "perfmon"): "perf_event_open",
    ("dac_read_search",): "open_by_handle_at",
    ("sys_boot",): "kexec_file_load kexec_load reboot",
    ("sys_chroot",): "chroot",
    ("sys_module",): "delete_module finit_module init_module",
    ("sys_pacct",): "acct",
    # Looks into other processes, as ptrace does, but none of Java's tools needs them.
    ("sys_ptrace",): "kcmp pidfd_getfd",
    ("sys_rawio",): "ioperm iopl pciconfig_iobase pciconfig_read pciconfig_write",
    ("sys_time",): "clock_settime clock_settime64 settimeofday stime",
    ("sys_tty_config",): "vhangup",
    ("syslog", "sys_admin"): "syslog",
}
"""The capabilities of which each lifts the ban, to the names. ptrace is not here: in a PID
namespace of its own a task reaches only itself, and jstack, jmap and debuggers need it."""


def denied(capabilities: Collection[str]) -> tuple[str, ...]:
    """Return the names that a container with ``capabilities`` may not call, sorted."""
    return tuple(
        sorted(
            name
            for lifting, names in _DENIED.items()
            if not {*lifting} & {*capabilities}
            for name in names.split()
        )
    )


def lifted(capabilities: Collection[str]) -> tuple[str, ...]:
    """Return the names that only the container's ``capabilities`` keep from being `denied`."""
    return tuple(sorted({*denied(())} - {*denied(capabilities)}))


def user_namespaces_denied(capabilities: Collection[str]) -> bool:
    """Whether clone may not make a user namespace, and clone3 not be called."""
    return "sys_admin" not in capabilities
