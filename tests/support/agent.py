"""A real Nomad agent, server and client in one, as HashiCorp's service unit would start it."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO

import attrs
import pytest

from tests.support import leftovers
from tests.support.nomad import Nomad, hcl
from tests.support.waiting import scaled, wait_for

ROOT = Path(__file__).parents[2]
MILO = Path(sys.executable).with_name("milo")
"""Milo in the Python that these tests run in."""
GIVEN_UP = re.compile(
    r'failed to remove the secret dir "([^"]+)": unmount: device or resource busy'
)
"""What Nomad logs of a mount (client/allocdir)."""
LOGS = ROOT / ".nox/agents"
READY_S = 75
"""A dev agent is ready in 1.5 s on an idle machine, any other in about 4 s; but one whose client
registers before the new server has its keyring is refused, and tries again 15 to 30 s later."""
STOP_S = 20
PORTS = range(12_000, 20_000)
"""For agents: below Nomad's dynamic ports, and those that the kernel chooses for a connection."""
TELEMETRY = """
collection_interval = "1s"
publish_allocation_metrics = true
prometheus_metrics = true
"""
"""Without the second line Nomad asks no driver for a task's use."""


def missing() -> str | None:
    """Return why no agent can run here, or None."""
    name = os.environ.get("NOMAD_BIN") or "nomad"
    if shutil.which(name) is None:
        return f"there is no Nomad here ({name!r}; install it, or set NOMAD_BIN)"
    if os.geteuid() != 0:
        return "a Nomad client with this driver needs root"
    return None


@cache
def service_score() -> int:
    """Return the OOM score adjustment for the agent: never 0, which is what a task must get.

    HashiCorp's service unit says -1000. Without CAP_SYS_RESOURCE no process may go below 0;
    there 500 shows as well whether a task inherits its agent's score.
    """
    tried = subprocess.run(["choom", "-n", "-1000", "--", "true"], capture_output=True)
    return -1000 if tried.returncode == 0 else 500


