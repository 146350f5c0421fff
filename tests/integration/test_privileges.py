"""What a task may do: capabilities, system calls, limits and namespaces, in real containers."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from milo import proc
from milo.core.config.plugin_options import PluginOptions, Volumes
from milo.core.container import seccomp, userns
from milo.core.launch import Device, Network
from milo.core.records import short_id
from milo.errors import MiloError
from milo.task.oci import filters, privileges
from tests.support import java_homes, scripted_java
from tests.support.driver_rig import DriverRig, Task, open_rig
from tests.support.userns import NEEDS_USERNS

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

EVERYTHING = PluginOptions(allow_caps=("all",), allow_seccomp_profiles=("unconfined",))
HOST_NAMESPACES = PluginOptions(allow_host_namespaces=True, allow_host_ipc=True)
STATUS = "cat /proc/self/status"
needs_perl = pytest.mark.skipif(
    not (shutil.which("perl") and platform.machine() == "x86_64"),
    reason="calls the kernel through perl, with the numbers of x86_64",
)


async def test_a_filter_that_crun_has_compiled_is_used_again(jar_dir: Path) -> None:
    """The next container has the same one; one with other capabilities has its own."""
    async with open_rig(EVERYTHING) as rig:

        async def start(**keys: Any) -> tuple[bool, bytes]:
            task = rig.task(jar_dir / "hello.jar", args=["stay"], **keys)
            await rig.registry.start(task.request)
            state = rig.state_dir / short_id(task.id)
            config = json.loads((state / "bundle" / "config.json").read_text())
            (made,) = (state / "crun").glob("*/seccomp.bpf")
            assert config["linux"]["seccomp"]["syscalls"]
            return filters.ANNOTATION in config.get("annotations", {}), made.read_bytes()

        is_used, made = await start()
        assert not is_used and made
        await start()  # may be run by a process that stood by before the first was started
        assert await start() == (True, made)
        is_used, other = await start(cap_add=["sys_admin"])
        assert not is_used and other != made


@contextlib.asynccontextmanager
async def scripted(
    tmp_path: Path, script: str, plugin: PluginOptions | None = None
) -> AsyncIterator[DriverRig]:
    """Run a driver in which ``script`` is what every JAR does."""
    home = scripted_java.make(tmp_path / "jdk", script)
    async with open_rig(attrs.evolve(plugin or PluginOptions(), java_home=str(home))) as rig:
        yield rig


async def output(rig: DriverRig, task: Task) -> str:
    """Run a task to its end, and return what it printed."""
    await rig.registry.start(task.request)
    result = await rig.registry.wait(task.id)
    await task.read()
    text = task.out.text.decode()
    assert not result.error, text
    return text


def status(text: str) -> dict[str, str]:
    """Return the fields of /proc/self/status."""
    return {k: v.strip() for k, _, v in (line.partition(":") for line in text.splitlines())}


def bits(*numbers: int) -> str:
    """Return capabilities as /proc shows them."""
    return f"{sum(1 << number for number in numbers):016x}"


# ---- capabilities -----------------------------------------------------------------------


async def test_added_capabilities_are_effective_for_a_user_who_is_not_root(
    tmp_path: Path, jar_dir: Path
) -> None:
    """cap_add reaches all five sets of the application of nobody, with no way to gain more."""
    plugin = PluginOptions(allow_caps=("net_bind_service", "chown"))
    async with scripted(tmp_path, STATUS, plugin) as rig:
        task = rig.task(
            jar_dir / "hello.jar", cap_add=["CAP_NET_BIND_SERVICE", "chown"], cap_drop=["all"]
        )
        found = status(await output(rig, task))
    assert found["Uid"].split()[0] == "65534"
    sets = [found[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")]
    assert sets == [bits(0, 10)] * 5
    assert found["NoNewPrivs"] == "1"


async def test_application_has_no_descriptor_but_its_streams(tmp_path: Path, jar_dir: Path) -> None:
    """Nothing that crun or Milo has open is there for the application, or for its children."""
    script = "for n in 3 4 5 6 7 8 9 11 12 13 14 15 16; do readlink /proc/self/fd/$n; done; :"
    async with scripted(tmp_path, script) as rig:
        assert await output(rig, rig.task(jar_dir / "hello.jar")) == ""


# ---- system calls -----------------------------------------------------------------------

CALLS = {
    "unshare user namespace": (272, "0x10000000"),
    "clone user namespace": (56, "0x10000011, 0, 0, 0, 0"),
    "clone3": (435, "0, 0"),
    "keyctl": (250, "0, -4, 0"),
    "add_key": (248, "0, 0, 0, 0, 0"),
    "mount": (165, "0, 0, 0, 0, 0"),
    "pivot_root": (155, "0, 0"),
    "bpf": (321, "0, 0, 0"),
    "perf_event_open": (298, "0, 0, -1, -1, 0"),
    "userfaultfd": (323, "1"),
    "io_uring_setup": (425, "1, 0"),
    "init_module": (175, "0, 0, 0"),
    "kexec_load": (246, "0, 0, 0, 0"),
    "open_by_handle_at": (304, "0, 0, 0"),
    "clock_settime": (227, "0, 0"),
    "swapon": (167, "0, 0"),
    "personality without ASLR": (135, "0x0040000"),
    "socket AF_VSOCK": (41, "40, 1, 0"),
    "socket AF_ALG": (41, "38, 5, 0"),
    "mount_setattr": (442, "-1, 0, 0, 0, 0"),
    "quotactl_fd": (443, "-1, 0, 0, 0"),
    "lsm_list_modules": (461, "0, 0, 0"),
    "open_tree_attr": (467, "-1, 0, 0, 0, 0"),
    "pidfd_getfd": (438, "-1, 0, 0"),
    "a call of the future": (1023, "0"),
}
"""The numbers of x86_64 and harmless arguments: an allowed call fails otherwise, or works."""

REFUSED = {1: "EPERM", 38: "ENOSYS"}


def calls_script() -> str:
    """Return a script that makes each call and prints the error's number, or 0."""
    lines = [
        f'$! = 0; my $r = syscall({number}, {args}); exit 0 if $r == 0 && "{name}" =~ /clone /; '
        f'print "{name}=", ($r == -1 ? $!+0 : 0), "\\n";'
        for name, (number, args) in CALLS.items()
    ]
    return "exec perl -e '$| = 1; " + " ".join(f"{{ {line} }}" for line in lines) + "'"


