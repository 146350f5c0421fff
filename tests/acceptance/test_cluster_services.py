"""What a cluster does with services: it waits for their health, takes back what is bad, places."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import IN_VM
from tests.support import nomads
from tests.support.agent import ROOT
from tests.support.cluster import Cluster
from tests.support.jobs import NEVER_AGAIN, job_file, shell_job
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.skipif(IN_VM, reason="five agents are too much for the virtual machine"),
    pytest.mark.timeout(600),
]
HEALTHY_S = 3
"""How long a check has to succeed before its task is healthy."""
START_S = 10
GRACE_S = 8
PLUGIN = "tests.support.csi_plugin"
VOLUMES_SINCE = (1, 10)
"""The Nomad that brought dynamic host volumes."""


def web(
    url: str, name: str, start_s: str, check: str, update: str, count: int = 1, attempts: int = 0
) -> str:
    """Return a job of services that begin ``start_s`` after they are started."""
    group = (
        f"count = {count}\n"
        f'update {{\nhealth_check = "checks"\nmin_healthy_time = "{HEALTHY_S}s"\n{update}\n}}\n'
        'network {\nport "http" {}\n}'
    )
    # A task's: the grace of a group's service begins before the task does.
    service = (
        'service {\nprovider = "nomad"\nport = "http"\n'
        f'check {{\ninterval = "1s"\ntimeout = "1s"\n{check}\n}}\n}}'
    )
    return job_file(
        name=name,
        kind="service",
        config={"args": [start_s]},
        artifact=f"{url}/web-service.jar",
        memory=64,
        cpu=50,
        attempts=attempts,
        group=group,
        task=service,
    )


@pytest.mark.parametrize("check", ['type = "tcp"', 'type = "http"\npath = "/health"'])
def test_a_deployment_waits_for_a_slow_start(town: Cluster, jar_url: str, check: str) -> None:
    """A check may fail until the JVM listens: no restart within the grace, health after it."""
    check += '\ncheck_restart {\nlimit = 2\ngrace = "2m"\n}'
    town.nomad.run(web(jar_url, "slow", str(START_S), check, 'healthy_deadline = "2m"'))
    [alloc] = town.wait_running("slow", 1)

    def states() -> set[str]:
        checks = town.nomad.get(f"/v1/client/allocation/{alloc['ID']}/checks")
        return {found["Status"] for found in checks.values()}

    wait_for("the check to fail", lambda: states() == {"failure"}, 60)
    assert _deployment(town, "slow")["Status"] == "running"
    began_s = 0.0

    def listens() -> bool:
        nonlocal began_s
        # A busy host shows it later than it is so: what counts is when it was not so yet.
        began_s = time.monotonic()
        return "listening on" in town.logs(alloc["ID"])

    wait_for("the service to begin", listens, 60)
    wait_for("success", lambda: _deployment(town, "slow")["Status"] == "successful", 60)
    assert time.monotonic() - began_s > HEALTHY_S - 1
    wait_for("the check to succeed", lambda: states() == {"success"})
    [alloc] = town.running("slow")
    assert alloc["TaskStates"]["app"]["Restarts"] == 0


def test_a_service_that_never_answers_is_restarted(town: Cluster, jar_url: str) -> None:
    """Failed checks restart a task, and none before the grace is over."""
    check = f'type = "tcp"\ncheck_restart {{\nlimit = 2\ngrace = "{GRACE_S}s"\n}}'
    town.nomad.run(web(jar_url, "mute", "600", check, "", attempts=1))
    [alloc] = town.wait_running("mute", 1)

    def state() -> dict[str, Any]:
        found: dict[str, Any] = town.nomad.get(f"/v1/allocation/{alloc['ID']}")
        return dict(found["TaskStates"]["app"])

    wait_for("a restart", lambda: state()["Restarts"] == 1 and state()["State"] == "running", 90)
    first_s: dict[str, float] = {}
    for event in state()["Events"]:
        first_s.setdefault(event["Type"], event["Time"] / 1e9)
    assert first_s["Restart Signaled"] - first_s["Started"] >= GRACE_S


@pytest.mark.parametrize("bad", ["600", "never"], ids=["mute", "ended"])
def test_a_bad_version_is_taken_back(town: Cluster, jar_url: str, bad: str) -> None:
    """An update goes on one by one; where the first one is not well the old version comes back."""
    count = 2
    update = (
        'max_parallel = 1\nauto_revert = true\nhealthy_deadline = "20s"\nprogress_deadline = "1m"'
    )

    def submit(start_s: str) -> None:
        town.nomad.run(web(jar_url, "shop", start_s, 'type = "tcp"', update, count))

    def serving() -> int:
        return sum(alloc["JobVersion"] in (0, 2) for alloc in town.running("shop"))

    submit("0")
    wait_for("the first version", lambda: _deployment(town, "shop")["Status"] == "successful", 90)
    submit(bad)
    fewest = count

    def reverted() -> bool:
        nonlocal fewest
        fewest = min(fewest, serving())
        return _version(town) == 2 and _deployment(town, "shop")["Status"] == "successful"

    wait_for("the first version again", reverted, 150, pause_s=0.2)
    assert fewest >= count - 1
    assert serving() == count
    job = town.nomad.get("/v1/job/shop")
    assert job["TaskGroups"][0]["Tasks"][0]["Config"]["args"] == ["0"]


def _version(town: Cluster) -> int:
    return int(town.nomad.get("/v1/job/shop")["Version"])


def _deployment(town: Cluster, job: str) -> dict[str, Any]:
    """Return a job's latest deployment, with no status before there is one."""
    found: dict[str, Any] = town.nomad.get(f"/v1/job/{job}/deployment") or {"Status": ""}
    return found


