"""`milo doctor`'s verdicts about a host, one by one."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from milo.cli.doctor import finding, host_verdicts
from milo.cli.doctor.directory_verdicts import Directory, check_data_dir, check_state_dir
from milo.cli.doctor.finding import Finding, Verdict
from milo.cli.doctor.host_facts import look_at
from milo.core.cgroup import Mode
from milo.core.launch import JavaRuntime

OK, WARNING, FAILED, SKIPPED = Verdict.OK, Verdict.WARNING, Verdict.FAILED, Verdict.SKIPPED
V2 = ("cpuset", "cpu", "io", "memory", "pids")
JAVA = JavaRuntime(home="/usr/lib/jvm/17", version="17.0.15", major=17, source="/usr/lib/jvm")
CRUN = "crun version 1.30\ncommit: x\n+SYSTEMD +SELINUX +CAP +SECCOMP +EBPF +YAJL\n"


def holds(finding: Finding, verdict: Verdict, words: str) -> None:
    """The finding is as expected; and whoever is told of trouble is told what to do."""
    assert finding.verdict is verdict, finding
    assert words in f"{finding.found} | {finding.fix}"
    assert bool(finding.fix) == (verdict is not OK)


@pytest.mark.parametrize(
    ("release", "has_pidfd", "verdict", "words"),
    [
        ("6.1.0-18-amd64", True, OK, "6.1.0"),
        ("5.12.0", True, OK, "5.12"),
        ("5.11.22", True, WARNING, "mount_setattr"),
        ("4.18.0-553.el8", True, WARNING, "mount_setattr"),
        ("5.2.1", False, WARNING, "pidfds"),
        ("6.1.0", False, WARNING, "pidfds"),
        ("4.9.0", False, FAILED, "older than 4.13"),
        ("strange", True, FAILED, "strange"),
    ],
)
def test_kernel(release: str, has_pidfd: bool, verdict: Verdict, words: str) -> None:
    """What an old kernel lacks is named; a distribution's may have had it put in."""
    holds(host_verdicts.check_kernel(release, has_pidfd=has_pidfd), verdict, words)


def test_user_namespaces_matter_only_where_they_are_asked_for() -> None:
    """A host that cannot give them fails a plugin that wants them."""
    holds(host_verdicts.check_userns("it is old", wanted=True), FAILED, "it is old")
    holds(host_verdicts.check_userns("it is old", wanted=False), OK, "not possible: it is old")
    holds(host_verdicts.check_userns("", wanted=True), OK, "in use")
    holds(host_verdicts.check_userns("", wanted=False), OK, "userns = true")


def test_a_hybrid_hierarchy_is_recognised() -> None:
    """As crun decides: a controller in the v2 part is refused, none is v1."""
    v1 = host_verdicts.V1_CONTROLLERS
    holds(
        host_verdicts.check_cgroups(Mode.HYBRID, v1, ["hugetlb"], None),
        FAILED,
        "/sys/fs/cgroup/unified has hugetlb | Boot with the kernel parameter "
        "systemd.unified_cgroup_hierarchy=1",
    )
    holds(host_verdicts.check_cgroups(Mode.HYBRID, v1, [], None), OK, "used as v1")


def test_cgroup_controllers() -> None:
    """All four on v2 and handed down by Nomad's group; on v1 those of crun's too."""
    holds(host_verdicts.check_cgroups(Mode.NONE, (), (), None), FAILED, "mount -t cgroup2")
    holds(host_verdicts.check_cgroups(Mode.V2, V2, (), None), OK, "v2 with cpu")
    holds(host_verdicts.check_cgroups(Mode.V2, V2, (), V2), OK, "v2 with cpu")
    holds(
        host_verdicts.check_cgroups(Mode.V2, ("cpu", "pids"), (), None),
        FAILED,
        "cgroup_enable=memory",
    )
    holds(
        host_verdicts.check_cgroups(Mode.V2, V2, (), ("cpu", "memory")),
        WARNING,
        "does not delegate cpuset, pids",
    )
    holds(
        host_verdicts.check_cgroups(Mode.V1, host_verdicts.V1_CONTROLLERS, (), None), OK, "v1 with"
    )
    holds(host_verdicts.check_cgroups(Mode.V1, V2, (), None), FAILED, "cpuacct, devices, freezer")