@needs_perl
@pytest.mark.parametrize("profile", ["packaged", "built-in"])
async def test_calls_beyond_the_container_are_refused(
    tmp_path: Path, jar_dir: Path, profile: str
) -> None:
    """Under either default profile the kernel refuses what docker's would, and user namespaces."""
    plugin = PluginOptions()
    if profile == "built-in":
        file = tmp_path / "built-in.json"
        file.write_text(json.dumps(seccomp.built_in((), privileges.machine())))
        plugin = PluginOptions(seccomp_profile=str(file))
    elif not any(os.path.exists(path) for path in privileges.DEFAULT_PROFILES):
        pytest.skip("no seccomp.json: the package golang-github-containers-common is missing")
    script = f"grep Seccomp: /proc/self/status\n{calls_script()}"
    async with scripted(tmp_path, script, plugin) as rig:
        lines = (await output(rig, rig.task(jar_dir / "hello.jar"))).splitlines()
    assert lines[0].split() == ["Seccomp:", "2"]
    found = {name: int(error) for name, error in (line.split("=") for line in lines[1:])}
    assert {name: error for name, error in found.items() if error not in REFUSED} == {}
    assert set(found) == set(CALLS)


@needs_perl
async def test_unconfined_where_the_operator_allows_it(tmp_path: Path, jar_dir: Path) -> None:
    """A job gets no filter at all when it asks for it and the plugin's configuration lets it."""
    async with scripted(tmp_path, STATUS, EVERYTHING) as rig:
        task = rig.task(jar_dir / "hello.jar", seccomp_profile="unconfined")
        assert status(await output(rig, task))["Seccomp"] == "0"
        with pytest.raises(MiloError, match="allow_seccomp_profiles does not hold '/x'"):
            await rig.registry.start(
                rig.task(jar_dir / "hello.jar", seccomp_profile="/x", readers=False).request
            )


