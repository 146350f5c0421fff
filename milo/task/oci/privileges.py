"""What the application may do, from the job's keys, the plugin's and this host's limits."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from typing import Any, Final

import attrs

from milo import proc, walk
from milo.core.config import rules
from milo.core.config.rules import Asked
from milo.core.config.task_options import TaskOptions
from milo.core.container import capabilities, seccomp, userns
from milo.core.container.confinement import RLIM_INFINITY, SHM_SIZE_BYTES, Confinement
from milo.core.container.profile_name import UNCONFINED
from milo.core.container.rights import Rights
from milo.core.container.spec import User
from milo.core.launch import Launch
from milo.core.versions import version_numbers
from milo.errors import ConfigError, PathError, UserError
from milo.task.oci import users

CAP_SYS_RESOURCE: Final = 24
"""Its holder may raise hard limits; capabilities(7)."""

DEFAULT_PROFILES: Final = ("/etc/containers/seccomp.json", "/usr/share/containers/seccomp.json")
"""The containers project's: the administrator's own, and that of the package, as podman looks
for them. Debian's package is golang-github-containers-common."""

MAX_PROFILE_BYTES: Final = 1 << 20
"""podman's default has 16 KiB."""

LOADERS_32: Final = {
    "x86_64": "/lib/ld-linux.so.2",
    "aarch64": "/lib/ld-linux-armhf.so.3",
    "s390x": "/lib/ld.so.1",
}
"""What 32-bit programs name as their ELF interpreter."""


def permitted_user(launch: Launch, options: TaskOptions) -> User:
    """Return who the application runs as, if it may have all that its job asks for.

    Raises:
        ConfigError, UserError: it may not, or there is no such user; `milo.core.config.rules`.
    """
    _check_rights(launch, options)
    user = _mapped(users.resolve_user(launch.user), launch)
    rules.check_task(
        Asked(
            options=options,
            plugin=launch.plugin,
            user=user,
            user_text=launch.user,
            network_mode=launch.network.mode,
        )
    )
    return user


def _check_rights(launch: Launch, options: TaskOptions) -> None:
    """Refuse what an ordinary user's container has no rights to; raises `ConfigError`."""
    for key, mode in (("pid_mode", options.pid_mode), ("ipc_mode", options.ipc_mode)):
        if launch.rights.ids and mode == "host":
            raise ConfigError(
                key, "without root a container has no rights in the host's", f'{key} = "private"'
            )


def _mapped(user: User, launch: Launch) -> User:
    """Return ``user`` as an ordinary user's container can have it; raises `UserError`.

    Groups that are not there are left out.
    """
    ids = launch.rights.ids
    if ids is None:
        return user
    if not userns.maps(ids.uids, user.uid) or not userns.maps(ids.gids, user.gid):
        raise UserError(
            launch.user,
            "without root, the application runs as the user who starts it, or as another where "
            "/etc/subuid and /etc/subgid have ids and newuidmap is installed (package uidmap). "
            "Leave --user out, or run it as root: sudo milo run",
        )
    groups = (one for one in user.groups if len(ids.gids) > 1 and userns.maps(ids.gids, one))
    return attrs.evolve(user, groups=tuple(groups))


def confine(launch: Launch, options: TaskOptions) -> Confinement:
    """Return the container's privileges, which `permitted_user` has found to be permitted.

    Raises:
        ConfigError: this client cannot give them, or a seccomp profile cannot be read.
    """
    granted = capabilities.granted(options.cap_add, options.cap_drop, proc.bounding_capabilities())
    raises = launch.rights.limits
    return Confinement(
        pids_limit=options.pids_limit,
        nofile_limit=_hard_limit(resource.RLIMIT_NOFILE, raises=raises),
        nproc_limit=_hard_limit(resource.RLIMIT_NPROC, raises=raises),
        rlimits=_rlimits(options.ulimit, raises=raises),
        capabilities=granted,
        seccomp=_seccomp(options.seccomp_profile, granted),
        masked_paths=proc.thermal_throttle_directories(),
        sysctl=dict(options.sysctl),
        shm_size_bytes=options.shm_size_bytes or SHM_SIZE_BYTES,
        host_pids=options.pid_mode == "host",
        host_ipc=options.ipc_mode == "host",
        rights=_rights(launch),
    )


