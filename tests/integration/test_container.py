"""Real containers from Milo's own builders: what an application finds inside, and what is left."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs
import pytest

from milo import cgroup_files
from milo.core import cgroup
from milo.core.cgroup import Mode
from milo.core.config.task_options import TaskOptions
from milo.core.container import crun as crun_args
from milo.core.launch import Application, JavaRuntime, Launch, Mount, Resources
from milo.host.stats import sampling
from milo.task.oci import bundle, cgroup_placement
from milo.task.oci.unwritable import executable
from tests.support import jars
from tests.support.cgroups import groups_of
from tests.support.launches import make_launch
from tests.support.waiting import scaled

CRUN = shutil.which("crun") or ""
ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
MIB = 1024 * 1024
SCOPE = f"milotest{os.getpid()}"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="containers need root"),
    pytest.mark.skipif(not CRUN, reason="there is no crun on PATH (./dev setup installs it)"),
]

LOOK = """
import java.nio.file.*;
import java.util.stream.*;

public class Look {
    public static void main(String[] args) throws Exception {
        System.out.println("max_mib=" + Runtime.getRuntime().maxMemory() / 1048576);
        System.out.println("processors=" + Runtime.getRuntime().availableProcessors());
        System.out.println("processes=" + ProcessHandle.allProcesses().count());
        System.out.println("pid=" + ProcessHandle.current().pid());
        for (String line : Files.readAllLines(Path.of("/proc/self/status")))
            if (line.matches("(Uid|Gid|Cap...|NoNewPrivs):.*"))
                System.out.println(line.replaceFirst(":\\\\s*", "=").replaceAll("\\\\s+", " "));
        System.out.println("oom=" + Files.readString(Path.of("/proc/self/oom_score_adj")).trim());
        for (String line : Files.readAllLines(Path.of("/proc/self/limits")))
            if (line.startsWith("Max open files") || line.startsWith("Max core"))
                System.out.println(line.trim().replaceAll("  +", "="));
        for (String path : "/ /etc /usr /local /alloc /secrets /tmp".split(" "))
            System.out.println("write " + path + "=" + writable(path));
        for (String path : "/etc/shadow /root /home /var/lib /run/milo".split(" "))
            System.out.println("exists " + path + "=" + Files.exists(Path.of(path)));
        System.out.println("host=" + java.net.InetAddress.getLocalHost().getHostName());
        System.out.println("user=" + System.getProperty("user.name"));
    }

    static boolean writable(String directory) {
        try {
            Files.delete(Files.createTempFile(Path.of(directory), "look", ""));
            return true;
        } catch (Exception e) {
            return false;
        }
    }
}
"""


def find_javas() -> list[str]:
    """Return the homes of the JDKs that this machine has."""
    homes = {os.path.realpath(path) for path in Path("/usr/lib/jvm").glob("*/bin/java")}
    return sorted({str(Path(path).parents[1]) for path in homes})


@pytest.fixture(scope="session")
def look_jar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JAR that looks around and prints what it finds."""
    if reason := jars.missing_tools():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("look")
    source = directory / "Look.java"
    source.write_text(LOOK)
    jars.build(directory, [source])
    return directory / "look.jar"


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """A task with Nomad's directories, outside of Nomad's cgroups."""
    alloc = tmp_path / "alloc" / "a1"
    for path in ("alloc", "web/local", "web/secrets", "web/tmp"):
        (alloc / path).mkdir(parents=True)
        (alloc / path).chmod(0o777)
    state = tmp_path / "state" / f"{SCOPE}-{tmp_path.name[-8:]}"
    state.mkdir(parents=True, mode=0o700)
    homes = find_javas()
    java = JavaRuntime(home=homes[0] if homes else "/usr", version="", major=0, source="test")
    return make_launch(
        task_id="a1/web/x",
        task_name="web",
        alloc_id="a1",
        alloc_dir=str(alloc),
        stdout_path="/dev/null",
        stderr_path="/dev/null",
        state_dir=str(state),
        crun_path=CRUN,
        javas=(java,),
        resources=Resources(memory_bytes=256 * MIB, cpu_shares=500),
    )


