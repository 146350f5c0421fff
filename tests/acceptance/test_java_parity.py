"""The jobs of Nomad's java driver's documentation, with one word changed.

Each runs with ``driver = "java"`` and with ``driver = "milo"`` on one agent. What the
application sees is the same, but for a table of differences.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import IN_VM
from tests.support import artifacts, parity, security_chroot
from tests.support.agent import Agent, agent, missing
from tests.support.jobs import job_file
from tests.support.nomad import Job, hcl
from tests.support.parity import CORES, JAR, Case

NAMED = {"jar_path": f"local/{JAR}"}
ARCHIVE = 'artifact {{\nsource = "{{url}}/classes.zip"\ndestination = "{}"\n}}'
CASES = {
    "jar": Case({**NAMED, "jvm_options": ["-Xms16m", "-Dmilo.test=a b"]}),
    "jar by variable": Case({"jar_path": "${NOMAD_TASK_DIR}/parity.jar"}),
    "jar in a subfolder": Case(
        {"jar_path": "local/sub/folder/parity.jar"},
        artifact='artifact {\nsource = "{url}/parity.jar"\ndestination = "local/sub/folder"\n}',
    ),
    "jar in a volume": Case(
        {"jar_path": "/srv/apps/parity.jar"},
        group='volume "apps" {\ntype = "host"\nsource = "apps"\nread_only = true\n}',
        task='volume_mount {\nvolume = "apps"\ndestination = "/srv/apps"\nread_only = true\n}',
    ),
    "class": Case(
        {
            "class": "Parity",
            "class_path": "${NOMAD_TASK_DIR}",
            "jvm_options": ["-Xmx512m", "-Xms256m", "-XX:+UseSerialGC"],
        },
        artifact=ARCHIVE.format("local"),
        same=("heap",),
    ),
    "class and relative class path": Case(
        {"class": "Parity", "class_path": "lib/none.jar:local/classes", "args": ["x"]},
        artifact=ARCHIVE.format("local/classes"),
    ),
    "class path of the JVM's options": Case(
        {"class": "Parity", "jvm_options": ["-cp", "local/parity.jar"], "args": ["-cp", "y"]}
    ),
    "class path beside a jar": Case(
        {**NAMED, "class_path": "local/other.jar"}, events=("class_path has no effect",)
    ),
    # The documentation says that the class is run. The java driver gives its name to the JAR's.
    "class beside a jar": Case(
        {**NAMED, "class": "Parity", "args": ["one"]},
        differences={"arguments": (r"Parity\|one", "one")},
    ),
    "arguments and environment": Case(
        {
            **NAMED,
            "args": ["${NOMAD_TASK_NAME}", "${node.datacenter}", "${GREETING}", "two words", ""],
        },
        task='env {\nGREETING = "good morning"\nTZ = "UTC"\nEMPTY = ""\nPARITY_EXIT = "42"\n}',
    ),
    "work_dir": Case(
        {"jar_path": "parity.jar", "work_dir": "/local"},
        same=("relative", "property.user.dir"),
    ),
    "work_dir and class path": Case(
        {"class": "Parity", "class_path": "lib/*", "work_dir": "/alloc/data"},
        artifact='artifact {\nsource = "{url}/parity.jar"\n'
        'destination = "${NOMAD_ALLOC_DIR}/data/lib"\n}',
        same=("relative", "property.user.dir"),
    ),
    "empty texts": Case(
        {
            **NAMED,
            **dict.fromkeys(("class", "class_path", "work_dir", "pid_mode", "ipc_mode"), ""),
            "args": ["", "x", ""],
        }
    ),
    "empty jar_path": Case({"class": "Parity", "class_path": "local/parity.jar", "jar_path": ""}),
    "host namespaces": Case(
        {**NAMED, "pid_mode": "host", "ipc_mode": "host"},
        same=("pid",),
    ),
    "capabilities": Case(
        {**NAMED, "cap_drop": ["all"], "cap_add": ["CHOWN", "cap_sys_chroot", "mknod"]},
        same=tuple(CORES),
        events=("cap_drop has no effect",),
    ),
    "user": Case(
        NAMED,
        task='user = "daemon"',
        differences={
            "env.HOME": ("/usr/sbin", "/tmp"),
            "property.user.home": ("/usr/sbin", "/tmp"),
            "status.Gid": ("0", "1"),
        },
    ),
}


@pytest.fixture(scope="module")
def jdk() -> str:
    """The home of the Java that the java driver takes: the one on PATH."""
    java = os.path.realpath(shutil.which("java") or "/usr/bin/java")
    return os.path.dirname(os.path.dirname(java))


@pytest.fixture(scope="module")
def chroot() -> str:
    """A small ``chroot_env``, without which each task of the java driver's takes all of /usr."""
    if reason := missing():
        pytest.skip(f"NO ACCEPTANCE TEST IS RUN: {reason}")
    if IN_VM:
        pytest.skip("the java driver's chroot is copied file by file, over a slow file system")
    entries = security_chroot.entries()
    lines = "".join(f"{hcl(path)} = {hcl(inside)}\n" for path, inside in entries.items())
    return f"chroot_env {{\n{lines}}}\n"


