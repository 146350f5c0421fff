"""What a job may have mounted and where, its working directory, and what is hidden from it."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import attrs
import pytest

from milo import walk
from milo.core.config.plugin_options import PluginOptions, Volumes
from milo.core.config.task_options import JobMount, TaskOptions
from milo.core.container.mounts import Bind
from milo.core.launch import JavaRuntime, Launch
from milo.errors import ConfigError
from milo.task.root import hidden_paths, layout, libraries, rootfs, volumes, work_dir
from milo.task.root.root_tree import Place, RootTree
from tests.support.launches import make_launch


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """A task of a client that permits ``srv``, with Nomad's and Milo's directories."""
    alloc = tmp_path / "nomad/alloc/a1"
    for path in ("alloc", "web/local", "web/secrets", "web/tmp"):
        (alloc / path).mkdir(parents=True)
    for path in ("nomad/client", "srv/data", "state/0123"):
        (tmp_path / path).mkdir(parents=True)
    return make_launch(
        task_id="a1/web/x",
        task_name="web",
        alloc_id="a1",
        alloc_dir=str(alloc),
        stdout_path="/dev/null",
        stderr_path="/dev/null",
        state_dir=str(tmp_path / "state/0123"),
        crun_path="/usr/bin/crun",
        javas=(),
        plugin=PluginOptions(
            volumes=Volumes(enabled=True, paths=(f"{tmp_path}/srv",)),
            state_dir=str(tmp_path / "state"),
        ),
    )


def binds_of(launch: Launch, source: Path, *, readonly: bool = True, propagation: str = "") -> Bind:
    """Return the bind of a job's one mount."""
    mount = JobMount(str(source), "/data", readonly, propagation)
    (bind,) = volumes.job_binds(launch, TaskOptions(mounts=(mount,)))
    return bind


def test_mount_below_a_permitted_path(launch: Launch, tmp_path: Path) -> None:
    """A permitted directory is mounted without its symlinks, read-only as a rule."""
    (tmp_path / "srv/link").symlink_to("data")
    bind = binds_of(launch, tmp_path / "srv/link")
    assert bind == Bind(
        f"{tmp_path}/srv/data",
        "/data",
        readonly=True,
        recursive=volumes.kernel_is_recursive(),
        origin="job",
    )
    assert not binds_of(launch, tmp_path / "srv", readonly=False).readonly
    shared = binds_of(launch, tmp_path / "srv", propagation="bidirectional")
    assert shared.propagation == "rshared"


def test_permitted_path_may_be_a_symlink(launch: Launch, tmp_path: Path) -> None:
    """An operator's path counts as what it leads to."""
    (tmp_path / "alias").symlink_to("srv")
    plugin = attrs.evolve(launch.plugin, volumes=Volumes(True, (f"{tmp_path}/alias",)))
    aliased = attrs.evolve(launch, plugin=plugin)
    assert binds_of(aliased, tmp_path / "alias/data").source == f"{tmp_path}/srv/data"


def test_file_and_socket_are_mounted_as_such(launch: Launch, tmp_path: Path) -> None:
    """A file is bound as a file; a device or FIFO is refused."""
    (tmp_path / "srv/file").touch()
    os.mkfifo(tmp_path / "srv/fifo")
    assert not binds_of(launch, tmp_path / "srv/file").directory
    with pytest.raises(ConfigError, match="is a FIFO"):
        binds_of(launch, tmp_path / "srv/fifo")


def test_mounts_need_the_operators_permission(launch: Launch, tmp_path: Path) -> None:
    """Without paths there is no mount, and ``/`` permits every place."""
    nothing = attrs.evolve(launch, plugin=PluginOptions(volumes=Volumes(enabled=True)))
    with pytest.raises(ConfigError, match="paths"):
        binds_of(nothing, tmp_path / "srv")
    everything = attrs.evolve(launch, plugin=PluginOptions(volumes=Volumes(True, ("/",))))
    assert binds_of(everything, tmp_path / "srv").source == f"{tmp_path}/srv"


