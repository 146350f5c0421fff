"""Host names, /etc/hosts and /etc/resolv.conf."""

from __future__ import annotations

import ipaddress

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo.core.config.plugin_options import PluginOptions
from milo.core.config.task_options import TaskOptions, parse_task_options
from milo.core.container.host_names import (
    NetworkView,
    check_extra_host,
    check_hostname,
    choose_hostname,
    hosts_text,
    resolv_conf_text,
)
from milo.core.container.spec import User
from milo.core.launch import Launch, Network
from milo.errors import ConfigError, NetworkError
from milo.task.root import etc_files, network
from tests.support.launches import make_launch

ALLOC = "12345678-9abc-def0-1234-56789abcdef0"
GROUP = Network(mode="group", namespace_path="/run/netns/x")
VIEW = NetworkView(addresses=("172.26.64.5", "fd00::5"), gateway="172.26.64.1")
HOST = Network()
LOCALHOST = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"


# ---- the key hostname


@pytest.mark.parametrize("name", ["web", "Web-1", "a.b.example", "1a", "a" * 63, "3com.example"])
def test_a_good_hostname_is_taken(name: str) -> None:
    """Letters, digits and hyphens in parts of at most 63 are a host name."""
    assert check_hostname("hostname", name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("-a", "a-", "a..b", "a_b", "a b", "a\n", "ü", "\u0661a", ".", "a" * 64),
        *("a" * 32 + "." + "b" * 32, "12345678", "10.0.0.1", "a.1"),
    ],
)
def test_a_bad_hostname_is_refused(name: str) -> None:
    """What sethostname or a resolver would not take for a name is refused with the key."""
    with pytest.raises(ConfigError) as caught:
        check_hostname("hostname", name)
    assert caught.value.key == "hostname"


def test_no_hostname_is_none() -> None:
    """A job that says nothing has an empty hostname."""
    assert parse_task_options({}, PluginOptions()).hostname == ""


def test_the_name_is_the_jobs_then_the_networks_then_the_allocations() -> None:
    """With a network of its own a container is named after its allocation, else as the host."""
    named = attrs.evolve(GROUP, hostname="pause")
    assert choose_hostname("mine", named, ALLOC, "box") == "mine"
    assert choose_hostname("", named, ALLOC, "box") == "pause"
    assert choose_hostname("", GROUP, ALLOC, "box") == "alloc-12345678"
    assert choose_hostname("", Network(mode="none"), ALLOC, "box") == "alloc-12345678"
    assert choose_hostname("", HOST, ALLOC, "box") == "box"


# ---- the key extra_hosts


@pytest.mark.parametrize(
    "entry",
    ["db:10.0.0.5", "db.example:::1", "db:[fd00::5]", "my_db:fd00::5", "host:host-gateway"],
)
def test_a_good_extra_host_is_taken(entry: str) -> None:
    """IPv4, IPv6 with and without brackets, and host-gateway are addresses."""
    assert check_extra_host("extra_hosts[0]", entry) == entry


@pytest.mark.parametrize(
    "entry",
    [
        *("db", "db:", ":10.0.0.5", "db:10.0.0", "db:10.0.0.256", "db:host", "a b:10.0.0.5", " "),
        *("#a:::1", "db:10.0.0.5\n", "db:fe80::1%eth0", "a\nb:::1", "db:[10.0.0.5", "-db:::1"),
    ],
)
def test_a_bad_extra_host_is_refused(entry: str) -> None:
    """The error names the entry by its index."""
    with pytest.raises(ConfigError) as caught:
        parse_task_options({"extra_hosts": ["ok:10.0.0.1", entry]}, PluginOptions())
    assert caught.value.key == "extra_hosts[1]"


def test_the_keys_are_checked_with_the_others() -> None:
    """A job's config block with a bad entry is refused before anything is made."""
    good = parse_task_options({"extra_hosts": ["a:::1"], "hostname": "web"}, PluginOptions())
    assert (good.extra_hosts, good.hostname) == (("a:::1",), "web")
    for bad in ({"extra_hosts": ["a"]}, {"hostname": "a b"}):
        with pytest.raises(ConfigError):
            parse_task_options(bad, PluginOptions())


# ---- /etc/hosts


def test_hosts_of_a_network_of_its_own() -> None:
    """The allocation's addresses have the host name; the host's own names are not there."""
    text = hosts_text("web", ["db:10.0.0.5", "v6:[fd00::7]"], GROUP, VIEW, "192.0.2.1 secret\n")
    assert text == LOCALHOST + "10.0.0.5 db\nfd00::7 v6\n172.26.64.5 web\nfd00::5 web\n"