@pytest.fixture(scope="module")
def files(jar_dir: Path) -> Iterator[Path]:
    """A directory that all can read, with the probe as a JAR and as an archive of its class."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        for jar in (JAR, "stubborn.jar"):
            shutil.copy(jar_dir / jar, directory)
        with zipfile.ZipFile(jar_dir / JAR) as packed:
            content = packed.read("Parity.class")
        entry = zipfile.ZipInfo("Parity.class")
        entry.external_attr = 0o644 << 16
        with zipfile.ZipFile(directory / "classes.zip", "w") as classes:
            classes.writestr(entry, content)
        yield directory


@pytest.fixture(scope="module")
def url(files: Path) -> Iterator[str]:
    """Where these files are served."""
    with artifacts.serve(files) as found:
        yield found


@pytest.fixture(scope="module")
def both(chroot: str, jdk: str, files: Path) -> Iterator[Agent]:
    """An agent for both drivers, with a volume that holds the JARs."""
    volume = f'host_volume "apps" {{\npath = "{files}"\nread_only = true\n}}\n'
    milo = {"java_home": jdk, "insecure_java_driver_privileges": True}
    with agent("parity", client=chroot + volume, milo=milo) as one:
        yield one


@pytest.mark.parametrize("name", CASES)
def test_parity(name: str, both: Agent, url: str, jdk: str) -> None:
    """What the application sees is the same with both drivers, but for what is in the table."""
    case = CASES[name]
    jobs = parity.run(both, case, url)
    java, milo = (parity.facts(jobs[driver]) for driver in parity.DRIVERS)
    own = {*both.env, "NOTIFY_SOCKET"}
    found = parity.differences(java, milo, own)
    always = {key: pair for key, pair in parity.ALWAYS.items() if key not in case.same}
    lines = parity.unexpected(found, {**always, **case.differences}, jdk)
    assert not lines, "\n".join(lines)
    ends = [ending(jobs[driver]) for driver in parity.DRIVERS]
    assert ends[0] == ends[1]
    for words in case.events:
        jobs["milo"].wait_event(words)
    told = [event for event in jobs["milo"].events() if "no effect" in event]
    assert len(told) == len(case.events), told
    for words, event in zip(case.events, told, strict=True):
        assert words in event


def ending(job: Job) -> dict[str, str]:
    """Return how Nomad says that the task ended."""
    terminated = [event for event in job.task()["Events"] if event["Type"] == "Terminated"]
    details: dict[str, str] = terminated[-1]["Details"]
    return {key: details[key] for key in ("exit_code", "signal", "oom_killed")}


@pytest.mark.parametrize(
    ("options", "pause_ms", "expected"),
    [
        ("", 0, {"exit_code": "130", "signal": "0", "oom_killed": "false"}),
        ('kill_signal = "SIGTERM"', 0, {"exit_code": "143", "signal": "0", "oom_killed": "false"}),
        ('kill_timeout = "1s"', 60_000, {"exit_code": "137", "signal": "9", "oom_killed": "false"}),
    ],
    ids=["default", "SIGTERM", "stubborn"],
)
def test_stop(options: str, pause_ms: int, expected: dict[str, str], both: Agent, url: str) -> None:
    """A stop sends the same signal, waits as long and ends with the same figures.

    Milo's log says more only of a JVM that has to be killed: what its threads did.
    """
    shown = {}
    for driver in parity.DRIVERS:
        config = {"jar_path": "local/stubborn.jar", "args": [str(pause_ms)]}
        artifact = f"{url}/stubborn.jar"
        text = job_file(
            driver=driver, kind="service", config=config, artifact=artifact, task=options
        )
        job = both.nomad.run(text)
        job.wait_logs("running")
        job.stop()
        assert ending(job) == expected, driver
        job.wait_logs("asked to end\n" if pause_ms else "ended in peace\n")
        if driver == "milo" and pause_ms:
            job.wait_logs("JNI global refs")
        shown[driver] = job.logs()
    added = shown["milo"].removeprefix(shown["java"])
    assert shown["milo"].startswith(shown["java"])
    assert (b"Full thread dump" in added) == bool(added) == (expected["signal"] == "9")


def test_a_command_in_the_task(both: Agent, url: str) -> None:
    """`nomad alloc exec` begins in work_dir, as the same user; a signal shows in the log."""
    for driver in parity.DRIVERS:
        config = {"jar_path": "/local/stubborn.jar", "work_dir": "/local"}
        text = job_file(
            driver=driver, kind="service", config=config, artifact=f"{url}/stubborn.jar"
        )
        job = both.nomad.run(text)
        job.wait_logs("running")
        words = ("sh", "-c", "pwd; echo $NOMAD_TASK_NAME $USER; echo *")
        shown = both.nomad.cli("alloc", "exec", "-t=false", job.allocation(), *words)
        assert shown == "/local\napp nobody\nstubborn.jar\n", driver
        both.nomad.cli("alloc", "signal", "-s", "SIGQUIT", job.allocation())
        job.wait_logs("Full thread dump")
        job.stop()


def test_the_plugins_keys(chroot: str, jdk: str, url: str) -> None:
    """What an operator has set for the java driver has its meaning for Milo too."""
    options = {
        "default_pid_mode": "host",
        "default_ipc_mode": "host",
        "allow_caps": ["NET_RAW", "chown"],
    }
    keys = "".join(f"{key} = {hcl(value)}\n" for key, value in options.items())
    more = f'plugin "java" {{\nconfig {{\n{keys}}}\n}}\n'
    case = Case({**NAMED, "cap_drop": ["all"], "cap_add": ["net_raw"]})
    # The one key that is Milo's own: without it a capability beside host processes is refused.
    milo = {"java_home": jdk, "insecure_java_driver_privileges": True, **options}
    with agent("parity-keys", client=chroot, more=more, milo=milo) as one:
        jobs = parity.run(one, case, url)
        for job in jobs.values():
            found = parity.facts(job)
            assert (found["namespace.pid"], found["namespace.ipc"]) == ("host", "host")
            assert {found[key] for key in CORES} == {"net_raw"}
        refused = Case({**NAMED, "cap_add": ["mknod"]})
        for job in parity.run(one, refused, url).values():
            job.wait_event("allow")
            assert "mknod" in " ".join(job.events()).lower()
