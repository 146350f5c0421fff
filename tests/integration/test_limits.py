"""Tasks that take more than their job allows: memory, CPU, processes. On either hierarchy."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import attrs
import pytest
import trio

from milo import cgroup_files
from milo.core import cgroup
from milo.core.cgroup import Mode
from milo.core.config.plugin_options import PluginOptions
from milo.core.java.heap import MIB
from milo.core.launch import Resources
from milo.host.stats import sampling
from milo.host.stats.sampling import Source
from tests.support import scripted_java
from tests.support.cgroups import hand_on
from tests.support.driver_rig import DriverRig, Task, open_rig
from tests.support.waiting import fail_after

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

SCOPE = f"milolimits{os.getpid()}"
BUSY = "while :; do :; done"
MANY_SHARES = 100_000
"""So that what else this machine does hardly counts."""


def scripted(tmp_path: Path, script: str) -> PluginOptions:
    """Return a configuration in which ``script`` is what every JAR does."""
    return PluginOptions(java_home=str(scripted_java.make(tmp_path / "jdk", script)))


def with_resources(task: Task, resources: Resources, cgroup_parent: str = "") -> Task:
    """Return the task with other limits, in a group of Nomad's."""
    launch = attrs.evolve(task.request, resources=resources, cgroup_parent=cgroup_parent)
    return attrs.evolve(task, request=launch)


async def start(rig: DriverRig, task: Task) -> tuple[int, Source]:
    """Start the task; return its first process on the host, and where its figures are."""
    await rig.registry.start(task.request)
    attributes = (await rig.registry.inspect(task.id)).attributes
    return int(attributes["container_pid"]), locate(rig, task)


def locate(rig: DriverRig, task: Task) -> Source:
    """Return where the figures of the task's container are."""
    started = rig.registry._tasks[task.id].started
    assert started is not None
    return sampling.locate(started.cgroup_path)


async def cpu_seconds(sources: list[Source], at_least_s: float) -> tuple[float, list[float]]:
    """Return how long was waited, and the CPU time that each group used meanwhile."""

    def used() -> list[int]:
        return [sampling.sample(source).cpu_ns or 0 for source in sources]

    before, begun = used(), trio.current_time()
    await trio.sleep(at_least_s)
    after, ended = used(), trio.current_time()
    return ended - begun, [(b - a) / 1e9 for a, b in zip(before, after, strict=True)]


def only_cpu() -> int:
    """Return the processor that hogs are put on together."""
    return max(os.sched_getaffinity(0))


@pytest.fixture
def scopes() -> Iterator[tuple[str, str]]:
    """Two groups side by side, as Nomad makes for two tasks: theirs to compete with."""
    hierarchy = cgroup_files.detect()
    paths = (f"/{SCOPE}.slice/a1.web.scope", f"/{SCOPE}.slice/a2.web.scope")
    controllers = cgroup.NOMAD_V1_CONTROLLERS if hierarchy.mode is not Mode.V2 else ("",)
    directories = [f"{hierarchy.mounts[name]}{path}" for name in controllers for path in paths]
    for directory in directories:
        os.makedirs(directory)
    if hierarchy.mode is Mode.V2:
        for directory in (hierarchy.mounts[""], os.path.dirname(directories[0])):
            hand_on(Path(directory), "cpuset", "cpu", "memory", "pids")
    yield paths
    # crun makes the group in hierarchies of its own choice, too.
    above = [f"{mount}/{SCOPE}.slice" for mount in {*hierarchy.mounts.values()}]
    for directory in [*directories, *above]:
        with suppress(OSError):
            os.rmdir(directory)
    left = [path for path in [*directories, *above] if os.path.exists(path)]
    assert not left


# ---- memory -----------------------------------------------------------------------------


