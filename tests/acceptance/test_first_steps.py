"""docs/start.md and docs/install.md, followed word by word on a machine of their own.

What a page shows after a command is what the command has to print, in this order; ``…`` is for
what varies, and ``^C`` is pressed there. A command that goes on without it has a terminal of its
own.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import attrs
import pytest

from tests.support import leftovers, pages
from tests.support.agent import ROOT, missing
from tests.support.networks import missing as missing_network
from tests.support.waiting import scaled, wait_for

PATIENCE_S = 240
"""For one command: `./dev build` downloads packages where pip has none."""
CHANGED = ("/etc", "/opt", "/usr/local/bin")
"""What the pages change on the machine: here in layers above, which only the test sees."""

HOLDER = """
ip link set lo up
mount -t tmpfs none /run
for place in {changed}; do
    above={base}/above$place work={base}/work$place
    mkdir -p "$above" "$work"
    mount -t overlay none -o "lowerdir=$place,upperdir=$above,workdir=$work" $place
done
echo ready
read -r _
"""
SUDO = '#!/bin/sh\nexec "$@"\n'
APT_GET = '#!/bin/sh\nexec /usr/bin/apt-get --simulate "$@" >/dev/null\n'
"""The machine is not changed, but the packages have to be there."""
AGENT = """\
data_dir  = "/opt/nomad/data"
bind_addr = "127.0.0.1"

server {
  enabled          = true
  bootstrap_expect = 1
}

client {
  enabled = true
  servers = ["127.0.0.1"]
}
"""
"""As HashiCorp's package brings it, but for the address."""
HERE = """\
disable_update_check = true

advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}

client {
  network_interface = "lo"

  options {
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean,consul,vault"
  }
}
"""
"""What this machine's network asks for, and no page speaks of."""
UNIT = """\
[Service]
Type=notify
ExecStart=/usr/local/bin/nomad agent -config /etc/nomad.d
KillMode=process
OOMScoreAdjust=-1000
TasksMax=infinity
"""


def plain_path() -> str:
    """Return PATH without the environment that the tests run in, which a new machine lacks."""
    own = f"{ROOT}/.venv/bin"
    return ":".join(part for part in os.environ["PATH"].split(":") if part != own)


@attrs.define
class Machine:
    """Where the pages' commands run: a network, a /run and some directories of its own."""

    base: Path
    holder: subprocess.Popen[bytes]
    terminals: list[subprocess.Popen[bytes]] = attrs.field(factory=list)
    agent: subprocess.Popen[bytes] | None = None
    count: int = 0

    def argv(self, command: str, directory: Path) -> list[str]:
        """Return what runs a page's command there; a checkout may download packages."""
        net = () if command.startswith("./dev") else ("-n",)
        place = ("nsenter", "-t", str(self.holder.pid), "-m", *net, "--")
        return [*place, "sh", "-ec", f"cd {shlex.quote(str(directory))}\n{command}"]

    def start(self, command: str, directory: Path) -> tuple[subprocess.Popen[bytes], Path]:
        """Start a command; return it and the file with all that it prints."""
        self.count += 1
        output = self.base / f"output-{self.count}"
        env = {
            **{name: value for name, value in os.environ.items() if name[:6] != "NOMAD_"},
            "PATH": f"{self.base}/bin:{plain_path()}",
        }
        with output.open("wb") as file:
            process = subprocess.Popen(
                self.argv(command, directory),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=env,
                start_new_session=True,
            )
        return process, output

    def run(self, command: str, directory: Path) -> str:
        """Run a command to its end, which has to be a success; return what it printed."""
        process, output = self.start(command, directory)
        status = process.wait(scaled(PATIENCE_S))
        assert status == 0, f"{command} ended with {status}:\n{output.read_text()}"
        return output.read_text()

    def follow(self, command: str, shown: list[str], directory: Path) -> None:
        """Run one block of a page, of which ``shown`` is what it says of the output."""
        before = shown[: shown.index("^C")] if "^C" in shown else shown
        process, output = self.start(command, directory)

        def enough() -> bool:
            return holds(output.read_text(), before) or process.poll() is not None

        wait_for(f"the end of {command}", enough, PATIENCE_S)
        text = output.read_text()
        assert holds(text, before), f"{command} printed:\n{text}"
        if "^C" in shown:
            assert process.poll() is None, f"{command} ended:\n{text}"
            os.killpg(process.pid, signal.SIGINT)
            process.wait(scaled(PATIENCE_S))
            text = output.read_text()
            assert holds(text, [line for line in shown if line != "^C"]), f"{command}:\n{text}"
        elif before and process.poll() is None and command == "milo demo":
            self.terminals.append(process)
        else:
            status = process.wait(scaled(PATIENCE_S))
            assert status == 0, f"{command} ended with {status}:\n{output.read_text()}"

    def restart_agent(self) -> None:
        """As ``systemctl restart nomad``, and wait as long as a reader does."""
        self.end_agent()
        command = "exec nomad agent -config /etc/nomad.d"
        self.agent, output = self.start(command, self.base)

        def ready() -> bool:
            assert self.agent is not None and self.agent.poll() is None, output.read_text()
            process, status = self.start("nomad node status -self -verbose", self.base)
            process.wait()
            return "driver.milo" in status.read_text()

        wait_for("the agent's node", ready, 90, pause_s=0.5)
        assert "[INFO]" in output.read_text() and "[DEBUG]" not in output.read_text()

    def end_agent(self) -> None:
        """End the agent as its unit does."""
        if self.agent is not None:
            self.agent.send_signal(signal.SIGINT)
            self.agent.wait(scaled(30))
            self.agent = None


