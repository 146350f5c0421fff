"""Spike 1: how crun handles the standard streams of a container.

Runs real containers and prints what it measured, as lines of ``question: answer``. It needs
root and crun, and changes nothing that lasts. Run it with ``.venv/bin/python``.
The report is 1-crun-stdio.md.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from milo.core.container import crun as crun_args
from milo.core.container import spec
from milo.core.container.mounts import Bind
from tests.support import private_mounts

CRUN = shutil.which("crun") or "/usr/bin/crun"
ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
PR_SET_CHILD_SUBREAPER = 36
ROUNDS = 20


class Try:
    """One container with a pipe for each stream."""

    def __init__(self, base: str, name: str, args: tuple[str, ...]) -> None:
        self.name = f"spike1-{os.getpid()}-{name}"
        self.dir = f"{base}/{name}"
        self.log = f"{self.dir}/crun.log"
        self.pid_file = f"{self.dir}/pid"
        self.root = f"{base}/crun"
        os.makedirs(f"{self.dir}/bundle/rootfs/usr")
        for link in ("bin", "lib", "lib64", "sbin"):
            if os.path.islink(f"/{link}"):
                os.symlink(os.readlink(f"/{link}"), f"{self.dir}/bundle/rootfs/{link}")
        self.config = spec.build_spec(
            spec.ContainerPlan(
                rootfs=f"{self.dir}/bundle/rootfs",
                args=args,
                env={"PATH": "/usr/bin:/bin"},
                user=spec.User(65534, 65534),
                hostname="spike1",
                cgroup_path=f"/{self.name}",
                binds=(Bind("/usr", "/usr"),),
                nofile_limit=1024,
                nproc_limit=1024,
            )
        )
        self.out, self.out_write = os.pipe()
        self.err, self.err_write = os.pipe()
        self.pid = 0

    def create(self, env: dict[str, str] = ENV) -> int:
        """Run create with the pipes, then drop this process's write ends."""
        Path(f"{self.dir}/bundle/config.json").write_text(json.dumps(self.config))
        argv = crun_args.create_args(
            CRUN, self.name, f"{self.dir}/bundle", self.pid_file, self.log, self.root
        )
        code = subprocess.run(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=self.out_write, stderr=self.err_write
        ).returncode
        if code == 0:
            self.pid = int(Path(self.pid_file).read_text())
        return code

    def close_writers(self) -> None:
        """Leave the container as the only writer."""
        os.close(self.out_write)
        os.close(self.err_write)

    def start(self, env: dict[str, str] = ENV, timeout: float = 30) -> tuple[int, str]:
        """Run start; its own output is captured apart from the container's."""
        argv = crun_args.start_args(CRUN, self.name, self.log, self.root)
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=timeout)
        return done.returncode, (done.stdout + done.stderr).strip()

    def wait(self) -> str:
        """Return how the container's first process ended."""
        status = os.waitpid(self.pid, 0)[1]
        self.pid = 0
        if os.WIFSIGNALED(status):
            return f"signal {os.WTERMSIG(status)}"
        return f"exit code {os.WEXITSTATUS(status)}"

    def delete(self) -> None:
        """Remove it, whatever state it is in."""
        argv = crun_args.delete_args(CRUN, self.name, f"{self.log}.delete", self.root, force=True)
        subprocess.run(argv, env=ENV, capture_output=True)
        if self.pid:
            os.waitpid(self.pid, 0)
        os.close(self.out)
        os.close(self.err)

    def words(self) -> str:
        """Return what crun logged."""
        path = Path(self.log)
        return path.read_text().strip() if path.exists() else ""


def read_all(fd: int) -> bytes:
    """Read until end of file."""
    data = b""
    while chunk := os.read(fd, 65536):
        data += chunk
    return data


def tell(question: str, answer: object) -> None:
    """Print one measurement."""
    print(f"{question}: {answer}", flush=True)


@contextmanager
def container(base: str, name: str, *args: str) -> Iterator[Try]:
    """Make a `Try` and remove it."""
    item = Try(base, name, args)
    try:
        yield item
    finally:
        item.delete()


def holders(fd: int) -> list[str]:
    """Return the command of every process, other than this one, that has the pipe open."""
    target = os.readlink(f"/proc/self/fd/{fd}")
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            links = {
                os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")
            }
            if int(pid) != os.getpid() and target in links:
                found.append(Path(f"/proc/{pid}/comm").read_text().strip())
        except OSError:
            continue
    return found


def streams(base: str) -> None:
    """Ask what a container gets as its streams, and what crun adds to them."""
    script = (
        "echo to stdout; echo to stderr >&2;"
        "ls -l /proc/self/fd | sed 's/.* \\([0-9]* -> \\)/\\1/';"
        "echo again > /dev/stdout; id -u; stat -Lc 'pipe of uid %u' /proc/self/fd/1"
    )
    with container(base, "streams", "/bin/sh", "-c", script) as item:
        tell("create", f"exit code {item.create()}")
        item.close_writers()
        tell("processes with the container's stdout open after create", holders(item.out))
        ready = select.select([item.out, item.err], [], [], 0.2)[0]
        tell("bytes in either pipe before start", "some" if ready else "none")
        tell("start", item.start())
        tell("container's end", item.wait())
        tell("stdout pipe", repr(read_all(item.out)))
        tell("stderr pipe", repr(read_all(item.err)))
        tell("crun's log", repr(item.words()))