async def test_memory_hog_is_killed_at_its_limit(jar_dir: Path) -> None:
    """What grows without bounds is killed at its limit, not before, and told with both figures."""
    limit_mib = 200
    async with open_rig() as rig:
        hog = rig.task(
            jar_dir / "native-hog.jar",
            memory_mb=limit_mib,
            jvm_options=["-Xmx32m", "-XX:MaxDirectMemorySize=4g"],
        )
        other = rig.task(jar_dir / "jvm-view.jar", args=["600"])
        other_pid, _ = await start(rig, other)
        await rig.registry.start(hog.request)
        with fail_after(120):
            result = await rig.registry.wait(hog.id)
            await hog.read()
        assert result.oom_killed
        assert result.signal == 9
        reached = int(hog.out.text.split()[-1]) / 1024
        assert 0.9 * limit_mib <= reached <= limit_mib
        text = result.message
        assert "(OOM)" in text
        found = re.search(r"it used up to ([\d.]+) MiB of its limit of 200 MiB", text)
        if found is None:
            # Before Linux 5.19 the second hierarchy does not tell the peak.
            assert cgroup_files.detect().mode is Mode.V2, text
            assert "its limit of 200 MiB" in text
        else:
            assert 0.9 * limit_mib <= float(found[1]) <= limit_mib
        assert Path(f"/proc/{other_pid}").exists()


async def test_memory_max_is_the_limit(jar_dir: Path) -> None:
    """An oversubscribed task is killed at memory_max, and may use all of it."""
    async with open_rig() as rig:
        hog = rig.task(
            jar_dir / "native-hog.jar", jvm_options=["-Xmx32m", "-XX:MaxDirectMemorySize=4g"]
        )
        hog = with_resources(
            hog, Resources(memory_bytes=128 * MIB, memory_max_bytes=192 * MIB, cpu_shares=500)
        )
        await rig.registry.start(hog.request)
        with fail_after(120):
            result = await rig.registry.wait(hog.id)
            await hog.read()
        assert result.oom_killed
        assert 0.9 * 192 <= int(hog.out.text.split()[-1]) / 1024 <= 192


async def test_no_swap(tmp_path: Path, jar_dir: Path) -> None:
    """A task may not swap: its limit is one for memory and swap together, or of no swap."""
    async with open_rig(scripted(tmp_path, "echo running; sleep 600")) as rig:
        task = rig.task(jar_dir / "hello.jar", memory_mb=64)
        _, source = await start(rig, task)
        directory = Path(source.memory)
        if source.mode is Mode.V2:
            files = {"memory.max": str(64 * MIB), "memory.swap.max": "0"}
        else:
            limit = str(64 * MIB)
            files = {"memory.limit_in_bytes": limit, "memory.memsw.limit_in_bytes": limit}
        # A kernel without swap accounting has no file for it.
        found = {name: (directory / name) for name in files}
        values = {name: path.read_text().strip() for name, path in found.items() if path.exists()}
        assert values
        assert values.items() <= files.items()


async def test_oom_score(tmp_path: Path, jar_dir: Path) -> None:
    """The kernel's memory killer finds the score that Nomad gives the task."""
    async with open_rig(scripted(tmp_path, "echo running; sleep 600")) as rig:
        task = rig.task(jar_dir / "hello.jar")
        task = with_resources(task, Resources(memory_bytes=64 * MIB, oom_score_adj=345))
        pid, _ = await start(rig, task)
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "345"


# ---- CPU --------------------------------------------------------------------------------


@pytest.mark.alone
async def test_cpu_hog_is_held_to_its_hard_limit(tmp_path: Path, jar_dir: Path) -> None:
    """Two busy processes get what cpu_hard_limit gives, to within a tenth."""
    wanted = 0.3
    script = f"({BUSY}) & {BUSY}"
    async with open_rig(scripted(tmp_path, script)) as rig:
        task = rig.task(jar_dir / "hello.jar", cpu_hard_limit=True)
        task = with_resources(
            task,
            Resources(
                memory_bytes=64 * MIB,
                cpu_shares=MANY_SHARES,
                cpu_percent_ticks=wanted / (os.cpu_count() or 1),
            ),
        )
        _, source = await start(rig, task)
        waited_s, [used_s] = await cpu_seconds([source], 6)
        assert used_s / waited_s == pytest.approx(wanted, rel=0.1)
        assert sampling.sample(source).throttled_periods