@attrs.define
class Running:
    """A container between create and delete."""

    launch: Launch
    bundle: bundle.Bundle
    pid: int
    pidfd: int
    output: int

    @property
    def log(self) -> str:
        """crun's own messages."""
        return f"{self.launch.state_dir}/crun.log"

    @property
    def root(self) -> str:
        """crun's state."""
        return f"{self.launch.state_dir}/crun"

    def crun(self, argv: list[str]) -> None:
        """Run a command of crun that has to succeed."""
        done = subprocess.run(argv, env=ENV, capture_output=True, text=True, timeout=scaled(30))
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Let the application run."""
        self.crun(crun_args.start_args(CRUN, self.bundle.container_id, self.log, self.root))

    def wait(self) -> str:
        """Return all that the application printed, once it has ended."""
        text = b""
        while chunk := os.read(self.output, 65536):
            text += chunk
        assert select.select([self.pidfd], [], [], scaled(60))[0]
        return text.decode()


@contextmanager
def created(launch: Launch, *argv: str, options: TaskOptions | None = None) -> Iterator[Running]:
    """Create a container; afterwards remove it and see that nothing is left of it."""
    made = bundle.write_bundle(
        launch, options or TaskOptions(), Application(java=launch.javas[0]), argv
    )
    _make_pid_namespace(made)
    pid_file = f"{launch.state_dir}/pid"
    reader, writer = os.pipe()
    running = Running(launch, made, 0, -1, reader)
    try:
        argv_create = crun_args.create_args(
            CRUN, made.container_id, made.path, pid_file, running.log, running.root
        )
        program = executable(CRUN)
        done = subprocess.run(
            argv_create,
            executable=program,
            pass_fds=[] if program == CRUN else [int(os.path.basename(program))],
            env=ENV,
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
        )
        os.close(writer)
        assert done.returncode == 0, os.read(reader, 4096).decode()
        running.pid = int(Path(pid_file).read_text())
        running.pidfd = os.pidfd_open(running.pid)
        placement = cgroup_placement.placement_of(launch)
        cgroup_placement.settle(running.pid, placement, launch.resources.cpuset_cpus)
        yield running
    finally:
        subprocess.run(
            crun_args.delete_args(CRUN, made.container_id, running.log, running.root, force=True),
            env=ENV,
            capture_output=True,
        )
        if running.pidfd >= 0:
            assert select.select([running.pidfd], [], [], scaled(30))[0]
            os.close(running.pidfd)
        os.close(reader)
        left: list[tuple[str, ...]] = []

        def removed() -> bool:
            left[:] = [cgroup_placement.remove_leftovers(made.cgroup_path, launch.cgroup_parent)]
            return not left[0]

        assert until(removed), left
        bundle.remove_bundle(launch.state_dir)
    assert not os.path.exists(made.path)
    assert made.container_id not in Path("/proc/self/mounts").read_text()
    assert not [path for path in groups() if made.container_id in path]


def _make_pid_namespace(made: bundle.Bundle) -> None:
    """Have crun make the PID namespace: a pause process needs a task process."""
    path = Path(made.config_path)
    config = json.loads(path.read_text())
    for namespace in config["linux"]["namespaces"]:
        if namespace["type"] == "pid":
            del namespace["path"]
    path.write_text(json.dumps(config))


def until(condition: Callable[[], bool], timeout_s: float = 30) -> bool:
    """Wait until a condition holds; False when it never does."""
    deadline = time.monotonic() + scaled(timeout_s)
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def groups() -> list[str]:
    """Return every cgroup of this host."""
    return [
        path for top in set(cgroup_files.detect().mounts.values()) for path, _, _ in os.walk(top)
    ]


def run(launch: Launch, *argv: str, options: TaskOptions | None = None) -> str:
    """Run a program in a container, and return what it printed."""
    with created(launch, *argv, options=options) as running:
        running.start()
        return running.wait()


def shell(launch: Launch, script: str) -> str:
    """Run a shell script in a container, and return what it printed."""
    return run(launch, "/bin/sh", "-c", script).strip()


@pytest.mark.parametrize("home", find_javas(), ids=os.path.basename)
def test_java_is_confined_and_sees_its_own_limits(
    launch: Launch, look_jar: Path, home: str
) -> None:
    """A JVM sees only itself, can change only its own directories, and knows its limits."""
    shutil.copy(look_jar, f"{launch.task_dir}/local/app.jar")
    binds = tuple(
        sorted(
            {
                str(Path(os.path.realpath(path)).parent)
                for path in Path(home).rglob("*")
                if path.is_symlink() and os.path.realpath(path).startswith("/etc/java")
            }
        )
    )
    java = JavaRuntime(home=home, version="", major=0, source="test", binds=binds)
    limited = attrs.evolve(
        launch, javas=(java,), resources=Resources(memory_bytes=256 * MIB, oom_score_adj=321)
    )
    text = run(limited, f"{home}/bin/java", "-XX:MaxRAMPercentage=50", "-jar", "/local/app.jar")
    found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    assert 110 <= int(found["max_mib"]) <= 128, text
    assert found["processors"] == str(os.cpu_count())
    assert (found["processes"], found["pid"]) == ("1", "1")
    assert found["Uid"] == "65534 65534 65534 65534"
    assert found["user"] == "nobody"
    capabilities = {name: value for name, value in found.items() if name.startswith("Cap")}
    assert len(capabilities) == 5
    assert set(capabilities.values()) == {"0000000000000000"}
    assert found["NoNewPrivs"] == "1"
    assert found["oom"] == "321"
    assert found["Max core file size"].startswith("0=0")
    writes = {name[6:]: value for name, value in found.items() if name.startswith("write ")}
    assert [path for path, value in writes.items() if value == "true"] == [
        "/local",
        "/alloc",
        "/secrets",
        "/tmp",
    ]
    secrets = [value for name, value in found.items() if name.startswith("exists ")]
    assert set(secrets) == {"false"}
    assert len(secrets) == 5


def test_cruns_file_cannot_be_written_to_from_a_container(launch: Launch) -> None:
    """As CVE-2019-5736 did, by the process that waits there; and crun need not see to it itself.

    Where crun has made a copy or a mount of its own, it says so in its environment.
    """
    with created(launch, "/bin/true") as running:
        assert os.statvfs(f"/proc/{running.pid}/exe").f_flag & os.ST_RDONLY
        environment = Path(f"/proc/{running.pid}/environ").read_bytes()
        assert b"LANG=" not in environment and b"PATH=" in environment
        assert b"_LIBCONTAINER_CLONED_BINARY" not in environment


def test_inherited_oom_score_is_undone(launch: Launch) -> None:
    """A container has the score of its job, 0 too, whatever this process has."""
    own = Path("/proc/self/oom_score_adj")
    before = own.read_text()
    own.write_text("300")
    try:
        assert shell(launch, "cat /proc/self/oom_score_adj") == "0"
    finally:
        own.write_text(before)


def test_limits_of_open_files_are_set(launch: Launch) -> None:
    """Open files are limited to the default or what this host can give, with no core files."""
    soft, hard, core = shell(launch, "ulimit -Sn; ulimit -Hn; ulimit -c").split()
    assert soft == hard
    assert 1024 <= int(hard) <= 1_048_576
    assert core == "0"


def test_root_inside_has_no_power(launch: Launch) -> None:
    """Where root is allowed, it still has no capability and can change nothing of the host's."""
    allowed = attrs.evolve(launch, user="root", plugin=attrs.evolve(launch.plugin, allow_root=True))
    attempts = (
        "cat /etc/shadow",
        "mount -o remount,rw /usr",
        "touch /usr/x",
        "touch /etc/x",
        "touch /x",
        "echo 1 > /proc/sys/kernel/panic",
        "mknod /tmp/n c 1 1",
        "echo 1 > /sys/fs/cgroup/memory/memory.limit_in_bytes",
        "test -e /sys/fs/cgroup/memory.max && echo max > /sys/fs/cgroup/memory.max",
    )
    script = "".join(f"({attempt}) >/tmp/out 2>&1 && echo '{attempt}';" for attempt in attempts)
    assert shell(allowed, f"id -u; grep -o 'CapEff.*' /proc/self/status; {script}").split() == [
        "0",
        "CapEff:",
        "0000000000000000",
    ]
    assert not os.path.exists("/usr/x")


