"""What the kernel, or the JVM's class loader, would do without a word is told; on a real agent."""

from __future__ import annotations

import zipfile
from pathlib import Path

from tests.acceptance.conftest import RunJar
from tests.support import artifacts
from tests.support.jobs import job_file
from tests.support.nomad import Nomad


def test_a_variable_that_is_too_long(nomad: Nomad, jar_url: str) -> None:
    """It fails the start, by its name, and no application ends with a number."""
    task = f'env {{\nBIG = "{"x" * 200_000}"\n}}'
    job = nomad.run(job_file(artifact=f"{jar_url}/hello.jar", task=task))
    job.wait_state("dead")
    told = "\n".join(job.events())
    assert "the variable BIG: it has 200004 bytes" in told and "at most 131071" in told, told
    assert "Terminated" not in told


def test_arguments_that_are_too_many(nomad: Nomad, jar_url: str) -> None:
    """The same for all of them together."""
    config = {"args": ["x" * 100_000] * 65}
    job = nomad.run(job_file(artifact=f"{jar_url}/hello.jar", config=config))
    job.wait_state("dead")
    told = "\n".join(job.events())
    assert "they have 65" in told and "bytes in all" in told, told
    assert "no task process answers" not in told.lower()


def test_a_long_command_of_alloc_exec(run_jar: RunJar, nomad: Nomad) -> None:
    """Longer than a control message."""
    job = run_jar("clock.jar", kind="service")
    job.wait_state("running")
    words = ["y" * 50_000] * 6
    command = ("alloc", "exec", "-i=false", "-t=false", "-task", "app", job.allocation())
    shown = nomad.cli(*command, "/bin/sh", "-c", 'printf "%s " "$#" "${#6}"', "sh", *words)
    assert shown == "6 50000 "


def test_a_thin_jar_without_its_libraries(nomad: Nomad, jar_dir: Path, tmp_path: Path) -> None:
    """They are named in an event and on stderr, before anything that the JVM says."""
    thin = tmp_path / "thin.jar"
    with zipfile.ZipFile(jar_dir / "hello.jar") as full, zipfile.ZipFile(thin, "w") as file:
        for name in full.namelist():
            data = full.read(name)
            if name == "META-INF/MANIFEST.MF":
                data = data.rstrip() + b"\r\nClass-Path: lib/one.jar lib/two.jar\r\n\r\n"
            file.writestr(name, data)
    tmp_path.chmod(0o755)
    with artifacts.serve(tmp_path) as url:
        job = nomad.run(job_file(artifact=f"{url}/thin.jar"))
        job.wait_state("dead")
    words = "The Class-Path of /local/thin.jar names what is not there: lib/one.jar, lib/two.jar."
    job.wait_event(words)
    assert job.wait_logs(words, "-stderr").startswith(words)
    assert job.exit_code() == 0
