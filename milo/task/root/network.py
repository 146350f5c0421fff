"""The network namespace that Nomad made: checked before crun joins it, and looked into."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import struct
import threading
from typing import Final

from milo.core.container.host_names import NetworkView
from milo.core.launch import Network
from milo.errors import NetworkError
from milo.proc import CLONE_NEWNET, enter_namespace, has_ipv6, network_table

# linux/nsfs.h, linux/sockios.h, linux/if.h
NS_GET_NSTYPE: Final = 0xB703
SIOCGIFFLAGS: Final = 0x8913
SIOCSIFFLAGS: Final = 0x8914
SIOCGIFADDR: Final = 0x8915
IFF_UP: Final = 0x1
IFF_LOOPBACK: Final = 0x8
RTF_GATEWAY: Final = 0x2
LINK_LOCAL_SCOPE: Final = b"20"
"""Of /proc/net/if_inet6, include/net/ipv6.h."""


def view_network(network: Network) -> NetworkView:
    """Return what the task's network offers; makes sure that its loopback interface is up.

    Nomad leaves that interface down where no CNI plugin raises it, and without it a program
    cannot even bind 127.0.0.1. With the host's network nothing is changed, and for one that crun
    is yet to make nothing is known.

    Raises:
        NetworkError: there is no network namespace at the path that Nomad gave.
    """
    if network.mode != "group":
        return NetworkView(
            gateway="127.0.0.1" if network.mode == "host" else "",
            has_ipv6=has_ipv6(),
        )
    namespace = _open_namespace(network.namespace_path)
    found: list[NetworkView] = []
    failure: list[OSError] = []

    def look() -> None:
        try:
            enter_namespace(namespace, CLONE_NEWNET)
            found.append(_look())
        except OSError as exc:
            failure.append(exc)

    # A namespace belongs to a thread, and this one ends without coming back to the host's.
    thread = threading.Thread(target=look, name="milo-network")
    try:
        thread.start()
        thread.join()
    finally:
        os.close(namespace)
    if failure:
        raise NetworkError(network.namespace_path, f"cannot be used: {failure[0].strerror}")
    return found[0]


def _open_namespace(path: str) -> int:
    """Return a descriptor of the network namespace at ``path``."""
    if not path:
        raise NetworkError(path, "was not named by Nomad")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        problem = "is gone" if isinstance(exc, FileNotFoundError) else str(exc.strerror)
        raise NetworkError(path, problem) from exc
    try:
        kind = fcntl.ioctl(fd, NS_GET_NSTYPE)
    except OSError:
        kind = 0  # An ordinary file, as is left behind when the namespace is unmounted.
    if kind != CLONE_NEWNET:
        os.close(fd)
        raise NetworkError(path, "is no network namespace any more")
    return fd


def _look() -> NetworkView:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        addresses: list[str] = []
        inet6 = _inet6()
        for name in sorted(name for _, name in socket.if_nameindex()):
            flags = _flags(sock, name)
            if flags & IFF_LOOPBACK and not flags & IFF_UP:
                fcntl.ioctl(sock, SIOCSIFFLAGS, _request(name, flags | IFF_UP))
            if addresses or flags & IFF_LOOPBACK or not flags & IFF_UP:
                continue
            addresses = [*_inet4(sock, name), *inet6.get(name, [])]
    return NetworkView(
        addresses=tuple(addresses),
        gateway=_gateway(),
        has_ipv6="::1" in _inet6().get("lo", []),
    )


def _request(name: str, flags: int = 0) -> bytes:
    return struct.pack("16sH22x", os.fsencode(name), flags)


def _flags(sock: socket.socket, name: str) -> int:
    answer = fcntl.ioctl(sock, SIOCGIFFLAGS, _request(name))
    return int(struct.unpack_from("16xH", answer)[0])


def _inet4(sock: socket.socket, name: str) -> list[str]:
    try:
        answer = fcntl.ioctl(sock, SIOCGIFADDR, _request(name))
    except OSError:
        return []
    return [socket.inet_ntop(socket.AF_INET, answer[20:24])]


def _inet6() -> dict[str, list[str]]:
    """Return the IPv6 addresses of each interface, without link-local ones; proc_net(5)."""
    found: dict[str, list[str]] = {}
    for address, _, _, scope, _, name in network_table("if_inet6"):
        if scope != LINK_LOCAL_SCOPE:
            text = str(ipaddress.IPv6Address(int(address, 16)))
            found.setdefault(os.fsdecode(name), []).append(text)
    return found


def _gateway() -> str:
    """Return the gateway of the default route, IPv4 before IPv6; nothing if there is none.

    A link-local one is none: it means nothing without the name of an interface.
    """
    for _, destination, gateway, flags, _, _, _, mask, *_ in network_table("route")[1:]:
        if int(destination, 16) == int(mask, 16) == 0 and int(flags, 16) & RTF_GATEWAY:
            return socket.inet_ntop(socket.AF_INET, struct.pack("=I", int(gateway, 16)))
    for destination, bits, _, _, gateway, _, _, _, flags, _ in network_table("ipv6_route"):
        if int(destination, 16) == int(bits, 16) == 0 and int(flags, 16) & RTF_GATEWAY:
            address = ipaddress.IPv6Address(int(gateway, 16))
            if not address.is_link_local:
                return str(address)
    return ""
