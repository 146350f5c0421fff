"""The plugin, with a clock at each step of its event loop: while one runs, no RPC is answered.

`make` writes a launcher for it, with a file, whose lines are JSON: when each step that was longer
than `LONG_S` ended (time.monotonic()), its seconds, those of it that this process had a processor
(cpu_s), the task's name, and where the code was in it.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TextIO

import attrs
import trio

ROOT: Final = Path(__file__).parents[2]
LONG_S: Final = 0.005
LOOK_S: Final = 0.002
"""How often it is looked where the code is."""
FRAMES: Final = 6


@attrs.frozen
class Step:
    """One step of the event loop that was long."""

    ended_at_s: float
    seconds: float
    cpu_s: float
    name: str
    where: list[str]


class Clock(trio.abc.Instrument):
    """Writes down the long steps, and where they were; a thread of its own looks."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._loop = threading.get_ident()
        self._began_s = self._cpu_s = 0.0
        self._where: list[str] = []
        threading.Thread(target=self._look, daemon=True).start()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Trio is about to run one."""
        self._where = []
        self._cpu_s = time.thread_time()
        self._began_s = time.monotonic()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Trio has run it."""
        now_s = time.monotonic()
        seconds = now_s - self._began_s
        self._began_s = 0.0
        if seconds >= LONG_S:
            cpu_s = time.thread_time() - self._cpu_s
            step = Step(now_s, seconds, cpu_s, task.name, self._where)
            self._file.write(json.dumps(attrs.asdict(step)) + "\n")

    def _look(self) -> None:
        while True:
            time.sleep(LOOK_S)
            if self._began_s and time.monotonic() - self._began_s > LOOK_S:
                frames = traceback.extract_stack(sys._current_frames()[self._loop])
                where = " < ".join(
                    f"{Path(frame.filename).stem}.{frame.name}:{frame.lineno}"
                    for frame in reversed(frames[-FRAMES:])
                )
                self._where = [*self._where[-9:], where]


def make(directory: Path, steps: Path) -> Path:
    """Write a launcher into ``directory`` whose plugin writes its long steps to ``steps``."""
    directory.mkdir()
    launcher = directory / "milo"
    launcher.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        f"sys.argv[1:] = [{str(steps)!r}]\nfrom tests.bench.stepped_plugin import main\nmain()\n"
    )
    launcher.chmod(0o755)
    return launcher


def read(steps: Path) -> list[Step]:
    """Return what a plugin has written so far, or at all."""
    text = steps.read_text() if steps.exists() else ""
    return [Step(**json.loads(line)) for line in text.splitlines()]


def longest(steps: Sequence[Step], began_s: float, ended_s: float) -> Step | None:
    """Return the step that used a processor longest, of those that ended between two moments."""
    found = [step for step in steps if began_s <= step.ended_at_s <= ended_s]
    return max(found, key=lambda step: step.cpu_s, default=None)


def main() -> None:
    """Be the plugin."""
    from milo.plugin.main import run_plugin
    from milo.spawner_process import SpawnerProcess, fork_spawner

    file = Path(sys.argv[1]).open("a", buffering=1)  # noqa: SIM115 - until the process ends

    def fork() -> SpawnerProcess:
        spawner = fork_spawner()
        # In the driver alone; this thread is the one that runs the loop.
        changed: Any = partial(trio.run, instruments=[Clock(file)])
        trio.run = changed
        return spawner

    run_plugin(fork)


if __name__ == "__main__":
    main()
