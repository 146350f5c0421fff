"""Host volumes of Nomad's, mounted into tasks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import Agent, agent_with_volume
from tests.support.jobs import job_file


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Agent, Path]]:
    """An agent with a volume ``data``, and its directory, which everybody may write to."""
    with agent_with_volume("volumes", tmp_path_factory.mktemp("data")) as (one, data):
        (data / "greeting").write_text("from the host")
        yield one, data


@pytest.mark.parametrize("read_only", [False, True])
def test_host_volume(volumes: tuple[Agent, Path], jar_url: str, read_only: bool) -> None:
    """What the task writes is on the host, unless the job asked for a volume to read from."""
    one, data = volumes
    (data / "new").unlink(missing_ok=True)
    word = "true" if read_only else "false"
    job = one.nomad.run(
        job_file(
            config={"args": ["read /srv/data/greeting", "write /srv/data/new"]},
            artifact=f"{jar_url}/look.jar",
            group=f'volume "data" {{\ntype = "host"\nsource = "data"\nread_only = {word}\n}}',
            task=f'volume_mount {{\nvolume = "data"\ndestination = "/srv/data"\n'
            f"read_only = {word}\n}}",
        )
    )
    job.wait_state("dead")
    shown = job.logs().decode()
    assert "read /srv/data/greeting -> from the host" in shown
    assert ("Read-only file system" in shown) == read_only
    assert (data / "new").exists() != read_only
