"""Writes the OCI bundle of one task: collects the host's facts, and removes it all again."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import stat
from typing import Final

import attrs
import msgspec

from milo.core import cgroup, spec
from milo.core.crun import container_name
from milo.core.launch import Application, Device, Launch, TaskOptions
from milo.core.mounts import Bind, is_inside, normalized
from milo.core.spec import ContainerPlan, DeviceNode
from milo.errors import ConfigError, StateError
from milo.task import cgroups, rootfs, users

BUNDLE_DIR: Final = "bundle"
CONFIG_FILE: Final = "config.json"

RECURSIVE_SINCE: Final = (5, 12)
"""Linux with mount_setattr(2), which read-only binds with everything below them need."""
CAP_SYS_RESOURCE: Final = 24
"""Its holder may raise hard limits; capabilities(7)."""
PROPAGATIONS: Final = {
    "": "rprivate",
    "private": "rprivate",
    "host-to-task": "rslave",
    "bidirectional": "rshared",
}
"""Nomad's words for mount propagation (volume_mount's propagation_mode) to the kernel's."""


@attrs.frozen
class Bundle:
    """An OCI bundle on disk, ready for ``crun create``."""

    path: str
    container_id: str
    cgroup_path: str
    """``cgroupsPath``, relative to the hierarchy's root and beginning with ``/``."""
    config_path: str
    user: spec.User


def write_bundle(
    launch: Launch, options: TaskOptions, app: Application, argv: tuple[str, ...]
) -> Bundle:
    """Write ``<state_dir>/bundle`` for the task, replacing what an earlier try left there.

    On cgroup v1 it also makes the parents of the container's cgroup. `remove_bundle` and
    `cgroups.remove_leftovers` take it all away again.

    ``argv`` is the application's command line inside the container.

    Raises:
        UserError: the job's user is not on this host, or is root where that is not allowed.
        ConfigError: a mount, device, variable or JDK that cannot be used.
        StateError: the state directory or one of the task's directories cannot be used.
    """
    user = users.resolve_user(launch.user, allow_root=launch.plugin.allow_root)
    task_binds = _task_binds(launch)
    host = rootfs.view_host(
        _java_paths(app, [bind.source for bind in task_binds]), recursive=_kernel_is_recursive()
    )
    binds = _ordered([*host.binds, *task_binds, *_job_binds(launch)])
    hostname = launch.network.hostname or socket.gethostname()
    container_id = container_name(os.path.basename(launch.state_dir))
    path = f"{launch.state_dir}/{BUNDLE_DIR}"
    bundle = Bundle(
        path=path,
        container_id=container_id,
        cgroup_path=cgroup.container_path(launch.cgroup_parent, container_id),
        config_path=f"{path}/{CONFIG_FILE}",
        user=user,
    )
    java_home = _java_home_inside(app, task_binds)
    config = spec.build_spec(
        ContainerPlan(
            rootfs=f"{path}/rootfs",
            args=argv,
            env=spec.build_env(launch.env, java_home=java_home, user=user),
            user=user,
            hostname=hostname,
            cgroup_path=bundle.cgroup_path,
            binds=binds,
            devices=tuple(_device_node(device) for device in launch.devices),
            resources=launch.resources,
            cpu_quota_us=_cpu_quota(launch, options),
            cpuset_cpus=_cpuset(launch),
            network_mode=launch.network.mode,
            network_path=launch.network.namespace_path,
            nofile_limit=_hard_limit(resource.RLIMIT_NOFILE),
            nproc_limit=_hard_limit(resource.RLIMIT_NPROC),
        )
    )
    try:
        data = msgspec.json.encode(config)
    except UnicodeEncodeError as exc:
        raise ConfigError("env", "text that is not valid Unicode", "UTF-8") from exc
    remove_bundle(launch.state_dir)
    try:
        os.mkdir(path, 0o700)
        rootfs.write_skeleton(
            f"{path}/rootfs", binds, host.links, rootfs.etc_files(launch, user, hostname)
        )
        with open(bundle.config_path, "xb") as file:
            file.write(data)
        _make_inner_mount_points(binds)
    except OSError as exc:
        raise StateError(exc.filename or path, f"the container's bundle: {exc.strerror}") from exc
    cgroups.make_parents(launch.cgroup_parent)
    return bundle


def remove_bundle(state_dir: str) -> None:
    """Remove the bundle, if there is one. Symlinks are removed, never followed.

    Raises:
        StateError: something is mounted inside, or the file system refuses.
    """
    path = f"{state_dir}/{BUNDLE_DIR}"
    if not os.path.lexists(path):
        return
    for point in cgroups.mount_points():
        if is_inside(point, path):
            raise StateError(path, f"{point} is still mounted. Unmount it")
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise StateError(path, f"it cannot be removed: {exc.strerror}") from exc


def _ordered(binds: list[Bind]) -> tuple[Bind, ...]:
    """Return the binds with what lies in the task's directories (a JDK below /tmp) last."""
    own = [bind.destination for bind in binds if bind.origin == "task"]

    def inner(bind: Bind) -> bool:
        return bind.origin != "task" and any(is_inside(bind.destination, path) for path in own)

    return tuple(sorted(binds, key=inner))


