"""Milo's own figures, as Prometheus gets them from the plugin of a real agent."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.support import dashboards, prometheus
from tests.support.agent import MILO, Agent, agent, free_ports, missing
from tests.support.jobs import job_file
from tests.support.scrapes import Scrape, parse
from tests.support.waiting import wait_for

PAGE = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
LISTED = set(re.findall(r"^\| `(milo_\w+)` \|", PAGE, re.MULTILINE))
NOT_HERE = {"milo_task_cpu_throttled_seconds_total"}
"""What not every kernel tells."""


@attrs.frozen
class Figures:
    """An agent whose plugin serves figures."""

    agent: Agent
    url: str

    def scrape(self) -> Scrape:
        """Return what Prometheus would get now."""
        request = urllib.request.Request(
            self.url, headers={"Accept": "application/openmetrics-text;version=1.0.0"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            assert response.headers["Content-Type"].startswith("application/openmetrics-text")
            return parse(response.read().decode())


@pytest.fixture(scope="module")
def figures() -> Iterator[Figures]:
    """An agent of these tests' own."""
    if reason := missing():
        pytest.skip(f"NO ACCEPTANCE TEST IS RUN: {reason}")
    address = f"127.0.0.1:{free_ports()[0]}"
    with agent("figures", milo={"metrics": {"address": address}}) as one:
        yield Figures(one, f"http://{address}/metrics")
        one.purge()


def test_figures_of_a_task(figures: Figures, jar_url: str) -> None:
    """A task's series come with its start, are those of the page in docs/, and go with its end."""
    job = figures.agent.nomad.run(
        job_file(
            # A thousand lines a second, and so little room that it is soon collected.
            config={"args": ["1"], "jvm_options": ["-Xmn1m"]},
            artifact=f"{jar_url}/clock.jar",
            kind="service",
            memory=200,
        )
    )
    job.wait_logs("\n")
    found = figures.scrape()

    def has_heap() -> bool:
        nonlocal found
        found = figures.scrape()
        return bool(found.of("milo_jvm_heap_used_bytes", job=job.id))

    wait_for("the JVM's figures", has_heap, 30)
    assert LISTED - NOT_HERE <= found.names <= LISTED
    [labels] = found.labels("milo_task_memory_limit_bytes", job=job.id)
    assert labels == {
        "namespace": "default",
        "job": job.id,
        "task_group": "g",
        "task": "app",
        "alloc_id": job.allocation(),
    }
    assert found.of("milo_task_memory_limit_bytes", job=job.id) == [200 << 20]
    [used] = found.of("milo_jvm_heap_used_bytes", job=job.id)
    [committed] = found.of("milo_jvm_heap_committed_bytes", job=job.id)
    assert 0 < used <= committed < 200 << 20
    [rss] = found.of("milo_task_memory_rss_bytes", job=job.id)
    assert committed / 8 < rss < 200 << 20
    [moved] = found.of("milo_task_log_bytes_total", job=job.id, stream="stdout")
    assert moved > 0
    assert found.of("milo_jvm_threads", job=job.id)[0] > 3
    assert found.of("milo_jvm_gc_collections_total", job=job.id, collector="Serial", kind="young")
    assert found.of("milo_task_process_restarts_total", job=job.id) == [0]
    assert found.of("milo_task_start_seconds", job=job.id, step="create")[0] > 0
    assert found.of("milo_driver_rpcs_total", method="StartTask")[0] >= 1

    [record] = figures.agent.state_dir.glob("*/task.json")
    os.kill(json.loads(record.read_text())["supervisor"]["pid"], signal.SIGKILL)
    wait_for(
        "a successor",
        lambda: figures.scrape().of("milo_task_process_restarts_total", job=job.id) == [1],
        30,
    )
    wait_for("the JVM's figures again", has_heap, 30)
    job.stop()
    wait_for(
        "its end", lambda: not figures.scrape().labels("milo_task_memory_bytes", job=job.id), 30
    )
    assert job.id not in figures.scrape().text


def test_curl(figures: Figures) -> None:
    """Whoever asks for no format gets the plain text."""
    done = subprocess.run(["curl", "-si", figures.url], capture_output=True, text=True, check=True)
    head, _, body = done.stdout.partition("\n\n")
    assert head.startswith("HTTP/1.1 200 OK\nContent-Type: text/plain; version=0.0.4")
    assert "\nmilo_driver_memory_bytes " in body and "# EOF" not in body


def test_doctor_knows_who_has_the_port(figures: Figures) -> None:
    """It is the plugin's own; and as any user may take a port so high, that is a warning."""
    words = ["doctor", "--json", "--config", str(figures.agent.config)]
    done = subprocess.run(
        [MILO, *words, "--address", figures.agent.nomad.address], capture_output=True, check=False
    )
    [found] = [one for one in json.loads(done.stdout)["checks"] if one["check"] == "metrics"]
    assert found["verdict"] == "warning" and "any task in the host's network" in found["found"]


NEVER_HERE = ("milo_driver_rpc_failures_total", "milo_task_cpu_throttled_seconds_total")
"""No call fails, and not every kernel has the other."""


def test_prometheus(figures: Figures, jar_url: str, tmp_path: Path) -> None:
    """A real Prometheus scrapes it, and each panel of the dashboard shows something."""
    try:
        promtool = prometheus.program("promtool")
    except RuntimeError as error:
        pytest.skip(f"there is no Prometheus here: {error}")
    job = figures.agent.nomad.run(
        job_file(
            config={"args": ["1"], "jvm_options": ["-Xmn1m"]},
            artifact=f"{jar_url}/clock.jar",
            kind="service",
            memory=200,
        )
    )
    job.wait_logs("\n")
    with urllib.request.urlopen(figures.url, timeout=30) as response:
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=response.read(), capture_output=True, check=False
        )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
    target = figures.url.removeprefix("http://").removesuffix("/metrics")
    with prometheus.prometheus(tmp_path, target, free_ports()[0]) as server:
        for query in dashboards.queries():
            if not any(name in query for name in NEVER_HERE):
                wait_for(query, lambda query=query: server.ask(query), 60)  # type: ignore[misc]
        [found] = server.ask("milo_task_memory_bytes")
        labels = found["metric"]
        assert (labels["job"], labels["alloc_id"]) == (job.id, job.allocation())
    job.stop()


def test_nobody_listens_without_the_block(nomad: object, dev_agent: Agent) -> None:
    """Figures are off by default."""
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen("http://127.0.0.1:494/metrics", timeout=5)
