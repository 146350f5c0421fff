"""How the bench of the pump measures: its figures are of the time that a run really took."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from tests.bench import pump_bench
from tests.support.waiting import scaled

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


def test_pumps_use_no_more_processors_than_there_are(tmp_path: Path) -> None:
    """Where the writer or the pumps are late, the share is of the time that it really took."""
    tool = pump_bench.build_tool(str(tmp_path))
    asked = 10_000_000
    found = pump_bench.latency(tool, 4, lines_per_s=asked, seconds=0.001)
    assert 0 < found["cpu_share"] <= (os.cpu_count() or 1)
    assert found["sent_per_s"] < asked


@pytest.mark.parametrize("way", pump_bench.WAYS)
def test_a_run_takes_as_long_as_it_is_meant_to(tmp_path: Path, way: str) -> None:
    """However slow the machine is: it is time that ends it, and all that was written has come."""
    tool = pump_bench.build_tool(str(tmp_path))
    began_s = time.monotonic()
    found = pump_bench.throughput(tool, way, 4096, 0.2)
    assert time.monotonic() - began_s < scaled(20)
    assert found["bytes_per_s"] > 0
    assert (found["cpu_s_per_gib"] > 0) is (way != "none")


def test_the_pace_that_was_kept_is_told(tmp_path: Path) -> None:
    """Ten lines in 0.1 s are some hundred a second: fewer on a busy machine, and never more."""
    tool = pump_bench.build_tool(str(tmp_path))
    found = pump_bench.latency(tool, 1, lines_per_s=100, seconds=0.1, way="none")
    assert found["cpu_share"] == 0
    assert 1 < found["sent_per_s"] <= 112


@pytest.mark.parametrize("way", pump_bench.PACED_WAYS)
def test_every_way_delivers_every_line(tmp_path: Path, way: str) -> None:
    """And whoever moves them needs some of a processor."""
    tool = pump_bench.build_tool(str(tmp_path))
    found = pump_bench.latency(tool, 2, lines_per_s=100, seconds=0.1, way=way)
    assert (found["cpu_share"] > 0) == (way != "none")
    assert 0 < found["p50_ms"] <= found["max_ms"]
