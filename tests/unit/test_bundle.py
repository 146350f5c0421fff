"""The bundle on disk: the host's facts, the skeleton, the user, and its removal."""

from __future__ import annotations

import grp
import json
import os
import pwd
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from milo import proc
from milo.core.config.plugin_options import PluginOptions
from milo.core.config.task_options import TaskOptions
from milo.core.launch import Application, Device, JavaRuntime, Launch, Mount, Network, Resources
from milo.errors import ConfigError, MiloError, StateError, UserError
from milo.task.oci import bundle, users
from tests.support.launches import make_launch

ARGV = ("/jdk/bin/java", "-jar", "/local/app.jar")


@pytest.fixture
def java() -> Iterator[JavaRuntime]:
    """A JDK outside of /usr, and below the host's /tmp."""
    with tempfile.TemporaryDirectory(dir="/tmp") as home:
        yield JavaRuntime(home=home, version="21", major=21, source="test")


@pytest.fixture
def launch(tmp_path: Path, java: JavaRuntime) -> Launch:
    """A task with its directories made, as Nomad makes them."""
    alloc = tmp_path / "alloc" / "a1"
    for path in ("alloc", "web/local", "web/secrets", "web/tmp"):
        (alloc / path).mkdir(parents=True)
    state = tmp_path / "state" / "0123abcd"
    state.mkdir(parents=True)
    return make_launch(
        task_id="a1/web/x",
        task_name="web",
        alloc_id="a1",
        alloc_dir=str(alloc),
        stdout_path="/dev/null",
        stderr_path="/dev/null",
        state_dir=str(state),
        crun_path="/usr/bin/crun",
        javas=(java,),
        env={"GREETING": "hello"},
    )


def write(launch: Launch, options: TaskOptions | None = None) -> tuple[bundle.Bundle, Any]:
    """Write the bundle, and return it with its config.json."""
    made = bundle.write_bundle(
        launch, options or TaskOptions(), Application(java=launch.javas[0]), ARGV
    )
    return made, json.loads(Path(made.config_path).read_text())


def mounted(config: Any) -> dict[str, str]:
    """Return destination to source of all binds."""
    return {m["destination"]: m["source"] for m in config["mounts"] if m["type"] == "bind"}


def test_bundle_is_named_after_the_state_directory(launch: Launch) -> None:
    """Container and cgroup carry the name of the task's state directory."""
    made, config = write(launch)
    assert made.path == f"{launch.state_dir}/bundle"
    assert made.container_id == "milo-0123abcd"
    assert made.cgroup_path == config["linux"]["cgroupsPath"] == "/milo-0123abcd"
    assert config["process"]["args"] == list(ARGV)


def test_task_sees_its_own_directories(launch: Launch) -> None:
    """The task's directories are where Nomad's environment says they are, and writable."""
    _, config = write(launch)
    binds = mounted(config)
    assert binds["/local"] == f"{launch.task_dir}/local"
    assert binds["/secrets"] == f"{launch.task_dir}/secrets"
    assert binds["/tmp"] == f"{launch.task_dir}/tmp"
    assert binds["/alloc"] == f"{launch.shared_dir}"


def test_nothing_secret_of_the_host_is_mounted(launch: Launch) -> None:
    """Neither /etc as a whole nor any place where hosts keep secrets is in the container."""
    _, config = write(launch)
    for place in ("/etc", "/etc/shadow", "/etc/ssl", "/etc/pki", "/home", "/root", "/run", "/var"):
        assert place not in mounted(config)
    assert not any("private" in path for path in mounted(config).values())


def test_every_mount_point_is_in_the_skeleton(launch: Launch) -> None:
    """crun has to make no mount point, for each one is there already and of the right kind."""
    made, config = write(launch)
    for destination, source in mounted(config).items():
        if destination == "/alloc/logs":
            continue
        root, path = f"{made.path}/rootfs", destination
        if destination.startswith(("/tmp/", "/task/")):
            root, path = launch.task_dir, destination.removeprefix("/task")
        point = Path(root, path.lstrip("/"))
        assert point.is_dir() == Path(source).is_dir()
        assert point.exists()


def test_skeleton_is_open_to_the_tasks_user_whatever_the_umask(launch: Launch) -> None:
    """Directories and files of the root are readable for all, also under umask 077."""
    before = os.umask(0o077)
    try:
        made, _ = write(launch)
    finally:
        os.umask(before)
    root = Path(made.path, "rootfs")
    for path in (root, root / "etc", root / "usr"):
        assert path.stat().st_mode & 0o777 == 0o755
    assert (root / "etc" / "passwd").stat().st_mode & 0o777 == 0o644