@pytest.mark.alone
@pytest.mark.parametrize("nomads", [True, False], ids=["in-nomads-groups", "alone"])
async def test_two_hogs_share_by_weight(
    tmp_path: Path, jar_dir: Path, scopes: tuple[str, str], nomads: bool
) -> None:
    """Two tasks that want the same core share it as their jobs' CPU says, 1 : 3 on v1.

    On v2 it is 1 : 2.3, as it is for tasks of Nomad's own drivers.
    """
    script = f"read line < /local/go; echo running; {BUSY}"
    async with open_rig(scripted(tmp_path, script)) as rig:
        sources = []
        for number, shares in enumerate((500, 1500)):
            task = rig.task(jar_dir / "hello.jar", name=f"app{number}")
            os.mkfifo(task.local / "go", 0o644)
            task = with_resources(
                task,
                Resources(memory_bytes=64 * MIB, cpu_shares=shares),
                scopes[number] if nomads else "",
            )
            pid, source = await start(rig, task)
            os.sched_setaffinity(pid, {only_cpu()})
            (task.local / "go").write_text("go\n")
            await trio.to_thread.run_sync(task.out.wait_for, b"running")
            sources.append(source)
        _, [small_s, large_s] = await cpu_seconds(sources, 8)
        v2 = cgroup_files.detect().mode is Mode.V2
        assert large_s / small_s == pytest.approx(136 / 58 if v2 else 3, rel=0.15)
        for source, shares in zip(sources, (500, 1500), strict=True):
            groups = [Path(source.cpu), Path(source.cpu).parent] if nomads else [Path(source.cpu)]
            for group in groups:
                if source.mode is Mode.V2:
                    expected = cgroup.shares_to_weight(shares)
                    assert int((group / "cpu.weight").read_text()) == expected
                else:
                    assert int((group / "cpu.shares").read_text()) == shares


async def test_reserved_cores(tmp_path: Path, jar_dir: Path) -> None:
    """A task with cores of its own runs on them alone."""
    hierarchy = cgroup_files.detect()
    core = str(only_cpu())
    group = (
        Path(hierarchy.mounts.get("cpuset", ""), SCOPE) if hierarchy.mode is not Mode.V2 else None
    )
    if group is not None:
        group.mkdir()
        (group / "cpuset.mems").write_text((group.parent / "cpuset.mems").read_text())
    try:
        async with open_rig(scripted(tmp_path, "nproc; sleep 600")) as rig:
            task = rig.task(jar_dir / "hello.jar")
            resources = attrs.evolve(task.request.resources, cpuset_cpus=core)
            launch = attrs.evolve(
                task.request, resources=resources, cpuset_cgroup=str(group) if group else ""
            )
            task = attrs.evolve(task, request=launch)
            pid, _ = await start(rig, task)
            assert os.sched_getaffinity(pid) == {int(core)}
            await trio.to_thread.run_sync(task.out.wait_for, b"1\n")
    finally:
        if group is not None:
            group.rmdir()


# ---- processes --------------------------------------------------------------------------


async def test_fork_bomb_is_held(tmp_path: Path, jar_dir: Path) -> None:
    """Processes that multiply end at the task's limit, and its stop ends them all."""
    script = "bomb() { bomb | bomb & }; echo running; bomb; sleep 600"
    async with open_rig(scripted(tmp_path, script)) as rig:
        task = rig.task(jar_dir / "hello.jar", pids_limit=50)
        _, source = await start(rig, task)
        where = cgroup_files.detect()
        started = rig.registry._tasks[task.id].started
        assert started is not None
        pids = Path(where.directory("pids", started.cgroup_path) or "")
        assert (pids / "pids.max").read_text().strip() == "50"
        with fail_after(30):
            while not _refused(pids):
                assert int((pids / "pids.current").read_text()) <= 50
                await trio.sleep(0.02)
        assert sampling.sample(source).memory
        with fail_after(30):
            await rig.registry.stop(task.id, "SIGKILL", 5)
            await rig.registry.wait(task.id)


def _refused(pids: Path) -> int:
    """Return how often the kernel has refused a process to the group."""
    return cgroup_files.read_keyed(str(pids), "pids.events").get("max", 0)


async def test_thread_bomb_gets_javas_own_error(jar_dir: Path) -> None:
    """A JVM that starts threads without end is refused them, and can say so."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "thread-bomb.jar", pids_limit=100)
        await rig.registry.start(task.request)
        with fail_after(60):
            result = await rig.registry.wait(task.id)
            await task.read()
        assert result.exit_code == 3
        found = re.search(r"threads=(\d+)\n(.*)", task.out.text.decode())
        assert found
        assert 40 <= int(found[1]) <= 100
        assert "unable to create native thread" in found[2]
