"""What a cluster does with tasks: it moves, replaces, dispatches and protects them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.error
from functools import partial
from pathlib import Path

import attrs
import pytest

from tests.acceptance.conftest import IN_VM
from tests.support import nomads, pages
from tests.support.agent import MILO
from tests.support.cluster import Cluster
from tests.support.jobs import NEVER_AGAIN, job_file, shell_job
from tests.support.nomad import Nomad
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.skipif(IN_VM, reason="five agents are too much for the virtual machine"),
    pytest.mark.timeout(900),
]
DISPATCHES = 200 if os.environ.get("MILO_FULL") else 20
"""The matrix tries all."""


def test_drain_migrates_the_data(town: Cluster, jar_url: str) -> None:
    """A drained task ends in peace and goes on elsewhere, with what it had written."""
    disk = "ephemeral_disk {\nmigrate = true\nsticky = true\n}\nmigrate {\nmin_healthy_time = "
    script = "echo start >>/alloc/data/starts; cat /alloc/data/starts; sleep 600"
    town.nomad.run(shell_job(jar_url, "mover", script, kind="service", group=f'{disk}"1s"\n}}'))
    [first] = town.wait_running("mover", 1)
    wait_for("the first start", lambda: town.logs(first["ID"]) == "start\n")
    node = first["NodeID"]
    town.nomad.cli("node", "drain", "-enable", "-yes", "-detach", "-deadline", "2m", node)
    try:

        def moved() -> bool:
            found = town.running("mover")
            return len(found) == 1 and found[0]["NodeID"] != node

        wait_for("the task to run elsewhere", moved, 120, pause_s=0.2)
        [second] = town.running("mover")
        wait_for("the second start", lambda: town.logs(second["ID"]) == "start\nstart\n")
        ended = town.nomad.get(f"/v1/allocation/{first['ID']}")
        assert ended["ClientStatus"] == "complete"
    finally:
        town.nomad.cli("node", "drain", "-disable", "-yes", node)


def test_canary_and_rolling_update(town: Cluster, jar_url: str) -> None:
    """A new version runs beside the old one until it is promoted, and then takes its place."""
    update = (
        "count = 3\nupdate {\ncanary = 1\nmax_parallel = 1\n"
        'min_healthy_time = "1s"\nhealth_check = "task_states"\n}'
    )

    def submit(word: str) -> None:
        script = f"echo {word}; sleep 600"
        town.nomad.run(shell_job(jar_url, "web", script, kind="service", group=update))

    def words() -> list[str]:
        return sorted(town.logs(alloc["ID"]).strip() for alloc in town.running("web"))

    submit("old")
    wait_for("three old ones", lambda: words() == ["old"] * 3, 120, pause_s=0.5)
    submit("new")
    wait_for("a canary", lambda: words() == ["new", "old", "old", "old"], 120, pause_s=0.5)
    deployment = town.nomad.get("/v1/job/web/deployment")

    def healthy() -> bool:
        state = town.nomad.get(f"/v1/deployment/{deployment['ID']}")
        return int(state["TaskGroups"]["g"]["HealthyAllocs"]) == 1

    wait_for("the canary to be healthy", healthy, 60)
    town.nomad.cli("deployment", "promote", "-detach", deployment["ID"])
    wait_for("three new ones", lambda: words() == ["new"] * 3, 120, pause_s=0.5)
    restarts = [alloc["TaskStates"]["app"]["Restarts"] for alloc in town.running("web")]
    assert restarts == [0, 0, 0]


@pytest.mark.parametrize(
    ("kept", "fault"),
    [(False, signal.SIGKILL), (True, signal.SIGKILL), (True, signal.SIGSTOP)],
    ids=["lost", "disconnected", "silent"],
)
def test_death_of_a_client(town: Cluster, jar_url: str, kept: bool, fault: signal.Signals) -> None:
    """Its task is replaced on the other one; when the client is back, one of the two remains.

    Where the job allows for a disconnection that is the first: the same JVM, never stopped. A
    client that is only silent comes back with all that it had.
    """
    group = 'update {\nmin_healthy_time = "1s"\nhealth_check = "task_states"\n}\n'
    group += _may_disconnect(town) if kept else ""
    text = job_file(
        name="survivor",
        kind="service",
        config={"args": ["100", "0"]},
        artifact=f"{jar_url}/clock.jar",
        memory=64,
        group=group,
    )
    town.nomad.run(text.replace(NEVER_AGAIN, ""))
    [first] = town.wait_running("survivor", 1)
    # Nomad replaces nothing that is disconnected while its deployment goes on.
    wait_for("the deployment's end", lambda: _deployed(town, "survivor"), 60)
    client = town.clients[first["NodeName"]]
    client.fail(fault)
    try:

        def replaced() -> bool:
            return any(alloc["NodeID"] != first["NodeID"] for alloc in town.running("survivor"))

        wait_for("the task to run on the other client", replaced, 120, pause_s=0.2)
        seen = town.nomad.get(f"/v1/allocation/{first['ID']}")["ClientStatus"]
        assert seen == ("unknown" if kept else "lost")
    finally:
        client.come_back()
    town.wait_ready()

    def settled() -> bool:
        running = town.running("survivor")
        return len(running) == 1 and (running[0]["ID"] == first["ID"]) == kept

    wait_for("one of the two to remain", settled, 120, pause_s=0.2)
    if kept:
        [alloc] = town.running("survivor")
        assert alloc["TaskStates"]["app"]["Restarts"] == 0
        ticks = [line.split()[1] for line in town.logs(first["ID"]).splitlines()]
        assert ticks == [str(number) for number in range(len(ticks))]


def _deployed(town: Cluster, job: str) -> bool:
    return bool(town.nomad.get(f"/v1/job/{job}/deployment")["Status"] == "successful")


def _may_disconnect(town: Cluster) -> str:
    """Return a group's lines; the first spelling was replaced in Nomad 1.8 and ended with 1.10."""
    if nomads.numbers(nomads.version_of(town.nomad.binary)) < (1, 8):
        return 'max_client_disconnect = "5m"'
    return 'disconnect {\nlost_after = "5m"\nreconcile = "keep_original"\n}'


