"""What a command's server says before crun has anything to do."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from milo.core.records import ProcessId
from milo.errors import ControlError
from milo.proc import identify
from milo.process_signals import is_ending
from milo.task import exec_server
from tests.support.waiting import wait_for


def test_application_that_has_just_ended() -> None:
    """A process that nobody has reaped yet has no root directory: that is said of the task."""
    process = subprocess.Popen(["sleep", "infinity"])
    try:
        application = identify(process.pid)
        assert application is not None
        with pytest.raises(ControlError, match=r"/missing cannot be entered: it does not exist"):
            exec_server._work_dir(application, "/missing")
        os.kill(process.pid, signal.SIGKILL)
        wait_for("the end", lambda: is_ending(application) and not _has_root(application))
        with pytest.raises(ControlError, match=r"^Error: The task is not running"):
            exec_server._work_dir(application, "/tmp")
    finally:
        process.kill()
        process.wait()


def _has_root(process: ProcessId) -> bool:
    return os.path.exists(f"/proc/{process.pid}/root")
