"""The OCI configuration: what a container may see, do and use."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from milo.core.container import mounts, spec, userns
from milo.core.container.confinement import Confinement
from milo.core.container.mounts import Bind
from milo.core.container.rights import Rights
from milo.core.container.spec import ContainerPlan, DeviceNode, User
from milo.core.launch import Resources
from milo.errors import ConfigError

PLAN = ContainerPlan(
    rootfs="/s/bundle/rootfs",
    args=("/usr/bin/java", "-jar", "/local/app.jar"),
    env={"A": "b"},
    user=User(1000, 1001, (27, 44), "app"),
    hostname="web",
    cgroup_path="/nomad/a1.web/milo-1",
    binds=(
        Bind("/usr", "/usr", recursive=True),
        Bind("/etc/ld.so.cache", "/etc/ld.so.cache", directory=False, recursive=True),
        Bind("/alloc/a1/alloc", "/alloc", readonly=False, origin="task"),
        Bind("/alloc/a1/web/local", "/local", readonly=False, origin="task"),
    ),
)


def built(**changes: Any) -> dict[str, Any]:
    """Return config.json of the plan with changes."""
    return spec.build_spec(attrs.evolve(PLAN, **changes))


def options(config: dict[str, Any], destination: str) -> set[str]:
    """Return the options of one mount."""
    (found,) = (m for m in config["mounts"] if m["destination"] == destination)
    return set(found["options"])


def test_process_is_the_application_as_its_user() -> None:
    """Arguments, environment and ids are exactly those of the plan, without a terminal."""
    process = built()["process"]
    assert process["args"] == ["/usr/bin/java", "-jar", "/local/app.jar"]
    assert process["env"] == ["A=b"]
    assert process["user"] == {"uid": 1000, "gid": 1001, "additionalGids": [27, 44]}
    assert process["cwd"] == "/"
    assert process["terminal"] is False


def test_no_privileges_at_all() -> None:
    """All five capability sets are given and empty, and none can be gained."""
    process = built()["process"]
    assert process["capabilities"] == {
        "bounding": [],
        "effective": [],
        "inheritable": [],
        "permitted": [],
        "ambient": [],
    }
    assert process["noNewPrivileges"] is True


@pytest.mark.parametrize("score", [0, -500, 900])
def test_oom_score_and_rlimits_are_always_given(score: int) -> None:
    """Nothing of the agent's score or limits is left to be inherited."""
    process = built(
        resources=Resources(oom_score_adj=score),
        confinement=Confinement(nofile_limit=20_000, nproc_limit=5000),
    )["process"]
    assert process["oomScoreAdj"] == score
    assert {(limit["type"], limit["soft"], limit["hard"]) for limit in process["rlimits"]} == {
        ("RLIMIT_CORE", 0, 0),
        ("RLIMIT_NOFILE", 20_000, 20_000),
        ("RLIMIT_NPROC", 5000, 5000),
    }


def test_open_files_are_bounded_even_where_the_host_has_no_bound() -> None:
    """The limit of open files is never above the default, however high the host's is."""
    limits = built(confinement=Confinement(nofile_limit=2**30))["process"]["rlimits"]
    assert {limit["hard"] for limit in limits if limit["type"] == "RLIMIT_NOFILE"} == {1_048_576}


def test_namespaces_are_its_own_but_the_hosts_network() -> None:
    """Four namespaces are new, the one of processes is the pause process's; the network is the
    host's, Nomad's, or an empty one."""

    def namespaces(**changes: Any) -> list[dict[str, str]]:
        found: list[dict[str, str]] = built(**changes)["linux"]["namespaces"]
        return found

    own = [{"type": kind} for kind in ("mount", "uts", "cgroup", "ipc")]
    own.append({"type": "pid", "path": "/proc/self/fd/3"})
    assert namespaces() == own
    assert namespaces(network_mode="none") == [*own, {"type": "network"}]
    assert namespaces(network_mode="group", network_path="/run/netns/x") == [
        *own,
        {"type": "network", "path": "/run/netns/x"},
    ]


