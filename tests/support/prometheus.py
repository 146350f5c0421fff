"""Debian's Prometheus, unpacked into .nox/prometheus: to install it would start a service."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from tests.support import debian
from tests.support.waiting import wait_for

CACHE = Path(__file__).parents[2] / ".nox/prometheus"
SUITE = "bookworm"


def program(name: str) -> str:
    """Return the path of ``prometheus`` or ``promtool``: this host's own, or one downloaded once.

    Raises RuntimeError when there is none.
    """
    if found := shutil.which(name):
        return found
    path = CACHE / "usr/bin" / name
    if not path.exists():
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE.parent) as work:
            debian.unpack(SUITE, ["prometheus"], Path(work))
            if not CACHE.exists():
                os.rename(Path(work) / "root", CACHE)
    return str(path)


@attrs.frozen
class Prometheus:
    """One that runs."""

    url: str

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Return the result of a query. Raises HTTPError where it is none."""
        words = urllib.parse.urlencode({"query": query})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{words}", timeout=30) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result


@contextmanager
def prometheus(directory: Path, target: str, port: int) -> Iterator[Prometheus]:
    """Run Prometheus with the configuration of docs/metrics.md, scraping ``target`` each second."""
    config = directory / "prometheus.yml"
    config.write_text(
        "global:\n  scrape_interval: 1s\nscrape_configs:\n  - job_name: milo\n"
        f'    honor_labels: true\n    static_configs:\n      - targets: ["{target}"]\n'
    )
    log = directory / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=output,
            stderr=output,
        )
    try:
        one = Prometheus(f"http://127.0.0.1:{port}")

        def is_up() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return [found["value"][1] for found in one.ask("up")] == ["1"]
            except urllib.error.URLError:
                return False

        wait_for("Prometheus to scrape", is_up, 60)
        yield one
    finally:
        process.terminate()
        process.wait()
