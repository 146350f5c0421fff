"""On a real agent: what a job brings is there, templates, artifacts, volumes and what it writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import RunJar
from tests.support.agent import Agent, agent_with_volume
from tests.support.jobs import job_file
from tests.support.nomad import Job, Nomad


def template(destination: str, data: str) -> str:
    return f'template {{\ndata = "{data}"\ndestination = "{destination}"\n}}\n'


def answers(job: Job) -> dict[str, str]:
    """Return what the JAR that looks around has found, question to answer."""
    job.wait_state("dead")
    assert job.exit_code() == 0, (job.events(), job.logs("-stderr"))
    lines = job.logs().decode().splitlines()
    return dict(line.split(" -> ", 1) for line in lines if " -> " in line)


@pytest.mark.parametrize("rootfs", ["host", "minimal"])
def test_files_beside_local(nomad: Nomad, jar_url: str, rootfs: str) -> None:
    """Templates and artifacts with a destination of their own are found as with the java driver."""
    places = ("config/app.yml", "/config/app.yml", "${NOMAD_TASK_DIR}/../config/app.yml")
    questions = [f"read {place}" for place in (*places, "/etc/app/app.conf", "top")]
    questions += ["exists lib/look.jar", "exists /lib/look.jar", "write x", "cwd"]
    job = nomad.run(
        job_file(
            config={
                "class": "Look",
                "class_path": "lib/*",
                "args": questions,
                "jvm_options": ["-Xlog:gc:file=gc.log"],
                "rootfs": rootfs,
            },
            task=template("config/app.yml", "port: 1")
            + template("/etc/app/app.conf", "port: 1")
            + template("top", "port: 1")
            + f'artifact {{\nsource = "{jar_url}/look.jar"\ndestination = "lib/"\n}}',
        )
    )
    found = answers(job)
    read = {answer for question, answer in found.items() if question.startswith("read")}
    assert read == {"port: 1"}, found
    assert {found[f"exists {place}"] for place in ("lib/look.jar", "/lib/look.jar")} == {"true"}
    assert (found["write x"], found["cwd"]) == ("done", "/task")
    assert nomad.cli("alloc", "fs", job.allocation(), "app/x") == "written"
    assert "Using" in nomad.cli("alloc", "fs", job.allocation(), "app/gc.log")


def test_what_was_written_is_there_after_a_restart(run_jar: RunJar) -> None:
    """The working directory stays."""
    script = "[ -e ./kept ] && exec cat ./kept; echo kept >kept; exit 1"
    job = run_jar("shell.jar", args=[script], attempts=1)
    job.wait_state("dead")
    assert job.task()["Restarts"] == 1
    job.wait_log(b"kept\n")


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Agent, Path]]:
    """An agent with a volume ``data``, and its directory, which everybody may write to."""
    with agent_with_volume("brought", tmp_path_factory.mktemp("data")) as (one, data):
        (data / "file").write_text("from the volume")
        yield one, data


VOLUME = 'volume "data" {\ntype = "host"\nsource = "data"\n}'


@pytest.mark.parametrize("rootfs", ["host", "minimal"])
def test_volumes(volumes: tuple[Agent, Path], jar_url: str, rootfs: str) -> None:
    """A volume may be where the java driver takes it, and what is beside it stays."""
    one, _ = volumes
    places = ["/etc/ssl/certs", "/var/run/app", "/usr/share/app/data", "${NOMAD_ALLOC_DIR}/vol"]
    places += ["/data", "${NOMAD_TASK_DIR}/vol"]
    mounts = "".join(
        f'volume_mount {{\nvolume = "data"\ndestination = "{place}"\n}}\n' for place in places
    )
    questions = [*(f"read {place}/file" for place in places), "read data/file", "zone"]
    job = one.nomad.run(
        job_file(
            config={"args": questions, "rootfs": rootfs},
            artifact=f"{jar_url}/look.jar",
            group=VOLUME,
            task=mounts,
        )
    )
    found = answers(job)
    assert found.pop("zone").startswith("Europe/Berlin")
    assert len(found) == len(places) + 1
    assert set(found.values()) == {"from the volume"}


def test_a_place_that_cannot_be_had(volumes: tuple[Agent, Path], jar_url: str) -> None:
    """The message says what is there."""
    one, _ = volumes
    job = one.nomad.run(
        job_file(
            artifact=f"{jar_url}/look.jar",
            group=VOLUME,
            task='volume_mount {\nvolume = "data"\ndestination = "/alloc/logs/x"\n}',
        )
    )
    job.wait_event("'/alloc/logs/x' is taken by the task's own directory of that name")


def test_nomad_clears_up_behind_it(run_jar: RunJar, dev_agent: Agent) -> None:
    """The allocation's directory goes at its end, and the agent has nothing to complain of."""
    start = dev_agent.log_size()
    job = run_jar("shell.jar", args=["mkdir -p a/b; ln -s /etc c; mkfifo d; echo e >e"])
    job.wait_state("dead")
    directory = dev_agent.base / "data/alloc" / job.allocation()
    assert (directory / "app/e").exists()
    dev_agent.note_allocations()
    job.nomad.cli("job", "stop", "-purge", "-detach", job.id)
    job.nomad.collect(lambda: [directory.name] * directory.exists())
    told = dev_agent.tail(start, 10_000_000).splitlines()
    assert not [line for line in told if "ailed to unmount" in line or "ailed to delete" in line]