def test_setuid_programs_give_nothing(launch: Launch) -> None:
    """A setuid program runs as the task's user."""
    program = shutil.copy("/usr/bin/id", f"{launch.task_dir}/local/id")
    os.chown(program, 0, 0)
    os.chmod(program, 0o4755)
    assert shell(launch, "/local/id -u") == "65534"


def test_host_processes_and_network_names(launch: Launch) -> None:
    """The host's processes are invisible; its own name resolves."""
    host = os.uname().nodename
    lines = shell(launch, "ls /proc | grep -c '^[0-9]'; hostname; getent hosts $(hostname)")
    count, name, address = lines.splitlines()
    assert int(count) <= 5
    assert name == host
    assert address.split()[-1] == host or host in address.split()


def test_memory_limit_is_the_kernels(launch: Launch) -> None:
    """What grows past the job's memory is killed, and nothing else is."""
    eater = "a=xxxxxxxxxxxxxxxx; while :; do a=$a$a; done"
    small = attrs.evolve(launch, resources=Resources(memory_bytes=32 * MIB))
    with created(small, "/bin/sh", "-c", f"sh -c '{eater}'; echo code $?") as running:
        running.start()
        assert "code 137" in running.wait()


def test_hard_limit_throttles(launch: Launch) -> None:
    """With cpu_hard_limit a busy loop gets its share of the host and no more."""
    tenth = attrs.evolve(
        launch, resources=Resources(cpu_shares=500, cpu_percent_ticks=0.1 / (os.cpu_count() or 1))
    )
    options = TaskOptions(cpu_hard_limit=True)
    with created(tenth, "/bin/sh", "-c", "while :; do :; done", options=options) as running:
        running.start()
        where = sampling.locate(running.bundle.cgroup_path)

        def throttled(times: int) -> bool:
            return (sampling.sample(where).throttled_periods or 0) >= times

        assert until(lambda: throttled(2))
        first = sampling.sample(where)
        assert until(lambda: throttled((first.throttled_periods or 0) + 20))
        cpu, memory = sampling.usage(first, sampling.sample(where), 1000)
        assert 6 <= cpu.percent <= 14
        assert cpu.total_ticks == pytest.approx(cpu.percent * 10)
        assert 0 < memory.usage <= 256 * MIB