def test_merged_directories_are_symlinks_as_on_the_host(launch: Launch) -> None:
    """/bin and /lib are symlinks where the host has symlinks, else mounted."""
    made, config = write(launch)
    for name in ("bin", "lib", "sbin"):
        inside = Path(made.path, "rootfs", name)
        if Path("/", name).is_symlink():
            assert os.readlink(inside) == os.readlink(f"/{name}")
        else:
            assert f"/{name}" in mounted(config)


def test_jdk_is_mounted_where_it_is(launch: Launch, java: JavaRuntime) -> None:
    """A JDK outside of /usr is mounted read-only at its own path, with what it links to."""
    extra = Path(launch.state_dir).parent / "etc-java"
    extra.mkdir()
    with_binds = attrs.evolve(java, binds=(str(extra),))
    _, config = write(attrs.evolve(launch, javas=(with_binds,)))
    assert mounted(config)[java.home] == java.home
    assert mounted(config)[str(extra)] == str(extra)
    assert f"JAVA_HOME={java.home}" in config["process"]["env"]


def test_jdk_below_usr_needs_no_mount(launch: Launch, java: JavaRuntime) -> None:
    """A JDK below /usr is there with /usr."""
    _, config = write(attrs.evolve(launch, javas=(attrs.evolve(java, home="/usr/lib"),)))
    assert "/usr/lib" not in mounted(config)


def test_jdk_of_the_task_is_named_as_the_task_sees_it(launch: Launch, java: JavaRuntime) -> None:
    """A JDK that came as an artifact is below /local in the container."""
    home = Path(launch.task_dir, "local", "jdk")
    home.mkdir()
    _, config = write(attrs.evolve(launch, javas=(attrs.evolve(java, home=str(home)),)))
    assert "JAVA_HOME=/local/jdk" in config["process"]["env"]
    assert str(home) not in mounted(config)


def test_jdk_below_tmp_is_mounted_over_the_tasks_tmp(launch: Launch, java: JavaRuntime) -> None:
    """A JDK of the host below /tmp stays visible, though /tmp is the task's own."""
    _, config = write(launch)
    order = list(mounted(config))
    assert java.home.startswith("/tmp/")
    assert order.index("/tmp") < order.index(java.home)
    assert Path(launch.task_dir, java.home.lstrip("/")).is_dir()


def test_missing_jdk_is_named(launch: Launch, java: JavaRuntime) -> None:
    """A JDK that has gone is an error that says which."""
    with pytest.raises(ConfigError, match="does not exist"):
        write(attrs.evolve(launch, javas=(attrs.evolve(java, home="/opt/gone"),)))