def test_root_is_read_only_and_kernel_files_are_masked() -> None:
    """Root is read-only; /proc and /sys neither tell of the host nor change it."""
    config = built()
    assert config["root"] == {"path": "/s/bundle/rootfs", "readonly": True}
    assert {"/proc/kcore", "/proc/keys", "/sys/firmware"} <= set(config["linux"]["maskedPaths"])
    assert {"/proc/sys", "/proc/sysrq-trigger"} <= set(config["linux"]["readonlyPaths"])
    assert {"ro", "nosuid", "noexec", "nodev"} <= options(config, "/sys")
    assert {"ro", "nosuid", "noexec", "nodev"} <= options(config, "/sys/fs/cgroup")
    assert "size=67108864" in options(config, "/dev/shm")


def test_binds_never_carry_setuid_programs_or_devices() -> None:
    """Every bind is nosuid and nodev; the host's are read-only, with all that is below."""
    config = built()
    for bind in PLAN.binds:
        assert {"nosuid", "nodev", "rprivate"} <= options(config, bind.destination)
    assert {"rbind", "ro", "rro", "rnosuid", "rnodev"} <= options(config, "/usr")
    assert "ro" not in options(config, "/local")
    # crun can set flags recursively on directories only.
    assert "rro" not in options(config, "/etc/ld.so.cache")


def test_resources_become_limits() -> None:
    """Memory, CPU and cores of the job are limits of the cgroup; threads have a bound anyway."""
    resources = built(
        resources=Resources(memory_bytes=100, memory_max_bytes=300, cpu_shares=500),
        cpu_quota_us=25_000,
        cpuset_cpus="0-1",
    )["linux"]["resources"]
    assert resources["memory"] == {"limit": 300, "swap": 300, "reservation": 100}
    assert resources["cpu"] == {"shares": 500, "period": 100_000, "quota": 25_000, "cpus": "0-1"}
    assert resources["pids"] == {"limit": 4096}


def test_no_limit_is_given_where_the_job_has_none() -> None:
    """Without resources, only the bound on threads and the devices are restricted."""
    resources = built()["linux"]["resources"]
    assert set(resources) == {"devices", "pids"}
    assert built()["linux"]["cgroupsPath"] == "/nomad/a1.web/milo-1"


def test_devices_are_denied_but_for_the_jobs() -> None:
    """All devices are denied first; the job's are then made and permitted as asked."""
    device = DeviceNode("/dev/fuse", "c", 10, 229, 0o666, 0, 0, "rw")
    linux = built(devices=(device,))["linux"]
    assert linux["resources"]["devices"] == [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
    ]
    assert linux["devices"][0]["path"] == "/dev/fuse"
    assert linux["devices"][0]["fileMode"] == 0o666


def test_seccomp_is_used_when_given() -> None:
    """A seccomp profile goes in unchanged, and without one there is no empty one."""
    assert "seccomp" not in built()["linux"]
    assert built(confinement=Confinement(seccomp={"x": "y"}))["linux"]["seccomp"] == {"x": "y"}


def test_added_capabilities_are_in_all_five_sets() -> None:
    """Ambient too, so that they are effective in a program that is not root's."""
    process = built(confinement=Confinement(capabilities=("chown", "kill")))["process"]
    sets = process["capabilities"]
    assert len(sets) == 5
    assert all(names == ["CAP_CHOWN", "CAP_KILL"] for names in sets.values())
    assert process["noNewPrivileges"] is True


def test_the_jobs_limits_win() -> None:
    """A limit that the job gives takes the place of Milo's own; the others stay."""
    own = {"RLIMIT_NOFILE": (10, 20), "RLIMIT_STACK": (1, 2)}
    limits = built(confinement=Confinement(rlimits=own))["process"]["rlimits"]
    assert {limit["type"]: (limit["soft"], limit["hard"]) for limit in limits}.items() >= {
        **own,
        "RLIMIT_CORE": (0, 0),
    }.items()
    assert len(limits) == 4


def test_namespaces_of_the_host_are_shared_when_asked_for() -> None:
    """pid and ipc only; with the host's IPC its /dev/shm is there too, as with podman."""
    config = built(confinement=Confinement(host_pids=True, host_ipc=True))
    assert [space["type"] for space in config["linux"]["namespaces"]] == ["mount", "uts", "cgroup"]
    (shm,) = (mount for mount in config["mounts"] if mount["destination"] == "/dev/shm")
    assert (shm["type"], shm["source"]) == ("bind", "/dev/shm")
    assert {"nosuid", "nodev", "noexec"} <= set(shm["options"])


