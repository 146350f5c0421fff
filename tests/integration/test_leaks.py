"""After many tasks and many recoveries everything is what it was.

A short form runs by default; ``MILO_FULL=1`` (`nox -s leak`) runs 300 cycles and 50 recoveries.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.waiting import fail_after

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

FULL = bool(os.environ.get("MILO_FULL"))
CYCLES, RECOVERIES = (300, 50) if FULL else (40, 10)
MEMORY_BYTES = 2 << 20
TIMEOUT_S = 900 if FULL else 240


@pytest.mark.timeout(TIMEOUT_S + 60)
async def test_nothing_is_left_of_many_tasks(jar_dir: Path) -> None:
    """Descriptors, memory (within 2 MiB), processes, mounts, cgroups and files stay the same."""
    base = Path(tempfile.mkdtemp(prefix="milo-", dir="/tmp"))
    base.chmod(0o755)
    (base / "state").mkdir(mode=0o700)
    command = [sys.executable, "-m", "tests.support.leak_driver", str(base)]
    command += [str(jar_dir / "stubborn.jar"), str(CYCLES), str(RECOVERIES)]
    try:
        with fail_after(TIMEOUT_S):
            done = await trio.run_process(command, capture_stdout=True)
        report = json.loads(done.stdout)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    show(report)
    for what in ("cycles", "recoveries"):
        before, after = report[f"before_{what}"], report[f"after_{what}"]
        same(before.pop("driver"), after.pop("driver"), f"driver after {what}")
        spawner = before.pop("spawner"), after.pop("spawner")
        if what == "cycles":  # each driver of the recoveries has a spawner of its own
            same(*spawner, "spawner after cycles")
        assert before == after, what
        assert not after["processes"] and not after["mounts"] and not after["cgroups"]
        assert after["files"] in ([], ["exit.json"])
    same(report["task_process"]["before"], report["task_process"]["after"], "task process")


def same(before: dict[str, Any], after: dict[str, Any], who: str) -> None:
    """Fail unless a process has the same descriptors and about as much memory."""
    assert before["descriptors"] == after["descriptors"], who
    grown = after["rss_bytes"] - before["rss_bytes"]
    assert grown <= MEMORY_BYTES, f"{who}: {grown} bytes more resident"


def show(report: dict[str, Any]) -> None:
    """Print the figures."""
    for what in ("cycles", "recoveries"):
        print(f"{report[what]} {what} in {report[f'{what}_s']:.1f} s")
        for process in ("driver", "spawner"):
            before, after = (report[f"{when}_{what}"][process] for when in ("before", "after"))
            _line(process, before, after)
    _line("task process", report["task_process"]["before"], report["task_process"]["after"])


def _line(who: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    kib = after["rss_bytes"] >> 10, (after["rss_bytes"] - before["rss_bytes"]) >> 10
    fds = len(after["descriptors"]), len(after["descriptors"]) - len(before["descriptors"])
    print(f"  {who}: {kib[0]} KiB ({kib[1]:+} KiB), {fds[0]} descriptors ({fds[1]:+})")