@contextmanager
def _in_pool(town: Cluster, name: str, pool: str) -> Iterator[None]:
    """Have a client in another pool for a while."""
    client = town.clients[name]
    file = client.base / f"{name}.hcl"
    text = file.read_text()
    file.write_text(text.replace("client {\n", f'client {{\n node_pool = "{pool}"\n'))
    client.end()
    client.start()
    try:
        yield
    finally:
        file.write_text(text)
        client.end()
        client.start()


def test_node_pools(town: Cluster, jar_url: str) -> None:
    """A job runs in its pool alone, one for all pools anywhere, and leaves with its client."""
    with _in_pool(town, "two", "spare"):
        wait_for("the move", lambda: town.nodes()["two"]["NodePool"] == "spare", 60)
        town.wait_ready()
        for pool, expected in (("spare", {"two"}), ("default", {"one"}), ("all", {"one", "two"})):
            text = shell_job(jar_url, f"in-{pool}", "sleep 600", kind="system")
            text = text.replace(NEVER_AGAIN, "")
            town.nomad.run(text.replace("type =", f'node_pool = "{pool}"\ntype =', 1))
            found = town.wait_running(f"in-{pool}", len(expected))
            assert {alloc["NodeName"] for alloc in found} == expected
        town.purge()
        town.collect()
    wait_for("the move back", lambda: town.nodes()["two"]["NodePool"] == "default", 60)


@pytest.fixture
def volume(town: Cluster, tmp_path: Path) -> Iterator[Path]:
    """The directory of a dynamic host volume ``kept`` on client one.

    It is on that one alone: of two with one name Nomad 2.0.5 forgets which one a job has claimed
    when it looks at that client first (its scheduler's HostVolumeChecker).
    """
    if nomads.numbers(nomads.version_of(town.nomad.binary)) < VOLUMES_SINCE:
        pytest.skip("this Nomad has no dynamic host volumes")
    node, spec = town.nodes()["one"]["ID"], tmp_path / "kept.hcl"
    spec.write_text(
        f'name = "kept"\ntype = "host"\nplugin_id = "mkdir"\nnode_id = "{node}"\n'
        'capability {\naccess_mode = "single-node-writer"\nattachment_mode = "file-system"\n}\n'
        'parameters {\nuid = "65534"\ngid = "65534"\n}\n'
    )
    town.nomad.cli("volume", "create", str(spec))
    [made] = town.nomad.get("/v1/volumes", type="host")
    yield town.base / "one/host_volumes" / made["ID"]
    town.purge()
    town.nomad.cli("system", "gc")
    town.nomad.cli("volume", "delete", "-type", "host", made["ID"])


