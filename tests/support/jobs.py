"""Job files for tests: one group, one task, never restarted unless a test says so."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

from tests.support.nomad import hcl

NEVER_AGAIN = "reschedule {\nattempts = 0\nunlimited = false\n}\n"
"""What `job_file` says of rescheduling; a task that is lost with its client is replaced without."""
_numbers = count(1)


def job_file(
    *,
    name: str = "",
    kind: str = "batch",
    driver: str = "milo",
    config: Mapping[str, object] | None = None,
    artifact: str = "",
    task: str = "",
    cpu: int = 100,
    memory: int = 128,
    attempts: int = 0,
    group: str = "",
) -> str:
    """Return a job file's text. Each has a ``name`` of its own unless one is given.

    ``config`` defaults to ``args = []``: Nomad refuses a task whose block is empty. ``task``
    and ``group`` are more text for those blocks, ``attempts`` how often a failed task is
    restarted.
    """
    lines = [f'job "{name or f"test-{next(_numbers)}"}" {{', f'type = "{kind}"', 'group "g" {']
    lines += [f'restart {{\nattempts = {attempts}\ndelay = "1s"\nmode = "fail"\n}}']
    lines += [NEVER_AGAIN.rstrip()]
    lines += [group, 'task "app" {', f'driver = "{driver}"', "config {"]
    lines += [f"{key} = {hcl(value)}" for key, value in (config or {"args": []}).items()]
    lines += ["}", f"resources {{\ncpu = {cpu}\nmemory = {memory}\n}}"]
    if artifact:
        lines += [f'artifact {{\nsource = "{artifact}"\n}}']
    lines += [task, "}", "}", "}"]
    return "\n".join(lines) + "\n"


def shell_job(url: str, name: str, script: str, **options: object) -> str:
    """Return a job file that runs ``script`` in a shell, by a JVM."""
    return job_file(
        name=name,
        config={"args": [script]},
        artifact=f"{url}/shell.jar",
        memory=64,
        cpu=50,
        **options,  # type: ignore[arg-type]
    )