@attrs.define
class Agent:
    """One agent with directories of its own, which it keeps when it is started again."""

    base: Path
    """Short, since unix sockets lie below it (108 bytes); removed at the end."""
    dev: bool
    config: Path
    log: Path
    ports: tuple[int, int, int]
    env: dict[str, str]
    nomad: Nomad
    own_mounts: bool = False
    """Whether it runs in a mount namespace of its own, see `in_mounts`."""
    umask: int = -1
    """Its own; -1 is that of the tests."""
    process: subprocess.Popen[bytes] | None = None
    allocations: set[str] = attrs.field(factory=set)
    """Every allocation seen, to look for what is left of it at the end."""
    _notify: socket.socket | None = None
    _output: IO[bytes] | None = None

    @property
    def state_dir(self) -> Path:
        """The plugin's ``state_dir``."""
        return self.base / "state"

    @property
    def plugin_dir(self) -> Path:
        """The agent's ``plugin_dir``."""
        return self.base / "plugins"

    def start(self) -> None:
        """Start the agent and wait until its node is ready and its drivers have reported.

        It gets a NOTIFY_SOCKET and an OOM score adjustment, as a service does.
        """
        assert self.process is None
        if self._notify is None:
            self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._notify.bind(str(self.base / "notify"))
        with suppress(BlockingIOError):
            # Its queue holds ten messages; then an agent blocks for ever as it starts or stops.
            while self._notify.recv(4096, socket.MSG_DONTWAIT):
                pass
        self._output = self.log.open("ab")
        self.process = subprocess.Popen(
            (["unshare", "-m", "--propagation", "private", "--"] if self.own_mounts else [])
            + ["choom", "-n", str(service_score()), "--", self.nomad.binary, "agent"]
            + (["-dev"] if self.dev else [])
            + ["-bind=127.0.0.1", "-network-interface=lo", f"-config={self.config}"],
            env={**self.env, "NOTIFY_SOCKET": str(self.base / "notify")},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            cwd=self.base,
            umask=self.umask,
        )
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until the node is ready and its drivers have reported."""
        try:
            wait_for("the agent's node to be ready", self._ready, READY_S, pause_s=0.1)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from None

    def _ready(self) -> bool:
        if self.process is not None and (status := self.process.poll()) is not None:
            raise AssertionError(f"nomad agent ended with {status}")
        try:
            [stub] = self.nomad.get("/v1/nodes") or [{}]
            drivers = stub.get("Drivers") or {}
        except OSError:
            return False
        return stub.get("Status") == "ready" and "raw_exec" in drivers

    def stop(self) -> None:
        """End the agent as a service manager does, by SIGINT, and wait for it."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the agent by SIGKILL: nothing of it can react, its plugins live on."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            try:
                self.process.wait(scaled(STOP_S))
            except subprocess.TimeoutExpired:
                # The stacks of all that it does go to its log; then it is over.
                self.process.send_signal(signal.SIGQUIT)
                try:
                    self.process.wait(scaled(STOP_S))
                except subprocess.TimeoutExpired:
                    self.process.kill()
                    self.process.wait()
                raise
            finally:
                self.process = None
        if self._output is not None:
            self._output.close()
            self._output = None

    def in_mounts(self, *words: str) -> None:
        """Run a command in the agent's own mount namespace, such as ``mount``."""
        assert self.own_mounts
        assert self.process is not None
        subprocess.run(["nsenter", "-t", str(self.process.pid), "-m", "--", *words], check=True)

    def note_allocations(self) -> None:
        """Remember which allocations there are, before they are collected."""
        self.allocations |= {alloc["ID"] for alloc in self.nomad.get("/v1/allocations")}

    def purge(self) -> None:
        """Stop and forget every job, and wait until the client holds no allocation."""
        self.note_allocations()
        for job in self.nomad.get("/v1/jobs"):
            self.nomad.cli("job", "stop", "-purge", "-detach", job["ID"])
        wait_for("all allocations to end", self._all_ended, 60)
        self.nomad.collect(self._remaining)

    def _remaining(self) -> set[str]:
        """Return `directories`, without those that Nomad has given up for a reason that is over.

        It unmounts a task's secrets once. That fails where somebody looks at the mount just then,
        as each agent does every second for its statistics. It must succeed now: what a driver
        holds stays busy.
        """
        for found in GIVEN_UP.finditer(self.log.read_text(errors="replace")):
            path = Path(found[1])
            if not self.own_mounts and path.is_mount():
                subprocess.run(["umount", path], check=True)
                shutil.rmtree(path.parents[1])
        return self.directories()

    def _all_ended(self) -> bool:
        allocs = self.nomad.get("/v1/allocations")
        return all(
            alloc["ClientStatus"] in ("complete", "failed", "lost")
            and all(task["State"] == "dead" for task in (alloc["TaskStates"] or {}).values())
            for alloc in allocs
        )

    def directories(self) -> set[str]:
        """Return the allocations whose directories there are."""
        return {path.name for path in (self.base / "data/alloc").glob("*-*")}

    def left(self) -> list[str]:
        """Return a line for each thing that is still there though the agent has ended."""
        return [
            *leftovers.processes(self.base),
            *leftovers.mounts(self.base),
            *leftovers.cgroups(self.allocations),
            *leftovers.files(self.state_dir),
        ]

    def log_size(self) -> int:
        """Return how many bytes the agent has logged so far."""
        return self.log.stat().st_size

    def tail(self, start: int = 0, limit: int = 20000) -> str:
        """Return the end of what the agent has logged since byte ``start`` of its log."""
        with self.log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(start, end - limit))
            return file.read().decode(errors="replace")

    def close(self) -> None:
        """End the agent if it runs, and all that it has left, and remove its directories."""
        self._end(signal.SIGKILL)
        if self._notify is not None:
            self._notify.close()
        leftovers.kill(self.base)
        containers = [f"milo-{path.name}" for path in self.state_dir.glob("*")]
        leftovers.remove_cgroups([*containers, *self.directories()])
        for mount in leftovers.mount_points(self.base):
            subprocess.run(["umount", "-l", mount], check=False)
        shutil.rmtree(self.base, ignore_errors=True)


