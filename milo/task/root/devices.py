"""The device nodes that Nomad asks for."""

from __future__ import annotations

import os
import stat

from milo.core.container.mounts import normalized
from milo.core.container.spec import DeviceNode
from milo.core.launch import Device
from milo.errors import ConfigError


def device_node(device: Device) -> DeviceNode:
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
