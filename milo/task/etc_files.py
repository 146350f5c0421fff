"""The container's own /etc: users, hosts and name resolution. No secret of the host is in it."""

from __future__ import annotations

from typing import Final

from milo.core.launch import Launch
from milo.core.spec import HOME, User
from milo.task.users import group_name

MAX_ETC_BYTES: Final = 64 * 1024
STUB_RESOLVER: Final = "127.0.0.53"
"""systemd-resolved's own address, which only the host's network namespace can reach."""
REAL_RESOLV_CONF: Final = "/run/systemd/resolve/resolv.conf"


def etc_files(launch: Launch, user: User, hostname: str) -> dict[str, str]:
    """Return the container's own files in /etc: path to text."""
    return {
        "/etc/passwd": _passwd(user),
        "/etc/group": _group(user),
        "/etc/hostname": f"{hostname}\n",
        "/etc/hosts": _hosts(launch, hostname),
        "/etc/resolv.conf": _resolv_conf(launch),
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    }


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


def _hosts(launch: Launch, hostname: str) -> str:
    network = launch.network
    text = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
    if network.mode == "host":
        # The host's own network, so the host's own names too.
        text = _read_text("/etc/hosts") or text
    names = {word for line in text.splitlines() for word in line.partition("#")[0].split()[1:]}
    if hostname not in names:
        text = text.rstrip("\n") + f"\n{network.address or '127.0.1.1'} {hostname}\n"
    return text


def _resolv_conf(launch: Launch) -> str:
    network = launch.network
    text = _read_text("/etc/resolv.conf")
    if network.mode != "host" and STUB_RESOLVER in text:
        text = _read_text(REAL_RESOLV_CONF) or text
    own: list[str] = []
    replaced: set[str] = set()
    for keyword, values in (
        ("nameserver", network.dns_servers),
        ("search", network.dns_searches),
        ("options", network.dns_options),
    ):
        if values:
            replaced.add(keyword)
            lines = values if keyword == "nameserver" else (" ".join(values),)
            own += [f"{keyword} {value}" for value in lines]
    if "search" in replaced:
        replaced.add("domain")
    kept = [
        line for line in text.splitlines() if line.split()[:1] and line.split()[0] not in replaced
    ]
    return "\n".join([*own, *kept]) + "\n"


def _read_text(path: str) -> str:
    """Return a small text file of the host's, or nothing when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(MAX_ETC_BYTES).decode(errors="surrogateescape")
    except OSError:
        return ""