def test_fork_bomb_stays_inside(launch: Launch) -> None:
    """A container cannot have more processes than its limit."""
    with created(launch, "/bin/sleep", "60") as running:
        hierarchy = cgroup_files.detect()
        directory = hierarchy.directory("pids", running.bundle.cgroup_path)
        assert Path(f"{directory}/pids.max").read_text().strip() == "4096"


def test_volume_is_where_the_job_wants_it(launch: Launch, tmp_path: Path) -> None:
    """Volumes are mounted outside of and inside /local, the read-only one is so all the way."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir(mode=0o777)
        (tmp_path / name).chmod(0o777)
        (tmp_path / name / "file").write_text(name)
    mounts = (
        Mount(str(tmp_path / "a"), "/data", readonly=True),
        Mount(str(tmp_path / "b"), "/local/b"),
    )
    script = (
        "cat /data/file /local/b/file;"
        "touch /data/x 2>/dev/null || echo no; touch /local/b/x && echo yes"
    )
    lines = shell(attrs.evolve(launch, mounts=mounts), script)
    assert lines == "abno\nyes"
    assert (tmp_path / "b" / "x").exists()


def test_network_none_has_no_interfaces(launch: Launch) -> None:
    """Without network only the loopback device is there."""
    alone = attrs.evolve(launch, network=attrs.evolve(launch.network, mode="none"))
    lines = shell(alone, "cat /proc/net/dev").splitlines()
    assert [line.split(":")[0].strip() for line in lines if ":" in line] == ["lo"]


def test_daemons_end_with_the_application(launch: Launch) -> None:
    """What the application left running is gone, and its pipes are closed, when it ends."""
    with created(launch, "/bin/sh", "-c", "sleep 1000 & echo $!") as running:
        running.start()
        assert running.wait().strip().isdecimal()


@pytest.fixture
def nomad_v1() -> Iterator[tuple[str, str]]:
    """Nomad's groups of a task on cgroup v1: the scope, and the shared cpuset group."""
    hierarchy = cgroup_files.detect()
    if hierarchy.mode is not Mode.V1:
        pytest.skip("cgroup v1 only")
    top = f"/{SCOPE}"
    scope = f"{top}/a1.web"
    for controller in cgroup.NOMAD_V1_CONTROLLERS:
        os.makedirs(f"{hierarchy.mounts[controller]}{scope}")
    share = f"{hierarchy.mounts['cpuset']}{top}/share"
    os.makedirs(share)
    for directory in (os.path.dirname(share), share):
        for name in ("cpuset.cpus", "cpuset.mems"):
            source = Path(hierarchy.mounts["cpuset"], name).read_text()
            Path(directory, name).write_text("0" if name == "cpuset.cpus" else source)
    yield scope, share
    for path in sorted((path for path in groups() if top in path), key=len, reverse=True):
        with suppress(OSError):
            os.rmdir(path)


