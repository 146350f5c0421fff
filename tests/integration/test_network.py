"""The container's network, with the real crun and real JVMs: the host's, a namespace, none."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from milo.core.launch import Network
from milo.errors import TaskStartError
from milo.task.root import etc_files
from milo.task.root.network import view_network
from tests.support import networks
from tests.support.driver_rig import DriverRig, Task, open_rig

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="containers need root"),
    pytest.mark.skipif(bool(networks.missing()), reason=str(networks.missing())),
]


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Network]:
    """A namespace as Nomad makes it for mode none: nothing in it is up."""
    with networks.namespace(tmp_path / "bare") as path:
        yield Network(mode="group", namespace_path=str(path))


@pytest.fixture
def wired(tmp_path: Path) -> Iterator[Network]:
    """A namespace with an interface, addresses of both kinds and a default route."""
    with networks.namespace(tmp_path / "wired") as path:
        networks.inside(
            path,
            "link set lo up",
            "link add eth0 type veth peer name peer0",
            "address add 172.30.0.2/24 dev eth0",
            "-6 address add fd00:30::2/64 dev eth0 nodad",
            "link set eth0 up",
            "link set peer0 up",
            "route add default via 172.30.0.1",
        )
        yield Network(mode="group", namespace_path=str(path))


def net_task(rig: DriverRig, jar_dir: Path, net: Network, *args: str, **config: Any) -> Task:
    """Lay out a task on that network which does what ``args`` say; see Network.java."""
    task = rig.task(jar_dir / "network.jar", args=list(args), **config)
    task.request = attrs.evolve(task.request, network=net)
    return task


async def lines(rig: DriverRig, task: Task) -> list[str]:
    """Run the task to its end and return what it printed."""
    await rig.registry.start(task.request)
    result = await rig.registry.wait(task.id)
    await trio.to_thread.run_sync(task.out.wait_end)
    assert result.exit_code == 0, task.err.text
    return task.out.text.decode().splitlines()


async def started(rig: DriverRig, task: Task, line: bytes) -> None:
    """Start the task and return once it has printed ``line``."""
    await rig.registry.start(task.request)
    await trio.to_thread.run_sync(task.out.wait_for, line)


async def test_hosts_network(jar_dir: Path) -> None:
    """With the host's network a task sees its interfaces, its names and its resolv.conf."""
    async with open_rig() as rig:
        args = ("interfaces", "self", "read=/etc/resolv.conf", "bind=127.0.0.1")
        seen = await lines(rig, net_task(rig, jar_dir, Network(), *args))
    # A network may be added meanwhile by others, so only what lasts is compared.
    assert "lo" in seen[0].split()
    assert seen[1].startswith(f"self {socket.gethostname()} ")
    own = Path("/etc/resolv.conf").read_text().replace("\n", "|")
    assert seen[2] == f"read /etc/resolv.conf {own}".rstrip()
    assert seen[3] == "bind 127.0.0.1 works true"


async def test_group_shares_a_namespace(jar_dir: Path, wired: Network) -> None:
    """Two tasks in one namespace talk over localhost, and both carry the allocation's address."""
    async with open_rig() as rig:
        server = net_task(rig, jar_dir, wired, "listen=127.0.0.1:8000:hello", "wait")
        await started(rig, server, b"waiting")
        args = ("connect=localhost:8000", "interfaces", "self", "bind=::1")
        for _ in range(2):  # The second as after a restart of the task.
            seen = await lines(rig, net_task(rig, jar_dir, wired, *args, alloc_id="0123abcd-1"))
            assert seen == [
                "connect hello",
                "interfaces eth0 lo peer0",
                "self alloc-0123abcd 172.30.0.2",
                "bind ::1 works true",
            ]


async def test_network_outlives_the_driver(jar_dir: Path, wired: Network) -> None:
    """A task keeps its network while the driver is started anew, and new ones join it."""
    async with open_rig() as rig:
        server = net_task(rig, jar_dir, wired, "listen=127.0.0.1:8000:hello", "wait")
        await started(rig, server, b"waiting")
        await rig.restart()
        assert (await lines(rig, net_task(rig, jar_dir, wired, "connect=127.0.0.1:8000"))) == [
            "connect hello"
        ]


async def test_names(jar_dir: Path, wired: Network) -> None:
    """hostname and extra_hosts are what the application sees, IPv6 and host-gateway included."""
    extra = ["db.example:192.0.2.9", "six:fd00::9", "host:host-gateway", "localdb:127.0.0.1"]
    names = ("db.example", "six", "host", "localdb", "web-1", "localhost")
    async with open_rig() as rig:
        args = ("self", *(f"resolve={name}" for name in names))
        task = net_task(rig, jar_dir, wired, *args, extra_hosts=extra, hostname="web-1")
        seen = await lines(rig, task)
    assert seen[:5] == [
        "self web-1 172.30.0.2",
        "resolve db.example 192.0.2.9",
        "resolve six fd00:0:0:0:0:0:0:9",
        "resolve host 172.30.0.1",
        "resolve localdb 127.0.0.1",
    ]
    assert sorted(seen[5].split()[2:]) == ["172.30.0.2", "fd00:30:0:0:0:0:0:2"]
    assert seen[6].split()[2] == "127.0.0.1"


