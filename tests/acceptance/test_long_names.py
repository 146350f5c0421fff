"""Tasks whose names are as long as Nomad takes them."""

from __future__ import annotations

from tests.support.agent import agent
from tests.support.jobs import job_file
from tests.support.leftovers import cgroups
from tests.support.waiting import wait_for

NAME = "n" * 219
"""With one more Nomad's own directories of the allocation pass the 255 bytes of a name."""


def test_longest_name_of_a_task(jar_url: str) -> None:
    """It starts, logs, takes commands, dumps its heap and ends, and leaves nothing behind."""
    # An agent of its own: Nomad cannot remove all that it has made for such a task.
    with agent("long-names") as one:
        text = job_file(
            config={"args": [], "heap_dump_on_oom": True}, artifact=f"{jar_url}/hog.jar"
        )
        job = one.nomad.run(text.replace('task "app"', f'task "{NAME}"'))
        job.wait_state("dead")
        assert job.exit_code() == 1, job.events()
        assert "java.lang.OutOfMemoryError" in job.logs("-stderr").decode()
        job.wait_event("heap dump of")
        ended = job.allocation()
        text = job_file(kind="service", artifact=f"{jar_url}/stubborn.jar")
        job = one.nomad.run(text.replace('task "app"', f'task "{NAME}"'))
        job.wait_logs("running")
        running = job.allocation()
        words = (
            "alloc",
            "exec",
            "-t=false",
            "-task",
            NAME,
            running,
            "sh",
            "-c",
            "pwd; ls -d /local",
        )
        assert one.nomad.cli(*words).split()[-1] == "/local"
        job.stop()
        wait_for("its cgroups to go", lambda: not cgroups([ended, running]), 30)