def test_shared_memory_sysctls_and_masks_are_the_containers() -> None:
    """shm_size, sysctl and further masked paths go where they belong."""
    config = built(
        confinement=Confinement(
            shm_size_bytes=4096, sysctl={"kernel.sem": "1"}, masked_paths=("/sys/x",)
        )
    )
    assert [word for word in options(config, "/dev/shm") if "size" in word] == ["size=4096"]
    assert config["linux"]["sysctl"] == {"kernel.sem": "1"}
    assert {"/sys/x", "/proc/kcore"} <= set(config["linux"]["maskedPaths"])


@pytest.mark.parametrize(
    ("destination", "words"),
    [
        ("/usr/share/data", "inside /usr"),
        ("/usr", "used twice"),
        ("/", "below /"),
        ("data", "absolute"),
        ("/data/../etc", "absolute"),
        ("/proc/self", "/proc"),
        ("/dev/shm", "/dev"),
        ("/sys/fs/cgroup", "/sys"),
        ("/etc", "would hide"),
    ],
)
def test_mounts_of_the_job_have_their_limits(destination: str, words: str) -> None:
    """A destination inside the host's files, or over what is mounted, is refused by name."""
    with pytest.raises(ConfigError, match=words) as caught:
        built(binds=(*PLAN.binds, Bind("/srv/x", destination, origin="job")))
    assert caught.value.key == "mount destination"


@pytest.mark.parametrize("destination", ["/data", "/local/data", "/srv/a/b"])
def test_mounts_of_the_job_elsewhere_are_welcome(destination: str) -> None:
    """A path of its own is fine, and so is one in the task's directories."""
    config = built(binds=(*PLAN.binds, Bind("/srv/x", destination, readonly=True, origin="job")))
    assert "ro" in options(config, destination)


def test_the_hosts_own_binds_may_not_nest_either() -> None:
    """Also Milo's own binds are held to the rule that none lies inside another."""
    with pytest.raises(ConfigError, match="inside /usr"):
        mounts.check_binds((Bind("/usr", "/usr"), Bind("/x", "/usr/lib/jvm/x")))


@pytest.mark.parametrize(
    ("path", "result"),
    [("/a//b/./c/", "/a/b/c"), ("a/../b", "/b"), ("/../..", "/"), ("", "/")],
)
def test_normalized(path: str, result: str) -> None:
    """Dots, doubled slashes and a missing first slash are gone."""
    assert mounts.normalized(path) == result


def test_environment_is_the_jobs_and_little_more() -> None:
    """HOME, USER, LANG, JAVA_HOME and PATH are there, the JDK's programs first."""
    env = spec.build_env({"A": "1"}, java_home="/jdk", user=User(65534, 65534, (), "nobody"))
    assert env == {
        "HOME": "/tmp",
        "USER": "nobody",
        "LOGNAME": "nobody",
        "JAVA_HOME": "/jdk",
        "LANG": "C.UTF-8",
        "PATH": "/jdk/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "A": "1",
    }


def test_the_jobs_environment_wins() -> None:
    """What the job sets stays as it is."""
    own = {"PATH": "/x", "JAVA_HOME": "/y", "HOME": "/z"}
    env = spec.build_env(own, java_home="/jdk", user=User(1234, 1234))
    assert own.items() <= env.items()
    assert env["USER"] == "1234"


@pytest.mark.parametrize(
    ("args", "env", "key"),
    [
        (("a\0b",), {}, "args"),
        (("a",), {"X": "a\0b"}, "env"),
        (("a",), {"X=Y": ""}, "env"),
        (("a",), {"": ""}, "env"),
    ],
)
def test_what_no_program_can_be_given_is_refused(
    args: tuple[str, ...], env: dict[str, str], key: str
) -> None:
    """NUL characters and variables without a proper name are the job's error."""
    with pytest.raises(ConfigError) as caught:
        built(args=args, env=env)
    assert caught.value.key == key


def test_proc_has_its_options_in_a_user_namespace_too() -> None:
    """There crun heeds those for all that lies below alone."""
    plain, mapped = (
        built(confinement=Confinement(rights=Rights(ids)))
        for ids in (None, userns.block(userns.FIRST_ID))
    )
    assert options(plain, "/proc") == {"nosuid", "noexec", "nodev"}
    assert options(mapped, "/proc") - options(plain, "/proc") == {"rnosuid", "rnoexec", "rnodev"}
