"""A Nomad agent for the time of ``milo demo``: everything of it is in one temporary directory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from functools import partial
from typing import Final, Self

import trio

from milo import namespaces, proc
from milo.cli import gc
from milo.cli.demo import sample
from milo.cli.doctor.agent_api import ask
from milo.cli.executable import write_executable
from milo.cli.output import OutputError, say
from milo.cli.run_place import remove_directory
from milo.errors import MiloError
from milo.host import state_dirs
from milo.host.leftovers.traces import mounts_below
from milo.host.programs import trusted_program
from milo.host.tasks import list_tasks

USUAL_PORTS: Final = (4646, 4647, 4648)
"""Of every Nomad agent: HTTP, RPC, serf. With these ``nomad`` finds it by itself."""
START_S: Final = 90.0
"""It takes 2 s on an idle machine; 30 s more when its first registration is refused."""
STOP_S: Final = 20.0
LAST_LINES_S: Final = 1.0
"""For Nomad to show the last lines of a log; it has them as soon as the task has ended."""
LEAVE_S: Final = 5.0
"""For the driver and its spawner, which end after the agent."""
POLL_S: Final = 0.2
TAIL_BYTES: Final = 2000
"""Of the agent's log, to be shown when it has failed."""

CONFIG: Final = """\
data_dir             = BASE/data
plugin_dir           = BASE/plugins
bind_addr            = "127.0.0.1"
disable_update_check = true

ports {
  http = HTTP
  rpc  = RPC
  serf = SERF
}

client {
  network_interface = "lo"

  options {
    # It is on no cloud that counts, and does not ask around.
    "fingerprint.denylist" = "env_aws,env_azure,env_digitalocean,env_gce,consul,vault"
  }
}

plugin "milo" {
  config {
    state_dir = BASE/state
  }
}
"""


class DemoError(MiloError):
    """The agent for the demo cannot be started, or did not do what it should."""

    def __init__(self, text: str) -> None:
        super().__init__(f"Error: {text}")


def require_agent() -> str:
    """Return the path of the program nomad.

    Raises:
        DemoError: no client can be started here.
    """
    program = shutil.which("nomad")
    if program is None:
        raise DemoError(
            "nomad is not on PATH. Install it, or leave out --agent and run the job on an agent "
            "that has Milo"
        )
    if os.geteuid() != 0:
        raise DemoError("a Nomad client with Milo needs root: sudo milo demo --agent")
    return trusted_program(os.path.abspath(program), os.environ)