async def test_own_profile_is_used_as_it_is_and_a_bad_one_is_named(
    tmp_path: Path, jar_dir: Path
) -> None:
    """The plugin's profile takes the place of the default; one that is none fails the start."""
    profile = tmp_path / "profile.json"
    profile.write_text(
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat", '
        '"a_call_of_the_future"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}'
    )
    plugin = PluginOptions(seccomp_profile=str(profile))
    async with scripted(tmp_path, "mkdir /tmp/x 2>&1; :", plugin) as rig:
        text = await output(rig, rig.task(jar_dir / "hello.jar"))
        assert "No space left on device" in text
        profile.write_text('{"defaultAction": "SCMP_ACT_MAYBE"}')
        with pytest.raises(MiloError, match="SCMP_ACT_MAYBE"):
            await rig.registry.start(rig.task(jar_dir / "hello.jar", readers=False).request)


@pytest.mark.parametrize("home", java_homes.all_homes(), ids=os.path.basename)
async def test_jvms_and_their_tools_work_under_the_default_filter(jar_dir: Path, home: str) -> None:
    """Files, sockets, threads, child processes, jcmd, JFR and jstack: nothing is refused."""
    async with open_rig(PluginOptions(java_home=home)) as rig:
        task = rig.task(jar_dir / "workout.jar", memory_mb=512)
        text = await output(rig, task)
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("FAILED")] == []
    assert lines[-1] == "done"
    assert sum(line.startswith("ok ") for line in lines) == 12
    assert "pid 2" in lines


# ---- limits and sysctls -----------------------------------------------------------------


async def test_limits_sysctls_and_shared_memory_are_the_jobs(tmp_path: Path, jar_dir: Path) -> None:
    """ulimit, sysctl, shm_size and pids_limit arrive in the container."""
    script = (
        "ulimit -Sn; ulimit -Hn; ulimit -Hc; ulimit -Sl; ulimit -Ss; "
        "cat /proc/sys/kernel/shmmni /proc/sys/fs/mqueue/msg_max /proc/sys/net/core/somaxconn; "
        "df -k --output=size /dev/shm | tail -1; cd /sys/fs/cgroup; cat pids.max pids/pids.max; :"
    )
    mighty = proc.has_capability(privileges.CAP_SYS_RESOURCE)
    core, stack = ("1048576", "unlimited") if mighty else ("0", "4194304")
    async with scripted(tmp_path, script) as rig:
        task = rig.task(
            jar_dir / "hello.jar",
            ulimit=[{"nofile": "2048:4096", "core": core, "memlock": "65536", "STACK": stack}],
            sysctl=[
                {"kernel.shmmni": "123", "fs.mqueue.msg_max": "77", "net.core.somaxconn": "999"}
            ],
            shm_size="96m",
            pids_limit=321,
        )
        task = attrs.evolve(task, request=attrs.evolve(task.request, network=Network(mode="none")))
        words = (await output(rig, task)).split()
    limits = ["2048", "4096", *(("2048", "64", "unlimited") if mighty else ("0", "64", "4096"))]
    assert words == [*limits, "123", "77", "999", str(96 * 1024), "321"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"cap_add": ["net_raw", "kill", "sys_admin"]}, "does not allow kill, net_raw, sys_admin"),
        ({"cap_add": ["fly"]}, "no capability 'fly'"),
        ({"ulimit": [{"nofile": "99999999999"}]}, "99999999999 is more than Nomad's agent"),
        ({"sysctl": [{"kernel.panic": "1"}]}, "belongs to the whole host"),
        ({"sysctl": [{"net.core.somaxconn": "1"}]}, "in the host's network"),
        ({"seccomp_profile": "unconfined"}, "does not hold 'unconfined'"),
        ({"pid_mode": "host"}, "allow_host_namespaces is false"),
        ({"ipc_mode": "host"}, "allow_host_ipc is false"),
        ({"pids_limit": 5000}, "pids_limit"),
    ],
)
async def test_what_the_operator_does_not_allow_fails_the_start(
    tmp_path: Path, jar_dir: Path, config: dict[str, Any], words: str
) -> None:
    """A job that asks for too much is told what, and nothing is left of it."""
    async with scripted(tmp_path, "echo ran") as rig:
        task = rig.task(jar_dir / "hello.jar", **config)
        with pytest.raises(MiloError, match=words):
            await rig.registry.start(task.request)
        assert b"ran" not in task.out.text


# ---- namespaces -------------------------------------------------------------------------

