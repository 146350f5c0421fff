"""Host names and name resolution: the keys ``hostname`` and ``extra_hosts``, and what the
container's /etc/hosts and /etc/resolv.conf say. Pure; the host's files are read elsewhere.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import attrs

from milo.core.config.values import shown
from milo.errors import ConfigError

if TYPE_CHECKING:
    from milo.core.launch import Network

MAX_HOSTNAME_BYTES: Final = 64
"""What sethostname(2) takes: __NEW_UTS_LEN."""

GATEWAY_WORD: Final = "host-gateway"
"""Docker's word for the address under which the host is reached."""

_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOSTNAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
# Names of others may hold underscores, as many networks have them.
_ANY_NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?", re.ASCII)

_LOCALHOST: Final = "127.0.0.1 localhost\n"
_LOCALHOST_V6: Final = "::1 localhost ip6-localhost ip6-loopback\n"
_OWN_ADDRESS: Final = "127.0.1.1"
"""Debian's address for a host's own name where it has no lasting one."""


@attrs.frozen
class NetworkView:
    """What the container's network has when the task starts."""

    addresses: tuple[str, ...] = ()
    """Global ones, of the first interface that has any; IPv4 before IPv6."""
    gateway: str = ""
    """Where the default route goes; with the host's own network, the loopback address."""
    has_ipv6: bool = True
    """Whether ``::1`` can be used."""


def check_hostname(key: str, value: str) -> str:
    """Return a host name; raises `ConfigError`."""
    expected = (
        f"at most {MAX_HOSTNAME_BYTES} characters: letters, digits and hyphens, "
        'in parts separated by dots, such as "web-1"'
    )
    if len(value) > MAX_HOSTNAME_BYTES:
        raise ConfigError(key, f"it is {len(value)} characters long", expected)
    if not _HOSTNAME.fullmatch(value):
        raise ConfigError(key, f"got {shown(value)}", expected)
    if value.rpartition(".")[2].isdigit():
        raise ConfigError(
            key, f"{shown(value)} would be taken for an address", "a letter in its last part"
        )
    return value


def check_extra_host(key: str, entry: str) -> str:
    """Return an entry of ``extra_hosts``; raises `ConfigError`."""
    expected = (
        f'"name:address", the address being IPv4, IPv6 or {GATEWAY_WORD}, '
        'such as "db:10.0.0.5" or "db:fd00::5"'
    )
    name, colon, _ = entry.partition(":")
    if not colon or not _ANY_NAME.fullmatch(name):
        raise ConfigError(key, f"got {shown(entry)}", expected)
    address = split_extra_host(entry)[1]
    if address == GATEWAY_WORD:
        return entry
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError as exc:
        raise ConfigError(key, f"{shown(address)} is no address", expected) from exc
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.scope_id is not None:
        raise ConfigError(key, f"{shown(address)} has a zone, which /etc/hosts cannot", expected)
    return entry


def split_extra_host(entry: str) -> tuple[str, str]:
    """Return name and address of an entry that was checked; IPv6 may stand in brackets."""
    name, _, address = entry.partition(":")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    return name, address


def choose_hostname(wanted: str, network: Network, alloc_id: str, of_the_host: str) -> str:
    """Return the container's host name.

    The job's ``hostname`` wins, then the one that came with the network (a pause container of
    Docker's). With the host's network it is the host's, as with Nomad's own drivers; else it is
    made from the allocation's id, the part that Nomad's commands show. That part alone would not
    do: one in 43 has digits only, and those are taken for an IPv4 address.
    """
    if wanted or network.hostname:
        return wanted or network.hostname
    return of_the_host if network.mode == "host" else f"alloc-{alloc_id[:8]}"


def hosts_text(
    hostname: str, extra: Iterable[str], network: Network, view: NetworkView, host_text: str
) -> str:
    """Return the content of /etc/hosts.

    ``host_text`` is the host's file, which counts with the host's network. A name that the job's
    ``extra_hosts`` give has their addresses and no others, the container's own too. Raises
    `ConfigError` for a ``host-gateway`` where there is none.
    """
    lines = ""
    given: set[str] = set()
    for index, entry in enumerate(extra):
        name, address = split_extra_host(entry)
        if address == GATEWAY_WORD:
            address = view.gateway
            if not address:
                raise ConfigError(
                    f"extra_hosts[{index}]",
                    f"{GATEWAY_WORD} means the gateway, and the task's network has none",
                    "an address",
                )
        lines += f"{address} {name}\n"
        given.add(name)
    local = _LOCALHOST + (_LOCALHOST_V6 if view.has_ipv6 else "")
    base = (host_text or local) if network.mode == "host" else local
    lines = "".join(f"{_without(line, given)}\n" for line in base.splitlines()) + lines
    known = {word for line in lines.splitlines() for word in line.partition("#")[0].split()[1:]}
    names = " ".join(
        name for name in dict.fromkeys((hostname, network.hostname)) if name and name not in known
    )
    if names:
        own = (network.address,) if network.address else view.addresses
        lines += "".join(f"{address} {names}\n" for address in own or (_OWN_ADDRESS,))
    return lines


def _without(line: str, names: set[str]) -> str:
    """Return a line of /etc/hosts without these names; a remark where no other name is left."""
    words = line.partition("#")[0].split()
    if names.isdisjoint(words[1:]):
        return line
    kept = [word for word in words[1:] if word not in names]
    return " ".join([words[0], *kept]) if kept else f"# {line}"


def resolv_conf_text(network: Network, sources: Iterable[str]) -> str:
    """Return the content of /etc/resolv.conf.

    ``sources`` are the host's files: its own, then those with the real servers behind a local
    one. With the host's network the first is taken as it is. Elsewhere loopback addresses mean
    something else, so servers there are left out, and the first file with any other is taken. No
    public server is ever put in. What the job's ``dns`` block gives replaces the lines of its
    kind, as with Nomad's java driver; a search list of ``.`` is an empty one.
    """
    texts = list(sources) or [""]
    text = texts[0]
    if network.mode != "host":
        reachable = [_without_local_servers(text) for text in texts]
        text = next((text for text in reachable if name_servers(text)), reachable[0])
    own: list[str] = []
    replaced: set[str] = set()
    if network.dns_servers:
        replaced.add("nameserver")
        own += [f"nameserver {server}" for server in network.dns_servers]
    if network.dns_searches:
        replaced |= {"search", "domain"}
        if network.dns_searches != (".",):
            own.append(f"search {' '.join(network.dns_searches)}")
    if network.dns_options:
        replaced.add("options")
        own.append(f"options {' '.join(network.dns_options)}")
    if not replaced and network.mode == "host":
        return text
    kept = [line for line in text.splitlines() if _keyword(line) not in {"", *replaced}]
    return "".join(f"{line}\n" for line in [*own, *kept])


def name_servers(text: str) -> list[str]:
    """Return the servers that a resolv.conf names."""
    return [
        words[1]
        for words in (line.split() for line in text.splitlines())
        if len(words) > 1 and words[0] == "nameserver"
    ]


def _without_local_servers(text: str) -> str:
    return "".join(
        f"{line}\n" for line in text.splitlines() if not any(map(_is_local, name_servers(line)))
    )


def _is_local(server: str) -> bool:
    """Whether an address means the host itself, or an interface that only the host has."""
    address, _, zone = server.partition("%")
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return bool(zone) or parsed.is_loopback or parsed.is_unspecified


def _keyword(line: str) -> str:
    """Return a line's first word; nothing for a comment or an empty line (resolv.conf(5))."""
    words = line.split()
    return words[0] if words and line[0] not in "#;" else ""