def _task_binds(launch: Launch) -> tuple[Bind, ...]:
    pairs = (
        (f"{launch.shared_dir}", "/alloc"),
        (f"{launch.task_dir}/local", "/local"),
        (f"{launch.task_dir}/secrets", "/secrets"),
        (f"{launch.task_dir}/tmp", "/tmp"),  # noqa: S108
    )
    for source, _ in pairs:
        rootfs.check_directory(source)
    return tuple(
        Bind(source, destination, readonly=False, origin="task") for source, destination in pairs
    )


def _job_binds(launch: Launch) -> list[Bind]:
    binds = []
    for mount in launch.mounts:
        if mount.propagation not in PROPAGATIONS:
            raise ConfigError(
                "propagation_mode", repr(mount.propagation), "one of " + ", ".join(PROPAGATIONS)
            )
        if not os.path.exists(mount.host_path):
            raise ConfigError("volume", f"{mount.host_path} does not exist", "a path of the host")
        directory = os.path.isdir(mount.host_path)
        binds.append(
            Bind(
                os.path.realpath(mount.host_path),
                normalized(mount.task_path),
                readonly=mount.readonly,
                directory=directory,
                recursive=directory and (not mount.readonly or _kernel_is_recursive()),
                origin="job",
                propagation=PROPAGATIONS[mount.propagation],
            )
        )
    return binds


def _make_inner_mount_points(binds: tuple[Bind, ...]) -> None:
    """Make the mount points that lie in the task's own directories, on the host.

    Each part is opened without following symlinks, which an earlier run may have planted; crun
    would follow them, and make directories where they lead.

    Raises:
        ConfigError: a part of the path is a symlink or of the wrong kind.
        OSError: the file system refuses.
    """
    own = [bind for bind in binds if bind.origin == "task"]
    for bind in binds:
        for outer in own:
            if bind is outer or not is_inside(bind.destination, outer.destination):
                continue
            parts = bind.destination[len(outer.destination) :].strip("/").split("/")
            fd = os.open(outer.source, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                for number, part in enumerate(parts, 1):
                    fd = _enter(fd, part, bind, directory=bind.directory or number < len(parts))
            finally:
                os.close(fd)


def _enter(parent: int, name: str, bind: Bind, *, directory: bool) -> int:
    """Return a descriptor of ``name``, made if it is missing, and close ``parent``."""
    try:
        if directory:
            os.mkdir(name, 0o755, dir_fd=parent)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=parent))
    except FileExistsError:
        pass
    mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    if not (stat.S_ISDIR(mode) if directory else stat.S_ISREG(mode)):
        raise ConfigError(
            "mount destination",
            f"{name!r} in {bind.destination} is no {'directory' if directory else 'file'}",
            "a path that is free",
        )
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    os.close(parent)
    return fd


def _java_paths(app: Application, own: list[str]) -> list[str]:
    """Return the host paths of the JDK, unless it came with the task itself."""
    if any(is_inside(app.java.home, source) for source in own):
        return []
    return [app.java.home, *app.java.binds]


def _java_home_inside(app: Application, task_binds: tuple[Bind, ...]) -> str:
    for bind in task_binds:
        if is_inside(app.java.home, bind.source):
            return bind.destination + app.java.home[len(bind.source) :]
    return app.java.home


def _device_node(device: Device) -> DeviceNode:
    path = normalized(device.task_path or device.host_path)
    try:
        status = os.stat(device.host_path)
    except OSError as exc:
        raise ConfigError("device", f"{device.host_path}: {exc.strerror}", "a device") from exc
    kinds = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}
    kind = kinds.get(stat.S_IFMT(status.st_mode))
    if kind is None or not path.startswith("/dev/") or not set(device.permissions) <= set("rwm"):
        raise ConfigError(
            "device", f"{device.host_path} as {path}", "a device node, below /dev, with r, w or m"
        )
    return DeviceNode(
        path=path,
        kind=kind,
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        access=device.permissions or "rwm",
    )


def _cpu_quota(launch: Launch, options: TaskOptions) -> int:
    if not options.cpu_hard_limit or launch.resources.cpu_percent_ticks <= 0:
        return 0
    return cgroup.cpu_quota(launch.resources.cpu_percent_ticks, os.cpu_count() or 1)


def _cpuset(launch: Launch) -> str:
    on_v2 = cgroups.detect().mode is cgroup.Mode.V2
    return launch.resources.cpuset_cpus if on_v2 else ""


def _hard_limit(kind: int) -> int:
    """Return the highest limit that crun may set: it cannot pass its own without the capability."""
    if cgroups.has_capability(CAP_SYS_RESOURCE):
        if kind != resource.RLIMIT_NOFILE:
            return spec.RLIM_INFINITY
        with open("/proc/sys/fs/nr_open", encoding="ascii") as file:
            return int(file.read())
    hard = resource.getrlimit(kind)[1]
    return spec.RLIM_INFINITY if hard == resource.RLIM_INFINITY else hard


def _kernel_is_recursive() -> bool:
    parts = os.uname().release.split(".")
    try:
        return (int(parts[0]), int(parts[1].partition("-")[0])) >= RECURSIVE_SINCE
    except (ValueError, IndexError):
        return False
