"""Asks an ordinary user's systemd for a cgroup of this process's own, to make others in."""

from __future__ import annotations

import os
import subprocess
import time
from typing import Final

from milo import cgroup_files
from milo.host.programs import helper

TIMEOUT_S: Final = 2.0
"""It takes some 10 ms."""
PAUSE_S: Final = 0.002


def enter_scope() -> str:
    """Move this process to a transient scope, and return its cgroup; empty where there is none.

    That is a group that is delegated to this user. org.freedesktop.systemd1(5) has the call, and
    systemd's own busctl makes it: with no systemd, no bus or no busctl there is no scope.
    """
    if found := cgroup_files.delegated():  # by systemd-run --user --scope -p Delegate=yes
        return found
    busctl = helper("busctl", os.environ)
    if not busctl or not os.environ.get("XDG_RUNTIME_DIR") or not cgroup_files.is_v2():
        return ""
    pid = str(os.getpid())
    call = [
        *(busctl, "--user", "--quiet", f"--timeout={TIMEOUT_S:g}", "call"),
        *("org.freedesktop.systemd1", "/org/freedesktop/systemd1"),
        *("org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))"),
        *(f"milo-run-{pid}.scope", "fail", "4"),
        *("Description", "s", "milo run", "PIDs", "au", "1", pid, "Delegate", "b", "true"),
        *("CollectMode", "s", "inactive-or-failed", "0"),
    ]
    try:
        done = subprocess.run(
            call,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=2 * TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    deadline = time.monotonic() + TIMEOUT_S
    while done.returncode == 0 and time.monotonic() < deadline:
        if found := cgroup_files.delegated():  # systemd answers before it has moved the process
            return found
        time.sleep(PAUSE_S)
    return ""