def test_dispatch(town: Cluster, jar_url: str) -> None:
    """Many short jobs at once: each runs once, with its own word, and ends well."""
    # So large that a few run at once, and the others wait until there is room.
    text = shell_job(jar_url, "batch", "echo word $NOMAD_META_WORD").replace(
        "cpu = 50", "cpu = 1000"
    )
    text = text.replace('group "g"', 'parameterized {\nmeta_required = ["word"]\n}\ngroup "g"')
    town.nomad.run(text)
    jobs = [
        town.nomad.put("/v1/job/batch/dispatch", {"Meta": {"word": str(number)}})["DispatchedJobID"]
        for number in range(DISPATCHES)
    ]

    def allocations() -> list[dict[str, str]] | None:
        found = [one for one in town.nomad.get("/v1/allocations") if one["JobID"] in set(jobs)]
        ended = [one for one in found if one["ClientStatus"] in ("complete", "failed", "lost")]
        return ended if len(ended) >= DISPATCHES else None

    ended = wait_for("all to end", allocations, 700, pause_s=1)
    assert [one["ClientStatus"] for one in ended] == ["complete"] * DISPATCHES
    assert {one["JobID"] for one in ended} == set(jobs)
    for number in range(0, DISPATCHES, 20):
        [alloc] = [one for one in ended if one["JobID"] == jobs[number]]
        wait_for("its word", partial(_has_logged, town, alloc["ID"], f"word {number}\n"))


def _has_logged(town: Cluster, alloc: str, text: str) -> bool:
    return town.logs(alloc) == text


def test_system_and_periodic_jobs(town: Cluster, jar_url: str) -> None:
    """A system job runs on every client, a sysbatch job once, a periodic one at its times."""
    text = shell_job(jar_url, "everywhere", "sleep 600", kind="system")
    town.nomad.run(text.replace(NEVER_AGAIN, ""))
    both = town.wait_running("everywhere", 2)
    assert {alloc["NodeName"] for alloc in both} == {"one", "two"}
    town.nomad.run(shell_job(jar_url, "once", "true", kind="sysbatch").replace(NEVER_AGAIN, ""))

    def complete() -> set[str]:
        allocs = town.nomad.get("/v1/job/once/allocations")
        return {one["NodeName"] for one in allocs if one["ClientStatus"] == "complete"}

    wait_for("it to end everywhere", lambda: complete() == {"one", "two"}, 60)
    text = shell_job(jar_url, "often", "echo now")
    times = 'periodic {\ncron = "*/5 * * * * * *"\nprohibit_overlap = false\n}\n'
    town.nomad.run(text.replace('group "g"', f'{times}group "g"'))

    def ended() -> bool:
        allocs = town.nomad.get("/v1/allocations")
        mine = [one for one in allocs if one["JobID"].startswith("often/periodic-")]
        return len([one for one in mine if one["ClientStatus"] == "complete"]) >= 2

    wait_for("two launches to end", ended, 90, pause_s=0.5)