def test_a_dynamic_host_volume_keeps_its_task(town: Cluster, volume: Path, jar_url: str) -> None:
    """A task that fails comes back to its sticky volume and the data in it, each time."""
    claim = 'volume "data" {\ntype = "host"\nsource = "kept"\nsticky = true\n'
    claim += 'access_mode = "single-node-writer"\nattachment_mode = "file-system"\n}\n'
    claim += 'reschedule {\ndelay = "5s"\ndelay_function = "constant"\nunlimited = true\n}\n'
    claim += 'update {\nmin_healthy_time = "1s"\nhealth_check = "task_states"\n}'
    script = (
        "echo $NOMAD_ALLOC_ID >>/data/starts; cat /data/starts;"
        " [ $(wc -l </data/starts) -ge 3 ] && sleep 600; sleep 3; exit 1"
    )
    mount = 'volume_mount {\nvolume = "data"\ndestination = "/data"\n}'
    text = shell_job(jar_url, "keeper", script, kind="service", group=claim, task=mount)
    town.nomad.run(text.replace(NEVER_AGAIN, ""))

    def allocs() -> list[dict[str, Any]]:
        found = town.nomad.get("/v1/job/keeper/allocations")
        return sorted(found, key=lambda alloc: int(alloc["CreateIndex"]))

    def settled() -> bool:
        found = allocs()
        return len(found) == 3 and found[-1]["ClientStatus"] == "running"

    wait_for("the third start", settled, 150, pause_s=0.5)
    ids = [alloc["ID"] for alloc in allocs()]
    wait_for("what it reads", lambda: town.logs(ids[-1]).split() == ids)
    assert (volume / "starts").read_text().split() == ids


@pytest.fixture
def csi_volume(town: Cluster, tmp_path: Path) -> Iterator[Path]:
    """A volume ``shelf`` of a CSI plugin on client one, and its directory."""
    shelf = tmp_path / "store/shelf"
    shelf.mkdir(parents=True)
    shelf.chmod(0o777)
    place = town.base / "one/client/csi/node/mini"
    plugin = job_file(
        name="csi",
        kind="service",
        driver="raw_exec",
        config={
            "command": "/bin/sh",
            "args": ["-c", f"cd {ROOT} && exec {sys.executable} -m {PLUGIN} {shelf.parent}"],
        },
        group='constraint {\nattribute = "${node.unique.name}"\nvalue = "one"\n}',
        task='csi_plugin {\nid = "mini"\ntype = "node"\nmount_dir = "/csi"\n'
        f'stage_publish_base_dir = "{place}"\n}}',
    )
    town.nomad.run(plugin)
    wait_for("the plugin to be healthy", lambda: _healthy_nodes(town) == 1, 90, pause_s=0.5)
    spec = tmp_path / "shelf.hcl"
    spec.write_text(
        'type = "csi"\nid = "shelf"\nname = "shelf"\nexternal_id = "shelf"\nplugin_id = "mini"\n'
        'capability {\naccess_mode = "multi-node-multi-writer"\n'
        'attachment_mode = "file-system"\n}\n'
    )
    town.nomad.cli("volume", "register", str(spec))
    yield shelf
    for job in town.nomad.get("/v1/jobs"):
        if job["ID"] != "csi":
            town.nomad.cli("job", "stop", "-purge", "-detach", job["ID"])
    # Its claims are given back a little after the mounts.
    wait_for("the volume to go", lambda: _deregister(town), 90, pause_s=1)


def _deregister(town: Cluster) -> bool:
    town.nomad.cli("volume", "deregister", "shelf", check=False)
    return not town.nomad.get("/v1/volumes", type="csi")


def _healthy_nodes(town: Cluster) -> int:
    plugins = town.nomad.get("/v1/plugins", type="csi")
    return sum(int(plugin["NodesHealthy"]) for plugin in plugins)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_csi_volume(town: Cluster, csi_volume: Path, jar_url: str, read_only: bool) -> None:
    """What a plugin mounts is in the task, to write or to read, and is taken away at its end."""
    (csi_volume / "greeting").write_text("from the shelf\n")
    word = str(read_only).lower()
    claim = (
        'volume "shelf" {\ntype = "csi"\nsource = "shelf"\nattachment_mode = "file-system"\n'
        f'access_mode = "multi-node-multi-writer"\nread_only = {word}\n}}'
    )
    mount = f'volume_mount {{\nvolume = "shelf"\ndestination = "/shelf"\nread_only = {word}\n}}'
    script = "cat /shelf/greeting; echo back >/shelf/new && echo written; sleep 600"
    text = shell_job(jar_url, "reads", script, kind="service", group=claim, task=mount)
    town.nomad.run(text)
    [alloc] = town.wait_running("reads", 1)
    expected = "from the shelf\n" + ("" if read_only else "written\n")
    wait_for("its words", lambda: town.logs(alloc["ID"]) == expected)
    assert (csi_volume / "new").exists() != read_only
    town.nomad.cli("job", "stop", "-detach", "reads")
    wait_for(
        "no mount", lambda: not list(town.base.glob("one/client/csi/node/mini/per-alloc/*/*/*"))
    )
