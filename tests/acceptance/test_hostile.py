"""Tasks that attack, beside one that behaves: it loses neither a line nor its JVM."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import RunJar
from tests.support.agent import Agent
from tests.support.hostile import Canary
from tests.support.jobs import job_file
from tests.support.nomad import Job, Nomad
from tests.support.waiting import wait_for

MIB = 1024 * 1024

FORK_BOMB = "trap '' TERM INT; b() { b | b & sleep 4102; }; (while :; do b; done) & exec sleep 4102"
FLOOD = "head -c 100000000 /dev/zero | tr '\\0' x & head -c 100000000 /dev/zero | tr '\\0' y; wait"
FILL = "cat /dev/zero >/dev/shm/fill; i=0; while [ $i -lt 300 ]; do i=$((i+1)); mkdir /tmp/$i; done"
PLANT = """
for d in /local /secrets /tmp /alloc/data /alloc/tmp /task; do
  cd $d
  for f in *; do mv "$f" "away-$f"; done
  for f in shell.jar hsperfdata_nobody passwd data; do ln -s CANARY/local/hello.jar $f; done
done
for n in alloc dev local private proc secrets tmp; do
  rmdir /task/$n; ln -sT CANARY /task/$n && echo PLANTED $n
done
cd /alloc/logs
rm .app.stdout.fifo .app.stderr.fifo
ln -s CANARY/secret .app.stdout.fifo
ln -s CANARY/secret .app.stderr.fifo
exit 3
"""

PLANT_AND_PRINT = """
cd /alloc/logs || exit 1
ln -s {canary}/secret app.stdout.1; ln -s {canary}/new app.stdout.2
head -c 3500000 /dev/zero | tr '\\0' '#'
"""
EXCHANGE_DIRECTORY = """
mv /alloc/logs /alloc/away || exit 1; ln -s {canary} /alloc/logs
head -c 3500000 /dev/zero | tr '\\0' '#'
"""
APPEND_AT_RESTART = """
if [ -e /alloc/data/again ]; then echo owned; sleep 1; exit 0; fi
touch /alloc/data/again
rm -f /alloc/logs/app.stdout.0; ln -s {canary}/secret /alloc/logs/app.stdout.0
exit 1
"""


@pytest.fixture
def clock(run_jar: RunJar) -> Iterator[Job]:
    """A task that prints a numbered line every 20 ms; afterwards none of them is missing."""
    job = run_jar("clock.jar", args=["20", "0"], kind="service")
    job.wait_logs("tick 10 ")
    yield job
    behaves(job)


def behaves(clock: Job) -> int:
    """See that the clock's JVM has never been another, and all its lines came; return how many."""
    state = clock.task()
    assert (state["State"], state["Restarts"], state["Failed"]) == ("running", 0, False)
    lines = clock.logs().decode().splitlines()
    ticks = [int(text.split()[1]) for text in lines[:-1] if text.startswith("tick ")]
    assert ticks == list(range(ticks[0], ticks[0] + len(ticks)))
    return len(ticks)


def goes_on(clock: Job) -> None:
    """Return once the clock has printed more than it has now."""
    before = behaves(clock)
    wait_for("the clock to go on", lambda: behaves(clock) > before + 10)


def test_forks_output_memory_and_disk(
    clock: Job, run_jar: RunJar, nomad: Nomad, jar_url: str
) -> None:
    """Bombs of all kinds at once end as they should, and the clock ticks on."""
    forks = nomad.run(
        job_file(
            artifact=f"{jar_url}/shell.jar",
            config={"args": [FORK_BOMB], "pids_limit": 64},
            kind="service",
            memory=256,
        )
    )
    flood = run_jar("shell.jar", args=[FLOOD], task="logs {\nmax_files = 2\nmax_file_size = 5\n}")
    memory = run_jar("hog.jar", memory=128, jvm_options=["-Xmx2g"])
    fill = run_jar("shell.jar", args=[FILL], memory=256)
    flood.wait_state("dead")
    assert flood.exit_code() == 0, flood.events()
    memory.wait_state("dead")
    memory.wait_event("memory limit")
    fill.wait_state("dead")
    fill.wait_logs("No space left on device", "-stderr")
    forks.wait_logs("ork", "-stderr")  # "Cannot fork", in the shell's words
    goes_on(clock)
    forks.stop()
    goes_on(clock)


def test_planted_symlinks(clock: Job, run_jar: RunJar, jar_dir: Path, dev_agent: Agent) -> None:
    """Symlinks in all that a task can write lead nowhere when it starts again with them."""
    canary = Canary(dev_agent.base / "canary", jar_dir / "hello.jar")
    script = PLANT.replace("CANARY", str(canary.top))
    job = run_jar("shell.jar", args=[script], attempts=1)
    job.wait_state("dead")
    assert job.task()["Restarts"] == 1, job.events()
    goes_on(clock)
    directory = dev_agent.base / "data/alloc" / job.allocation()
    dev_agent.note_allocations()
    job.nomad.cli("job", "stop", "-purge", "-detach", job.id)
    job.nomad.collect(lambda: [directory.name] * directory.exists())
    goes_on(clock)
    assert not canary.touched()


@pytest.mark.parametrize(
    "script",
    [PLANT_AND_PRINT, EXCHANGE_DIRECTORY, APPEND_AT_RESTART],
    ids=["rotate", "directory", "restart"],
)
def test_symlinks_beside_the_log(run_jar: RunJar, dev_agent: Agent, script: str) -> None:
    """No byte of a task's output reaches a file outside of its allocation.

    Nomad's log collector, which is root, follows symlinks that lie where it opens its files.
    """
    top = dev_agent.base / f"canary-{time.monotonic_ns()}"
    top.mkdir(mode=0o755)
    secret = top / "secret"
    secret.write_text("root's\n")
    secret.chmod(0o600)
    job = run_jar(
        "shell.jar",
        args=[f"{script.format(canary=top)}\necho the end"],
        memory=256,
        attempts=1,
        task="logs {\nmax_files = 5\nmax_file_size = 1\n}",
    )
    job.wait_state("dead")
    assert secret.read_text() == "root's\n"
    assert [path.name for path in top.iterdir()] == ["secret"]
