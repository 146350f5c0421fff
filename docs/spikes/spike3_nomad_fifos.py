"""Spike 3: how Nomad creates and reads its log FIFOs, watched on a real agent.

Run as root from the project's directory: ``.venv/bin/python docs/spikes/spike3_nomad_fifos.py``.
It starts an agent of its own (non-dev, so that it can be started again), runs raw_exec
tasks, and prints one line for each thing measured. No part of Milo is used.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support import private_mounts
from tests.support.agent import Agent, agent
from tests.support.jobs import job_file
from tests.support.nomad import Job
from tests.support.waiting import wait_for


def say(what: str, value: object) -> None:
    """Print one measurement."""
    print(f"{what}: {value}", flush=True)


def shell(script: str, **options: object) -> str:
    """Return a job file that runs a shell script without isolation."""
    config = {"command": "/bin/sh", "args": ["-c", script]}
    return job_file(driver="raw_exec", config=config, **options)  # type: ignore[arg-type]


def log_dir(one: Agent, job: Job) -> Path:
    """Return the host's directory with the allocation's logs and FIFOs."""
    return one.base / "data/alloc" / job.allocation() / "alloc/logs"


def logmons(one: Agent) -> list[int]:
    """Return the ids of the running log collectors below this agent's directories."""
    found = []
    for directory in Path("/proc").iterdir():
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
            mine = str(one.base).encode() in (directory / "environ").read_bytes()
        except OSError:
            continue
        if mine and words[1:2] == [b"logmon"]:
            found.append(int(directory.name))
    return found


def open_files(pid: int, suffix: str) -> list[str]:
    """Return descriptor, flags and name of a process's open files that end in ``suffix``."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        target = os.readlink(link)
        if target.endswith(suffix):
            info = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text()
            flags = int(info.split("flags:")[1].split()[0], 8)
            words = ["O_NONBLOCK"] if flags & os.O_NONBLOCK else ["blocking"]
            words.append({0: "O_RDONLY", 1: "O_WRONLY", 2: "O_RDWR"}[flags & 3])
            found.append(f"{Path(target).name} fd {link.name} {' '.join(words)}")
    return sorted(found)


def try_open(path: Path) -> int | str:
    """Open a FIFO as Milo does; return the descriptor or the error's name."""
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def try_write(descriptor: int, text: str) -> str:
    """Write, and return the number of bytes or the error's name."""
    try:
        return str(os.write(descriptor, text.encode()))
    except OSError as error:
        return errno.errorcode[error.errno or 0]


@contextmanager
def slow_server() -> Iterator[tuple[str, threading.Event]]:
    """Serve one artifact that is answered only when the event is set."""
    gate = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            gate.wait(30)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/file", gate
    finally:
        gate.set()
        server.shutdown()


def before_start(one: Agent) -> None:
    """What there is while the task is still being prepared."""
    with slow_server() as (url, gate):
        job = one.nomad.run(
            shell("echo first; echo error >&2; sleep 600", artifact=url, kind="service")
        )
        job.wait_event("Downloading Artifacts")
        fifos = sorted(log_dir(one, job).glob(".*.fifo"))
        for fifo in fifos:
            info = fifo.lstat()
            say(
                f"before the start: {fifo.name}",
                f"fifo={stat.S_ISFIFO(info.st_mode)} mode={stat.S_IMODE(info.st_mode):o} "
                f"uid={info.st_uid} directory mode={stat.S_IMODE(fifo.parent.stat().st_mode):o}",
            )
        [pid] = logmons(one)
        say("before the start: logmon holds", open_files(pid, ".fifo") or "no FIFO: its open waits")
        say("before the start: opening for writing gives", try_open_and_close(fifos[0]))
        gate.set()
    job.wait_logs("first")
    time.sleep(1)
    say("running: logmon holds", open_files(pid, ".fifo"))
    say(
        "running: stdout is logged, stderr (opened and closed once before the start) is",
        job.logs("-stderr") or "not, without any sign of it",
    )
    job.stop()
    say("after the stop: FIFOs left", [path.name for path in log_dir(one, job).glob(".*.fifo")])
    say("after the stop: logmons left", len(logmons(one)))


def try_open_and_close(path: Path) -> str:
    """Open for writing and close at once: the reader sees an end of file."""
    got = try_open(path)
    if isinstance(got, int):
        os.close(got)
        return "a descriptor"
    return got


def latency(one: Agent) -> None:
    """From a write into the FIFO to the bytes in the log file."""
    job = one.nomad.run(shell("sleep 600", kind="service"))
    job.wait_state("running")
    directory = log_dir(one, job)
    writer = try_open(directory / ".app.stdout.fifo")
    assert isinstance(writer, int)
    file = directory / "app.stdout.0"
    delays = []
    size = file.stat().st_size
    for number in range(300):
        line = f"line {number}\n"
        size += len(line)
        start = time.perf_counter()
        os.write(writer, line.encode())
        while file.stat().st_size < size:
            pass
        delays.append((time.perf_counter() - start) * 1000)
    cuts = statistics.quantiles(delays, n=100)
    say("write to log file, ms", f"p50 {cuts[49]:.2f} p90 {cuts[89]:.2f} max {max(delays):.2f}")
    chunk = b"x" * 4095 + b"\n"
    start = time.perf_counter()
    os.set_blocking(writer, True)
    for _ in range(16 * 1024):
        os.write(writer, chunk)
    say("64 MiB in 4 KiB writes, MB/s", f"{64 * 1.048576 / (time.perf_counter() - start):.0f}")
    os.close(writer)
    job.stop()


