"""The verdicts of `milo doctor` about directories and the file systems under them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from milo.cli.doctor.finding import Finding, Verdict, ok

STATE_LOW_BYTES: Final = 16 << 20
STATE_FULL_BYTES: Final = 1 << 20
"""A task's state takes some 100 KiB: bundle, records and a bounded log."""
DATA_FULL_BYTES: Final = 64 << 20
DATA_LOW_PERCENT: Final = 20
INODES_LOW_PERCENT: Final = 30
"""Nomad collects ended allocations when a disk is filled above 80 % (gc_disk_usage_threshold),
or has less than 30 % of its inodes (gc_inode_usage_threshold)."""


@attrs.frozen
class Directory:
    """What is known of a directory and of the file system that it is on, or will be."""

    path: str
    problem: str = ""
    """Why nothing is known of it; empty otherwise."""
    exists: bool = False
    is_directory: bool = False
    """And no symlink."""
    uid: int = 0
    mode: int = 0
    """Permission bits."""
    file_system: str = ""
    flags: frozenset[str] = frozenset()
    """Mount options: ``ro``, ``noexec`` ..."""
    total_bytes: int = 0
    free_bytes: int = 0
    inodes: int = 0
    """0 for a file system that does not count them."""
    free_inodes: int = 0


def check_state_dir(directory: Directory) -> list[Finding]:
    """The plugin's ``state_dir``: whose it is, and where."""
    name, path = "state_dir", directory.path
    other = "Set state_dir in the plugin's configuration to a directory that only root can access"
    if directory.problem:
        return [Finding(name, Verdict.SKIPPED, directory.problem, "sudo milo doctor")]
    if "ro" in directory.flags:
        return [Finding(name, Verdict.FAILED, f"{path} is on a read-only file system", other)]
    if directory.exists and not directory.is_directory:
        return [Finding(name, Verdict.FAILED, f"{path} is not a directory", other)]
    if directory.exists and directory.uid != 0:
        text = f"{path} belongs to user {directory.uid}, not to root"
        return [Finding(name, Verdict.FAILED, text, other)]
    findings = []
    # Those who know a name may pass: containers in user namespaces do.
    if directory.exists and directory.mode & 0o066:
        text = f"{path} is accessible to others (mode {directory.mode:04o})"
        findings.append(Finding(name, Verdict.WARNING, text, f"chmod 0700 {path}"))
    if directory.file_system not in ("tmpfs", "ramfs", ""):
        text = f"{path} is on {directory.file_system}, so it survives a reboot"
        fix = "Set state_dir to a directory on a tmpfs, such as /run"
        findings.append(Finding(name, Verdict.WARNING, text, fix))
    there = "" if directory.exists else "; created when the agent starts"
    findings += _space(name, directory, STATE_FULL_BYTES, STATE_LOW_BYTES)
    return findings or [ok(name, f"{path}, {_free(directory)}{there}")]


def check_cache_dir(path: str, problem: str, sizes_bytes: Sequence[int], limit: int) -> Finding:
    """The plugin's ``cache_dir``: who can change it, and what is in it."""
    if problem:
        return Finding(
            "cache_dir",
            Verdict.FAILED,
            f"no startup archive is used: {problem}",
            "Set cache_dir in the plugin's configuration to a directory that only root can change",
        )
    total = sum(sizes_bytes) >> 20
    return ok("cache_dir", f"{path}, {len(sizes_bytes)} archives, {total} of {limit >> 20} MiB")


def check_data_dir(directory: Directory) -> list[Finding]:
    """Nomad's ``data_dir``, where the allocations are."""
    name, path = "data_dir", directory.path
    if directory.problem:
        return [Finding(name, Verdict.SKIPPED, directory.problem, "sudo milo doctor")]
    if not directory.exists:
        return [
            Finding(
                name, Verdict.WARNING, f"{path} does not exist", "Start the agent, which creates it"
            )
        ]
    findings = []
    if "noexec" in directory.flags:
        findings.append(
            Finding(
                name,
                Verdict.WARNING,
                f"{path} is mounted noexec: a task cannot run its own JDK, or libraries that its "
                "JAR unpacks to /tmp",
                f"Remount the file system of {path} with exec, and change /etc/fstab",
            )
        )
    findings += _space(
        name, directory, DATA_FULL_BYTES, directory.total_bytes * DATA_LOW_PERCENT // 100
    )
    return findings or [ok(name, f"{path}, {_free(directory)}")]


def _space(name: str, directory: Directory, full: int, low: int) -> list[Finding]:
    free = directory.free_bytes
    if free < low or free < full:
        verdict = Verdict.FAILED if free < full else Verdict.WARNING
        text = f"{directory.path}: {_free(directory)}"
        return [Finding(name, verdict, text, "Free space, or use a larger disk")]
    if directory.inodes and directory.free_inodes * 100 < directory.inodes * INODES_LOW_PERCENT:
        percent = directory.free_inodes * 100 // directory.inodes
        verdict = Verdict.FAILED if not directory.free_inodes else Verdict.WARNING
        text = f"{directory.path}: {percent} % of its inodes are free"
        return [Finding(name, verdict, text, "Remove small files")]
    return []


def _free(directory: Directory) -> str:
    mib = directory.free_bytes / (1 << 20)
    amount = f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.1f} MiB"
    return f"{amount} of {directory.total_bytes / (1 << 30):.1f} GiB free"
