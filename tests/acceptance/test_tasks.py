"""What a task gets, and how it is stopped."""

from __future__ import annotations

import time

import pytest

from tests.acceptance.conftest import RunJar
from tests.support.jobs import job_file
from tests.support.nomad import Job, Nomad
from tests.support.waiting import scaled, wait_for

MIB = 1024 * 1024


def probe(job: Job) -> dict[str, str]:
    """Return what probe.jar printed: the first value of each key."""
    job.wait_state("dead")
    assert job.exit_code() == 0, job.events()
    found: dict[str, str] = {}
    for line in job.logs().decode().splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key, value)
    return found


def test_empty_args_are_enough(run_jar: RunJar) -> None:
    """`config { args = [] }` with an artifact runs the one JAR that was downloaded."""
    job = run_jar("hello.jar")
    job.wait_state("dead")
    job.wait_log(b"Hello, world!\nGoodbye.\n")
    job.wait_event("Task completed successfully")


def test_interpolation(nomad: Nomad, jar_url: str) -> None:
    """Nomad's own variables work in jar_path, args and jvm_options."""
    job = nomad.run(
        job_file(
            artifact=f"{jar_url}/probe.jar",
            config={
                "jar_path": "${NOMAD_TASK_DIR}/probe.jar",
                "args": ["${NOMAD_TASK_DIR}", "${NOMAD_TASK_NAME}", "two words"],
                "jvm_options": ["-Dmilo.test=${NOMAD_ALLOC_ID}"],
            },
        )
    )
    seen = probe(job)
    assert [seen[f"arg.{n}"] for n in range(3)] == ["/local", "app", "two words"]
    assert seen["property"] == job.allocation()


def test_class_and_class_path(nomad: Nomad, jar_url: str) -> None:
    """`class` with `class_path` runs that class, as Nomad's java driver does."""
    job = nomad.run(
        job_file(
            artifact=f"{jar_url}/probe.jar",
            config={"class": "Probe", "class_path": "local/probe.jar", "args": ["one"]},
        )
    )
    assert probe(job)["arg.0"] == "one"


def test_limits_and_place(run_jar: RunJar) -> None:
    """The JVM sees the task's memory, Nomad's environment and nothing of the agent's."""
    seen = probe(run_jar("probe.jar", memory=256, task='env {\nGREETING = "hi"\n}'))
    assert int(seen["max_memory"]) <= 256 * MIB
    assert seen["env.GREETING"] == "hi"
    assert seen["env.NOMAD_TASK_DIR"] == "/local"
    assert seen["env.NOMAD_SECRETS_DIR"] == "/secrets"
    assert seen["env.NOMAD_ALLOC_DIR"] == "/alloc"
    assert seen["env.JAVA_HOME"] == seen["java.home"]
    assert "env.NOTIFY_SOCKET" not in seen
    assert not [key for key in seen if key.startswith("env.COVERAGE")]
    assert seen["oom_score_adj"] == "0"


def test_user(run_jar: RunJar) -> None:
    """Without a user in the job a task runs as nobody, with no capability."""
    job = run_jar("probe.jar")
    probe(job)
    status = dict(
        line.removeprefix("status ").split(":\t", 1)
        for line in job.logs().decode().splitlines()
        if line.startswith("status ") and ":\t" in line
    )
    assert status["Uid"].split() == ["65534"] * 4
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"


def test_killed_for_memory(run_jar: RunJar) -> None:
    """A task that outgrows its memory is killed, and an event says that memory was why."""
    job = run_jar("hog.jar", memory=128, jvm_options=["-Xmx2g"])
    job.wait_state("dead")
    terminated = next(one for one in job.task()["Events"] if one["Type"] == "Terminated")
    assert (terminated["Details"]["signal"], terminated["Details"]["oom_killed"]) == ("9", "true")
    job.wait_event("memory limit")


@pytest.mark.parametrize(
    ("options", "exit_code"),
    [("", 130), ('kill_signal = "SIGTERM"', 143), ('kill_signal = "SIGHUP"', 129)],
    ids=["default", "SIGTERM", "SIGHUP"],
)
def test_stop_in_peace(run_jar: RunJar, options: str, exit_code: int) -> None:
    """A stop sends kill_signal and waits; what the application says then is in the log."""
    job = run_jar("stubborn.jar", kind="service", args=["300"], task=options)
    job.wait_logs("running")
    job.stop()
    job.wait_log(b"running\nasked to end\nended in peace\n")
    assert job.exit_code() == exit_code


def test_stop_of_a_stubborn_task(run_jar: RunJar) -> None:
    """When kill_timeout has passed, everything in the container is killed; its log says why."""
    job = run_jar("stubborn.jar", kind="service", args=["60000"], task='kill_timeout = "2s"')
    job.wait_logs("running")
    started = time.monotonic()
    job.stop()
    took = time.monotonic() - started
    assert 1.5 < took < scaled(15), took
    shown = job.wait_logs("JNI global refs")
    assert shown.startswith("running\nasked to end\n")
    assert "at Stubborn.lambda$main$0(" in shown
    job.wait_event("threads were doing then is in its log")
    assert any("Signal: 9" in event for event in job.events()), job.events()


def test_signal(run_jar: RunJar) -> None:
    """`nomad alloc signal` reaches the application."""
    job = run_jar("stubborn.jar", kind="service", args=["0"])
    job.wait_logs("running")
    job.nomad.cli("alloc", "signal", "-s", "SIGTERM", job.allocation())
    job.wait_logs("ended in peace")
    job.wait_state("dead")


def test_restart(run_jar: RunJar) -> None:
    """`nomad alloc restart` stops the application and starts it again, in the same log."""
    job = run_jar("stubborn.jar", kind="service", args=["0"])
    job.wait_logs("running")
    job.nomad.cli("alloc", "restart", job.allocation())
    shown = job.wait_logs("ended in peace\nrunning\n")
    assert shown == "running\nasked to end\nended in peace\nrunning\n"


def test_restart_after_failure(run_jar: RunJar) -> None:
    """Nomad's restart policy applies to an application that fails."""
    job = run_jar("exit42.jar", attempts=2)
    job.wait_state("dead", 60)
    assert job.task()["Restarts"] == 2
    job.wait_log(b"About to fail\n" * 3)


def test_usage(run_jar: RunJar) -> None:
    """`nomad alloc status -stats` has the memory that a running task uses."""
    job = run_jar("stubborn.jar", kind="service")
    job.wait_logs("running")
    alloc = job.allocation()

    def rss() -> bool:
        stats = job.nomad.get(f"/v1/client/allocation/{alloc}/stats")
        usage = (stats.get("Tasks") or {}).get("app") or {}
        memory = (usage.get("ResourceUsage") or {}).get("MemoryStats") or {}
        return int(memory.get("RSS") or 0) > 4 * MIB

    wait_for("the task's memory use to be a JVM's", rss, 20)
