"""Three Nomad servers and two clients with the driver, on ports of this machine's loopback."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from tests.support import leftovers
from tests.support.agent import LOGS, MILO, free_ports
from tests.support.nomad import Nomad, hcl
from tests.support.waiting import scaled, wait_for

READY_S = 120
"""Five agents start at once, the servers elect a leader, and the keyring has to be there."""
STOP_S = 30
NAMES = ("one", "two")
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
"""Of tests that run side by side: each of them may have a cluster of its own."""
FIRST_PORT = 21_000 + 2_000 * int(WORKER.removeprefix("gw") or 0)
DYNAMIC_PORTS = {
    "one": (FIRST_PORT, FIRST_PORT + 999),
    "two": (FIRST_PORT + 1_000, FIRST_PORT + 1_999),
}


@attrs.define
class Member:
    """One agent of the cluster."""

    name: str
    base: Path
    ports: tuple[int, int, int]
    binary: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """Where the agent's own messages are kept."""
        return LOGS / f"cluster-{self.name}{WORKER}.log"

    def start(self) -> None:
        """Start the agent; it goes on with the data that it has."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "agent", f"-config={self.base / self.name}.hcl"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.base,
            )

    def end(self, number: signal.Signals = signal.SIGINT) -> None:
        """End the agent by a signal, and wait for it."""
        if self.process is not None:
            self.process.send_signal(number)
            try:
                self.process.wait(scaled(STOP_S))
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def fail(self, number: signal.Signals) -> None:
        """Kill the agent, or by SIGSTOP only keep it from doing anything."""
        if number is signal.SIGSTOP:
            assert self.process is not None
            self.process.send_signal(number)
        else:
            self.end(number)

    def come_back(self) -> None:
        """Undo `fail`."""
        if self.process is None:
            self.start()
        else:
            self.process.send_signal(signal.SIGCONT)


@attrs.define
class Cluster:
    """The cluster, seen from its first server with the management token."""

    base: Path
    servers: list[Member]
    clients: dict[str, Member]
    nomad: Nomad

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Return what the servers say of each client, by its name."""
        return {node["Name"]: node for node in self.nomad.get("/v1/nodes")}

    def wait_ready(self) -> None:
        """Wait until both clients are ready and have the driver."""
        wait_for("both clients to be ready", self._ready, READY_S, pause_s=0.2)

    def _ready(self) -> bool:
        nodes = self.nodes()
        return len(nodes) == len(NAMES) and all(
            node["Status"] == "ready"
            and node["SchedulingEligibility"] == "eligible"
            and (node["Drivers"] or {}).get("milo", {}).get("Healthy")
            for node in nodes.values()
        )

    def running(self, job: str) -> list[dict[str, Any]]:
        """Return the job's allocations whose tasks run, the oldest first."""
        allocs = self.nomad.get(f"/v1/job/{job}/allocations")
        found = [alloc for alloc in allocs if alloc["ClientStatus"] == "running"]
        return sorted(found, key=lambda alloc: int(alloc["CreateIndex"]))

    def wait_running(self, job: str, count: int, timeout_s: float = 90) -> list[dict[str, Any]]:
        """Wait until so many allocations of the job run, no more and no less; return them."""

        def probe() -> list[dict[str, Any]] | None:
            found = self.running(job)
            return found if len(found) == count else None

        return wait_for(f"{count} of {job} to run", probe, timeout_s, pause_s=0.2)

    def logs(self, alloc: str) -> str:
        """Return an allocation's stdout, or nothing where there is none yet."""
        return self.nomad.cli("alloc", "logs", alloc, check=False)

    def purge(self) -> None:
        """Stop and forget every job of every namespace, and wait for the allocations' end."""
        for job in self.nomad.get("/v1/jobs", namespace="*"):
            words = ("-purge", "-detach", f"-namespace={job['Namespace']}", job["ID"])
            self.nomad.cli("job", "stop", *words)
        wait_for("all allocations to end", self._all_ended, 90)

    def collect(self) -> None:
        """Wait until the clients have removed what belonged to the jobs that were purged."""
        self.nomad.collect(lambda: [path.name for path in self.base.glob("*/alloc/*-*")])

    def _all_ended(self) -> bool:
        allocs = self.nomad.get("/v1/allocations", namespace="*")
        return all(alloc["ClientStatus"] in ("complete", "failed", "lost") for alloc in allocs)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Start a cluster with ACLs; at the end stop it and fail when a client leaves something."""
    base = Path(tempfile.mkdtemp(prefix="milo-test-", dir="/tmp"))
    base.chmod(0o755)
    LOGS.mkdir(parents=True, exist_ok=True)
    binary = shutil.which(os.environ.get("NOMAD_BIN") or "nomad") or "nomad"
    members = [Member(name, base, free_ports(), binary) for name in ("s1", "s2", "s3", *NAMES)]
    servers, clients = members[:3], {member.name: member for member in members[3:]}
    nomad = Nomad(binary, f"http://127.0.0.1:{servers[0].ports[0]}")
    one = Cluster(base, servers, clients, nomad)
    try:
        (base / "plugins").mkdir()
        subprocess.run([MILO, "install", base / "plugins"], check=True, capture_output=True)
        for member in members:
            member.log.unlink(missing_ok=True)
            (base / f"{member.name}.hcl").write_text(_configuration(member, servers))
            member.start()
        one.nomad = attrs.evolve(nomad, token=_bootstrap(nomad, members))
        one.wait_ready()
        yield one
        for member in clients.values():
            if member.process is None:
                member.start()
        one.wait_ready()
        allocations = {alloc["ID"] for alloc in one.nomad.get("/v1/allocations", namespace="*")}
        one.purge()
        one.collect()
        for member in members[::-1]:
            member.end()
        _check(base, allocations)
    finally:
        for member in members:
            member.end(signal.SIGKILL)
        leftovers.kill(base)
        for mount in leftovers.mount_points(base):
            subprocess.run(["umount", "-l", mount], check=False)
        shutil.rmtree(base, ignore_errors=True)


def _check(base: Path, allocations: set[str]) -> None:
    left: list[str] = []

    def probe() -> bool:
        left[:] = [
            *leftovers.processes(base),
            *leftovers.mounts(base),
            *leftovers.cgroups(allocations),
            *(line for name in NAMES for line in leftovers.files(base / f"state-{name}")),
        ]
        return not left

    try:
        wait_for("nothing to be left", probe, 15, pause_s=0.2)
    except AssertionError:
        raise AssertionError("left behind:\n" + "\n".join(left)) from None


def _bootstrap(nomad: Nomad, members: list[Member]) -> str:
    """Return the management token, which the servers give out once they have a leader."""
    secret = ""

    def probe() -> bool:
        nonlocal secret
        for member in members:
            assert member.process is not None
            if (status := member.process.poll()) is not None:
                raise AssertionError(f"agent {member.name} ended with {status}, see its log")
        try:
            secret = nomad.put("/v1/acl/bootstrap", {})["SecretID"]
        except OSError:
            return False
        return True

    wait_for("the servers to elect a leader", probe, READY_S, pause_s=0.5)
    return secret


def _configuration(member: Member, servers: list[Member]) -> str:
    http, rpc, serf = member.ports
    lines = [
        f'name = "{member.name}"',
        f'data_dir = "{member.base / member.name}"',
        'bind_addr = "127.0.0.1"',
        'log_level = "DEBUG"',
        "disable_update_check = true",
        "leave_on_interrupt = false",
        "acl {\n enabled = true\n}",
        f"ports {{\n http = {http}\n rpc = {rpc}\n serf = {serf}\n}}",
        "advertise {\n"
        + "".join(f' {name} = "127.0.0.1"\n' for name in ("http", "rpc", "serf"))
        + "}",
    ]
    if member in servers:
        others = [f"127.0.0.1:{other.ports[2]}" for other in servers]
        lines += [
            "server {\n enabled = true\n bootstrap_expect = 3\n raft_multiplier = 3\n"
            # A client that says nothing is taken for dead after six to seven seconds.
            ' min_heartbeat_ttl = "3s"\n max_heartbeats_per_second = 10.0\n'
            ' heartbeat_grace = "3s"\n'
            f' server_join {{\n  retry_join = {hcl(others)}\n  retry_interval = "1s"\n }}\n}}',
        ]
    else:
        known = [f"127.0.0.1:{server.ports[1]}" for server in servers]
        low, high = DYNAMIC_PORTS[member.name]
        lines += [
            f'plugin_dir = "{member.base}/plugins"',
            "client {\n enabled = true\n"
            f" servers = {hcl(known)}\n min_dynamic_port = {low}\n max_dynamic_port = {high}\n"
            ' network_interface = "lo"\n gc_interval = "1s"\n gc_max_allocs = 1000\n options {\n'
            '  "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean,consul,vault"\n'
            " }\n}",
            'plugin "raw_exec" {\n config {\n  enabled = true\n }\n}',
            f'plugin "milo" {{\n config {{\n  state_dir = "{member.base}/state-{member.name}"\n'
            " }\n}",
        ]
    return "\n".join(lines) + "\n"
