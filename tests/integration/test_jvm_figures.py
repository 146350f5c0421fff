"""What JVMs of this host count of themselves, with each of their collectors."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from milo.core.config.plugin_options import PluginOptions
from milo.core.java.heap import MIB
from milo.core.java.jvm_figures import OTHER_COLLECTOR, JvmFigures, figures
from milo.task.java.perf_data import PerfData
from tests.support.driver_rig import DriverRig, Task, open_rig
from tests.support.java_homes import all_homes
from tests.support.waiting import wait_for

HOMES = all_homes()
KINDS = {
    "Serial": ("young", "full"),
    "Parallel": ("young", "full"),
    "G1": ("young", "full", "concurrent"),
    "Shenandoah": ("partial", "phase"),
    "Z": ("minor", "major"),
}
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")


@contextmanager
def jvm(home: str, jar: Path, tmp: Path, *options: str) -> Iterator[Path]:
    """Run a JVM that fills its heap, on the host; yield the file of its performance data."""
    words = [f"{home}/bin/java", "-Xmx200m", *options, "-jar", str(jar), "1", "1", "1", "600"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp)
    try:
        user = os.environ.get("USER", "root")
        yield Path(f"/tmp/hsperfdata_{user}") / str(process.pid)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        for path in Path("/tmp").glob(f"hsperfdata_*/{process.pid}"):
            path.unlink()


@pytest.mark.parametrize("collector", KINDS)
@pytest.mark.parametrize("home", HOMES, ids=os.path.basename)
def test_each_collector(jar_dir: Path, tmp_path: Path, home: str, collector: str) -> None:
    """Heap, metaspace, collections, threads, classes and stops are told, and make sense."""
    version = subprocess.run(
        [f"{home}/bin/java", f"-XX:+Use{collector}GC", "-version"], capture_output=True, check=False
    )
    if version.returncode:
        pytest.skip(f"{home} has no collector {collector}")
    with jvm(home, jar_dir / "heap-filler.jar", tmp_path, f"-XX:+Use{collector}GC") as path:

        def collected() -> JvmFigures | None:
            found = figures(path.read_bytes()) if path.exists() else None
            done = found is not None and any(one.collections for one in found.gc)
            if found is None or not done:
                return None
            # It does not write all of them at one instant.
            late = found.heap_used_bytes, found.metaspace_used_bytes, found.safepoint_s
            return found if all(late) else None

        found = wait_for("a collection", collected, 60)
    assert found.collector == {"Z": "ZGC"}.get(collector, collector) != OTHER_COLLECTOR
    assert {one.kind for one in found.gc} <= {*KINDS[collector]}
    assert all(one.seconds is not None and 0 <= one.seconds < 60 for one in found.gc)
    assert found.heap_committed_bytes and found.heap_max_bytes
    # ZGC and G1 round, and count what is being moved twice.
    assert 0 < (found.heap_used_bytes or 0) <= found.heap_committed_bytes + 8 * MIB
    assert 150 * MIB <= found.heap_max_bytes <= 201 * MIB
    assert found.metaspace_used_bytes and found.metaspace_committed_bytes
    assert 0 < found.metaspace_used_bytes <= found.metaspace_committed_bytes
    assert found.threads and found.daemon_threads and found.peak_threads
    assert 1 < found.daemon_threads < found.threads <= found.peak_threads < 100
    assert found.classes and 200 < found.classes < 20_000
    assert found.safepoints and found.safepoint_s and found.safepoint_s < 60


async def told(rig: DriverRig, task: Task) -> JvmFigures | None:
    """Return what the task's process says of its JVM."""
    client = rig.registry._tasks[task.id].connection.require()
    return (await client.status(figures=True)).jvm


@as_root
async def test_no_performance_data(jar_dir: Path) -> None:
    """A JVM that writes none has no figures, not zeros; its streams are counted all the same."""
    async with open_rig() as rig:
        options = ["-XX:-UsePerfData"]
        task = rig.task(jar_dir / "jvm-view.jar", args=["600"], jvm_options=options)
        await rig.registry.start(task.request)
        task.out.wait_for(b"ready")
        assert await told(rig, task) is None
        [found] = await rig.registry.figures()
        assert found.jvm is None
        assert found.streams["stdout"].bytes_moved >= len("ready")
        assert found.memory_limit_bytes == 256 * MIB


@as_root
async def test_a_task_falsifies_its_own_figures_alone(jar_dir: Path) -> None:
    """Whatever a task puts in the place of its performance data, its process goes on."""
    async with open_rig(PluginOptions()) as rig:
        task = rig.task(jar_dir / "jvm-view.jar", args=["600"])
        await rig.registry.start(task.request)
        task.out.wait_for(b"ready")
        tmp = Path(task.request.task_dir) / "tmp"
        [directory] = tmp.glob("hsperfdata_*")
        with contextlib.closing(PerfData(str(tmp))) as perf_data:
            assert perf_data.read(0)
        place = directory / "1"  # before the JVM's own
        for data in (b"", b"\xca\xfe\xc0\xc0" * 100_000, os.urandom(70_000)):
            place.write_bytes(data)
            await told(rig, task)
            place.unlink()
        os.mkfifo(place)
        await told(rig, task)
        place.unlink()
        place.symlink_to("/proc/self/mem")
        await told(rig, task)
        place.unlink()
        found = await told(rig, task)
        assert found is not None and found.threads