@pytest.mark.parametrize("path", ["srvx", "srv/out", "srv/../state", "none", "srv/out/none"])
def test_what_is_not_permitted_is_not_even_told_to_exist(
    launch: Launch, tmp_path: Path, path: str
) -> None:
    """A path beside the permitted ones, or a symlink out of them, is refused, there or not."""
    (tmp_path / "srvx").mkdir()
    (tmp_path / "srv/out").symlink_to("/etc")
    with pytest.raises(ConfigError, match="does not permit") as caught:
        binds_of(launch, tmp_path / path)
    assert caught.value.key == "mounts[0].source"
    assert "exist" not in str(caught.value)


def test_a_symlink_out_of_the_permitted_is_told_in_a_sentence(
    launch: Launch, tmp_path: Path
) -> None:
    """The job names a permitted path, which leads elsewhere."""
    (tmp_path / "srv/out").symlink_to("/etc")
    words = f"does not permit what {tmp_path}/srv/out leads to. Expected a path below"
    with pytest.raises(ConfigError, match=words):
        binds_of(launch, tmp_path / "srv/out")


@pytest.mark.parametrize("name", ["alloc", "dev", "private", "proc"])
def test_a_file_that_is_brought_in_place_of_a_directory(launch: Launch, name: str) -> None:
    """The job is told the key and the name; a directory, or nothing there, is no error."""
    layout.check_brought(launch)
    place = Path(launch.task_dir, name)
    place.mkdir()
    layout.check_brought(launch)
    place.rmdir()
    place.write_text("hello")
    with pytest.raises(ConfigError, match=f"destination: {name} of an .* is a file") as caught:
        layout.check_brought(launch)
    assert "another name" in str(caught.value)


@pytest.mark.skipif(not os.path.exists("/usr/bin/true"), reason="no ELF file to look at")
@pytest.mark.parametrize("trusted", [True, False])
def test_no_mount_over_the_dynamic_linker(tmp_path: Path, trusted: bool) -> None:
    """Each way to the linker of a JDK stays, whether directory or symlink; beside it is room."""
    (tmp_path / "jdk/bin").mkdir(parents=True)
    shutil.copy("/usr/bin/true", tmp_path / "jdk/bin/java")
    java = JavaRuntime(str(tmp_path / "jdk"), "17.0.15", 17, "test", trusted=trusted)
    linker = libraries.dynamic_linker(java, beneath=str(tmp_path))
    assert linker and os.path.isfile(linker[-1]) and not os.path.islink(linker[-1])
    host = rootfs.view_host((), recursive=True)
    for path in (*linker, *map(os.path.dirname, linker)):
        if path != "/":
            tree = RootTree(host.binds, host.links, linker=linker)
            with pytest.raises(ConfigError, match="above the system's libraries"):
                tree.make_room(path)
    tree = RootTree(host.binds, host.links, linker=linker)
    assert tree.make_room(f"{os.path.dirname(linker[-1])}/milo-x")
    assert libraries.dynamic_linker(attrs.evolve(java, home="/none")) == ()


def test_a_links_end_tells_what_it_is(tmp_path: Path) -> None:
    """A symlink of the host counts as a directory only where it leads to one."""
    for path in ("etc/alternatives", "usr/bin", "usr/lib/app"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "usr/lib/app/tool").touch()
    (tmp_path / "etc/alternatives/tool").symlink_to(tmp_path / "usr/lib/app/tool")
    (tmp_path / "usr/bin/tool").symlink_to("../../etc/alternatives/tool")
    (tmp_path / "usr/bin/app").symlink_to("../lib/app")
    binds = [Bind(f"{tmp_path}/{name}", f"/{name}") for name in ("etc", "usr")]
    tree = RootTree(binds, {})
    assert tree.look(tree.make_way("/usr/bin/tool")) is Place.OTHER
    assert tree.look(tree.make_way("/usr/bin/app")) is Place.DIRECTORY


def test_missing_source_is_told(launch: Launch, tmp_path: Path) -> None:
    """Where the operator permits a path, a job is told that it is not there."""
    with pytest.raises(ConfigError, match="does not exist"):
        binds_of(launch, tmp_path / "srv/none")