async def test_mode_none_of_nomad(jar_dir: Path, bare: Network) -> None:
    """In a namespace that nobody has set up there is a loopback device that works, and no more."""
    await _check_alone(jar_dir, bare)


async def test_a_gateway_that_is_not_there(jar_dir: Path, bare: Network) -> None:
    """host-gateway in a network without a gateway is an error in the job's own terms."""
    async with open_rig() as rig:
        task = net_task(rig, jar_dir, bare, "self", extra_hosts=["host:host-gateway"])
        with pytest.raises(TaskStartError, match=r"extra_hosts\[0\].*has none"):
            await rig.registry.start(task.request)


async def test_mode_none(jar_dir: Path) -> None:
    """Without a network there is a loopback device that works, and no more."""
    await _check_alone(jar_dir, Network(mode="none"))


async def _check_alone(jar_dir: Path, net: Network) -> None:
    async with open_rig() as rig:
        args = ("interfaces", "bind=127.0.0.1", "bind=::1", "self")
        task = net_task(rig, jar_dir, net, *args, alloc_id="0123abcd-2")
        assert await lines(rig, task) == [
            "interfaces lo",
            "bind 127.0.0.1 works true",
            "bind ::1 works true",
            "self alloc-0123abcd 127.0.1.1",
        ]
        assert not [text for text in rig.texts(task) if "DNS" in text]


async def test_a_namespace_that_is_gone(jar_dir: Path, bare: Network) -> None:
    """Where the namespace is no longer mounted a task fails with an error that says so."""
    await trio.run_process(["umount", bare.namespace_path])
    async with open_rig() as rig:
        task = net_task(rig, jar_dir, bare, "self")
        with pytest.raises(TaskStartError, match="is no network namespace any more") as caught:
            await rig.registry.start(task.request)
        assert not caught.value.recoverable
        os.unlink(bare.namespace_path)
        task = net_task(rig, jar_dir, bare, "self")
        with pytest.raises(TaskStartError, match="is gone"):
            await rig.registry.start(task.request)


async def test_no_dns_server_is_told(jar_dir: Path, wired: Network, tmp_path: Path) -> None:
    """Where the host has only a local DNS server, the task runs without one and an event says so.

    With servers in the job's dns block nothing is said.
    """
    local = tmp_path / "resolv.conf"
    local.write_text("nameserver 127.0.0.53\nsearch lan\n")
    given = attrs.evolve(wired, dns_servers=("192.0.2.53",))
    with _only_resolv_conf(local):
        async with open_rig() as rig:
            task = net_task(rig, jar_dir, wired, "read=/etc/resolv.conf")
            assert await lines(rig, task) == ["read /etc/resolv.conf search lan|"]
            told = await rig.until_event(task, "DNS")
            assert "names only 127.0.0.53" in told
            task = net_task(rig, jar_dir, given, "read=/etc/resolv.conf")
            assert await lines(rig, task) == [
                "read /etc/resolv.conf nameserver 192.0.2.53|search lan|"
            ]
            assert not [text for text in rig.texts(task) if "DNS" in text]


def _only_resolv_conf(content: Path) -> contextlib.ExitStack:
    """Let every place where the host may keep DNS servers show ``content``."""
    stack = contextlib.ExitStack()
    for place in etc_files.RESOLV_CONFS:
        if os.path.exists(place):
            stack.enter_context(networks.in_place_of(place, content))
    return stack


def test_the_hosts_own_network_is_left_alone(bare: Network, wired: Network) -> None:
    """Looking into a namespace raises its loopback device and never moves this process."""
    before = os.readlink("/proc/self/ns/net")
    empty = view_network(bare)
    assert (empty.addresses, empty.gateway, empty.has_ipv6) == ((), "", True)
    view = view_network(wired)
    assert view.addresses == ("172.30.0.2", "fd00:30::2")
    assert view.gateway == "172.30.0.1"
    networks.inside(Path(wired.namespace_path), "address flush dev eth0")
    networks.inside(
        Path(wired.namespace_path),
        "-6 address add fd00:30::3/64 dev eth0 nodad",
        "-6 route add default via fd00:30::1",
    )
    view = view_network(wired)
    assert (view.addresses, view.gateway) == (("fd00:30::3",), "fd00:30::1")
    networks.inside(Path(wired.namespace_path), "-6 route replace default via fe80::1 dev eth0")
    assert view_network(wired).gateway == ""
    assert os.readlink("/proc/thread-self/ns/net") == before
