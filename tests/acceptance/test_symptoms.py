"""The table of symptoms in docs/troubleshooting.md: each is produced and its remedy followed."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.support import agent as agents
from tests.support import artifacts, networks
from tests.support.agent import agent
from tests.support.jobs import job_file
from tests.support.nomad import Job, Nomad
from tests.support.waiting import wait_for

PAGE = (Path(__file__).parents[2] / "docs/troubleshooting.md").read_text()
TABLE = PAGE.partition("## Symptoms\n")[2].partition("\n### ")[0]
ROWS = re.findall(r"^\| ([^|]+) \| [^|]+ \| \[.+\]\(\S+\) \|$", TABLE, re.MULTILINE)
SEEN = [text for seen in ROWS for text in re.findall(r"`([^`]+)`", seen)]
LIBRARY = str(next(Path("/usr/lib").glob("*/libseccomp.so.2"), "/usr/lib/libseccomp.so.2"))
"""What crun needs, and no JVM."""
BRIDGE = 'network {\n mode = "bridge"\n}\n'


@attrs.frozen
class Case:
    """Two tasks: one that shows the symptom, and the same one with the remedy of the page."""

    symptom: str
    """As in the page."""
    config: Mapping[str, Any]
    remedy: Mapping[str, Any] = attrs.field(factory=dict)
    """Keys of the task's config that are other with the remedy; None: not there."""
    more: Mapping[str, Any] = attrs.field(factory=dict)
    """More of `job_file`."""
    more_remedy: Mapping[str, Any] = attrs.field(factory=dict)
    status: int | None = None
    """The exit code, where the page names it."""


def does(*words: str, **options: Any) -> dict[str, Any]:
    """Return the config of a task that does what `Symptoms` understands."""
    return {"jar_path": "local/symptoms.jar", "args": list(words), **options}


