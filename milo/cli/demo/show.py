"""``milo demo``: a first job, on an agent that is there or on one for the time being."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import AsyncIterator
from typing import Final

import trio

from milo.cli.arguments import absolute
from milo.cli.demo import sample
from milo.cli.demo.dev_agent import DevAgent, require_agent, tell
from milo.cli.demo.front import work_behind
from milo.cli.output import say

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def demo(options: argparse.Namespace) -> int:
    """Serve the sample, or write it, or run it on an agent of its own; returns the exit status.

    Raises:
        ConfigError: the port is taken.
        DemoError: no agent can be started here, or it has failed.
        NewFileError: a file cannot be written.
    """
    if options.write:
        say(*(f"Wrote {path}" for path in sample.write(absolute(options.write))))
        return 0
    program = require_agent() if options.agent else ""
    # An agent, its driver and its tasks do not end by themselves when this process is killed.
    if program and (status := work_behind(_heeded())) is not None:
        return status
    with sample.serve(options.port, lambda name: tell(f"Fetched: {name}")) as url:
        trio.run(_until_asked, url, program)
    return 0


async def _until_asked(url: str, program: str) -> None:
    """Wait for a signal; until then run the job on an agent, if there is a ``program`` for it."""
    with trio.open_signal_receiver(*_heeded()) as signals:
        if not program:
            _explain(url)
            await anext(signals)
            return
        async with trio.open_nursery() as nursery:
            running = trio.CancelScope()
            nursery.start_soon(_heed, signals, running, nursery.cancel_scope)
            async with DevAgent(program) as agent:
                with running:
                    await agent.start()
                    await agent.run_job(url)
            nursery.cancel_scope.cancel()


def _heeded() -> list[signal.Signals]:
    # One that the caller ignores, as nohup does, stays ignored.
    return [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]


async def _heed(
    signals: AsyncIterator[int], first: trio.CancelScope, second: trio.CancelScope
) -> None:
    """Cancel what the first signal ends, and then what the second one does."""
    await anext(signals)
    first.cancel()
    tell("", "Ending what was started; a second Ctrl-C does not wait")
    await anext(signals)
    second.cancel()


def _explain(url: str) -> None:
    run, follow, stop = sample.commands(url)
    say(
        f"The sample JAR is served until Ctrl-C, and so is its job file, {url}/{sample.JOB_NAME}:",
        "",
        *sample.job_text(url).rstrip().split("\n"),
        "",
        "In another terminal, with an agent on this machine that has Milo:",
        "",
        *(f"    {command}" for command in (run, follow, stop)),
        "",
        "Without such an agent: sudo milo demo --agent",
    )
    sys.stdout.flush()