def test_environment_holds_nothing_of_this_process(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent's environment does not reach the application."""
    monkeypatch.setenv("VAULT_TOKEN", "secret")
    _, config = write(launch)
    env = dict(item.split("=", 1) for item in config["process"]["env"])
    assert set(env) == {"GREETING", "HOME", "USER", "LOGNAME", "LANG", "PATH", "JAVA_HOME"}


def test_etc_is_the_containers_own(launch: Launch) -> None:
    """User, groups and host name are written for this container."""
    network = Network(
        mode="none", hostname="web-1", dns_servers=("10.0.0.1", "10.0.0.2"), dns_searches=("a", "b")
    )
    made, config = write(attrs.evolve(launch, network=network))
    etc = Path(made.path, "rootfs", "etc")
    assert config["hostname"] == "web-1"
    assert (etc / "hostname").read_text() == "web-1\n"
    assert "127.0.1.1 web-1\n" in (etc / "hosts").read_text()
    assert (
        (etc / "resolv.conf")
        .read_text()
        .startswith("nameserver 10.0.0.1\nnameserver 10.0.0.2\nsearch a b\n")
    )
    assert "dns" in (etc / "nsswitch.conf").read_text()
    names = [line.split(":")[0] for line in (etc / "passwd").read_text().splitlines()]
    assert names == ["root", "nobody"]


def test_hosts_network_brings_the_hosts_names(launch: Launch) -> None:
    """With the host's network, the names of the host's /etc/hosts resolve too."""
    made, config = write(launch)
    text = Path(made.path, "rootfs", "etc", "hosts").read_text()
    hosts = Path("/etc/hosts")  # debootstrap makes none
    assert (hosts.read_text() if hosts.exists() else "").rstrip("\n") in text
    assert config["hostname"] in text.split()


def test_symlinked_task_directory_is_refused(launch: Launch) -> None:
    """A symlink in place of a task's directory is never mounted."""
    tmp = Path(launch.task_dir, "tmp")
    tmp.rmdir()
    tmp.symlink_to("/etc")
    with pytest.raises(StateError, match="no symlink"):
        write(launch)
    tmp.unlink()
    with pytest.raises(StateError, match="does not exist"):
        write(launch)


def test_volume_is_mounted_as_asked(launch: Launch, tmp_path: Path) -> None:
    """A volume keeps its propagation and read-only flag, at a path of its own."""
    (tmp_path / "data").mkdir()
    mount = Mount(str(tmp_path / "data"), "/data/", readonly=True, propagation="host-to-task")
    _, config = write(attrs.evolve(launch, mounts=(mount,)))
    (found,) = (m for m in config["mounts"] if m["destination"] == "/data")
    assert {"ro", "rslave", "rbind"} <= set(found["options"])


def test_volume_inside_local_gets_its_mount_point(launch: Launch, tmp_path: Path) -> None:
    """The mount point of a volume below /local is made before crun comes to it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "file").write_text("x")
    mounts = (
        Mount(str(tmp_path / "data"), "/local/a/b"),
        Mount(str(tmp_path / "file"), "/local/c/file"),
    )
    write(attrs.evolve(launch, mounts=mounts))
    assert Path(launch.task_dir, "local/a/b").is_dir()
    assert Path(launch.task_dir, "local/c/file").is_file()


def test_planted_symlink_does_not_lead_a_volume_away(launch: Launch, tmp_path: Path) -> None:
    """A symlink that an earlier run left in /local is refused, and nothing is made behind it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "victim").mkdir()
    Path(launch.task_dir, "local", "a").symlink_to(tmp_path / "victim")
    with pytest.raises(ConfigError, match="'a' in /local/a/b: it is a symlink"):
        write(attrs.evolve(launch, mounts=(Mount(str(tmp_path / "data"), "/local/a/b"),)))
    assert list((tmp_path / "victim").iterdir()) == []


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        (Mount("/no/such", "/data"), "does not exist"),
        (Mount("/srv", "/data", propagation="odd"), "propagation_mode"),
        (Mount("/srv", "/local"), "taken by the task's own"),
        (Mount("/srv", "/alloc/logs/x"), "taken by the task's own"),
        (Mount("/srv", "/task/private/x"), "taken by the task's own"),
        (Mount("/srv", "/proc/x"), "outside of /dev, /proc and /sys"),
        (Mount("/etc/passwd", "/etc"), "a directory, and the mount is none"),
    ],
)
def test_impossible_volumes_are_refused(launch: Launch, mount: Mount, words: str) -> None:
    """A volume that is not there, or goes where none may be, is the job's error."""
    with pytest.raises(ConfigError, match=words):
        write(attrs.evolve(launch, mounts=(mount,)))


def test_the_jdk_stays_whole(launch: Launch) -> None:
    """A mount that would hide the JDK, or lie in it, is refused, and the JDK named."""
    home = "/usr/share/doc"
    launch = attrs.evolve(launch, javas=(attrs.evolve(launch.javas[0], home=home),))
    for path, words in ((os.path.dirname(home), "above"), (home, "above"), (f"{home}/x", "inside")):
        with pytest.raises(ConfigError, match=f"{words} the JDK {home}"):
            write(attrs.evolve(launch, mounts=(Mount("/srv", path),)))


def test_device_keeps_its_numbers_and_owner(launch: Launch) -> None:
    """A device of the host gets the same node, permitted as asked."""
    _, config = write(attrs.evolve(launch, devices=(Device("/dev/null", "/dev/gadget", "r"),)))
    (node,) = config["linux"]["devices"]
    assert (node["path"], node["type"], node["major"], node["minor"]) == ("/dev/gadget", "c", 1, 3)
    assert config["linux"]["resources"]["devices"][1]["access"] == "r"


def test_device_may_have_any_path(launch: Launch) -> None:
    """A device elsewhere than below /dev is bound, read-only, and permitted as asked."""
    _, config = write(attrs.evolve(launch, devices=(Device("/dev/null", "/data/x", "rw"),)))
    assert config["linux"]["devices"] == []
    permitted = config["linux"]["resources"]["devices"][1]
    assert (permitted["major"], permitted["minor"], permitted["access"]) == (1, 3, "rw")
    (mount,) = [one for one in config["mounts"] if one["destination"] == "/data/x"]
    assert mount["source"] == "/dev/null"
    assert {"bind", "ro", "nosuid", "noexec"} <= set(mount["options"])
    assert "nodev" not in mount["options"]


@pytest.mark.parametrize(
    ("device", "key"),
    [
        (Device("/dev/no-such", "/dev/x"), "device"),
        (Device("/etc", "/dev/x"), "device"),
        (Device("/dev/null", "/"), "device"),
        (Device("/dev/null", "/dev/x", "z"), "device"),
        (Device("/dev/null", "/proc/x"), "mount destination"),
    ],
)
def test_impossible_devices_are_refused(launch: Launch, device: Device, key: str) -> None:
    """What is no device, or goes where nothing may be put, is the job's error."""
    with pytest.raises(ConfigError) as caught:
        write(attrs.evolve(launch, devices=(device,)))
    assert caught.value.key == key