TEMPLATE = 'template {\n data = "x"\n destination = "local/app.conf"\n perms = "%s"\n}\n'
CASES = [
    Case("Read-only file system", does("write", "/app.log"), does("write", "/alloc/data/app.log")),
    Case(
        "AccessDeniedException",
        does("read", "/local/app.conf"),
        more={"task": TEMPLATE % "600"},
        more_remedy={"task": TEMPLATE % "644"},
    ),
    Case(
        "NoSuchFileException",
        does("read", "/var/lib/dpkg/status"),
        does("read", "/local/app.conf"),
        more={"task": TEMPLATE % "644"},
    ),
    Case(
        "No space left on device",
        does("fill", "/dev/shm/x", "80"),
        {"shm_size": "100m"},
        more={"memory": 300},
    ),
    Case(
        "BindException: Permission denied",
        does("bind", "81", "0.0.0.0"),
        {"cap_add": ["net_bind_service"]},
    ),
    Case(
        "BindException: Address already in use",
        does("bind", "{busy}", "127.0.0.1"),
        does("bind", "${NOMAD_PORT_web}", "127.0.0.1"),
        more={"group": 'network {\n port "web" {}\n}\n'},
    ),
    Case(
        "BindException: Cannot assign requested address",
        does("bind", "8099", "192.0.2.1"),
        does("bind", "8099", "0.0.0.0"),
    ),
    Case(
        "UnknownHostException",
        does("resolve", "db.internal"),
        {"extra_hosts": ["db.internal:192.0.2.1"]},
    ),
    Case(
        "ConnectException: Connection refused",
        does("connect", "{busy}", "127.0.0.1"),
        more={"group": BRIDGE},
        more_remedy={"group": ""},
    ),
    Case("OutOfMemoryError: Java heap space", does("heap", "60"), more_remedy={"memory": 256}),
    Case(
        "unable to create native thread",
        does("threads", "200", pids_limit=100),
        {"pids_limit": 400},
        more={"memory": 300},
    ),
    Case(
        "Too many open files",
        does("files", "300", ulimit={"nofile": "100"}),
        {"ulimit": {"nofile": "1000"}},
    ),
    Case(
        "ClassNotFoundException",
        does("class", "Hello"),
        {"class": "Symptoms", "class_path": "local/symptoms.jar:local/hello.jar", "jar_path": ""},
    ),
    Case(
        "UnsatisfiedLinkError",
        does("load", LIBRARY, rootfs="minimal"),
        {"rootfs": "host"},
    ),
    Case("Cannot run program", does("run", "true", rootfs="minimal"), {"rootfs": "host"}),
    Case(
        "Unrecognized VM option",
        does("class", "Symptoms", jvm_options=["-XX:+NoSuchOption"]),
        {"jvm_options": []},
        status=1,
    ),
    Case(
        "Initial heap size set to a larger value than the maximum heap size",
        does("class", "Symptoms", jvm_options=["-Xms512m", "-Xmx64m"]),
        {"jvm_options": ["-Xms32m", "-Xmx64m"]},
    ),
    Case("Function not implemented", does("sh", "unshare -r true"), does("sh", "true")),
    Case(
        "OOM Killed",
        does("heap", "400", jvm_options=["-Xmx1g"]),
        more_remedy={"memory": 700},
        status=137,
    ),
    Case(
        "No argument or block type is named", does("class", "Symptoms", memory=1), {"memory": None}
    ),
    Case(
        "Failed Artifact Download",
        does("class", "Symptoms"),
        more={"artifact": "{url}/none.jar"},
        more_remedy={"artifact": "{url}/symptoms.jar"},
    ),
]
ELSEWHERE = {
    "PKIX path building failed": "test_a_certificate_of_ones_own",
    "Could not find or load main class": "test_a_main_class_that_is_not_there",
    "Killing: Sent interrupt": "test_a_stop_that_takes_too_long",
    "Root value must be object": "test_an_empty_block",
    'Constraint "${attr.plugins.cni.version.bridge}': "test_no_cni_plugins",
    "failed to find plugin": "test_a_missing_cni_plugin",
    'Constraint "missing drivers"': "test_what_keeps_a_task_from_being_placed",
    'Constraint "${attr.driver.milo} = true"': "test_what_keeps_a_task_from_being_placed",
    'Dimension "memory" exhausted': "test_what_keeps_a_task_from_being_placed",
    "not started yet. No logs available": "test_a_task_that_never_ran",
    "nomad alloc status -stats": "test_what_is_needed",
    "network already configured but not found in state": "test_mode_none",
    "plugin configurations failed": "test_a_wrong_option_is_found_before_it_stops_the_agent",
    "plugin not referenced in the agent configuration file": "test_an_agent_without_the_block",
}
"""Symptoms that take more than two tasks, and the tests that produce them."""
SYNONYMS = {
    "(No such file or directory)": "NoSuchFileException",
    "(Permission denied)": "AccessDeniedException",
    "NoClassDefFoundError": "ClassNotFoundException",
    "Could not create the Java Virtual Machine": "Unrecognized VM option",
    "Operation not permitted": "Function not implemented",
    "bridge": "ConnectException: Connection refused",
}
"""Other words of the page for the same."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, jar_dir: Path) -> Iterator[tuple[Nomad, str]]:
    """An agent as most operators have it, with CNI plugins, and the URL of the JARs there."""
    if reason := agents.missing() or networks.cni_missing():
        pytest.skip(f"NO SYMPTOM IS PRODUCED: {reason}")
    client = f' cni_path = "{networks.cni_plugins()}"\n'
    with ExitStack() as stack:
        stack.enter_context(networks.agents_network())
        url = stack.enter_context(artifacts.serve(jar_dir))
        one = stack.enter_context(agent("symptoms", dev=False, client=client))
        yield one.nomad, url


def filled(value: Any, url: str) -> Any:
    """Return ``value`` with the artifacts' URL, and its port, which is in use, filled in."""
    if isinstance(value, str):
        return value.replace("{url}", url).replace("{busy}", url.rpartition(":")[2])
    if isinstance(value, list):
        return [filled(one, url) for one in value]
    return (
        {key: filled(one, url) for key, one in value.items()} if isinstance(value, dict) else value
    )


def ended(nomad: Nomad, url: str, config: Mapping[str, Any], more: Mapping[str, Any]) -> Job:
    """Run a task to its end."""
    both = f'artifact {{\nsource = "{url}/hello.jar"\n}}\n'
    options: dict[str, Any] = {"artifact": "{url}/symptoms.jar", **more}
    options["task"] = both + str(options.get("task", ""))
    config = {key: value for key, value in config.items() if value is not None}
    job = nomad.run(job_file(config=filled(dict(config), url), **filled(options, url)))
    job.wait_state("dead")
    return job


