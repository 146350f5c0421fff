"""Builds the OCI ``config.json`` of a task's container. Pure.

The facts come from `milo.task.oci.bundle`. Only this module and `milo.core.container.mounts`
decide what a container may do: namespaces, mounts, privileges and limits. The defaults are
podman's, except where a JVM needs something else.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from milo.core import cgroup
from milo.core.container import mounts
from milo.core.container.capabilities import oci_name
from milo.core.container.confinement import NOFILE_LIMIT, Confinement
from milo.core.container.userns import IdRange
from milo.core.launch import Resources
from milo.errors import ConfigError

OCI_VERSION: Final = "1.0.2"
"""What crun 1.8 and every later one accept."""

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

PID_NAMESPACE: Final = "/proc/self/fd/3"
"""The pause process's, which crun is given as descriptor 3."""

LANG: Final = "C.UTF-8"
"""Without a locale a JVM prints ``?`` for all that is not ASCII, and no file has another name."""

HOME: Final = "/tmp"  # noqa: S108
"""The task's own /tmp: the one directory that any user can write and that counts as its disk."""


@attrs.frozen
class User:
    """Who the application runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    """Supplementary groups."""
    name: str = ""
    """Empty when the host's user database has no name for it."""


@attrs.frozen
class DeviceNode:
    """A device node of the host that the container gets too."""

    path: str
    """In the container."""
    kind: str
    """``c`` or ``b``."""
    major: int
    minor: int
    mode: int
    uid: int
    gid: int
    access: str
    """Of ``r``, ``w`` and ``m`` (make the node)."""


@attrs.frozen
class ContainerPlan:
    """Everything that decides what ``config.json`` says."""

    rootfs: str
    args: tuple[str, ...]
    env: dict[str, str]
    user: User
    hostname: str
    cgroup_path: str
    """``cgroupsPath``, relative to the hierarchy's root and beginning with ``/``."""
    binds: tuple[mounts.Bind, ...] = ()
    """In the order of mounting."""
    masks: tuple[str, ...] = ()
    """Directories inside of ``binds`` that are hidden."""
    cwd: str = "/"
    """The working directory, in the container."""
    devices: tuple[DeviceNode, ...] = ()
    resources: Resources = attrs.field(factory=Resources)
    cpu_quota_us: int = 0
    """CPU time a `cgroup.CPU_PERIOD_US`, over all cores; 0 is no hard limit."""
    cpuset_cpus: str = ""
    """cgroup v2 only: on v1 the container's processes join Nomad's own cpuset group."""
    network_mode: str = "host"
    network_path: str = ""
    """With ``group``: the network namespace that Nomad made."""
    confinement: Confinement = attrs.field(factory=Confinement)
    terminal: bool = False
    """Whether the application has a pseudo terminal for its standard streams."""
    annotations: dict[str, str] = attrs.field(factory=dict)
    """For crun alone; see `milo.task.oci.filters`."""


def build_spec(plan: ContainerPlan) -> dict[str, Any]:
    """Return the content of ``config.json``.

    Raises:
        ConfigError: a mount's destination lies where none may (see `mounts.check_binds`), or an
            argument or variable holds a NUL character.
    """
    mounts.check_binds(plan.binds)
    check_strings(plan.args, plan.env)
    linux: dict[str, Any] = {
        "namespaces": _namespaces(plan),
        "resources": _resources(plan) if plan.confinement.rights.cgroups else {},
        "cgroupsPath": plan.cgroup_path,
        # A node elsewhere is bound: the root is where the host makes no device nodes.
        "devices": [_device(device) for device in plan.devices if device.path.startswith("/dev/")],
        "maskedPaths": [*mounts.MASKED_PATHS, *plan.confinement.masked_paths],
        "readonlyPaths": list(mounts.READONLY_PATHS),
        "rootfsPropagation": "rprivate",
    }
    if plan.confinement.seccomp is not None:
        linux["seccomp"] = plan.confinement.seccomp
    if ids := plan.confinement.rights.ids:
        linux["uidMappings"] = [_id_range(one) for one in ids.uids]
        linux["gidMappings"] = [_id_range(one) for one in ids.gids]
    if plan.confinement.sysctl:
        linux["sysctl"] = plan.confinement.sysctl
    first, others = mounts.own_first(plan.binds)
    own = [bind.destination for bind in first]
    masks = {path: any(mounts.is_inside(path, at) for at in own) for path in plan.masks}
    return {
        "ociVersion": OCI_VERSION,
        "root": {"path": plan.rootfs, "readonly": True},
        "hostname": plan.hostname,
        "process": _process(plan),
        "mounts": [
            *(_bind_mount(bind, plan.confinement) for bind in first),
            *(mounts.mask_mount(path) for path, is_own in masks.items() if is_own),
            *_system_mounts(plan),
            *(_bind_mount(bind, plan.confinement) for bind in others),
            *(mounts.mask_mount(path) for path, is_own in masks.items() if not is_own),
        ],
        "linux": linux,
        **({"annotations": plan.annotations} if plan.annotations else {}),
    }


def build_env(job_env: dict[str, str], *, java_home: str, user: User) -> dict[str, str]:
    """Return the application's environment: the job's, and what every program expects.

    The job's own values win. Nothing of the agent's or of Milo's environment is in it.
    """
    name = user.name or str(user.uid)
    env = {"HOME": HOME, "USER": name, "LOGNAME": name, "PATH": DEFAULT_PATH, "LANG": LANG}
    if java_home:
        env["JAVA_HOME"] = java_home
        env["PATH"] = f"{java_home}/bin:{DEFAULT_PATH}"
    return env | job_env