@contextmanager
def agent(
    name: str,
    *,
    dev: bool = True,
    milo: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
    strict: bool = True,
    stub: bool = False,
    own_mounts: bool = False,
    umask: int = -1,
    client: str = "",
    telemetry: str = TELEMETRY,
    more: str = "",
    make: type[Agent] = Agent,
    nomad: str = "",
) -> Iterator[Agent]:
    """Make and start an agent; at the end stop it and fail when something of it is left.

    ``milo`` adds keys to the plugin's configuration and ``env`` to the agent's environment.
    Without ``dev`` the agent keeps its state and can be ended and started again. Its log is
    kept as ``.nox/agents/NAME.log``. ``strict=False`` leaves the check to the caller, and
    ``stub`` leaves the driver out. ``own_mounts`` gives the agent a mount namespace of its own,
    and ``umask`` a umask. ``client`` is more text for the block of that name, ``telemetry`` the
    text of that block, and ``more`` text for the whole file. ``make`` is the class of agent,
    ``nomad`` the path of another Nomad than the tests' own.
    """
    base = Path(tempfile.mkdtemp(prefix="milo-test-", dir="/tmp"))
    base.chmod(0o755)
    LOGS.mkdir(parents=True, exist_ok=True)
    # Tests that run side by side each have an agent of their own.
    log = LOGS / f"{name}{os.environ.get('PYTEST_XDIST_WORKER', '')}.log"
    log.unlink(missing_ok=True)
    ports = free_ports()
    one = make(
        base=base,
        dev=dev,
        config=base / "agent.hcl",
        log=log,
        ports=ports,
        own_mounts=own_mounts,
        umask=umask,
        env={**os.environ, **(env or {})},
        nomad=Nomad(
            binary=nomad or shutil.which(os.environ.get("NOMAD_BIN") or "nomad") or "nomad",
            address=f"http://127.0.0.1:{ports[0]}",
        ),
    )
    try:
        one.plugin_dir.mkdir()
        own = {"state_dir": str(one.state_dir), "cache_dir": str(one.base / "cache")}
        options = {**own, **(milo or {})}
        one.config.write_text(_configuration(one, options, client, telemetry) + more)
        if not stub:
            subprocess.run([MILO, "install", one.plugin_dir], check=True, capture_output=True)
        one.start()
        yield one
        if one.process is None:
            one.start()
        one.purge()
        one.stop()
        if strict:
            _wait_nothing_left(one)
    finally:
        one.close()


def _wait_nothing_left(one: Agent) -> None:
    left: list[str] = []

    def probe() -> bool:
        left[:] = one.left()
        return not left

    try:
        wait_for("nothing to be left", probe, 10, pause_s=0.2)
    except AssertionError:
        raise AssertionError("left behind:\n" + "\n".join(left)) from None


def _configuration(one: Agent, options: Mapping[str, object], client: str, telemetry: str) -> str:
    http, rpc, serf = one.ports
    lines = [
        f'data_dir = "{one.base}/data"',
        f'plugin_dir = "{one.plugin_dir}"',
        'log_level = "DEBUG"',
        "disable_update_check = true",
        "leave_on_interrupt = false",
        f"ports {{\n http = {http}\n rpc = {rpc}\n serf = {serf}\n}}",
        "advertise {\n"
        + "".join(f' {name} = "127.0.0.1"\n' for name in ("http", "rpc", "serf"))
        + "}",
        f"telemetry {{\n{telemetry}\n}}",
        "server {\n enabled = true\n bootstrap_expect = 1\n raft_multiplier = 1\n}",
        'client {\n enabled = true\n gc_interval = "1s"\n options {\n'
        '  "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean,consul,vault"\n'
        f" }}\n{client}}}",
        'plugin "raw_exec" {\n config {\n  enabled = true\n }\n}',
        'plugin "milo" {\n config {\n'
        + "".join(f"  {key} = {hcl(value)}\n" for key, value in options.items())
        + " }\n}",
    ]
    return "\n".join(lines) + "\n"


def free_ports() -> tuple[int, int, int]:
    """Return three ports that nobody has now, and that the kernel gives to nobody meanwhile."""
    found: list[int] = []
    while len(found) < 3:
        port = random.SystemRandom().choice(PORTS)
        if port not in found:
            with suppress(OSError), socket.create_server(("127.0.0.1", port)):
                found.append(port)
    http, rpc, serf = found
    return http, rpc, serf


@contextmanager
def agent_with_volume(name: str, data: Path) -> Iterator[tuple[Agent, Path]]:
    """An agent with a host volume ``data``, and its directory, which everybody may write to.

    Skips the test where there can be no agent.
    """
    if reason := missing():
        pytest.skip(reason)
    data.chmod(0o777)
    block = f'host_volume "data" {{\npath = "{data}"\nread_only = false\n}}\n'
    with agent(name, client=block) as one:
        yield one, data
