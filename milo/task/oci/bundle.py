"""Writes the OCI bundle of one task: collects the host's facts, and removes it all again."""

from __future__ import annotations

import os
import socket
import stat
from typing import Final

import attrs
import msgspec

from milo import cgroup_files, proc, walk
from milo.core import cgroup
from milo.core.config.task_options import TaskOptions
from milo.core.container import spec
from milo.core.container.crun import container_name
from milo.core.container.host_names import choose_hostname
from milo.core.container.mounts import Bind, is_inside
from milo.core.container.rights import Rights
from milo.core.container.spec import ContainerPlan
from milo.core.java.application import argument_names
from milo.core.launch import Application, Launch
from milo.errors import ConfigError, PathError, Reason, StateError
from milo.task.oci import cgroup_placement, exec_limits, filters, privileges
from milo.task.root import brought, devices, etc_files, network, rootfs, volumes, work_dir
from milo.task.root.layout import check_brought, lay_out

BUNDLE_DIR: Final = "bundle"
CONFIG_FILE: Final = "config.json"


@attrs.frozen
class Bundle:
    """An OCI bundle on disk, ready for ``crun create``."""

    path: str
    container_id: str
    cgroup_path: str
    """``cgroupsPath``: see `cgroup_path`."""
    config_path: str
    user: spec.User
    host_pids: bool = False
    """Whether the container is in the host's PID namespace."""
    binds: tuple[Bind, ...] = ()
    """What crun is to bind, for `milo.task.root.mount_check`."""
    work_dir: str = "/"
    """In the container; for the same."""
    notes: tuple[str, ...] = ()
    """Sentences for the task's user: what it has to do without."""
    filter_key: str = ""
    """Of the filter that crun has to compile, see `milo.task.oci.filters`; empty for none."""

    @property
    def root(self) -> str:
        """The host's directory that becomes the container's root."""
        return f"{self.path}/rootfs"


def container_id(launch: Launch) -> str:
    """Return the name that crun knows the task's container by."""
    return container_name(os.path.basename(launch.state_dir))


def cgroup_path(launch: Launch) -> str:
    """Return the container's own cgroup as given to crun, relative to the hierarchy's root.

    It begins with ``/``; empty where the container has none.
    """
    if not launch.rights.cgroups:
        return ""
    return cgroup.container_path(launch.cgroup_parent, container_id(launch))


def missing_limits(rights: Rights) -> str:
    """Return a sentence for the task's user if the kernel holds the task to no limits."""
    if rights.cgroups:
        return ""
    return (
        "Without root, and without a cgroup from systemd, nothing holds the application to its "
        "limits; its heap is sized for its memory all the same"
    )