DAEMONS = """
# Not even their own sessions and ignored signals help them.
for n in 1 2 3; do setsid sh -c 'trap "" TERM HUP INT; exec sleep 1000000' & done
setsid sh -c 'while :; do sleep 1000000 & wait; done' &
echo started
"""


@pytest.mark.parametrize("ending", ["exit", "stop", "destroy", "crash"])
async def test_with_the_hosts_pids_nothing_outlives_the_application(
    tmp_path: Path, jar_dir: Path, ending: str
) -> None:
    """In the host's PID namespace daemons end with the task too, however it ends."""
    last = (
        "exit 7"
        if ending == "exit"
        else "trap '' TERM; echo ready; while :; do sleep 1000000; done"
    )
    async with scripted(tmp_path, DAEMONS + last, HOST_NAMESPACES) as rig:
        task = rig.task(jar_dir / "hello.jar", pid_mode="host")
        await rig.registry.start(task.request)
        said = b"started" if ending == "exit" else b"ready"
        await trio.to_thread.run_sync(task.out.wait_for, said)
        if ending == "stop":
            await rig.registry.stop(task.id, "SIGTERM", 0.1)
        elif ending == "crash":
            attributes = (await rig.registry.inspect(task.id)).attributes
            os.kill(await rig.supervisor(task), signal.SIGKILL)
            os.kill(int(attributes["container_pid"]), signal.SIGKILL)
        if ending == "destroy":
            await rig.registry.destroy(task.id, force=True)
        else:
            result = await rig.registry.wait(task.id)
            assert (result.exit_code, result.signal) == (7, 0) or ending != "exit"
            assert result.signal == signal.SIGKILL or ending != "stop"
        # open_rig asserts that no process, mount or cgroup of it is left.
        await trio.to_thread.run_sync(task.out.wait_end)


async def test_namespaces_are_shared_as_the_job_says(tmp_path: Path, jar_dir: Path) -> None:
    """pid_mode and ipc_mode host share the host's; all others stay the container's own."""
    script = "for n in pid ipc mnt uts cgroup; do readlink /proc/self/ns/$n; done; ls /dev/shm"
    mark = Path(f"/dev/shm/milo-test-{os.getpid()}")
    mark.touch()
    own = [os.readlink(f"/proc/self/ns/{name}") for name in ("pid", "ipc", "mnt", "uts", "cgroup")]
    try:
        async with scripted(tmp_path, script, HOST_NAMESPACES) as rig:
            private = (await output(rig, rig.task(jar_dir / "hello.jar"))).split()
            task = rig.task(jar_dir / "hello.jar", pid_mode="host", ipc_mode="host")
            shared = (await output(rig, task)).split()
    finally:
        mark.unlink()
    assert not {*private} & {*own, mark.name}
    assert shared[:2] == own[:2]
    assert mark.name in shared
    assert not {*shared} & {*own[2:]}


async def test_what_a_task_leaves_in_the_hosts_ipc_stays(tmp_path: Path, jar_dir: Path) -> None:
    """With ipc_mode host nothing of its /dev/shm goes with it; docs/security.md tells so."""
    left = Path(f"/dev/shm/milo-test-left-{os.getpid()}")
    try:
        async with scripted(tmp_path, f"echo left >{left}", HOST_NAMESPACES) as rig:
            await output(rig, rig.task(jar_dir / "hello.jar", ipc_mode="host"))
            await rig.finish()
        assert left.read_text() == "left\n"
    finally:
        left.unlink(missing_ok=True)


# ---- the tenant's own programs ----------------------------------------------------------


async def test_a_java_that_the_task_brings_runs_in_its_container_alone(
    tmp_path: Path, jar_dir: Path
) -> None:
    """An artifact's JDK is only read on the host: each of its programs would leave a mark."""
    mark = Path(f"/tmp/milo-mark-{os.getpid()}")
    script = f"echo ran $(readlink /proc/self/ns/mnt) | tee {mark}"
    async with scripted(tmp_path, "echo the wrong one") as rig:
        task = rig.task(jar_dir / "hello.jar", java_home="local/jdk")
        home = scripted_java.make(task.local / "jdk", script)
        for name in ("jcmd", "keytool"):
            shutil.copy(home / "bin/java", home / "bin" / name)
        words = (await output(rig, task)).split()
        in_container = Path(task.request.task_dir, "tmp", mark.name)
        assert in_container.read_text().split() == words
    assert words[0] == "ran"
    assert words[1] != os.readlink("/proc/self/ns/mnt")
    assert not mark.exists()