def check_strings(args: tuple[str, ...], env: dict[str, str]) -> None:
    """Refuse what execve(2) cannot pass on.

    Raises:
        ConfigError: a NUL character, or a variable without a proper name.
    """
    for arg in args:
        if "\0" in arg:
            raise ConfigError("args", "an argument holds a NUL character", "text without it")
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value:
            raise ConfigError(
                "env", f"variable {name!r}", "a name without '=', and no NUL character in either"
            )


def _process(plan: ContainerPlan) -> dict[str, Any]:
    confinement = plan.confinement
    names = [oci_name(name) for name in confinement.capabilities]
    # All five sets: one that is left out would be filled with crun's own default. The ambient
    # one is what makes them effective in a program that is not root's.
    kinds = ("bounding", "effective", "inheritable", "permitted", "ambient")
    capabilities = dict.fromkeys(kinds, names)
    return {
        "terminal": plan.terminal,
        "user": {
            "uid": plan.user.uid,
            "gid": plan.user.gid,
            "additionalGids": list(plan.user.groups),
        },
        "args": list(plan.args),
        "env": [f"{name}={value}" for name, value in plan.env.items()],
        "cwd": plan.cwd,
        "capabilities": capabilities,
        "noNewPrivileges": True,
        "oomScoreAdj": plan.resources.oom_score_adj,
        "rlimits": [
            {"type": kind, "soft": soft, "hard": hard}
            for kind, (soft, hard) in _rlimits(confinement).items()
        ],
    }


def _rlimits(confinement: Confinement) -> dict[str, tuple[int, int]]:
    nofile = min(confinement.nofile_limit, NOFILE_LIMIT)
    nproc = confinement.nproc_limit
    # Always given, since the agent's own would be inherited. No core files: the host's
    # core_pattern may pipe them, with the application's secrets, to a program outside.
    own = {
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_NOFILE": (nofile, nofile),
        "RLIMIT_NPROC": (nproc, nproc),
    }
    return own | confinement.rlimits


def _system_mounts(plan: ContainerPlan) -> list[dict[str, Any]]:
    """Return the mounts of every container, changed as its privileges say."""
    confinement, rights = plan.confinement, plan.confinement.rights
    result = mounts.system_mounts(
        sysfs=rights.sysfs or plan.network_mode == "none",
        cgroups=rights.cgroups,
        terminal_group=rights.terminal_group,
    )
    for mount in result:
        if mount["destination"] == "/proc" and rights.ids:
            # To mount the /proc of a PID namespace that it joins, crun asks before it makes the
            # user namespace, and forgets the options; but not those for all that lies below.
            mount["options"] = [*mount["options"], *(f"r{word}" for word in mount["options"])]
        if mount["destination"] == "/dev/shm":  # noqa: S108
            if confinement.host_ipc:
                # As with podman: System V's and POSIX's shared memory belong together.
                options = ["rbind", "nosuid", "noexec", "nodev"]
                mount.update(type="bind", source="/dev/shm", options=options)  # noqa: S108
            else:
                sizes = [word for word in mount["options"] if not word.startswith("size=")]
                mount["options"] = [*sizes, f"size={confinement.shm_size_bytes}"]
    return result


def _bind_mount(bind: mounts.Bind, confinement: Confinement) -> dict[str, Any]:
    result = mounts.bind_mount(bind)
    ids = confinement.rights.ids
    if ids and ids.idmapped and bind.origin != "host":
        # What the host's ids own is the container's same ids' in there, and the other way.
        # crun 1.8 forgets the plain flags of such a mount.
        again = ["rnosuid", "rnodev"] if bind.directory and not bind.recursive else []
        result["options"] = [*result["options"], *again, "idmap"]
    return result


def _namespaces(plan: ContainerPlan) -> list[dict[str, str]]:
    kinds = ["mount", "uts", "cgroup"]
    if not plan.confinement.host_ipc:
        kinds.append("ipc")
    namespaces = [{"type": kind} for kind in kinds]
    if not plan.confinement.host_pids:
        namespaces.append({"type": "pid", "path": PID_NAMESPACE})
    if plan.confinement.rights.ids:
        namespaces.append({"type": "user"})
    if plan.network_mode == "group":
        namespaces.append({"type": "network", "path": plan.network_path})
    elif plan.network_mode == "none":
        namespaces.append({"type": "network"})
    return namespaces


def _resources(plan: ContainerPlan) -> dict[str, Any]:
    resources = plan.resources
    result: dict[str, Any] = {"pids": {"limit": plan.confinement.pids_limit}}
    # crun adds the minimal devices of /dev to the permitted ones itself.
    devices: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    devices += [
        {
            "allow": True,
            "type": device.kind,
            "major": device.major,
            "minor": device.minor,
            "access": device.access,
        }
        for device in plan.devices
    ]
    if plan.confinement.rights.devices:
        result["devices"] = devices
    memory = cgroup.memory_limits(resources.memory_bytes, resources.memory_max_bytes)
    if memory:
        result["memory"] = memory
    cpu: dict[str, Any] = {}
    if resources.cpu_shares:
        cpu["shares"] = resources.cpu_shares
    if plan.cpu_quota_us:
        cpu["period"] = cgroup.CPU_PERIOD_US
        cpu["quota"] = plan.cpu_quota_us
    if plan.cpuset_cpus:
        cpu["cpus"] = plan.cpuset_cpus
    if cpu:
        result["cpu"] = cpu
    return result


def _id_range(ids: IdRange) -> dict[str, int]:
    return {"containerID": ids.inside, "hostID": ids.outside, "size": ids.size}


def _device(device: DeviceNode) -> dict[str, Any]:
    return {
        "path": device.path,
        "type": device.kind,
        "major": device.major,
        "minor": device.minor,
        "fileMode": device.mode,
        "uid": device.uid,
        "gid": device.gid,
    }
