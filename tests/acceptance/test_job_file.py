"""What `milo job` prints, given to a real Nomad."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from milo.cli.job_file import PORT
from tests.support import artifacts
from tests.support.agent import MILO
from tests.support.nomad import Nomad


def print_job(*words: str) -> str:
    """Return what the command prints."""
    done = subprocess.run([MILO, "job", *words], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("{jar}",),
        ("{jar}", "--service", "--count", "2", "--name", "shop"),
        ("https://host.example/app.jar",),
        ("https://host.example/get?x=%7B$%7B", "--memory", "1024"),
    ],
)
def test_nomad_finds_nothing_to_change(
    nomad: Nomad, jar_dir: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """`nomad fmt` leaves it as it is, and `nomad job validate` takes it."""
    path = tmp_path / "app.nomad.hcl"
    path.write_text(print_job(*(word.format(jar=jar_dir / "hello.jar") for word in words)))
    nomad.cli("fmt", "-check", str(path))
    assert "validation successful" in nomad.cli("job", "validate", str(path))


def test_it_runs(nomad: Nomad, jar_dir: Path, tmp_path: Path) -> None:
    """As printed, but for the port: the comment's command serves the JAR's directory."""
    shutil.copy(jar_dir / "hello.jar", tmp_path / "my hello.jar")
    text = print_job(str(tmp_path / "my hello.jar"), "--memory", "128", "--cpu", "100")
    assert f"http.server {PORT} --bind 127.0.0.1 --directory {tmp_path}" in text
    with artifacts.serve(tmp_path) as url:
        job = nomad.run(text.replace(f"http://127.0.0.1:{PORT}", url))
        job.wait_state("dead")
    assert job.exit_code() == 0, job.events()