@pytest.mark.parametrize(
    ("path", "propagation", "words"),
    [
        ("nomad/alloc", "", "lies in"),
        ("nomad/client", "", "lies in"),
        ("state/0123", "", "lies in"),
        ("nomad", "bidirectional", "holds"),
    ],
)
def test_nomads_and_milos_data_are_no_source(
    launch: Launch, tmp_path: Path, path: str, propagation: str, words: str
) -> None:
    """Not even a client that permits everything gives other tasks' data to a task."""
    plugin = attrs.evolve(launch.plugin, volumes=Volumes(True, ("/",)))
    with pytest.raises(ConfigError, match=words):
        binds_of(attrs.evolve(launch, plugin=plugin), tmp_path / path, propagation=propagation)


def test_places_to_hide(launch: Launch, tmp_path: Path) -> None:
    """Hidden are the allocations, the agent's state and Milo's, none inside another."""
    assert hidden_paths.places(launch) == tuple(
        f"{tmp_path}/{path}" for path in ("nomad/alloc", "nomad/client", "state")
    )
    inside = tmp_path / "nomad/client/milo/0123"
    inside.mkdir(parents=True)
    moved = attrs.evolve(
        launch,
        state_dir=str(inside),
        plugin=attrs.evolve(launch.plugin, state_dir=str(inside.parent)),
    )
    assert hidden_paths.places(moved) == (f"{tmp_path}/nomad/alloc", f"{tmp_path}/nomad/client")


def test_masks_hide_what_a_bind_would_show() -> None:
    """A hidden place below a bind is masked where it is seen; the task's own binds stay."""
    binds = (
        Bind("/usr", "/usr"),
        Bind("/opt", "/mnt/opt", origin="job"),
        Bind("/usr/nomad/alloc/a1/web/local", "/local", origin="task"),
    )
    hidden = ("/opt/milo", "/usr/nomad/alloc", "/var/x")
    assert hidden_paths.masks(binds, hidden) == ("/mnt/opt/milo", "/usr/nomad/alloc")
    assert hidden_paths.masks((Bind("/", "/host", origin="job"),), hidden[:1]) == (
        "/host/opt/milo",
    )


@pytest.mark.parametrize("text", ["local", "./x", "/local/../x", "..", "/local/\0"])
def test_working_directory_is_absolute(text: str) -> None:
    """A relative one, or one with '..', is refused, as Nomad's java driver refuses it."""
    with pytest.raises(ConfigError) as caught:
        work_dir.check(text)
    assert caught.value.key == "work_dir"


def test_working_directory_is_the_tasks_own_as_a_rule() -> None:
    """Without the key it is the task's directory; doubled slashes count as one."""
    assert (work_dir.check(""), work_dir.check("//local//a/")) == ("/task", "/local/a")
    assert work_dir.check("/") == "/"


@pytest.fixture
def binds(tmp_path: Path) -> tuple[Bind, ...]:
    """The task's /local, and a volume."""
    (tmp_path / "root/usr").mkdir(parents=True)
    (tmp_path / "local").mkdir()
    (tmp_path / "local").chmod(0o777)
    (tmp_path / "volume/there").mkdir(parents=True)
    return (
        Bind(f"{tmp_path}/local", "/local", readonly=False, origin="task"),
        Bind(f"{tmp_path}/volume", "/data", origin="job"),
    )


def test_working_directory_is_made_in_the_tasks_own(
    tmp_path: Path, binds: tuple[Bind, ...]
) -> None:
    """Missing directories are made there, for whoever can write around them."""
    before = os.umask(0o077)
    try:
        work_dir.prepare("/local/a/b", binds, (), f"{tmp_path}/root", str(tmp_path))
    finally:
        os.umask(before)
    for path in ("local/a", "local/a/b"):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == 0o777
    for path in ("/local/a/b", "/data/there", "/data", "/usr", "/"):
        work_dir.prepare(path, binds, (), f"{tmp_path}/root", str(tmp_path))


