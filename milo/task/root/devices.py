"""The device nodes that Nomad asks for."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from milo import walk
from milo.core.container.mounts import Bind, normalized
from milo.core.container.spec import DeviceNode
from milo.core.launch import Device
from milo.errors import ConfigError


def device_binds(devices: Iterable[Device]) -> list[Bind]:
    """Return the binds of those devices that are wanted elsewhere than below /dev.

    What a node below /dev is, crun makes; elsewhere it could not be opened.
    """
    elsewhere = [
        (device.host_path, node.path)
        for device, node in ((device, device_node(device)) for device in devices)
        if not node.path.startswith("/dev/")
    ]
    return [
        Bind(walk.real_path(source), path, directory=False, origin="job", device=True)
        for source, path in elsewhere
    ]


def device_node(device: Device) -> DeviceNode:
    """Return what of the host's a device is, and how the task may use it.

    Raises:
        ConfigError: it is no device, or one of its permissions is unknown.
    """
    path = normalized(device.task_path or device.host_path)
    try:
        status = os.stat(device.host_path)
    except OSError as exc:
        raise ConfigError("device", f"{device.host_path}: {exc.strerror}", "a device") from exc
    kinds = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}
    kind = kinds.get(stat.S_IFMT(status.st_mode))
    if kind is None or path in ("/", "/dev") or not set(device.permissions) <= set("rwm"):
        raise ConfigError(
            "device",
            f"{device.host_path} as {path}",
            "a device node of the host, a path in the container, and r, w or m",
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
