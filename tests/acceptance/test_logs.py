"""What a user reads in Nomad's logs."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial

import pytest

from tests.acceptance.conftest import RunJar
from tests.support.lines import Lines
from tests.support.nomad import Job, stdout_of
from tests.support.waiting import wait_for

LIVE_S = 1.0
"""From printing to the user's terminal. Nomad's own log follower adds up to about 0.3 s."""


def test_static_logs(run_jar: RunJar) -> None:
    """Acceptance 13: both streams of an ended task are shown by `nomad alloc logs`, in order."""
    job = run_jar("both.jar", args=["500"])
    job.wait_state("dead")
    job.wait_log(b"".join(b"out %d\n" % i for i in range(500)))
    job.wait_log(b"".join(b"err %d\n" % i for i in range(500)), "-stderr")


def test_static_logs_while_running(run_jar: RunJar) -> None:
    """Acceptance 13: what a running task has printed is shown without waiting for its end."""
    job = run_jar("stubborn.jar", kind="service")
    assert job.wait_logs("running\n") == "running\n"
    assert job.task()["State"] == "running"


def test_followed_logs_are_live(run_jar: RunJar) -> None:
    """Acceptance 14: with `-f` each line reaches the terminal soon after it was printed."""
    job = run_jar("clock.jar", args=["250"], kind="service")
    job.wait_logs("tick 0 ")
    with job.follow() as process:
        lines = Lines(stdout_of(process))
        first, _ = lines.wait_count(1)[0]
        # What was printed before the follower came is no measure of how live it is.
        lines.wait_count(len(job.logs().splitlines()) + 20)
    numbers = [int(line.split()[1]) for line in lines.text]
    assert numbers == list(range(len(numbers)))
    delays = [
        when - printed
        for when, line in lines.arrived
        if (printed := int(line.split()[2]) / 1000) > first
    ]
    assert max(delays) < LIVE_S, delays


@pytest.mark.parametrize("round_", range(8))
def test_last_words(run_jar: RunJar, round_: int) -> None:
    """Acceptance 16: what is printed in the last instant is there as soon as the task has ended."""
    job = run_jar("last-words.jar", args=["3000", "7"])
    job.wait_state("dead")
    assert job.exit_code() == 7
    job.wait_log(b"".join(b"last out %d\n" % i for i in range(3000)))
    job.wait_log(b"".join(b"last err %d\n" % i for i in range(3000)), "-stderr")


def test_logs_remain(run_jar: RunJar) -> None:
    """Acceptance 16: the logs of a completed task can still be read after its job was stopped."""
    job = run_jar("hello.jar")
    job.wait_state("dead")
    job.wait_log(b"Hello, world!\nGoodbye.\n")
    job.nomad.cli("job", "stop", "-detach", job.id)
    assert job.logs() == b"Hello, world!\nGoodbye.\n"


def test_concurrent_readers(run_jar: RunJar) -> None:
    """Acceptance 17: several readers at once, early and late, each see every line in order."""
    job = run_jar("clock.jar", args=["10", "600"])
    job.wait_state("running")
    with ExitStack() as stack:
        readers = []
        for delay_lines in (0, 0, 0, 100, 300):
            job.wait_logs(f"tick {delay_lines} ")
            process = stack.enter_context(job.follow())
            readers.append(Lines(stdout_of(process)))
        everything = [reader.wait_count(600, 60) for reader in readers]
    static = job.logs().decode().splitlines()
    for lines in everything:
        assert [line for _, line in lines] == static
    assert [int(line.split()[1]) for line in static] == list(range(600))


def test_rotation(run_jar: RunJar) -> None:
    """Acceptance 18: the job's `logs` block bounds number and size of the files kept."""
    lines = 5 * 1024
    job = run_jar(
        "rotator.jar",
        args=[str(lines)],
        kind="service",
        task="logs {\nmax_files = 2\nmax_file_size = 1\n}",
    )
    job.wait_logs("done", "-stderr")
    alloc = job.allocation()
    job.wait_logs(f"{lines - 1:08d}.")
    listed = job.nomad.get(f"/v1/client/fs/ls/{alloc}", path="/alloc/logs")
    files = [entry for entry in listed if entry["Name"].startswith("app.stdout.")]
    assert 1 <= len(files) <= 2, files
    assert all(entry["Size"] <= 1024 * 1024 for entry in files), files
    kept = job.logs().decode().splitlines()
    # What is kept is the newest, whole and in order.
    assert [int(line[:8]) for line in kept] == list(range(lines - len(kept), lines))
    assert all(len(line) == 1023 for line in kept)


def test_binary_output(run_jar: RunJar) -> None:
    """Every byte value a program writes arrives unchanged, on both streams."""
    job = run_jar("binary.jar", args=["64"])
    job.wait_state("dead")
    job.wait_log(bytes(range(256)) * 64)
    job.wait_log(bytes(reversed(range(256))) * 64, "-stderr")


def test_volume(run_jar: RunJar) -> None:
    """32 MiB on each stream at once pass through Nomad's collector; the newest are kept whole."""
    size = 32 * 1024 * 1024
    started = time.monotonic()
    job = run_jar(
        "volume.jar", args=[str(size)], task="logs {\nmax_files = 5\nmax_file_size = 10\n}"
    )
    job.wait_state("dead", 120)
    assert job.exit_code() == 0, f"after {time.monotonic() - started:.1f} s"
    for options, letter in (((), b"o"), (("-stderr",), b"e")):
        kept = wait_for("all of it", partial(_of_size, job, size, *options))
        numbers = [int(kept[start + 1 : start + 13]) for start in range(0, len(kept) - 100, 100)]
        assert numbers == list(range(len(numbers)))
        assert kept[0:1] == letter


def _of_size(job: Job, size: int, *options: str) -> bytes:
    """Return the log when it is as large as that, which is so a moment after the task's end."""
    kept = job.logs(*options)
    return kept if len(kept) == size else b""


def test_logs_disabled(run_jar: RunJar) -> None:
    """A task whose log collection is disabled runs and ends as any other."""
    job = run_jar("both.jar", args=["50"], task="logs {\ndisabled = true\n}")
    job.wait_state("dead")
    assert job.exit_code() == 0
