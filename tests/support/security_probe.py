"""The outside of `SecurityProbe.java`: what the host hides, planted, and what it tells the probe.

Nothing is planted in the machine's own directories: of these the probe is only told the names.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs

from milo import cgroup_files
from milo.core.container.capabilities import KNOWN
from milo.proc import start_ticks

JAR = "security-probe.jar"
CANARY = "MILO_TEST_CANARY"
"""The name of a variable in the agent's environment, which no task may see."""
SCRIPT = Path(__file__).parents[1] / "data/security/probe.sh"
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
PRIVATE = {
    "etc-shadow": "/etc/shadow",
    "root-home": "/root",
    "root-ssh": "/root/.ssh",
    "ssh-host-keys": "/etc/ssh",
    "private-keys": "/etc/ssl/private",
    "machine-id": "/etc/machine-id",
    "homes": "/home",
    "boot": "/boot",
    "logs": "/var/log",
    "crun-state": "/run/crun",
    "container-engine-socket": "/run/docker.sock",
}
"""The machine's own. They may be missing there; they are never written to."""


@attrs.define
class Host:
    """What a test knows of the host, and has planted there."""

    secrets: dict[str, str]
    """Name of a secret to its path on the host."""
    process: int
    """A process with the agent's canary in its environment."""
    port: int
    """Of a service on the host's 127.0.0.1."""
    abstract: str

    def environment(self, *, passive: bool = False, stay: bool = False) -> dict[str, str]:
        """Return the variables for the probe's task."""
        links = [os.readlink(f"/proc/{self.process}/ns/{kind}") for kind in NAMESPACES]
        env = {
            "PROBE_NAMESPACES": " ".join(links),
            "PROBE_PROCESS": f"{self.process} {start_ticks(self.process)}",
            "PROBE_SECRETS": ";".join(f"{name}={path}" for name, path in self.secrets.items()),
            "PROBE_CANARY": CANARY,
            "PROBE_PORT": str(self.port),
            "PROBE_ABSTRACT": self.abstract,
            "PROBE_HOSTNAME": socket.gethostname(),
        }
        if passive:
            env["PROBE_PASSIVE"] = "1"
        else:
            env["PROBE_SCRIPT"] = SCRIPT.read_text()
        if stay:
            env["PROBE_STAY"] = "1"
        return env


@contextmanager
def host(base: Path, secrets: Mapping[str, Path], process: int = 0) -> Iterator[Host]:
    """Plant secrets below ``base``, which only root can enter what is not meant for tasks.

    ``secrets`` are further places. ``process`` is the agent's; without one, a stand-in runs that
    has `CANARY` in its environment.
    """
    with ExitStack() as stack:
        planted = base / "planted"
        planted.mkdir(mode=0o755)
        stack.callback(shutil.rmtree, planted)
        secret = planted / "secret"
        plant(secret)
        if not process:
            env = {**os.environ, CANARY: "1"}
            stand_in = subprocess.Popen(["sleep", "infinity"], env=env)
            stack.callback(stand_in.wait)
            stack.callback(stand_in.kill)
            process = stand_in.pid
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        hidden = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        name = f"milo-probe-{os.getpid()}"
        hidden.bind(f"\0{name}")
        hidden.listen()
        yield Host(
            secrets={
                **PRIVATE,
                "planted-file": str(secret),
                **{key: str(path) for key, path in secrets.items()},
            },
            process=process,
            port=listener.getsockname()[1],
            abstract=name,
        )


def plant(path: Path, mode: int = 0o600) -> None:
    """Make a file that nobody but its owner may know."""
    path.touch(mode)
    path.chmod(mode)
    path.write_text("a secret\n")


def let_go(task_local: Path) -> None:
    """Let the probe begin, beside a shell that would run as root if the kernel let it."""
    shell = task_local / "setuid-shell"
    shutil.copy("/bin/dash" if os.path.exists("/bin/dash") else "/bin/sh", shell)
    shell.chmod(0o4755)
    (task_local / "go").touch()


def parse(text: str) -> dict[str, str]:
    """Return what the probe printed, by its keys, with capabilities by name.

    Raises AssertionError when it did not come to its end.
    """
    _, begin, rest = text.partition("probe begin\n")
    body, end, _ = rest.partition("probe end\n")
    assert begin and end, f"the probe did not come to its end: {text[-3000:]}"
    facts = dict(line.split(" ", 1) for line in body.splitlines())
    for key in [key for key in facts if key.startswith("cap.")]:
        facts[key] = _capabilities(int(facts[key], 16))
    return facts


def _capabilities(bits: int) -> str:
    if bits == _agents_capabilities():
        return "{agent}"
    return " ".join(name for number, name in enumerate(KNOWN) if bits >> number & 1) or "none"


def _agents_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            return int(line.split()[1], 16)
    return 0


def agents_limits() -> dict[str, str]:
    """Return the hard limits that a child of this process, such as an agent, has."""
    kinds = {
        "core": resource.RLIMIT_CORE,
        "nofile": resource.RLIMIT_NOFILE,
        "nproc": resource.RLIMIT_NPROC,
        "memlock": resource.RLIMIT_MEMLOCK,
        "fsize": resource.RLIMIT_FSIZE,
        "as": resource.RLIMIT_AS,
    }
    found = {name: resource.getrlimit(kind)[1] for name, kind in kinds.items()}
    return {
        f"limit.{name}": "unlimited" if value == resource.RLIM_INFINITY else str(value)
        for name, value in found.items()
    }


def hierarchy() -> str:
    """Return ``v1`` or ``v2``: the version of this machine's cgroups."""
    return cgroup_files.detect().mode.name.lower()
