"""Shares of the CPU beside tasks of Nomad's java driver, on clients of every size."""

from __future__ import annotations

from pathlib import Path

import pytest

from milo import cgroup_files
from milo.core.cgroup import MAX_SHARES, Mode
from tests.acceptance.conftest import IN_VM
from tests.support import parity, security_chroot
from tests.support.agent import agent
from tests.support.jobs import job_file
from tests.support.nomad import Job, hcl


def share(job: Job) -> int:
    """Return what the kernel holds of the CPU for Nomad's group of the job's task."""
    hierarchy = cgroup_files.detect()
    name = f"{job.allocation()}.app"
    v2 = hierarchy.mode is Mode.V2
    inside = f"nomad.slice/share.slice/{name}.scope" if v2 else f"nomad/{name}"
    directory = hierarchy.directory("cpu", inside)
    assert directory is not None
    return int(Path(directory, "cpu.weight" if v2 else "cpu.shares").read_text())


@pytest.mark.parametrize(
    ("client_mhz", "jobs_mhz"),
    [(5_000, (100, 500, 1_500)), (600_000, (100, 500, 10_000, 300_000))],
)
def test_share_is_that_of_the_java_driver(
    client_mhz: int, jobs_mhz: tuple[int, ...], jar_url: str
) -> None:
    """The same ``cpu`` gives the same share with both drivers, on a client however large."""
    if IN_VM:
        # The java driver's chroot is copied there, slowly. raw_exec has the same curve, unscaled.
        drivers, chroot = ("raw_exec", "milo"), ""
        if client_mhz > MAX_SHARES:
            pytest.skip("no driver that scales is at hand in the virtual machine")
    else:
        entries = security_chroot.entries()
        lines = "".join(f"{hcl(path)} = {hcl(inside)}\n" for path, inside in entries.items())
        drivers, chroot = parity.DRIVERS, f"chroot_env {{\n{lines}}}\n"
    found = {}
    with agent(f"shares-{client_mhz}", client=f"cpu_total_compute = {client_mhz}\n{chroot}") as one:
        for driver in drivers:
            # One after the other: both together are more than the client has.
            jobs = {mhz: one.nomad.run(job(driver, mhz, jar_url)) for mhz in jobs_mhz}
            for each in jobs.values():
                each.wait_state("running")
            found[driver] = {mhz: share(each) for mhz, each in jobs.items()}
            for each in jobs.values():
                each.stop()
    assert found["milo"] == found[drivers[0]]


def job(driver: str, mhz: int, url: str) -> str:
    """Return a job that runs until it is stopped."""
    config: dict[str, object] = {"jar_path": "local/stubborn.jar"}
    if driver == "raw_exec":
        config = {"command": "sleep", "args": ["600"]}
    return job_file(
        driver=driver, kind="service", config=config, artifact=f"{url}/stubborn.jar", cpu=mhz
    )