def check_shown(job: Job, text: str) -> None:
    """Fail unless the user finds ``text``, which may come a moment after the task's end."""
    with suppress(AssertionError):
        wait_for(text, lambda: text in told(job))
    assert text in told(job), told(job)


def told(job: Job) -> str:
    """Return all that a user finds: the events and both logs."""
    lines = job.events()
    if any(event.startswith("Started") for event in lines):
        lines += [job.logs(*which).decode() for which in ((), ("-stderr",))]
    return "\n".join(lines)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.symptom)
def test_the_symptom_and_its_remedy(place: tuple[Nomad, str], case: Case) -> None:
    """The first task shows what the page says; the second, with the remedy, succeeds."""
    ill = ended(*place, case.config, case.more)
    check_shown(ill, case.symptom)
    assert ill.task()["Failed"]
    if case.status is not None:
        assert ill.exit_code() == case.status
    well = ended(*place, {**case.config, **case.remedy}, {**case.more, **case.more_remedy})
    assert not well.task()["Failed"], told(well)
    assert case.symptom not in told(well)


def test_every_symptom_is_produced() -> None:
    """Each row of the page has its case here or a test that is there, and leads to an entry."""
    assert len(ROWS) > 25
    cases = {case.symptom for case in CASES} | ELSEWHERE.keys() | SYNONYMS.keys()
    produced = {"127.0.0.1", *cases}
    assert {text for text in SEEN if text not in produced} == set()
    assert {text for text in cases - SYNONYMS.keys() if text not in SEEN} == set()
    sources = "\n".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    for name in ELSEWHERE.values():
        assert f"def {name}(" in sources


@pytest.mark.parametrize("name", ["ABRT", "SEGV"])
def test_a_crash_has_its_exit_code(place: tuple[Nomad, str], name: str) -> None:
    """The JVM is process 2; after a SIGSEGV too it ends itself by SIGABRT."""
    job = ended(*place, does("sh", f"kill -{name} 2; sleep 5"), {})
    assert job.exit_code() == 134
    assert "exit code 134 " in TABLE


def test_a_stop_that_takes_too_long(place: tuple[Nomad, str]) -> None:
    """With time enough, the same application ends by itself."""
    nomad, url = place
    codes = []
    for action, task in (
        ("stubborn", 'kill_timeout = "1s"\n'),
        ("sleep", 'kill_timeout = "20s"\nkill_signal = "SIGTERM"\n'),
        ("sleep", 'kill_timeout = "20s"\n'),
    ):
        job = nomad.run(
            job_file(kind="service", artifact=f"{url}/symptoms.jar", config=does(action), task=task)
        )
        job.wait_logs("ready")
        job.stop()
        assert "Killing: Sent interrupt" in told(job)
        assert not job.task()["Failed"]
        codes.append(job.exit_code())
    assert codes == [137, 143, 130]