def holds(text: str, lines: list[str]) -> bool:
    """Whether ``text`` has the lines in their order; ``…`` stands for anything in a line."""
    place = 0
    for line in lines:
        pattern = "[^\n]*".join(map(re.escape, line.split("…")))
        found = re.compile(pattern).search(text, place)
        if found is None:
            return False
        place = found.end()
    return True


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine with Nomad's package, and without Milo."""
    if reason := missing() or missing_network():
        pytest.skip(reason)
    with ExitStack() as stack:
        base = Path("/tmp") / f"milo-steps-{os.getpid()}"
        base.mkdir()
        stack.callback(shutil.rmtree, base, ignore_errors=True)
        # Upper layers cannot lie on every file system, but on this one.
        subprocess.run(["mount", "-t", "tmpfs", "none", base], check=True)
        stack.callback(lambda: subprocess.run(["umount", "--lazy", base], check=False))
        script = HOLDER.format(base=base, changed=" ".join(CHANGED))
        holder = stack.enter_context(
            subprocess.Popen(
                ["unshare", "-m", "-n", "--propagation", "private", "sh", "-ec", script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        assert holder.stdin is not None and holder.stdout is not None
        stack.callback(holder.stdin.close)
        if holder.stdout.readline() != b"ready\n":
            pytest.skip("no overlay file systems can be mounted here")
        one = Machine(base, holder)
        (base / "bin").mkdir()
        for name, text in (("sudo", SUDO), ("apt-get", APT_GET)):
            (base / "bin" / name).write_text(text)
            (base / "bin" / name).chmod(0o755)
        nomad = shutil.which(os.environ.get("NOMAD_BIN") or "nomad")
        assert nomad is not None
        (base / "bin/nomad").symlink_to(nomad)
        (base / "bin/systemctl").write_text('#!/bin/sh\ntest "$*" = "restart nomad"\n')
        (base / "bin/systemctl").chmod(0o755)
        for path, text in (
            ("nomad.d/nomad.hcl", AGENT),
            ("nomad.d/here.hcl", HERE),
            ("systemd/system/nomad.service", UNIT),
        ):
            one.run(f"mkdir -p /etc/{Path(path).parent}", base)
            (base / "text").write_text(text)
            one.run(f"cp {base}/text /etc/{path}", base)
        try:
            yield one
        finally:
            for process in one.terminals:
                process.terminate()
                process.wait(scaled(30))
            one.end_agent()
            leftovers.kill(base)


def steps(page: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield each command of a page with its section and the output that the page shows."""
    section, pending = "", ""
    text = (pages.DOCS / page).read_text()
    for match in re.finditer(
        r"^## ([^\n]*)$|^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
    ):
        title, kind, body = match.groups()
        if kind == "text":
            yield section, pending, body.splitlines()
            pending = ""
            continue
        if pending:
            yield section, pending, []
            pending = ""
        if title:
            section = title
        elif kind == "sh":
            pending = body.rstrip()
        elif kind == "hcl":
            yield section, "", body.splitlines()
    if pending:
        yield section, pending, []


def install(machine: Machine) -> None:
    """Follow the page until Milo is installed."""
    client = machine.base / "client"
    client.mkdir()
    for section, command, shown in steps("install.md"):
        if section == "Remove it":
            return
        if section.startswith("2.") and not (client / "milo").exists():
            shutil.copy(ROOT / "dist/milo", client)
        if not command:
            (machine.base / "text").write_text("\n".join(shown) + "\n")
            machine.run(f"cp {machine.base}/text /etc/nomad.d/milo.hcl", client)
            continue
        directory = ROOT if command.startswith("./dev") else client
        for line in command.splitlines():
            if line == "sudo systemctl restart nomad":
                machine.restart_agent()
            machine.follow(line, shown, directory)


@pytest.mark.timeout(1200)
def test_the_first_steps(machine: Machine) -> None:
    """Each command of both pages works as it stands there, and shows what the page shows."""
    place = machine.base / "place"
    place.mkdir()
    machine.run("command -v milo && exit 1 || true", place)
    installed = False
    for section, command, shown in steps("start.md"):
        if section == "Run a job on your own agent" and not installed:
            install(machine)
            installed = True
        if command == "sudo milo doctor":
            # Its status tells of faults until Milo is installed; that page has it again.
            assert "crun" in machine.run(f"{command} || true", place)
            continue
        in_checkout = command.startswith("./dev") or "$PWD" in command
        machine.follow(command, shown, ROOT if in_checkout else place)
    assert installed
    removed = [step for step in steps("install.md") if step[0] == "Remove it"]
    for _, command, _ in removed:
        text = machine.run(command, place)
        assert "Milo's self-contained executable" in text
    machine.run("test ! -e /opt/nomad/plugins/milo", place)