def failures(base: str) -> None:
    """Ask where crun's errors go."""
    with container(base, "missing", "/bin/no-such-program") as item:
        tell("create, program missing", f"exit code {item.create()}")
        item.close_writers()
        tell("  stdout pipe", repr(read_all(item.out)))
        tell("  stderr pipe", repr(read_all(item.err)))
        tell("  crun's log", repr(item.words()))
    with container(base, "source", "/bin/true") as item:
        item.config["mounts"][-1]["source"] = "/no/such/directory"
        tell("create, bind source missing", f"exit code {item.create()}")
        item.close_writers()
        tell("  stderr pipe", repr(read_all(item.err)))
        tell("  crun's log", repr(item.words()))
    with container(base, "script", "/local/app") as item:
        os.mkdir(f"{item.dir}/bundle/rootfs/local")
        program = Path(f"{item.dir}/bundle/rootfs/local/app")
        program.write_text("#!/no/such/interpreter\n")
        program.chmod(0o755)
        tell("create, interpreter missing", f"exit code {item.create()}")
        item.close_writers()
        tell("  start", item.start())
        tell("  container's end", item.wait())
        tell("  stderr pipe", repr(read_all(item.err)))
        tell("  crun's log", repr(item.words()))


def ends(base: str) -> None:
    """Ask how the end of the container and of its streams is seen."""
    for name, script in (("code", "exit 137"), ("signal", "kill -s KILL $$; sleep 9")):
        # The first process of a PID namespace ignores its own SIGKILL: kill from outside.
        args = ("/bin/sh", "-c", script if name == "code" else "sleep 60")
        with container(base, name, *args) as item:
            item.create()
            item.close_writers()
            item.start()
            if name == "signal":
                os.kill(item.pid, 9)
            tell(f"end by {name}", item.wait())
    script = "sleep 60 & sleep 60 >/dev/null 2>&1 & echo first process ends; exit 0"
    with container(base, "children", "/bin/sh", "-c", script) as item:
        item.create()
        item.close_writers()
        item.start()
        item.wait()
        begun = time.monotonic()
        read_all(item.out)
        tell(
            "end of file after the first process, children left",
            f"{time.monotonic() - begun:.3f} s",
        )
    with container(base, "closer", "/bin/sh", "-c", "exec 1>&-; sleep 60") as item:
        item.create()
        item.close_writers()
        item.start()
        read_all(item.out)
        tell("stdout closed by the application", "end of file while it runs")


def environment(base: str) -> None:
    """Ask what an inherited NOTIFY_SOCKET and OOM score do."""
    with container(base, "notify", "/bin/sleep", "60") as item:
        polluted = {**ENV, "NOTIFY_SOCKET": f"{base}/notify"}
        item.create(polluted)
        item.close_writers()
        try:
            tell("start with NOTIFY_SOCKET", item.start(polluted, timeout=5))
        except subprocess.TimeoutExpired:
            tell("start with NOTIFY_SOCKET", "no answer in 5 s")
    Path("/proc/self/oom_score_adj").write_text("300")
    with container(base, "oom", "/bin/cat", "/proc/self/oom_score_adj") as item:
        item.create()
        item.close_writers()
        item.start()
        tell(
            "oom_score_adj inside, 0 in the spec, 300 outside", read_all(item.out).decode().strip()
        )
    Path("/proc/self/oom_score_adj").write_text("0")


def times(base: str) -> None:
    """Measure each command."""
    taken: dict[str, list[float]] = {"create": [], "start": [], "delete": []}
    for number in range(ROUNDS):
        item = Try(base, f"time{number}", ("/bin/true",))
        marks = [time.monotonic()]
        item.create()
        item.close_writers()
        marks.append(time.monotonic())
        item.start()
        marks.append(time.monotonic())
        item.wait()
        begun = time.monotonic()
        item.delete()
        taken["create"].append(marks[1] - marks[0])
        taken["start"].append(marks[2] - marks[1])
        taken["delete"].append(time.monotonic() - begun)
    for name, values in taken.items():
        tell(
            f"{name}, {ROUNDS} times",
            f"median {statistics.median(values) * 1000:.1f} ms, most {max(values) * 1000:.1f} ms",
        )


def main() -> None:
    """Run everything in a private mount namespace, as a subreaper."""
    private_mounts.enter_if_hybrid()
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError("prctl")
    version = subprocess.run([CRUN, "--version"], capture_output=True, text=True).stdout
    tell("crun", version.splitlines()[0])
    tell("kernel", os.uname().release)
    base = tempfile.mkdtemp(prefix="milo-spike1-")
    try:
        for part in (streams, failures, ends, environment, times):
            part(base)
    finally:
        shutil.rmtree(base)


if __name__ == "__main__":
    main()