class DevAgent:
    """One agent, which is ended with all that it has started."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._base = os.path.realpath(tempfile.mkdtemp(prefix="milo-demo-"))
        self._state = f"{self._base}/state"
        self._ports = _free_ports()
        self._address = f"http://127.0.0.1:{self._ports[0]}"
        self._process: subprocess.Popen[bytes] | None = None
        self._log: subprocess.Popen[bytes] | None = None
        self._url = ""
        # The caller's own agent, and the token for it, are not meant.
        for name in [name for name in os.environ if name.startswith("NOMAD_")]:
            del os.environ[name]
        os.environ["NOMAD_ADDR"] = self._address

    async def __aenter__(self) -> Self:
        # Whatever loses its parent becomes this process's child, and can be ended.
        proc.become_subreaper()
        return self

    async def start(self) -> None:
        """Start the agent, and wait until its node has the driver.

        Raises:
            DemoError: it ended, took too long, or its driver is not healthy.
        """
        os.mkdir(plugins := f"{self._base}/plugins")
        write_executable(f"{plugins}/milo")
        path = f"{self._base}/agent.hcl"
        with open(path, "w", encoding="utf-8") as file:
            file.write(_config(self._base, self._ports))
        tell(f"$ nomad agent -dev -config {path}")
        self._process = self._start(path)
        with trio.move_on_after(START_S):
            await self._ready()
            tell(f"Its address is {self._address}, and its files are in {self._base}", "")
            return
        raise DemoError(f"the agent was not ready in {START_S:g} s:\n{self._last_words()}")

    def _start(self, config: str) -> subprocess.Popen[bytes]:
        with open(f"{self._base}/agent.log", "wb") as log:
            return subprocess.Popen(
                [self._program, "agent", "-dev", f"-config={config}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._base,
                start_new_session=True,
                # It ends its job, too, when nobody is left to end it.
                preexec_fn=partial(proc.die_with, os.getpid(), signal.SIGINT),
            )

    async def _ready(self) -> None:
        assert self._process is not None
        while True:
            if (status := self._process.poll()) is not None:
                raise DemoError(f"the agent ended with {status}:\n{self._last_words()}")
            driver = (await ask(self._address)).driver or {}
            if driver.get("Detected"):
                break
            await trio.sleep(POLL_S)
        if not driver.get("Healthy"):
            raise DemoError(f"the driver cannot run tasks here: {driver.get('HealthDescription')}")

    def _last_words(self) -> str:
        with open(f"{self._base}/agent.log", "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            return log.read().decode(errors="replace").strip()

    async def run_job(self, url: str) -> None:
        """Run the job that is served below ``url``, and print its log until that ends.

        Raises:
            DemoError: Nomad did not run it.
        """
        self._url = url
        run, follow, _ = sample.commands(url)
        if await _ended(self._command(run)):
            raise DemoError("the job does not run; the lines above say why")
        self._log = self._command(follow)
        await _ended(self._log)

    def _command(self, words: str) -> subprocess.Popen[bytes]:
        tell(f"$ {words}")
        argv = [self._program, *words.split()[1:]]
        # Ctrl-C is this process's to see to.
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._end()
        finally:
            with trio.CancelScope(shield=True):
                await self._clean()

    async def _end(self) -> None:
        """End the job, its log and the agent, as an operator would."""
        if self._log is not None:
            with trio.move_on_after(STOP_S):
                await _ended(self._command(sample.commands(self._url)[2]))
                while any(task.exit is None for task in list_tasks([self._state])):  # noqa: ASYNC110
                    await trio.sleep(POLL_S)
                await trio.sleep(LAST_LINES_S)
            # Nomad goes on following the log of a task that has ended.
            self._log.send_signal(signal.SIGINT)
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            with trio.move_on_after(STOP_S):
                await _ended(self._process)

    async def _clean(self) -> None:
        """Kill what still runs, and remove every trace."""
        with trio.move_on_after(LEAVE_S):
            while _reap():  # noqa: ASYNC110
                await trio.sleep(POLL_S)
        if _kill_descendants():
            await gc.collect(self._state, remove=True)
        for point in mounts_below(self._base):
            with contextlib.suppress(OSError):
                namespaces.unmount(point)
        state_dirs.forget(self._state)
        if left := mounts_below(self._base):
            tell(f"Still mounted, and so {self._base} is not removed: {', '.join(left)}")
            return
        remove_directory(self._base)
        tell("Nothing of it is left.")


def _free_ports() -> list[int]:
    """Return the usual ports of an agent if all of them are free, else others."""
    for numbers in (USUAL_PORTS, (0, 0, 0)):
        with contextlib.suppress(OSError), contextlib.ExitStack() as held:
            made = [
                held.enter_context(socket.create_server(("127.0.0.1", number)))
                for number in numbers
            ]
            return [int(one.getsockname()[1]) for one in made]
    return list(USUAL_PORTS)


def _config(base: str, ports: list[int]) -> str:
    text = CONFIG
    for name in ("data", "plugins", "state"):
        text = text.replace(f"BASE/{name}", json.dumps(f"{base}/{name}"))
    for name, port in zip(("HTTP", "RPC", "SERF"), ports, strict=True):
        text = text.replace(name, str(port))
    return text


async def _ended(process: subprocess.Popen[bytes]) -> int:
    while (status := process.poll()) is None:  # noqa: ASYNC110
        await trio.sleep(POLL_S)
    return status


def _reap() -> list[int]:
    """Take the status of what has ended; return the processes that this one still has."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return proc.children(os.getpid())


def _kill_descendants() -> bool:
    """Kill whatever this process has started that still runs; return whether there was any."""
    found = False
    while children := _reap():
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        found = True
    return found


def tell(*lines: str) -> None:
    """Print lines at once; that nobody can read them, as after SIGHUP, changes nothing."""
    with contextlib.suppress(OutputError):
        say(*lines)
        sys.stdout.flush()