def test_hard_limit_is_set_when_the_job_asks(launch: Launch) -> None:
    """cpu_hard_limit turns the task's share of the host into a quota."""
    quarter = attrs.evolve(launch, resources=Resources(cpu_shares=500, cpu_percent_ticks=0.25))
    _, soft = write(quarter)
    _, hard = write(quarter, TaskOptions(cpu_hard_limit=True))
    assert "quota" not in soft["linux"]["resources"]["cpu"]
    expected = 25_000 * (os.cpu_count() or 1)
    assert hard["linux"]["resources"]["cpu"]["quota"] == expected


def test_text_that_is_no_unicode_is_refused(launch: Launch) -> None:
    """An environment that JSON cannot carry is an error, not a crash."""
    with pytest.raises(ConfigError, match="Unicode"):
        write(attrs.evolve(launch, env={"X": "\udcff"}))


def test_bundle_replaces_what_an_earlier_try_left(launch: Launch) -> None:
    """Writing twice works, and nothing of the first remains."""
    made, _ = write(launch)
    Path(made.path, "rootfs", "etc", "left").touch()
    again, _ = write(launch)
    assert not Path(again.path, "rootfs", "etc", "left").exists()


def test_full_or_missing_state_directory_is_a_state_error(launch: Launch) -> None:
    """A state directory that cannot be written to is named in the error."""
    with pytest.raises(StateError, match="/no/such"):
        write(attrs.evolve(launch, state_dir="/no/such"))


def test_removal_follows_no_symlink(launch: Launch, tmp_path: Path) -> None:
    """Removing the bundle removes symlinks, never what they lead to."""
    made, _ = write(launch)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").touch()
    Path(made.path, "rootfs", "link").symlink_to(victim)
    bundle.remove_bundle(launch.state_dir)
    assert not Path(made.path).exists()
    Path(made.path).symlink_to(victim)
    bundle.remove_bundle(launch.state_dir)
    bundle.remove_bundle(launch.state_dir)
    assert (victim / "precious").exists()


def test_removal_never_enters_a_mount(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """While something is mounted inside, nothing is removed."""
    made, _ = write(launch)
    line = f"31 23 0:28 / {made.path}/rootfs/usr rw - tmpfs tmpfs rw\n"
    inside = proc.parse_mountinfo(os.fsencode(line))
    monkeypatch.setattr(proc, "mounts", lambda: inside)
    with pytest.raises(StateError, match="still mounted"):
        bundle.remove_bundle(launch.state_dir)
    assert Path(made.config_path).exists()


def test_default_user_is_nobody() -> None:
    """Without a user in the job, it is nobody, with nobody's groups."""
    user = users.resolve_user("")
    entry = pwd.getpwnam("nobody")
    assert (user.uid, user.gid, user.name) == (entry.pw_uid, entry.pw_gid, "nobody")


def test_users_are_found_by_name_and_id() -> None:
    """Name, id and user:group all lead to the same account."""
    entry = pwd.getpwnam("daemon")
    mail = grp.getgrnam("mail").gr_gid
    by_name = users.resolve_user("daemon")
    assert (by_name.uid, by_name.gid) == (entry.pw_uid, entry.pw_gid)
    assert users.resolve_user(str(entry.pw_uid)) == by_name
    assert users.resolve_user("daemon:mail").gid == mail
    assert users.resolve_user(f"daemon:{mail}").gid == mail


def test_supplementary_groups_come_with_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user of the host has the groups of a login, the primary one not among them."""
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid, 44, 27])
    assert users.resolve_user("daemon").groups == (27, 44)


def test_unknown_ids_are_taken_only_as_a_pair() -> None:
    """An id that the host does not know needs its group said, and has no name."""
    user = users.resolve_user("61234:61235")
    assert (user.uid, user.gid, user.groups, user.name) == (61234, 61235, (), "")


@pytest.mark.parametrize(
    "text",
    ["no-such-user", "61234", "daemon:no-such-group", "no-such:0", ":", "a\0b", "9" * 30 + ":1"],
)
def test_unknown_users_are_refused(text: str) -> None:
    """What this host does not know is an error with the job's own word in it."""
    with pytest.raises(UserError) as caught:
        users.resolve_user(text)
    assert caught.value.user == text


def test_root_runs_where_the_plugin_allows_it(launch: Launch) -> None:
    """allow_root lets a job run as root, still without any capability."""
    allowed = attrs.evolve(launch, user="root", plugin=PluginOptions(allow_root=True))
    _, config = write(allowed)
    assert config["process"]["user"]["uid"] == 0
    assert config["process"]["capabilities"]["bounding"] == []
    with pytest.raises(MiloError):
        write(attrs.evolve(launch, user="root"))