def test_hosts_of_a_network_without_addresses() -> None:
    """Where there are no addresses the host name still resolves, to the loopback device."""
    text = hosts_text("web", [], Network(mode="none"), NetworkView(), "")
    assert text == LOCALHOST + "127.0.1.1 web\n"


def test_hosts_without_ipv6() -> None:
    """Where ::1 cannot be used, localhost is not that."""
    view = NetworkView(addresses=("172.26.64.5",), has_ipv6=False)
    assert hosts_text("web", [], GROUP, view, "") == "127.0.0.1 localhost\n172.26.64.5 web\n"


def test_nomads_own_name_and_address_are_used() -> None:
    """What Nomad says of the allocation's name and address is in the file, beside the job's."""
    network = attrs.evolve(GROUP, hostname="pause", address="10.1.2.3")
    assert hosts_text("web", [], network, VIEW, "") == LOCALHOST + "10.1.2.3 web pause\n"


def test_hosts_of_the_hosts_network() -> None:
    """With the host's network its names are there, and the job's own beside them."""
    host = "127.0.0.1 localhost\n192.0.2.7 box"
    assert hosts_text("box", ["db:::5"], HOST, NetworkView(), host) == f"{host}\n::5 db\n"
    host += "\n"
    assert hosts_text("web", [], HOST, NetworkView(), host) == host + "127.0.1.1 web\n"
    assert hosts_text("box", [], HOST, NetworkView(), "") == LOCALHOST + "127.0.1.1 box\n"
    assert hosts_text("a", [], HOST, NetworkView(), "::1 b # a\n") == "::1 b # a\n127.0.1.1 a\n"


def test_the_job_may_say_where_its_own_name_leads() -> None:
    """An extra host with the container's own name is the only line for it."""
    assert hosts_text("web", ["web:10.0.0.9"], GROUP, VIEW, "") == LOCALHOST + "10.0.0.9 web\n"


def test_an_extra_host_replaces_the_hosts_own_of_that_name() -> None:
    """With the host's network a name has the addresses that the job gives it, and no others."""
    host = "# ours\n192.0.2.7 db db.example # here\n192.0.2.8 db\n192.0.2.9 dbs\n"
    extra = ["db:10.0.0.5", "db:fd00::5"]
    assert hosts_text("dbs", extra, HOST, NetworkView(), host) == (
        "# ours\n192.0.2.7 db.example\n# 192.0.2.8 db\n192.0.2.9 dbs\n10.0.0.5 db\nfd00::5 db\n"
    )


def test_host_gateway_is_the_gateway() -> None:
    """host-gateway stands for the default route's gateway, and is an error without one."""
    assert "172.26.64.1 host\n" in hosts_text("web", ["host:host-gateway"], GROUP, VIEW, "")
    with pytest.raises(ConfigError, match="has none"):
        hosts_text("web", ["host:host-gateway"], GROUP, NetworkView(), "")


@given(st.lists(st.text(max_size=30) | st.from_regex(r"\A[a-z._-]{1,9}:[0-9a-f:.\[\]]{1,12}\Z")))
def test_no_entry_writes_more_than_its_own_line(entries: list[str]) -> None:
    """Whatever a job gives is refused or becomes one line of an address and a name each."""
    try:
        extra = parse_task_options({"extra_hosts": entries}, PluginOptions()).extra_hosts
    except ConfigError:
        return
    text = hosts_text("own-name", extra, HOST, NetworkView(), "192.0.2.1 host\n")
    lines = [line.split() for line in text.splitlines()][1:-1]
    assert [len(line) for line in lines] == [2] * len(extra)
    assert all(ipaddress.ip_address(line[0]) for line in lines)


# ---- /etc/resolv.conf

STUB = "# managed by systemd-resolved\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n"
REAL = "# the real ones\nnameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch lan\n"


def test_the_hosts_file_with_the_hosts_network() -> None:
    """With the host's network the host's file is taken as it is, a local server too."""
    assert resolv_conf_text(HOST, [STUB, REAL]) == STUB
    assert resolv_conf_text(HOST, []) == ""


def test_the_real_servers_with_a_network_of_its_own() -> None:
    """A local server that the task cannot reach gives way to the real ones behind it."""
    text = resolv_conf_text(GROUP, [STUB, REAL])
    assert text == "nameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch lan\n"


def test_local_servers_are_left_out_one_by_one() -> None:
    """Servers on the loopback device, of any spelling, are left out, and others kept."""
    local = ["127.0.0.1", "127.0.0.54", "::1", "0.0.0.0", "::", "fe80::1%eth0"]
    text = "".join(f"nameserver {one}\n" for one in [*local, "192.0.2.2", "fe80::zz"])
    assert resolv_conf_text(GROUP, [text, REAL]) == "nameserver 192.0.2.2\nnameserver fe80::zz\n"