def test_nomads_groups_hold_the_container_and_stay(
    launch: Launch, nomad_v1: tuple[str, str]
) -> None:
    """On v1 the container is in Nomad's scope and cpuset, and only what Nomad made remains."""
    scope, share = nomad_v1
    before = {path for path in groups() if SCOPE in path}
    inside = attrs.evolve(launch, cgroup_parent=scope, cpuset_cgroup=share)
    with created(inside, "/bin/sh", "-c", "grep Cpus_allowed_list /proc/self/status") as running:
        paths = groups_of(running.pid)
        assert paths["memory"] == paths["cpu"] == f"{scope}/{running.bundle.container_id}"
        assert paths["cpuset"] == f"/{SCOPE}/share"
        running.start()
        assert running.wait().split() == ["Cpus_allowed_list:", "0"]
    assert {path for path in groups() if SCOPE in path} == before


def test_jvm_counts_the_cpus_of_nomads_cpuset(
    launch: Launch, look_jar: Path, nomad_v1: tuple[str, str]
) -> None:
    """In Nomad's cpuset the JVM knows its one processor, and still its memory."""
    scope, share = nomad_v1
    shutil.copy(look_jar, f"{launch.task_dir}/local/app.jar")
    inside = attrs.evolve(launch, cgroup_parent=scope, cpuset_cgroup=share)
    home = launch.javas[0].home
    text = run(inside, f"{home}/bin/java", "-jar", "/local/app.jar")
    found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    assert found["processors"] == "1"
    assert int(found["max_mib"]) <= 128


@pytest.fixture
def nomad_v2() -> Iterator[str]:
    """Nomad's scope of a task on cgroup v2, below two groups that hand on their controllers."""
    hierarchy = cgroup_files.detect()
    if hierarchy.mode is not Mode.V2:
        pytest.skip("cgroup v2 only")
    root = Path(hierarchy.mounts[""])
    scope = f"/{SCOPE}.slice/share.slice/a1.web.scope"
    (root / scope.lstrip("/")).mkdir(parents=True)
    for directory in (root, root / f"{SCOPE}.slice", root / f"{SCOPE}.slice/share.slice"):
        (directory / "cgroup.subtree_control").write_text("+cpuset +cpu +io +memory +pids")
    yield scope
    for path in sorted((path for path in groups() if SCOPE in path), key=len, reverse=True):
        with suppress(OSError):
            os.rmdir(path)


def test_nomads_scope_holds_the_container_and_stays(launch: Launch, nomad_v2: str) -> None:
    """On v2 the container is a child of Nomad's scope with all its limits, and leaves it empty."""
    before = {path for path in groups() if SCOPE in path}
    resources = Resources(
        memory_bytes=64 * MIB, memory_max_bytes=96 * MIB, cpu_shares=500, cpuset_cpus="0"
    )
    inside = attrs.evolve(
        launch,
        cgroup_parent=nomad_v2,
        cpuset_cgroup=f"/sys/fs/cgroup{nomad_v2}",
        resources=resources,
    )
    script = (
        "grep Cpus_allowed_list /proc/self/status;"
        "cd /sys/fs/cgroup; cat memory.max memory.low memory.swap.max pids.max"
    )
    with created(inside, "/bin/sh", "-c", script) as running:
        paths = groups_of(running.pid)
        assert paths[""] == f"{nomad_v2}/{running.bundle.container_id}"
        running.start()
        limits = [str(96 * MIB), str(64 * MIB), "0", "4096"]
        assert running.wait().split() == ["Cpus_allowed_list:", "0", *limits]
    assert {path for path in groups() if SCOPE in path} == before
