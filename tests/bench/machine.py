"""On what a benchmark was run: the machine, and the versions of what takes part."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import time
from pathlib import Path

import grpclib
import trio

import milo

ROOT = Path(__file__).parents[2]


def machine() -> dict[str, str]:
    """Return what stands at the head of the report, in its order."""
    return {
        "Date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Processors": f"{os.cpu_count()} of {_line('/proc/cpuinfo', 'model name')}",
        "Memory": f"{int(_line('/proc/meminfo', 'MemTotal').split()[0]) / 2**20:.0f} GiB",
        "Kernel": platform.release(),
        "System": _line("/etc/os-release", "PRETTY_NAME", "=").strip('"'),
        "cgroups": "v2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "v1",
        "Milo": f"{milo.__version__}, commit {_output(['git', 'rev-parse', '--short', 'HEAD'])}",
        "Python": platform.python_version(),
        "Trio": trio.__version__,
        "grpclib": grpclib.__version__,
        "crun": _output(["crun", "--version"]).splitlines()[0].removeprefix("crun version "),
    }


def load_average() -> float:
    """Return the mean number of processes that ran or waited to, in the last minute."""
    return os.getloadavg()[0]


def busy_share(seconds: float) -> float:
    """Return the share of all processors that is used in the next ``seconds``, this one waiting."""

    def times() -> tuple[int, int]:
        # Linux: proc_stat(5). The fields from the ninth on are in the first two already.
        counts = [int(text) for text in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        return sum(counts), counts[3] + counts[4]

    total, idle = times()
    time.sleep(seconds)
    total_then, idle_then = times()
    return 1 - (idle_then - idle) / max(total_then - total, 1)


def memory_file_system() -> Path:
    """Return a directory in memory for the state: /run, as by default, where it is one."""
    table = Path("/proc/self/mounts").read_text().splitlines()
    in_memory = {fields[1] for line in table if (fields := line.split())[2] == "tmpfs"}
    for path in ("/run", "/dev/shm"):
        if path in in_memory:
            return Path(path)
    return Path("/tmp")


def _line(path: str, key: str, separator: str = ":") -> str:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(separator)
        if name.strip() == key:
            return value.strip()
    return "unknown"


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
