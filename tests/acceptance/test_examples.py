"""The job files in ``examples/`` run as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.nomad import Job, Nomad

EXAMPLES = Path(__file__).parents[2] / "examples"
SHOWN = {
    "hello": "Goodbye.",
    "streaming-service": "Processing...",
    "options": "env.GREETING hello",
    "graceful-stop": "running",
}
"""A line that each example's application prints."""


def run_example(nomad: Nomad, jar_url: str, name: str) -> Job:
    """Run an example with the tests' JARs."""
    return nomad.run_file(EXAMPLES / f"{name}.nomad.hcl", "-detach", f"-var=url={jar_url}")


def test_every_example_is_tested() -> None:
    """No example is without a test."""
    assert {path.name.removesuffix(".nomad.hcl") for path in EXAMPLES.iterdir()} == set(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_example_runs(nomad: Nomad, jar_url: str, name: str) -> None:
    """An example's job file is accepted, and its application prints what it should."""
    run_example(nomad, jar_url, name).wait_logs(SHOWN[name])


def test_graceful_stop(nomad: Nomad, jar_url: str) -> None:
    """The example of a graceful stop ends as its comment says."""
    job = run_example(nomad, jar_url, "graceful-stop")
    job.wait_logs("running")
    job.stop()
    assert job.logs().decode() == "running\nasked to end\nended in peace\n"
