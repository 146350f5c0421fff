"""Who runs ``milo run``: root, or an ordinary user, who becomes the root of a user namespace."""

from __future__ import annotations

import errno
import os
import pwd
from typing import NoReturn

import attrs

from milo import cgroup_files, namespaces, proc
from milo.cli.scope import enter_scope
from milo.core.container.rights import ROOT, Rights, ordinary
from milo.core.container.userns import OWNERS_INSIDE, Ids, own_ids, subordinate
from milo.errors import MiloError
from milo.files import read_file
from milo.host import state_dirs
from milo.host.programs import helper
from milo.namespaces import Subordinate


class NoUserNamespaceError(MiloError):
    """This host does not let an ordinary user make a container."""

    def __init__(self, problem: str, fix: str) -> None:
        self.problem = problem
        super().__init__(
            f"Error: Without root a container needs a user namespace, but {problem}. {fix}"
        )


@attrs.frozen
class Caller:
    """What differs between root's ``milo run`` and an ordinary user's."""

    run_directory: str
    """Where each run has its directory, for sockets and records."""
    data_directory: str = ""
    """Where the tasks' own directories are, if not in the same."""
    user: str = ""
    """Who the application runs as, unless --user names another."""
    rights: Rights = ROOT
    cgroup: str = ""
    """Where its container's is made, relative to the hierarchy's root; empty: there."""
    limits_cpu: bool = True
    """Whether that can hold it to an amount of CPU."""
    owners: tuple[int, ...] = (0,)
    """Whom this process trusts, as it sees them; `milo.host.state_store.StateStore`."""


def own_cgroup() -> str:
    """Return a cgroup of this process's own in which a container's can be made, or nothing.

    To be called while it has no child: these would be in it too.
    """
    path = "" if os.geteuid() == 0 else enter_scope()
    if path:
        try:
            cgroup_files.settle_below(path)
        except OSError:
            return ""  # as without one: milo run says that there are no limits
    return path


def enter(cgroup: str = "") -> Caller:
    """Be able to make containers from here on: an ordinary user enters namespaces for that.

    To be called while there is one thread, and after everything that has to tell root's files from
    another user's. ``cgroup`` is what `own_cgroup` has returned.

    Raises:
        NoUserNamespaceError: the host does not permit it.
        StateError: a directory for records or data cannot be used.
    """
    run_directory = state_dirs.make_run_directory()
    data_directory = state_dirs.make_data_directory()
    if os.geteuid() == 0:
        namespaces.unshare(namespaces.CLONE_NEWNS)
        namespaces.keep_mounts_private()
        return Caller(run_directory, data_directory)
    uid, gid = os.geteuid(), os.getegid()
    ids = _enter_namespaces(cgroup)
    return Caller(
        run_directory,
        data_directory,
        user=f"{uid}:{gid}",
        rights=ordinary(ids, cgroups=bool(cgroup)),
        cgroup=cgroup,
        limits_cpu=not cgroup or cgroup_files.hands_down(cgroup, "cpu"),
        owners=OWNERS_INSIDE,
    )


def enter_to_remove() -> tuple[int, ...]:
    """Let an ordinary user remove what his tasks have left, of subordinate users too.

    As `enter`, but that no directory is needed, nor made. Returns `Caller.owners`.
    """
    _enter_namespaces("")
    return OWNERS_INSIDE


def _enter_namespaces(cgroup: str) -> Ids:
    """Enter an ordinary user's namespaces; return the ids that there are inside."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        more_uids, more_gids = namespaces.make_user_namespace(_subordinate_ids(uid))
        if not cgroup:
            # Whatever the host has there: none is used, and crun 1.8 refuses some.
            namespaces.hide_cgroups()
    except OSError as exc:
        _refuse(exc)
    return own_ids(uid, gid, more_uids, more_gids)


def _subordinate_ids(uid: int) -> list[Subordinate]:
    """Return the users and the groups that this user may have beside himself, or nothing."""
    found = []
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return []
    for program, path in (("newuidmap", "/etc/subuid"), ("newgidmap", "/etc/subgid")):
        tool = helper(program, os.environ)
        ids = subordinate((read_file(path) or b"").decode(errors="replace"), name, uid)
        if not tool or ids is None:
            return []
        found.append(Subordinate(tool, *ids))
    return found


def _refuse(error: OSError) -> NoReturn:
    """Say what forbids it on this host, and what permits it."""
    if error.errno == errno.ENOSPC or proc.sysctl("user.max_user_namespaces") == "0":
        raise NoUserNamespaceError(
            "user.max_user_namespaces permits no more",
            "To permit them: sudo sysctl user.max_user_namespaces=15000",
        ) from error
    for name, forbidding, permitting in (
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ):
        if proc.sysctl(name) == forbidding:
            raise NoUserNamespaceError(
                f"{name} is {forbidding}", f"To permit them: sudo sysctl {name}={permitting}"
            ) from error
    if error.errno in (errno.EINVAL, errno.ENOSYS):
        raise NoUserNamespaceError(
            "this kernel has none", "Run it as root: sudo milo run"
        ) from error
    raise NoUserNamespaceError(
        f"the kernel refuses one: {error.strerror}",
        "A container's seccomp profile may forbid it, or a security module. As root: sudo milo run",
    ) from error