def open_way(state_dir: str, bundle_path: str, confinement: Confinement) -> None:
    """Let the root of a container's user namespace pass to its bundle, and nobody else.

    To this host it is an ordinary user, and crun mounts the root file system as that. What is
    above the task's own directory can be passed by all then, but not listed.

    Raises:
        OSError: the file system refuses.
    """
    ids = confinement.rights.ids
    if ids is None or not ids.idmapped:  # else it is this process's own user
        return
    top = os.path.dirname(state_dir)
    os.chmod(top, os.stat(top).st_mode & 0o7777 | 0o011)  # noqa: S103
    os.chown(state_dir, -1, ids.gids[0].outside)
    os.chmod(state_dir, 0o710)  # noqa: S103
    os.chmod(bundle_path, 0o711)  # noqa: S103


def _rights(launch: Launch) -> Rights:
    """Return what there is for the task, with the ids that the plugin's userns gives it."""
    if not launch.plugin.userns:
        return launch.rights
    if problem := userns_problem():
        raise ConfigError(
            "userns", f"this client cannot give user namespaces: {problem}", "userns = false"
        )
    return attrs.evolve(launch.rights, ids=userns.block(userns.first_id(launch.task_id)))


def userns_problem() -> str:
    """Return why this host cannot give user namespaces, or an empty text; crun apart."""
    return userns.host_problem(os.uname().release, proc.uid_map(), proc.max_user_namespaces())


def machine() -> seccomp.Machine:
    """Return what a seccomp profile may depend on."""
    found = os.uname()
    loader = LOADERS_32.get(found.machine)
    return seccomp.Machine(
        name=found.machine,
        kernel=version_numbers(found.release),
        runs_32_bit=loader is not None and os.path.exists(loader),
    )


def _seccomp(profile: str, granted: tuple[str, ...]) -> dict[str, Any] | None:
    """Return the filter: the one that is asked for, untouched, or else a hardened default."""
    if profile == UNCONFINED:
        return None
    here = machine()
    if profile:
        return seccomp.convert(read_profile(profile), profile, granted, here)
    for path in DEFAULT_PROFILES:
        if os.path.exists(path):
            found = seccomp.convert(read_profile(path), path, granted, here)
            return seccomp.harden(found, granted, here)
    return seccomp.built_in(granted, here)


def read_profile(path: str) -> bytes:
    """Return what a profile of the host holds. Raises `ConfigError`."""
    try:
        with walk.follow(path, walk.Kind.FILE) as held:
            data = held.read(MAX_PROFILE_BYTES + 1)
    except PathError as exc:
        raise ConfigError(
            "seccomp_profile",
            f"{path} cannot be read: {exc.words}",
            'the path of a profile on the client, or "unconfined"',
        ) from exc
    if len(data) > MAX_PROFILE_BYTES:
        raise ConfigError(
            "seccomp_profile", f"{path} is longer than {MAX_PROFILE_BYTES} bytes", seccomp.EXPECTED
        )
    return data


def _rlimits(wanted: Mapping[str, tuple[int, int]], *, raises: bool) -> dict[str, tuple[int, int]]:
    """Return the job's limits, held to what this host can give."""
    result = dict(wanted)
    for name, (soft, hard) in wanted.items():
        most = _hard_limit(getattr(resource, name, resource.RLIMIT_NOFILE), raises=raises)
        if name == "RLIMIT_NOFILE":
            # The kernel has a bound for this one, so that "unlimited" is as much as there is.
            soft, hard = (most if value == RLIM_INFINITY else value for value in (soft, hard))
            result[name] = (soft, hard)
        if hard > most:
            raise ConfigError(
                f"ulimit.{name.removeprefix('RLIMIT_').lower()}",
                f"{'no limit' if hard == RLIM_INFINITY else hard} is more than Nomad's agent "
                "on this client may give",
                f"at most {most}",
            )
    return result


def _hard_limit(kind: int, *, raises: bool) -> int:
    """Return the highest limit that crun may set: it cannot pass its own without the capability.

    ``raises``: the capability means anything, in the host's own user namespace.
    """
    if raises and proc.has_capability(CAP_SYS_RESOURCE):
        if kind != resource.RLIMIT_NOFILE:
            return RLIM_INFINITY
        return proc.max_open_files()
    hard = resource.getrlimit(kind)[1]
    return RLIM_INFINITY if hard == resource.RLIM_INFINITY else hard
