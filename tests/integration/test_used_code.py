"""The list of what task processes run, which has its code placed together, against a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from milo.spawner import used_code
from tests.support.used_code import used

SHARE: Final = 0.95
"""So much of what runs must be in the list; what runs differs a little from one time to another."""
NEEDLESS: Final = 0.1
"""So much of the list may be what this task process had no use for, another Python's above all."""


async def test_the_list_is_of_what_a_task_process_runs(jar_dir: Path) -> None:
    """Else its memory grows again, unseen: python -m tests.support.used_code."""
    own, child = await used(jar_dir / "clock.jar")
    listed = set(used_code())
    lacking = sorted(set(own) - listed)
    assert len(lacking) <= (1 - SHARE) * len(own), lacking
    of_milo = [name for name in lacking if name.startswith("milo/")]
    assert len(of_milo) <= (1 - SHARE) * sum(name.startswith("milo/") for name in own), of_milo
    needless = sorted(listed - {*own, *child})
    assert len(needless) <= NEEDLESS * len(listed), needless