def test_crun() -> None:
    """Missing, something else, too old, without seccomp."""

    def check(path: str, output: str, problem: str = "", *, needs_seccomp: bool = True) -> Finding:
        return host_verdicts.check_crun("crun", path, output, problem, needs_seccomp=needs_seccomp)

    holds(check("/usr/bin/crun", CRUN), OK, "/usr/bin/crun, version 1.30")
    holds(check("", ""), FAILED, "crun was not found at 'crun' | Install the package crun")
    holds(check("/bin/x", "", "it cannot be run: Permission denied"), FAILED, "Permission denied")
    holds(check("/bin/echo", "--version\n"), FAILED, "does not print a version of crun")
    holds(check("/crun", CRUN.replace("1.30", "1.4.5")), FAILED, "older than 1.8.1")
    without = CRUN.replace("+SECCOMP ", "")
    holds(check("/crun", without), FAILED, "without SECCOMP")
    holds(check("/crun", without, needs_seccomp=False), OK, "1.30")


def test_faults_of_crun() -> None:
    """What is known of a version is a line of its own; without any there is none."""
    old = CRUN.replace("1.30", "1.8.1")
    (finding,) = host_verdicts.check_crun_faults(old, userns=False)
    holds(finding, WARNING, "6 that Milo makes up for")
    (finding,) = host_verdicts.check_crun_faults(old, userns=True)
    holds(finding, WARNING, "lose nosuid")
    for output in (CRUN, "", "something else"):
        assert host_verdicts.check_crun_faults(output, userns=True) == []


def test_container() -> None:
    """crun's own words are told."""
    holds(host_verdicts.check_trial(None, 0.1234), OK, "123 ms")
    failed = "Error: crun create failed (exit code 1): cgroups in hybrid mode not supported"
    holds(
        host_verdicts.check_trial(failed, 1),
        FAILED,
        "hybrid mode not supported | See cgroups above",
    )
    holds(
        host_verdicts.check_trial("Error: crun start failed: no", 1),
        FAILED,
        "crun start failed: no",
    )


def test_java() -> None:
    """All are listed, the default first, and each that is not used with its reason."""
    other = attrs.evolve(JAVA, version="21.0.1", major=21, home="/opt/jdk-21")
    (found,) = host_verdicts.check_java([JAVA, other], [])
    holds(found, OK, "default Java 17.0.15 (/usr/lib/jvm/17); Java 21.0.1 (/opt/jdk-21)")
    found, problem = host_verdicts.check_java([], ["JAVA_HOME /x: it holds no executable bin/java"])
    holds(found, FAILED, "No Java runtime found on host | Install a JDK")
    holds(problem, WARNING, "JAVA_HOME /x")


def test_seccomp() -> None:
    """Which profile is used, and where it is from."""
    holds(
        host_verdicts.check_seccomp("", "/etc/x.json", ""),
        OK,
        "/etc/x.json, the containers project",
    )
    holds(host_verdicts.check_seccomp("", "", ""), OK, "Milo's own list")
    holds(host_verdicts.check_seccomp("/p.json", "", ""), OK, "from the plugin's configuration")
    holds(host_verdicts.check_seccomp("unconfined", "/x", ""), WARNING, "every system call")
    holds(host_verdicts.check_seccomp("/p.json", "", "Error: bad"), FAILED, "bad | Repair")


def test_privileges() -> None:
    """Without root less is checked, and that is said."""
    holds(host_verdicts.check_privileges(0, 0x1FF_FFFF_FFFF), OK, "CAP_SYS_ADMIN")
    holds(host_verdicts.check_privileges(0, 0xA804_25FB), FAILED, "without CAP_SYS_ADMIN")
    holds(host_verdicts.check_privileges(1000, 0), SKIPPED, "sudo milo doctor")