def test_no_public_server_is_made_up() -> None:
    """Where the host has local servers only, none is named, and the rest is kept."""
    assert resolv_conf_text(GROUP, [STUB, "", ""]) == "options edns0 trust-ad\nsearch lan\n"
    assert resolv_conf_text(GROUP, ["", "", ""]) == ""


def test_the_jobs_dns_block_wins_line_by_line() -> None:
    """Each part of the dns block replaces the host's lines of its kind and no others."""
    dns = attrs.evolve(GROUP, dns_servers=("127.0.0.1", "10.0.0.1"), dns_options=("ndots:2",))
    assert resolv_conf_text(dns, [REAL]) == (
        "nameserver 127.0.0.1\nnameserver 10.0.0.1\noptions ndots:2\nsearch lan\n"
    )
    search = attrs.evolve(HOST, dns_searches=("a", "b"))
    host = "domain lan\nsearch lan\n; a remark\n\nnameserver 127.0.0.53\n"
    assert resolv_conf_text(search, [host]) == "search a b\nnameserver 127.0.0.53\n"
    assert resolv_conf_text(attrs.evolve(search, dns_searches=(".",)), [host]) == (
        "nameserver 127.0.0.53\n"
    )


# ---- the files of one task


def a_launch(network: Network) -> Launch:
    """Return a launch of which only its network counts."""
    return make_launch(
        task_id="a/web/1",
        task_name="web",
        alloc_id=ALLOC,
        alloc_dir="/nowhere",
        stdout_path="/dev/null",
        stderr_path="/dev/null",
        state_dir="/nowhere",
        crun_path="/usr/bin/crun",
        javas=(),
        network=network,
    )


def files(monkeypatch: pytest.MonkeyPatch, host: dict[str, str], net: Network) -> dict[str, str]:
    """Return the container's files in /etc, the host having ``host``."""
    monkeypatch.setattr(etc_files, "_read_text", lambda path: host.get(path, ""))
    user = User(uid=1000, gid=1000, name="app")
    return etc_files.etc_files(a_launch(net), TaskOptions(), user, "web", VIEW)


@pytest.mark.parametrize(
    "place", ["/run/systemd/resolve/resolv.conf", "/run/NetworkManager/no-stub-resolv.conf"]
)
def test_the_stub_is_replaced_where_it_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """In a network of its own a task gets the servers that systemd or NetworkManager keep."""
    host = {"/etc/resolv.conf": STUB, place: REAL}
    grouped = files(monkeypatch, host, GROUP)["/etc/resolv.conf"]
    assert grouped == "nameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch lan\n"
    assert etc_files.missing_dns(a_launch(GROUP), VIEW, grouped) == ""
    assert files(monkeypatch, host, HOST)["/etc/resolv.conf"] == STUB


def test_no_server_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any server that the task can reach its user is told why, and what to write."""
    text = files(monkeypatch, {"/etc/resolv.conf": STUB}, GROUP)["/etc/resolv.conf"]
    told = etc_files.missing_dns(a_launch(GROUP), VIEW, text)
    assert "names only 127.0.0.53" in told and "dns { servers" in told
    text = files(monkeypatch, {}, GROUP)["/etc/resolv.conf"]
    assert "names no server" in etc_files.missing_dns(a_launch(GROUP), VIEW, text)


def test_no_server_is_no_matter_without_a_network() -> None:
    """Nothing is said where there is nothing to reach, or where the host's network is used."""
    assert etc_files.missing_dns(a_launch(GROUP), NetworkView(), "") == ""
    assert etc_files.missing_dns(a_launch(HOST), VIEW, "") == ""


# ---- the namespace


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("", "was not named"),
        ("/nowhere/at/all", "is gone"),
        (__file__, "is no network namespace"),
        ("/proc/self/ns/mnt", "is no network namespace"),
    ],
)
def test_a_namespace_that_is_none_is_told(path: str, problem: str) -> None:
    """A path that is empty, gone, an ordinary file or another namespace is an error."""
    with pytest.raises(NetworkError, match=problem) as caught:
        network.view_network(Network(mode="group", namespace_path=path))
    assert not caught.value.recoverable


def test_the_hosts_network_is_its_own_gateway() -> None:
    """With the host's network, host-gateway is the loopback address."""
    assert network.view_network(HOST).gateway == "127.0.0.1"
    assert network.view_network(Network(mode="none")).gateway == ""