# ---- user namespace ---------------------------------------------------------------------


@NEEDS_USERNS
@pytest.mark.parametrize("user", ["nobody", "root"])
async def test_ids_are_mapped_away_from_the_hosts(tmp_path: Path, jar_dir: Path, user: str) -> None:
    """With userns = true the host sees other ids, while the task's files are its user's."""
    script = (
        "id -u; cat /proc/self/uid_map; touch /local/new /alloc/data/new /tmp/new /secrets/new; "
        "stat -c %u /local/new; echo ready; exec sleep 1000000"
    )
    plugin = PluginOptions(userns=True, allow_root=True)
    async with scripted(tmp_path, script, plugin) as rig:
        task = rig.task(jar_dir / "hello.jar")
        task = attrs.evolve(task, request=attrs.evolve(task.request, user=user))
        await rig.registry.start(task.request)
        await trio.to_thread.run_sync(task.out.wait_for, b"ready")
        attributes = (await rig.registry.inspect(task.id)).attributes
        on_host = os.stat(f"/proc/{attributes['container_pid']}").st_uid
        words = task.out.text.decode().split()
        inside = 0 if user == "root" else 65534
        first = int(words[2])
        assert first >= userns.FIRST_ID
        assert words == [str(inside), "0", str(first), "65536", str(inside), "ready"]
        assert on_host == first + inside
        assert (task.local / "new").stat().st_uid == inside
        await rig.registry.stop(task.id, "SIGKILL", 1)


@NEEDS_USERNS
@pytest.mark.parametrize("rootfs", ["host", "minimal"])
async def test_a_jvm_runs_in_a_user_namespace(tmp_path: Path, jar_dir: Path, rootfs: str) -> None:
    """Either root file system, a volume of the job's and a network of its own."""
    volume = tmp_path / "volume"
    volume.mkdir()
    os.chown(volume, 65534, 65534)
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(path.stat().st_mode | 0o055)  # one may be /tmp
    plugin = PluginOptions(userns=True, volumes=Volumes(True, (str(volume),)))
    async with open_rig(plugin) as rig:
        task = rig.task(
            jar_dir / "workout.jar",
            memory_mb=512,
            rootfs=rootfs,
            jvm_options=["-Xlog:gc:file=/volume/gc.log"],
            mounts=[{"source": str(volume), "target": "/volume", "readonly": False}],
        )
        task = attrs.evolve(task, request=attrs.evolve(task.request, network=Network(mode="none")))
        lines = (await output(rig, task)).splitlines()
    assert [line for line in lines if line.startswith("FAILED")] == []
    assert lines[-1] == "done"
    assert (volume / "gc.log").stat().st_uid == 65534


@NEEDS_USERNS
@pytest.mark.parametrize("config", [{"pid_mode": "host"}, {"ipc_mode": "host"}])
async def test_a_user_namespace_shares_nothing_of_the_hosts(
    tmp_path: Path, jar_dir: Path, config: dict[str, Any]
) -> None:
    """What would need rights in the host's own namespaces is refused before crun is asked."""
    async with scripted(tmp_path, "echo ran", PluginOptions(userns=True)) as rig:
        task = rig.task(jar_dir / "hello.jar", readers=False, **config)
        with pytest.raises(MiloError, match="userns = true"):
            await rig.registry.start(task.request)


@pytest.mark.parametrize("path", ["/data/zero", "/local/zero"])
async def test_a_device_may_have_any_path(tmp_path: Path, jar_dir: Path, path: str) -> None:
    """A device is used outside of /dev, in the task's directories too, and stays the host's."""
    script = f"head -c 4 {path} | od -An -tx1; chmod 777 {path} 2>/dev/null || echo refused"
    async with scripted(tmp_path, script) as rig:
        task = rig.task(jar_dir / "hello.jar")
        task.request = attrs.evolve(task.request, devices=(Device("/dev/zero", path, "r"),))
        text = await output(rig, task)
        assert text.splitlines() == [" 00 00 00 00", "refused"]
    assert os.stat("/dev/zero").st_mode & 0o777 == 0o666