def write_bundle(
    launch: Launch,
    options: TaskOptions,
    app: Application,
    argv: tuple[str, ...],
    own: Bind | None = None,
    user: spec.User | None = None,
) -> Bundle:
    """Write ``<state_dir>/bundle`` for the task, replacing what an earlier try left there.

    On cgroup v1 it also makes the parents of the container's cgroup. `remove_bundle` and
    `cgroups.remove_leftovers` take it all away again.

    ``argv`` is the application's command line inside the container, ``own`` a mount of Milo's,
    ``user`` what `privileges.permitted_user` has said, where that was asked before.

    Raises:
        UserError: the job's user is not on this host, or is not permitted.
        ConfigError: what is not permitted, or a mount, device, variable, JDK or extra host that
            cannot be used, or more arguments and variables than the kernel passes on.
        NetworkError: the allocation's network namespace is gone.
        StateError: the state directory or one of the task's directories cannot be used.
    """
    user = user or privileges.permitted_user(launch, options)
    cwd = work_dir.check(options.work_dir)
    check_brought(launch)
    brought.guard(launch)
    layout = lay_out(launch, options, app, own)
    cwd = brought.linked_from(cwd, layout.links)
    view = network.view_network(launch.network)
    hostname = choose_hostname(
        options.hostname, launch.network, launch.alloc_id, socket.gethostname()
    )
    etc = etc_files.etc_files(launch, options, user, hostname, view)
    no_dns = etc_files.missing_dns(launch, view, etc["/etc/resolv.conf"])
    confinement = privileges.confine(launch, options)
    filter_key = filters.key_of(launch.crun_path, confinement.seccomp)
    annotations = filters.annotations_of(filter_key)
    path = f"{launch.state_dir}/{BUNDLE_DIR}"
    bundle = Bundle(
        path=path,
        container_id=container_id(launch),
        cgroup_path=cgroup_path(launch),
        config_path=f"{path}/{CONFIG_FILE}",
        user=user,
        host_pids=confinement.host_pids,
        binds=layout.binds,
        work_dir=cwd,
        notes=tuple(filter(None, (no_dns, missing_limits(launch.rights), layout.note))),
        filter_key="" if annotations else filter_key,
    )
    config = spec.build_spec(
        ContainerPlan(
            rootfs=bundle.root,
            args=argv,
            env=spec.build_env(launch.env, java_home=layout.java_home, user=user),
            user=user,
            hostname=hostname,
            cgroup_path=bundle.cgroup_path,
            binds=layout.binds,
            masks=layout.masks,
            cwd=cwd,
            devices=tuple(devices.device_node(device) for device in launch.devices),
            resources=launch.resources,
            cpu_quota_us=_cpu_quota(launch, options),
            cpuset_cpus=_cpuset(launch),
            network_mode=launch.network.mode,
            network_path=launch.network.namespace_path,
            confinement=confinement,
            terminal=launch.terminal,
            annotations=annotations,
        )
    )
    exec_limits.check_process(config["process"], argument_names(argv, options))
    try:
        data = msgspec.json.encode(config)
    except UnicodeEncodeError as exc:
        raise ConfigError("env", "text that is not valid Unicode", "UTF-8") from exc
    remove_bundle(launch.state_dir)
    try:
        os.mkdir(path, 0o700)
        rootfs.write_skeleton(bundle.root, layout.binds, layout.links, etc)
        with open(bundle.config_path, "xb") as file:
            file.write(data)
        volumes.make_inner_mount_points(layout.binds, launch.alloc_dir)
        work_dir.prepare(cwd, layout.binds, layout.masks, bundle.root, launch.alloc_dir)
        privileges.open_way(launch.state_dir, path, confinement)
    except OSError as exc:
        raise StateError(exc.filename or path, f"the container's bundle: {exc.strerror}") from exc
    cgroup_placement.make_parents(launch.cgroup_parent)
    return bundle


def remove_bundle(state_dir: str) -> None:
    """Remove the bundle, if there is one. Symlinks are removed, never followed.

    Raises:
        StateError: something is mounted inside, or the file system refuses.
    """
    path = f"{state_dir}/{BUNDLE_DIR}"
    if not os.path.lexists(path):
        return
    for mount in proc.mounts():
        if is_inside(mount.point, path):
            raise StateError(path, f"{mount.point} is still mounted. Unmount it")
    try:
        with walk.hold_directory(state_dir) as directory:
            if stat.S_ISDIR(os.lstat(path).st_mode):
                directory.remove_tree(BUNDLE_DIR)
            else:
                directory.remove(BUNDLE_DIR)
    except FileNotFoundError:
        return
    except PathError as exc:
        if exc.reason is not Reason.MISSING:
            raise StateError(exc.part, f"it cannot be removed: {exc.words}") from exc


def _cpu_quota(launch: Launch, options: TaskOptions) -> int:
    if not options.cpu_hard_limit or launch.resources.cpu_percent_ticks <= 0:
        return 0
    return cgroup.cpu_quota(launch.resources.cpu_percent_ticks, os.cpu_count() or 1)


def _cpuset(launch: Launch) -> str:
    on_v2 = cgroup_files.detect().mode is cgroup.Mode.V2
    return launch.resources.cpuset_cpus if on_v2 else ""
