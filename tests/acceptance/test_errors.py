"""What a user meets when something is wrong: in the task's events and in its stderr log.

Nomad 2.0.5 answers ``nomad alloc logs`` with "not started yet" for a task that has never
run, whatever its log holds (client/fs_endpoint.go: StartedAt is zero); there the tests read
the same file as a user can, with ``nomad alloc fs``. A task that ran before shows it in both.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from milo import proc
from tests.support import artifacts, jars, leftovers
from tests.support.agent import Agent, agent
from tests.support.jobs import job_file
from tests.support.nomad import Job, Nomad
from tests.support.waiting import wait_for

Run = Callable[..., Job]


@attrs.frozen
class Case:
    """A job that cannot work, and what the user is told."""

    name: str
    text: str
    """A regular expression for the error."""
    served: str = ""
    """The artifact's file name."""
    config: dict[str, object] = attrs.field(factory=lambda: {"args": []})
    task: str = ""


CASES = [
    Case("no jar", r"Error: Artifact must be a \.jar file, got: my-script\.py", "my-script.py"),
    Case(
        "jar_path is no jar",
        r"Error: Artifact must be a \.jar file, got: my-script\.py",
        "my-script.py",
        {"jar_path": "local/my-script.py"},
    ),
    Case("nothing there", r"Error: .*[Nn]o JAR .*local"),
    Case(
        "several jars",
        r"Error: .*local.*hello\.jar, probe\.jar.*jar_path",
        "hello.jar",
        task='artifact {\nsource = "URL/probe.jar"\n}',
    ),
    Case("no such jar", r"Error: .*absent\.jar", "hello.jar", {"jar_path": "local/absent.jar"}),
    Case("not a zip", r"Error: .*not-zip\.jar.*(zip|ZIP|JAR)", "not-zip.jar"),
    Case("cut short", r"Error: .*cut\.jar", "cut.jar"),
    Case("no main class", r"Error: .*no-main\.jar.*Main-Class", "no-main.jar"),
    Case("too new", r"Error: .*too-new\.jar.*Java 99\b.*Java \d+", "too-new.jar"),
    Case("leads out", r"Error: .*\.\.", "hello.jar", {"jar_path": "local/../../../../etc/x.jar"}),
    Case(
        "bad overflow",
        r"Error: Invalid value for log_overflow: .*sideways.*block.*drop",
        "hello.jar",
        {"log_overflow": "sideways"},
    ),
    Case(
        "bad duration",
        r"Error: Invalid value for log_block_timeout: .*soon",
        "hello.jar",
        {"log_block_timeout": "soon"},
    ),
    Case(
        "options that exclude each other",
        r"Error: Invalid value for log_block_timeout: ",
        "hello.jar",
        {"log_overflow": "drop", "log_block_timeout": "5s"},
    ),
]


