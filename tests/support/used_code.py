"""Which of Python's functions a task process runs: ``python -m tests.support.used_code``.

As root, with crun and a JDK, it writes milo/task/used_code.txt anew: the functions that a task
process calls while its task starts and runs, in the order of their first calls, and then those that
only its children call. Names that this Python has no function of stay, at the end: others have.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import aclosing
from pathlib import Path
from types import CodeType, FrameType
from typing import Final, NoReturn

import pytest
import trio

from milo.spawner import USED_CODE, used_code
from milo.task.code_placement import all_code, all_functions, name_of
from tests.support import jars, spawners
from tests.support.driver_rig import open_rig

ROOT: Final = Path(__file__).parents[2]
PAUSE_MS: Final = "20"
LAST_LINE: Final = b"tick 9 "
"""Each line of the application's is a turn of a pump."""
STATISTICS: Final = 2


def note_in(path: str) -> None:
    """Let this process, which is to be a spawner, have its task processes note in ``path``."""
    from milo import spawner

    become = spawner._become_task_process

    def noting(*args: object) -> NoReturn:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        sys.setprofile(_noting(fd, os.getpid()))
        become(*args)  # type: ignore[arg-type]

    spawner._become_task_process = noting  # type: ignore[assignment]


def _noting(fd: int, own: int) -> Callable[[FrameType, str, object], None]:
    """Return what writes down each code that is called for a first time, a line each."""
    seen: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and (code := frame.f_code) not in seen:
            seen.add(code)
            try:
                os.write(
                    fd, f"{'own' if os.getpid() == own else 'child'} {name_of(code)}\n".encode()
                )
            except OSError:  # a child has closed it
                seen.discard(code)

    return note


async def used(jar: Path) -> tuple[list[str], list[str]]:
    """Run one task; return what its process has called, and what only its children have.

    ``jar`` is tests/jars/Clock.java's. Raises AssertionError as `open_rig` does.
    """
    with tempfile.TemporaryDirectory(prefix="milo-used-") as directory:
        path = f"{directory}/calls"
        hook = f"sys.path.insert(0, {str(ROOT)!r}); from tests.support import used_code"
        with pytest.MonkeyPatch.context() as patched:
            spawners.patch(patched, f"{hook}; used_code.note_in({path!r})")
            async with open_rig() as rig:
                task = rig.task(jar, args=[PAUSE_MS])
                await rig.registry.start(task.request)
                await trio.to_thread.run_sync(task.out.wait_for, LAST_LINE)
                async with aclosing(rig.registry.stats(task.id, 0.1)) as figures:
                    for _ in range(STATISTICS):
                        await anext(figures)
                calls = Path(path).read_text()
    own, child = (list(dict.fromkeys(_names(calls, whose))) for whose in ("own ", "child "))
    of_own = set(own)
    return own, [name for name in child if name not in of_own]


def _names(calls: str, whose: str) -> Iterable[str]:
    for line in calls.splitlines():
        if line.startswith(whose) and "tests/support/" not in line:
            yield line.removeprefix(whose)


def main() -> None:
    """Write the list."""
    with tempfile.TemporaryDirectory() as directory:
        jars.build(Path(directory), [jars.SOURCES / "Clock.java"])
        own, child = trio.run(used, Path(directory) / "clock.jar")
    now = [*own, *child]
    here = {*now, *map(name_of, all_code(all_functions()))}
    others = [name for name in used_code() if name not in here]
    Path(USED_CODE).write_text("".join(f"{name}\n" for name in (*now, *others)))
    print(f"{len(own)} of a task process, {len(child)} of its children, {len(others)} of others")


if __name__ == "__main__":
    main()