@pytest.mark.parametrize(
    "path", ["/data/none", "/none", "/usr/none", "/local/file", "/local/file/x"]
)
def test_working_directory_elsewhere_has_to_be_there(
    tmp_path: Path, binds: tuple[Bind, ...], path: str
) -> None:
    """Nothing is made in a volume or in the root, and a file is none."""
    (tmp_path / "local/file").touch()
    with pytest.raises(ConfigError):
        work_dir.prepare(path, binds, (), f"{tmp_path}/root", str(tmp_path))
    assert not (tmp_path / "volume/none").exists()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/alloc/logs/app.stdout.0", "log directory, which is read-only"),
        ("/task/alloc/logs/x/y", "log directory, which is read-only"),
        ("/task/private", "hidden from tasks"),
        ("/task/private/x", "hidden from tasks"),
        ("/task/dev/x", "where nothing may be made"),
        ("/task/proc/x/y", "where nothing may be made"),
        ("/data/hidden/x", "hidden from tasks"),
        ("/data/none", "/data, a mount of the job"),
        ("/alloc/vol/none", "/alloc/vol, a mount of the job"),
        ("/dev", "/dev, which is the kernel's"),
        ("/proc/self", "/proc, which is the kernel's"),
        ("/sys", "/sys, which is the kernel's"),
        ("/local/" + "a" * 256, "too long"),
        ("/local/" + "ä" * 128, "too long"),
        ("/local" + "/a" * 2045, "too long"),
    ],
)
def test_nothing_is_made_where_the_task_may_make_nothing(
    tmp_path: Path, path: str, words: str
) -> None:
    """Read-only and hidden places stay as they are, and the message says what is there."""
    for name in ("task/private", "task/dev", "task/proc", "alloc/logs", "local", "vol", "root"):
        (tmp_path / name).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    binds = (
        Bind(f"{tmp_path}/local", "/local", readonly=False, origin="task"),
        Bind(f"{tmp_path}/task", "/task", readonly=False, origin="task"),
        *(
            bind
            for top in ("", "/task")
            for bind in (
                Bind(f"{tmp_path}/alloc", f"{top}/alloc", readonly=False, origin="task"),
                Bind(f"{tmp_path}/alloc/logs", f"{top}/alloc/logs", origin="task"),
            )
        ),
        Bind(f"{tmp_path}/task/dev", "/task/dev", readonly=False, origin="task"),
        Bind(f"{tmp_path}/task/proc", "/task/proc", readonly=False, origin="task"),
        Bind(f"{tmp_path}/vol", "/data", readonly=False, origin="job"),
        Bind(f"{tmp_path}/vol", "/alloc/vol", readonly=False, origin="job"),
    )
    masks = ("/task/private", "/data/hidden")
    with pytest.raises(ConfigError, match=words) as caught:
        work_dir.prepare(path, binds, masks, f"{tmp_path}/root", str(tmp_path))
    assert caught.value.key == "work_dir"
    assert len(str(caught.value)) < 500
    assert sorted(tmp_path.rglob("*")) == before


def test_longest_working_directory(tmp_path: Path, binds: tuple[Bind, ...]) -> None:
    """The kernel's longest names and path are taken."""
    path = "/local/" + "/".join(["a" * 255] * 15 + ["b" * 248])
    assert len(path) == work_dir.MAX_PATH_BYTES
    work_dir.prepare(path, binds, (), f"{tmp_path}/root", str(tmp_path))
    with walk.hold_directory(str(tmp_path)) as top:
        top.remove_tree("local")


@pytest.mark.parametrize(
    ("link", "target", "path"),
    [
        ("local/link", "../volume", "/local/link/made"),
        ("local/link", "/local", "/local/link"),
        ("volume/link", "there", "/data/link"),
        ("root/lib", "usr/lib", "/lib"),
    ],
)
def test_no_symlink_is_accepted_in_the_working_directory(
    tmp_path: Path, binds: tuple[Bind, ...], link: str, target: str, path: str
) -> None:
    """Neither a task's, nor a volume's, nor one of the root: crun would follow it as root.

    crun before 1.14.1 changes to the working directory with root's rights.
    """
    (tmp_path / link).symlink_to(target)
    with pytest.raises(ConfigError, match=f"{path} has a symlink in it") as caught:
        work_dir.prepare(path, binds, (), f"{tmp_path}/root", str(tmp_path))
    assert caught.value.key == "work_dir"
    assert not (tmp_path / "volume/made").exists()
