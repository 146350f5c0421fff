"""The container's own /etc: users, hosts and name resolution. No secret of the host is in it.

All of it is as of the task's start. Where the host's own resolv.conf changes later (DHCP, VPN),
tasks learn of it when they are started anew, as with docker and Nomad's own drivers; a host with
systemd-resolved names its local address there, and with the host's network tasks then use that.
"""

from __future__ import annotations

from typing import Final

from milo.core.config.task_options import TaskOptions
from milo.core.container.host_names import (
    NetworkView,
    hosts_text,
    name_servers,
    resolv_conf_text,
)
from milo.core.container.spec import HOME, User
from milo.core.launch import Launch
from milo.task.oci.users import group_name

MAX_ETC_BYTES: Final = 64 * 1024
RESOLV_CONFS: Final = (
    "/etc/resolv.conf",
    "/run/systemd/resolve/resolv.conf",
    "/run/NetworkManager/no-stub-resolv.conf",
)
"""The host's, then where systemd-resolved(8) and NetworkManager(8) keep the real servers that
their local ones ask."""


def etc_files(
    launch: Launch, options: TaskOptions, user: User, hostname: str, view: NetworkView
) -> dict[str, str]:
    """Return the container's own files in /etc: path to text.

    Raises `ConfigError` for a ``host-gateway`` in ``extra_hosts`` where there is no gateway.
    """
    return {
        "/etc/passwd": _passwd(user),
        "/etc/group": _group(user),
        "/etc/hostname": f"{hostname}\n",
        # All addresses of a name, as Debian and Fedora have it: else glibc takes the first alone.
        "/etc/host.conf": "multi on\n",
        "/etc/hosts": hosts_text(
            hostname, options.extra_hosts, launch.network, view, _read_text("/etc/hosts")
        ),
        "/etc/resolv.conf": resolv_conf_text(
            launch.network, [_read_text(path) for path in RESOLV_CONFS]
        ),
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    }


def missing_dns(launch: Launch, view: NetworkView, resolv_conf: str) -> str:
    """Return a sentence for the task's user if no DNS server is set though there is a network."""
    if launch.network.mode == "host" or not view.addresses or name_servers(resolv_conf):
        return ""
    local = name_servers(_read_text(RESOLV_CONFS[0]))
    host = f"names only {', '.join(local)}" if local else "names no server"
    return (
        f"The task has no DNS server: the host's {RESOLV_CONFS[0]} {host}, and the task's network "
        "is one of its own. Name servers in the group: network { dns { servers = [...] } }"
    )


def _passwd(user: User) -> str:
    shell = "/bin/sh"
    lines = [f"root:x:0:0:root:/:{shell}"]
    if user.uid != 0:
        lines.append(f"{user.name or 'task'}:x:{user.uid}:{user.gid}::{HOME}:{shell}")
    if user.name != "nobody" and user.uid != 65534:
        lines.append("nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin")
    return "\n".join(lines) + "\n"


def _group(user: User) -> str:
    names = {0: "root", 5: "tty", 65534: group_name(65534)}
    for gid in (user.gid, *user.groups):
        names[gid] = group_name(gid)
    return "".join(
        f"{name}:x:{gid}:{user.name if gid in user.groups else ''}\n"
        for gid, name in sorted(names.items())
    )


def _read_text(path: str) -> str:
    """Return a small text file of the host's, or nothing when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(MAX_ETC_BYTES).decode(errors="surrogateescape")
    except OSError:
        return ""