def early_end_of_file(one: Agent) -> None:
    """Between two runs of a task nobody writes: who reads what comes then?"""
    job = one.nomad.run(shell("echo run; sleep 1; exit 1", attempts=1).replace('"1s"', '"6s"'))
    job.wait_event("Restarting")
    fifo = log_dir(one, job) / ".app.stdout.fifo"
    inode = fifo.stat().st_ino
    [pid] = logmons(one)
    say("after the end of file: logmon holds", open_files(pid, ".fifo"))
    writer = try_open(fifo)
    say(
        "after the end of file: opening for writing gives",
        writer if isinstance(writer, str) else "a descriptor",
    )
    if isinstance(writer, int):
        say("after the end of file: writing gives", try_write(writer, "between\n"))
        time.sleep(2)
        say("after the end of file: 2 s later the log has it", b"between" in job.logs())
        os.close(writer)
    wait_for("the second run", lambda: job.logs().count(b"run") > 1, 30)
    say("after the restart: the log has it", b"between" in job.logs())
    say(
        "after the restart: same FIFO, same logmon",
        (fifo.stat().st_ino == inode, logmons(one) == [pid]),
    )
    job.wait_state("dead")


def one_stream_ends(one: Agent) -> None:
    """Only stdout sees an end of file, then the task is started again."""
    job = one.nomad.run(shell("sleep 600", kind="service", attempts=2))
    job.wait_state("running")
    fifo = log_dir(one, job) / ".app.stderr.fifo"
    keeper = try_open(fifo)
    assert isinstance(keeper, int)
    start = time.monotonic()
    one.nomad.cli("alloc", "restart", job.allocation())
    wait_for("the restart", lambda: sum("Started" in e for e in job.events()) > 1, 60)
    say(
        "restart while someone keeps stderr open, s",
        f"{time.monotonic() - start:.1f}; logmon holds {open_files(logmons(one)[0], '.fifo')}",
    )
    os.close(keeper)
    job.stop()


def logmon_dies(one: Agent) -> None:
    """The collector is killed while the task runs; then the agent is started again."""
    job = one.nomad.run(shell("sleep 600", kind="service"))
    job.wait_state("running")
    fifo = log_dir(one, job) / ".app.stdout.fifo"
    inode = fifo.stat().st_ino
    writer = try_open(fifo)
    assert isinstance(writer, int)
    [pid] = logmons(one)
    os.kill(pid, signal.SIGKILL)
    wait_for("logmon to be gone", lambda: pid not in logmons(one))
    say("logmon killed: writing gives", try_write(writer, "lost?\n"))
    say("logmon killed: opening for writing gives", try_open_and_close(fifo))
    time.sleep(10)
    say("logmon killed: 10 s later there are logmons", len(logmons(one)))
    say("logmon killed: the task is", job.task()["State"])
    one.stop()
    one.start()
    wait_for("a new logmon", lambda: logmons(one), 20)
    say("agent restarted: same FIFO", fifo.stat().st_ino == inode)
    wait_for("a reader", lambda: try_write(writer, "again\n") == "6", 20)
    job.wait_logs("again")
    say("agent restarted: what the kept descriptor writes is collected", True)
    [pid] = logmons(one)
    one.kill()
    say("agent killed: logmon lives", logmons(one) == [pid])
    say("agent killed: writing gives", try_write(writer, "meanwhile\n"))
    one.start()
    job.wait_logs("meanwhile")
    say("agent killed and restarted: logged; same logmon", logmons(one) == [pid])
    os.close(writer)
    job.stop()


def disabled(one: Agent) -> None:
    """The job switches log collection off."""
    job = one.nomad.run(
        shell(
            "readlink /proc/$$/fd/2 >$NOMAD_TASK_DIR/out; sleep 600",
            kind="service",
            task="logs {\ndisabled = true\n}",
        )
    )
    job.wait_state("running")
    out = one.base / "data/alloc" / job.allocation() / "app/local/out"
    wait_for("the task's answer", lambda: out.exists() and out.read_text())
    say("logs disabled: the task's stderr is", out.read_text().strip())
    say("logs disabled: logmons", len(logmons(one)))
    job.stop()


def main() -> None:
    """Run every experiment on one agent."""
    private_mounts.enter_if_hybrid()
    with agent("spike3", dev=False, stub=True, strict=False) as one:
        version = subprocess.run([one.nomad.binary, "version"], capture_output=True, text=True)
        say("nomad", version.stdout.split("\n")[0])
        say("kernel", os.uname().release)
        for experiment in (
            before_start,
            latency,
            early_end_of_file,
            one_stream_ends,
            logmon_dies,
            disabled,
        ):
            experiment(one)


if __name__ == "__main__":
    main()
