"""Executable JARs that no one here wrote run as they are."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import artifacts, maven
from tests.support.jobs import job_file
from tests.support.nomad import Nomad
from tests.support.waiting import scaled, wait_for

WIREMOCK = ("org.wiremock", "wiremock-standalone", "3.9.1")
IVY = ("org.apache.ivy", "ivy", "2.5.2")
ANTLR = ("org.antlr", "antlr4", "4.13.2", "complete")


def fetched(coordinates: tuple[str, ...]) -> Path:
    """Return the JAR; skips where it cannot be had."""
    try:
        return maven.fetch(*coordinates)
    except maven.NotObtainableError as error:
        pytest.skip(str(error))


@pytest.fixture
def maven_url() -> Iterator[str]:
    """The base URL under which the fetched JARs are served."""
    maven.CACHE.mkdir(parents=True, exist_ok=True)
    with artifacts.serve(maven.CACHE) as url:
        yield url


def test_ivy(nomad: Nomad, maven_url: str) -> None:
    """Apache Ivy prints its version and succeeds."""
    jar = fetched(IVY)
    job = nomad.run(job_file(artifact=f"{maven_url}/{jar.name}", config={"args": ["-version"]}))
    job.wait_state("dead")
    assert job.exit_code() == 0
    assert b"Apache Ivy 2.5.2" in job.logs()


def test_antlr(nomad: Nomad, maven_url: str) -> None:
    """ANTLR reads a grammar that a template block wrote, and writes what it generates."""
    jar = fetched(ANTLR)
    job = nomad.run(
        job_file(
            artifact=f"{maven_url}/{jar.name}",
            memory=256,
            config={"args": ["-o", "/tmp/generated", "${NOMAD_TASK_DIR}/Sum.g4"]},
            task="template {\ndata = \"grammar Sum; sum: INT ('+' INT)*; INT: [0-9]+;\"\n"
            'destination = "local/Sum.g4"\n}',
        )
    )
    job.wait_state("dead")
    assert job.exit_code() == 0, (job.logs(), job.logs("-stderr"))
    made = nomad.get(f"/v1/client/fs/ls/{job.allocation()}", path="/app/tmp/generated")
    assert "SumParser.java" in [entry["Name"] for entry in made]


def test_wiremock(nomad: Nomad, maven_url: str) -> None:
    """WireMock, an HTTP server, answers on the host's network until it is stopped."""
    jar = fetched(WIREMOCK)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    args = ["--port", str(port), "--bind-address", "127.0.0.1", "--root-dir", "/tmp"]
    job = nomad.run(
        job_file(
            kind="service",
            artifact=f"{maven_url}/{jar.name}",
            memory=384,
            config={"args": [*args, "--no-request-journal"]},
        )
    )
    address = f"http://127.0.0.1:{port}/__admin/mappings"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def answer() -> object:
        try:
            with opener.open(address, timeout=scaled(5)) as response:
                return json.load(response)
        except OSError:
            return None

    assert wait_for("an answer from WireMock", answer, 60) == {"mappings": [], "meta": {"total": 0}}
    job.wait_logs(str(port))
    job.stop()
    assert answer() is None
