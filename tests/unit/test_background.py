"""When `milo run -d` says that the application runs."""

from __future__ import annotations

import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from milo.cli import run as runner
from milo.cli.caller import Caller
from milo.cli.jvm_tools import Recording
from milo.core import control
from milo.core.records import ProcessId
from tests.support.waiting import scaled, wait_for


class Background:
    """`milo.cli.background.Background`, which has told nobody."""

    told = ""

    def tell_start(self, name: str) -> None:
        self.told = name


@pytest.mark.parametrize("late_s", [0.1, 4.0])
async def test_it_is_said_once_the_jvm_has_made_its_heap(
    autojump_clock: trio.testing.MockClock, late_s: float
) -> None:
    """On a busy host that is late; until then an option may end it that the JVM does not know."""
    background: Any = Background()
    options = Namespace(name="web", debug="", jmx="", verbose=False, spell=str)
    run = runner._Run(options, [], {}, Caller("/x"), "crun", background, Recording(""), None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run._tell_start)
        await trio.sleep(1)
        run._observe(control.Started(ProcessId(1, 1), "c", "", 0.0))
        await trio.sleep(late_s)
        assert background.told == ""
        run._observe(control.Event("Runs on Java 25", 0.0))
        await trio.sleep(0.5)
        assert background.told == "web"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_ends_the_command_ends_the_run(number: signal.Signals) -> None:
    """Until it is told its name, nobody could stop it."""
    script = (
        "import os, sys, time\n"
        "from milo.cli.background import Background\n"
        "background = Background.fork()\n"
        "if background.is_parent:\n"
        "    sys.exit(background.wait())\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        wait_for("its wait", lambda: "pipe" in Path(f"/proc/{process.pid}/wchan").read_text())
        process.send_signal(number)
        assert process.wait(scaled(20)) in (128 + number, -number)
        assert not Path(f"/proc/{child}").exists()