def test_namespaces_and_tokens(town: Cluster, jar_url: str, tmp_path: Path) -> None:
    """A namespace can forbid the driver; a token sees what its policy allows, exec apart."""
    for name, capabilities in (
        ("without", 'disabled_task_drivers = ["milo"]'),
        ("with", 'enabled_task_drivers = ["milo"]'),
    ):
        spec = tmp_path / f"{name}.hcl"
        spec.write_text(f'name = "{name}"\ncapabilities {{\n{capabilities}\n}}\n')
        town.nomad.cli("namespace", "apply", str(spec))
    rules = 'namespace "with" {\npolicy = "read"\ncapabilities = ["submit-job", "read-logs"]\n}\n'
    (tmp_path / "policy.hcl").write_text(rules)
    town.nomad.cli("acl", "policy", "apply", "reader", str(tmp_path / "policy.hcl"))
    words = ("acl", "token", "create", "-type=client", "-policy=reader", "-json")
    token = json.loads(town.nomad.cli(*words))["SecretID"]
    limited = attrs.evolve(town.nomad, token=token)
    text = shell_job(jar_url, "guarded", "echo here; sleep 600", kind="service")
    file = tmp_path / "job.hcl"
    file.write_text(text.replace('type = "service"', 'type = "service"\nnamespace = "without"'))
    with pytest.raises(AssertionError, match="not allowed"):
        town.nomad.cli("job", "run", "-detach", str(file))
    file.write_text(text.replace('type = "service"', 'type = "service"\nnamespace = "with"'))
    # A server that follows another one learns of a token a moment later.
    wait_for("the token to be known", lambda: _knows(limited))
    limited.cli("job", "run", "-detach", str(file))

    def running() -> list[dict[str, str]]:
        allocs = limited.get("/v1/job/guarded/allocations", namespace="with")
        return [alloc for alloc in allocs if alloc["ClientStatus"] == "running"]

    [alloc] = wait_for("the task to run", running, 60)
    place = ("-namespace=with", alloc["ID"])
    wait_for("its log", lambda: limited.cli("alloc", "logs", *place) == "here\n")
    with pytest.raises(AssertionError, match=r"Permission denied|403"):
        limited.cli("alloc", "exec", "-t=false", *place, "true")
    assert town.nomad.cli("alloc", "exec", "-t=false", *place, "echo", "yes") == "yes\n"


def _knows(nomad: Nomad) -> bool:
    try:
        return bool(nomad.get("/v1/acl/token/self"))
    except urllib.error.HTTPError:
        return False


def test_variables_and_identity(town: Cluster, jar_url: str) -> None:
    """A template is filled with the job's variables by the task's own identity, which it has."""
    items = {"Path": "nomad/jobs/reader", "Items": {"greeting": "hello"}}
    town.nomad.put("/v1/var/nomad/jobs/reader", items)
    template = (
        "template {\ndata = <<END\n"
        '{{ with nomadVar "nomad/jobs/reader" }}{{ .greeting }}{{ end }}\nEND\n'
        'destination = "local/greeting"\nchange_mode = "restart"\n}\n'
        "identity {\nenv = true\nfile = true\n}\n"
    )
    script = (
        "cat /local/greeting; cut -d. -f2 /secrets/nomad_token | wc -l;"
        ' [ "$NOMAD_TOKEN" = "$(cat /secrets/nomad_token)" ] && echo same; sleep 600'
    )
    town.nomad.run(shell_job(jar_url, "reader", script, kind="service", task=template))
    [alloc] = town.wait_running("reader", 1)
    wait_for("the greeting", lambda: town.logs(alloc["ID"]) == "hello\n1\nsame\n")
    items["Items"] = {"greeting": "good evening"}
    town.nomad.put("/v1/var/nomad/jobs/reader", items)
    wait_for("the new greeting", lambda: "good evening\n" in town.logs(alloc["ID"]), 60)


def test_a_token_for_the_doctor(town: Cluster, tmp_path: Path) -> None:
    """The policy of docs/production.md lets `milo doctor` see agent and node; nothing else does."""
    [policy] = [text for kind, text in pages.blocks("production.md") if kind == "hcl"]
    (tmp_path / "doctor.hcl").write_text(policy)
    town.nomad.cli("acl", "policy", "apply", "milo-doctor", str(tmp_path / "doctor.hcl"))
    words = ("acl", "token", "create", "-name=milo-doctor", "-policy=milo-doctor", "-json")
    secret = json.loads(town.nomad.cli(*words))["SecretID"]
    address = f"http://127.0.0.1:{town.clients['one'].ports[0]}"

    def verdicts(token: str) -> dict[str, str]:
        done = subprocess.run(
            [MILO, "doctor", "--json", "--service=none", "--address", address],
            env={**os.environ, "NOMAD_TOKEN": token},
            capture_output=True,
            check=False,
        )
        return {one["check"]: one["verdict"] for one in json.loads(done.stdout)["checks"]}

    # A server that follows another one learns of a token a moment later.
    wait_for("the token to be known", lambda: verdicts(secret)["agent"] == "ok")
    found = verdicts(secret)
    assert found["agent"] == found["driver"] == found["plugin_dir"] == "ok", found
    without = verdicts("")
    assert without["agent"] == "skipped" and without["container"] == "ok", without