@pytest.fixture(scope="module")
def faulty_url(jar_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of files that are no runnable JARs, beside two that are."""
    directory = tmp_path_factory.mktemp("faulty")
    good = (jar_dir / "hello.jar").read_bytes()
    for name in ("hello.jar", "probe.jar", "stubborn.jar"):
        (directory / name).write_bytes((jar_dir / name).read_bytes())
    (directory / "my-script.py").write_text("print('no Java here')\n")
    (directory / "not-zip.jar").write_bytes(b"This is plain text.\n" * 100)
    (directory / "cut.jar").write_bytes(good[: len(good) // 2])
    jars.pack(directory / "no-main.jar", {"A.class": b""}, main_class=None)
    newer = bytes.fromhex("cafebabe") + (0).to_bytes(2) + (99 + 44).to_bytes(2) + bytes(64)
    jars.pack(directory / "too-new.jar", {"Hello.class": newer}, main_class="Hello")
    with artifacts.serve(directory) as url:
        yield url


def check_told(job: Job, pattern: str) -> None:
    """The error is in one event, and the same text is the task's stderr log, and only that."""
    task = job.wait_state("dead")
    assert task["Failed"] is True
    matching = [event for event in job.events() if re.search(pattern, event, re.DOTALL)]
    assert len(matching) == 1, job.events()
    told = stderr_file(job)
    assert re.search(pattern, told, re.DOTALL), told
    assert any(told.strip() in event for event in matching), (told, matching)
    assert job.nomad.cli("alloc", "fs", job.allocation(), "alloc/logs/app.stdout.0") == ""


def stderr_file(job: Job) -> str:
    """Return the stderr log's first file, once Nomad's collector has written into it."""

    def probe() -> str:
        return job.nomad.cli(
            "alloc", "fs", job.allocation(), "alloc/logs/app.stderr.0", check=False
        )

    return wait_for("the error in the stderr log", probe, 10)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_user_is_told(nomad: Nomad, faulty_url: str, dev_agent: Agent, case: Case) -> None:
    """A task that cannot start says why, in an event and on stderr, and leaves nothing."""
    job = nomad.run(
        job_file(
            config=case.config,
            artifact=f"{faulty_url}/{case.served}" if case.served else "",
            task=case.task.replace("URL", faulty_url),
        )
    )
    check_told(job, case.text)
    assert "Started" not in " ".join(job.events())
    # What an earlier test has left running ends meanwhile.
    wait_for("nothing to be left", lambda: not leftovers.files(dev_agent.state_dir))


def test_symlink_out_of_the_task(nomad: Nomad, faulty_url: str) -> None:
    """A jar_path that a symlink leads out of the task's directories is refused."""
    text = job_file(config={"jar_path": "${NOMAD_ALLOC_DIR}/link.jar"})
    link = """
    task "link" {
      driver = "raw_exec"
      lifecycle {
        hook = "prestart"
      }
      config {
        command = "/bin/ln"
        args = ["-s", "/etc/hostname", "${NOMAD_ALLOC_DIR}/link.jar"]
      }
    }
    """
    job = nomad.run(text.replace('task "app" {', link + 'task "app" {'))

    def app(job: Job) -> dict[str, object]:
        for alloc in job.allocations()[:1]:
            states: dict[str, dict[str, object]] = alloc["TaskStates"] or {}
            return states.get("app", {})
        return {}

    wait_for("the task to fail", lambda: app(job).get("Failed"))
    told = stderr_file(job)
    assert re.search(r"Error: .*link\.jar.*symlink", told), told


def test_error_of_a_later_start(nomad: Nomad, faulty_url: str, dev_agent: Agent) -> None:
    """Where a task ran before, `nomad alloc logs -stderr` shows why it cannot start again."""
    job = nomad.run(
        job_file(kind="service", artifact=f"{faulty_url}/stubborn.jar"),
    )
    job.wait_logs("running")
    alloc = job.allocation()
    (dev_agent.base / "data/alloc" / alloc / "app/local/stubborn.jar").unlink()
    nomad.cli("alloc", "restart", alloc)
    job.wait_event("Driver Failure")
    shown = job.wait_logs("Error:", "-stderr")
    assert "local/ is empty" in shown


@pytest.mark.parametrize("name", ["..", "a\\u001b[2Jb"])
def test_task_names(nomad: Nomad, faulty_url: str, name: str) -> None:
    """A name that Nomad lets through, and that is no directory's or no line's, is refused."""
    text = job_file(artifact=f"{faulty_url}/hello.jar")
    job = nomad.run(text.replace('task "app"', f'task "{name}"'))
    assert job.wait_state("dead")["Failed"] is True
    event = job.wait_event("Driver Failure")
    assert "Error: Invalid value for the task's name: '" in event
    assert event.isprintable()


def test_unknown_key(nomad: Nomad) -> None:
    """A key that the schema does not have is refused by Nomad itself, with the key's name."""
    job = nomad.run(job_file(config={"jar_pth": "local/app.jar"}))
    assert "jar_pth" in job.wait_event("Failed Validation")


def test_plugin_block_out_of_range() -> None:
    """A value that is not valid in the plugin's block is named in the agent's log.

    The agent ends, and no process of the plugin stays behind.
    """
    mark = f"MILO_TEST_MARK={os.urandom(8).hex()}"
    with (
        pytest.raises(AssertionError, match="log_overflow"),
        agent(
            "bad-plugin-block",
            milo={"log_overflow": "sideways"},
            env=dict([mark.split("=")]),
            strict=False,
        ),
    ):
        raise AssertionError("log_overflow: the agent started in spite of it")
    wait_for("the end of all that had the agent's environment", lambda: not _marked(mark))


def _marked(text: str) -> list[int]:
    """Return the processes in whose environment ``text`` stands."""
    environs = {pid: proc.read(f"/proc/{pid}/environ") or b"" for pid in proc.pids()}
    return [pid for pid, environ in environs.items() if text.encode() in environ]