def test_an_ordinary_user_learns_what_works() -> None:
    """A host that permits no user namespaces is no failure of Nomad's."""
    check = host_verdicts.check_without_root
    holds(check(None, 0.1, limited=True), OK, "without root, with limits")
    holds(check(None, 0.1, limited=False), OK, "but without limits")
    holds(check("Error: no namespaces", 0.1, limited=False), WARNING, "no namespaces")


GIB = 1 << 30
STATE = Directory(
    path="/run/milo",
    exists=True,
    is_directory=True,
    mode=0o700,
    file_system="tmpfs",
    flags=frozenset({"rw", "nosuid", "nodev", "noexec"}),
    total_bytes=GIB,
    free_bytes=GIB // 2,
    inodes=1000,
    free_inodes=900,
)


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        ({}, OK, "512.0 MiB of 1.0 GiB free"),
        ({"exists": False, "is_directory": False}, OK, "created when the agent starts"),
        ({"mode": 0o711}, OK, "/run/milo"),
        ({"mode": 0o755}, WARNING, "chmod 0700 /run/milo"),
        ({"uid": 1000}, FAILED, "belongs to user 1000"),
        ({"is_directory": False}, FAILED, "is not a directory"),
        ({"flags": frozenset({"ro"})}, FAILED, "read-only"),
        ({"file_system": "ext4"}, WARNING, "survives a reboot"),
        ({"free_bytes": 8 << 20}, WARNING, "8.0 MiB"),
        ({"free_bytes": 1000}, FAILED, "Free space"),
        ({"free_inodes": 100}, WARNING, "10 % of its inodes"),
        ({"free_inodes": 0}, FAILED, "0 % of its inodes"),
        ({"inodes": 0, "free_inodes": 0}, OK, "/run/milo"),
    ],
)
def test_state_dir(change: dict[str, object], verdict: Verdict, words: str) -> None:
    """Root's alone, gone at a reboot, with room; noexec and nodev do no harm there."""
    (found,) = check_state_dir(attrs.evolve(STATE, **change))  # type: ignore[arg-type]
    holds(found, verdict, words)


def test_a_directory_that_cannot_be_looked_at(tmp_path: Path) -> None:
    """The kernel's reason is told; it is not taken for one that is missing."""
    (tmp_path / "ring").symlink_to("ring")
    found = look_at(f"{tmp_path}/ring/state")
    for check in (check_state_dir, check_data_dir):
        (finding,) = check(found)
        holds(finding, SKIPPED, "ring/state cannot be looked at: Too many levels")


DATA = Directory(
    path="/opt/nomad/data",
    exists=True,
    is_directory=True,
    file_system="ext4",
    flags=frozenset({"rw"}),
    total_bytes=100 * GIB,
    free_bytes=50 * GIB,
)


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        ({}, OK, "50.0 GiB of 100.0 GiB free"),
        ({"exists": False}, WARNING, "does not exist"),
        ({"flags": frozenset({"rw", "noexec"})}, WARNING, "mounted noexec"),
        ({"free_bytes": 19 * GIB}, WARNING, "19.0 GiB"),
        ({"free_bytes": 1 << 20}, FAILED, "1.0 MiB"),
    ],
)
def test_data_dir(change: dict[str, object], verdict: Verdict, words: str) -> None:
    """Below 20 % Nomad itself begins to collect; a noexec one keeps tasks from running code."""
    (found,) = check_data_dir(attrs.evolve(DATA, **change))  # type: ignore[arg-type]
    holds(found, verdict, words)


def test_the_worst_decides() -> None:
    """What was not checked is no failure."""
    findings = [finding.ok("a", "b"), Finding("c", SKIPPED, "d", "e")]
    assert finding.worst(findings) is OK
    findings.append(Finding("c", WARNING, "d", "e"))
    assert finding.worst(findings) is WARNING
    findings.append(Finding("c", FAILED, "d", "e"))
    assert finding.worst(findings) is FAILED
    assert finding.count(findings) == dict.fromkeys(Verdict, 1)
