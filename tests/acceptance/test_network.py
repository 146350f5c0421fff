"""Networks of Nomad's own making: bridge, CNI and none, with a real agent.

The agent and all that it makes (a bridge, iptables rules, addresses, namespaces) are in a
network namespace of the test's own, and in mounts of its own.
"""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support import agent as agents
from tests.support import artifacts, networks
from tests.support.agent import Agent, agent
from tests.support.jobs import job_file
from tests.support.nomad import Job, Nomad, hcl
from tests.support.waiting import wait_for

PAIR = {
    "cniVersion": "0.4.0",
    "name": "pair",
    "plugins": [
        {"type": "loopback"},
        {
            "type": "ptp",
            "ipam": {
                "type": "host-local",
                "ranges": [
                    [{"subnet": "172.31.7.0/24"}],
                    [{"subnet": "fd00:31:7::/64"}],
                ],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
            "dns": {"nameservers": ["192.0.2.54"], "search": ["pair.example"]},
        },
    ],
}
"""A network with addresses of both kinds and DNS servers of its own."""

ALONE = {"cniVersion": "0.4.0", "name": "alone", "plugins": [{"type": "loopback"}]}
"""No network: what Nomad's own mode none should be."""


def _lay_out_networks(directory: Path) -> str:
    """Write the CNI networks there; return the agent's words for them."""
    for name, network in (("pair", PAIR), ("alone", ALONE)):
        (directory / f"{name}.conflist").write_text(json.dumps(network))
    return f' cni_path = "{networks.cni_plugins()}"\n cni_config_dir = "{directory}"\n'


@pytest.fixture(scope="module")
def net_agent(
    tmp_path_factory: pytest.TempPathFactory, jar_dir: Path
) -> Iterator[tuple[Agent, str]]:
    """An agent in a network of the test's own, and the URL of the test JAR there."""
    if reason := agents.missing() or networks.cni_missing():
        pytest.skip(f"NO TEST OF NOMAD'S OWN NETWORKS IS RUN: {reason}")
    base = tmp_path_factory.mktemp("cni")
    with ExitStack() as stack:
        stack.enter_context(networks.agents_network())
        url = stack.enter_context(artifacts.serve(jar_dir))
        one = stack.enter_context(agent("network", dev=False, client=_lay_out_networks(base)))
        yield one, f"{url}/network.jar"


@pytest.fixture
def nomad(net_agent: tuple[Agent, str]) -> Nomad:
    """The client of that agent."""
    return net_agent[0].nomad


@pytest.fixture
def jar(net_agent: tuple[Agent, str]) -> str:
    """The URL of the JAR that looks at its network."""
    return net_agent[1]


def job(
    jar: str, network: str, *args: str, group: str = "", kind: str = "batch", **config: Any
) -> str:
    """Return a job file of a task that does what ``args`` say; see Network.java."""
    return job_file(
        kind=kind,
        config={"args": list(args), **config},
        artifact=jar,
        group=f"network {{\n{network}\n}}\n{group}",
        attempts=1,
    )


def second_task(jar: str, name: str, *args: str) -> str:
    """Return a task for the same group, which also does what ``args`` say."""
    return (
        f'task "{name}" {{\ndriver = "milo"\nconfig {{\nargs = {hcl(list(args))}\n}}\n'
        f'resources {{\ncpu = 100\nmemory = 128\n}}\nartifact {{\nsource = "{jar}"\n}}\n}}'
    )


def printed(one: Job, task: str = "app") -> list[str]:
    """Return what a task printed, once it has ended."""
    wait_for(f"{task} to end", lambda: _states(one).get(task) == "dead", 90)
    lines = one.logs("-task", task).decode().splitlines()
    assert lines, one.events()
    return lines


def wait_printed(one: Job, task: str, text: str) -> list[str]:
    """Wait until a task has printed ``text``, and return all that it has printed."""
    wait_for(f"{task} to start", lambda: _states(one).get(task) in ("running", "dead"), 90)
    shown = one.wait_logs(text, "-task", task, timeout_s=60)
    return shown.splitlines()


def _states(one: Job) -> dict[str, str]:
    [newest, *_] = one.allocations() or [{}]
    return {name: state["State"] for name, state in (newest.get("TaskStates") or {}).items()}


def read(host: str, port: int) -> bytes:
    """Return what the task's server at that address says; nothing while there is none."""
    try:
        with socket.create_connection((host, port), 5) as connection:
            return connection.recv(1000)
    except OSError:
        return b""


def test_bridge(net_agent: tuple[Agent, str], nomad: Nomad, jar: str) -> None:
    """In mode bridge the tasks of a group share a network, which lasts as long as they do.

    They talk over localhost, are reached through their port from the host, know their names, and
    keep it all when the agent is started anew and when a task of theirs is.
    """
    one = nomad.run(
        job(
            jar,
            'mode = "bridge"\nport "http" {\nto = 8000\n}\ndns {\nservers = ["192.0.2.53"]\n}',
            *("interfaces", "self", "resolve=db", "read=/etc/resolv.conf"),
            *("listen=0.0.0.0:8000:hello", "wait"),
            kind="service",
            extra_hosts=["db:fd00::9", "host:host-gateway"],
            group=second_task(
                jar, "peer", "connect=localhost:8000", "self", "listen=127.0.0.1:8001:peer", "wait"
            ),
        )
    )
    seen = wait_printed(one, "app", "waiting")
    name, address = seen[1].split()[1:]
    assert seen[0] == "interfaces eth0 lo"
    assert name == f"alloc-{one.allocation()[:8]}"
    assert address.startswith("172.26.")
    assert seen[2] == "resolve db fd00:0:0:0:0:0:0:9"
    assert "nameserver 192.0.2.53|" in seen[3]
    peer = wait_printed(one, "peer", "waiting")
    assert peer[:2] == ["connect hello", f"self {name} {address}"]

    alloc = nomad.get(f"/v1/allocation/{one.allocation()}")
    [port] = alloc["AllocatedResources"]["Shared"]["Ports"]
    assert read(address, 8000) == b"hello\n"
    assert read(port["HostIP"], port["Value"]) == b"hello\n"
    assert not read(address, 8001), "a server on the task's loopback device was reached"

    net_agent[0].stop()
    assert read(address, 8000) == b"hello\n"
    net_agent[0].start()
    assert read(address, 8000) == b"hello\n"
    nomad.cli("alloc", "restart", "-task", "app", one.allocation())
    wait_for("the task to serve again", lambda: read(address, 8000) == b"hello\n", 60)
    wait_for(
        "its log to show the same network",
        lambda: one.logs("-task", "app").decode().count(f"self {name} {address}") == 2,
        30,
    )
    assert read(port["HostIP"], port["Value"]) == b"hello\n"
    running = {"app": "running", "peer": "running"}
    wait_for("both tasks to run", lambda: _states(one) == running, 30)
    one.stop()
    wait_for("the namespace to go", lambda: not list(Path("/run/netns").iterdir()), 30)


def test_a_namespace_that_is_gone(nomad: Nomad, jar: str) -> None:
    """A task that is started anew after its namespace was taken away fails with that reason."""
    one = nomad.run(job(jar, 'mode = "bridge"', "wait", kind="service"))
    wait_printed(one, "app", "waiting")
    subprocess.run(["umount", "--lazy", f"/run/netns/{one.allocation()}"], check=True)
    nomad.cli("alloc", "restart", one.allocation())
    event = one.wait_event("is no network namespace any more")
    assert "have another one placed" in event


def test_cni(nomad: Nomad, jar: str) -> None:
    """In mode cni/NAME a task has that network's addresses and DNS servers, IPv6 too."""
    one = nomad.run(
        job(
            jar,
            'mode = "cni/pair"',
            *("interfaces", "self", "resolve=web", "read=/etc/resolv.conf", "resolve=host"),
            extra_hosts=["host:host-gateway"],
            hostname="web",
        )
    )
    seen = printed(one)
    assert seen[0] == "interfaces eth0 lo"
    assert seen[1].startswith("self web 172.31.7.")
    v4, v6 = sorted(seen[2].split()[2:])
    assert v4.startswith("172.31.7.") and v6.startswith("fd00:31:7:")
    assert seen[3].startswith("read /etc/resolv.conf nameserver 192.0.2.54|search pair.example|")
    assert seen[4] == "resolve host 172.31.7.1"


def test_cni_with_a_loopback_device_alone(nomad: Nomad, jar: str) -> None:
    """A CNI network of the loopback plugin gives a task no network but 127.0.0.1."""
    one = nomad.run(job(jar, 'mode = "cni/alone"', "interfaces", "bind=127.0.0.1", "self"))
    name = f"alloc-{one.allocation()[:8]}"
    assert printed(one) == [
        "interfaces lo",
        "bind 127.0.0.1 works true",
        f"self {name} 127.0.1.1",
    ]


def test_none(nomad: Nomad, jar: str) -> None:
    """In mode none there is a loopback device that works, and no other."""
    one = nomad.run(job(jar, 'mode = "none"', "interfaces", "bind=127.0.0.1", "self"))
    one.wait_state("dead", 90)
    # Nomad 2.0.5, client/allocrunner/network_hook.go: nobody configures this network, which the
    # hook takes for one that was configured before. So it is with every driver.
    if any("network already configured but not found in state" in text for text in one.events()):
        pytest.skip("NETWORK MODE NONE IS NOT TESTED: this Nomad's own network hook fails in it")
    assert printed(one)[:2] == ["interfaces lo", "bind 127.0.0.1 works true"]


def test_host(nomad: Nomad, jar: str) -> None:
    """With the host's network a task has its interfaces and the job's DNS servers."""
    one = nomad.run(
        job(
            jar,
            'mode = "host"\ndns {\nservers = ["192.0.2.53"]\nsearches = ["x"]\n}',
            *("interfaces", "read=/etc/resolv.conf", "self"),
        )
    )
    seen = printed(one)
    assert "lo" in seen[0].split() and "eth0" not in seen[0].split()
    assert seen[1].startswith("read /etc/resolv.conf nameserver 192.0.2.53|search x|")
    assert seen[2].split()[1] == socket.gethostname()