def certificate(directory: Path, out: Path) -> ssl.SSLContext:
    """Make a certificate for 127.0.0.1, and in ``out`` the file by which Java trusts it."""
    words = "-nodes -newkey rsa:2048 -days 2 -subj /CN=own -addext subjectAltName=IP:127.0.0.1"
    key, cert = directory / "key.pem", directory / "cert.pem"
    made = ["openssl", "req", "-x509", *words.split(), "-keyout", str(key), "-out", str(cert)]
    subprocess.run(made, check=True, capture_output=True)
    trust = f"keytool -importcert -noprompt -alias own -file {cert} -storepass changeit -keystore"
    subprocess.run([*trust.split(), str(out)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


def test_a_certificate_of_ones_own(place: tuple[Nomad, str], tmp_path: Path, jar_dir: Path) -> None:
    """Java trusts it once the job brings it and names it."""
    nomad, url = place
    context = certificate(tmp_path, jar_dir / "trust.p12")
    (tmp_path / "www").mkdir()
    (jar_dir / "trust.p12").chmod(0o644)
    with artifacts.serve(tmp_path / "www", context) as secure:
        fetch = does("fetch", f"{secure}/")
        check_shown(ended(nomad, url, fetch, {}), "PKIX path building failed")
        trust = "-Djavax.net.ssl.trustStore=/local/trust.p12"
        options = [trust, "-Djavax.net.ssl.trustStorePassword=changeit"]
        more = {"task": 'artifact {\nsource = "{url}/trust.p12"\n}\n'}
        well = ended(nomad, url, {**fetch, "jvm_options": options}, more)
        assert not well.task()["Failed"], told(well)


def test_a_main_class_that_is_not_there(place: tuple[Nomad, str]) -> None:
    """Java says so where Milo could not know: the class may be in a directory of the class path."""
    config = {"class": "Nope", "class_path": "local", "args": []}
    ill = ended(*place, config, {})
    check_shown(ill, "Could not find or load main class")
    well = ended(*place, {**config, "class": "Hello", "class_path": "local/hello.jar"}, {})
    assert not well.task()["Failed"], told(well)


def test_an_empty_block(place: tuple[Nomad, str]) -> None:
    """Nomad refuses it; one key is enough."""
    nomad, url = place
    artifact = f"{url}/hello.jar"
    ill = nomad.run(job_file(artifact=artifact).replace("args = []", ""))
    ill.wait_state("dead")
    assert "Root value must be object" in told(ill)
    well = nomad.run(job_file(artifact=artifact))
    well.wait_state("dead")
    assert not well.task()["Failed"]


def test_a_task_that_never_ran(place: tuple[Nomad, str]) -> None:
    """Its logs are refused, and its events say why."""
    job = ended(*place, does("sleep"), {"artifact": "{url}/none.jar"})
    with pytest.raises(AssertionError, match=r"not started yet. No logs available"):
        job.logs()
    assert "404" in told(job)


def planned(nomad: Nomad, text: str) -> str:
    """Return what ``nomad job plan`` says of a job."""
    with tempfile.NamedTemporaryFile("w", suffix=".nomad.hcl") as file:
        file.write(text)
        file.flush()
        return nomad.cli("job", "plan", file.name, check=False)


def test_what_keeps_a_task_from_being_placed(place: tuple[Nomad, str]) -> None:
    """A constraint on ``true``, a driver that is not there, more memory than any client has."""
    nomad, _ = place
    rule = 'constraint {{\nattribute = "${{attr.driver.milo}}"\nvalue = "{}"\n}}\n'
    assert 'Constraint "${attr.driver.milo} = true"' in planned(
        nomad, job_file(task=rule.format("true"))
    )
    assert "All tasks successfully allocated" in planned(nomad, job_file(task=rule.format("1")))
    assert 'Constraint "missing drivers"' in planned(nomad, job_file(driver="mill"))
    assert 'Dimension "memory" exhausted' in planned(nomad, job_file(memory=10_000_000))


def test_no_cni_plugins() -> None:
    """Nomad places no group with a bridge on such a client."""
    if reason := agents.missing() or networks.missing():
        pytest.skip(f"NO SYMPTOM IS PRODUCED: {reason}")
    with networks.agents_network(), agent("nocni", client=' cni_path = "/none"\n') as one:
        assert 'Constraint "${attr.plugins.cni.version.bridge}' in planned(
            one.nomad, job_file(group=BRIDGE)
        )


def test_a_missing_cni_plugin(tmp_path: Path) -> None:
    """A network that names one fails the allocation; the message has its name."""
    if reason := agents.missing() or networks.cni_missing():
        pytest.skip(f"NO SYMPTOM IS PRODUCED: {reason}")
    network = {"cniVersion": "0.4.0", "name": "half", "plugins": [{"type": "nosuch"}]}
    (tmp_path / "half.conflist").write_text(json.dumps(network))
    client = f' cni_path = "{networks.cni_plugins()}"\n cni_config_dir = "{tmp_path}"\n'
    with ExitStack() as stack:
        stack.enter_context(networks.agents_network())
        one = stack.enter_context(agent("halfcni", client=client))
        job = one.nomad.run(job_file(group='network {\n mode = "cni/half"\n}\n'))
        assert "nosuch" in job.wait_event("failed to find plugin")


def test_an_agent_without_the_block() -> None:
    """It does not load the plugin, and says so in its log."""
    if reason := agents.missing():
        pytest.skip(f"NO SYMPTOM IS PRODUCED: {reason}")
    with agent("noblock", dev=False) as one:
        one.stop()
        one.config.write_text(one.config.read_text().partition('plugin "milo"')[0])
        one.start()
        assert "plugin not referenced in the agent configuration file" in one.tail(limit=1 << 20)
        wait_for("the driver to go", lambda: not one.nomad.driver("milo"), 30)
