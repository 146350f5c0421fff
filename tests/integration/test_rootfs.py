"""The root file system that a task sees: of the host, of its own, and what it mounts there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from milo.core.config.plugin_options import PluginOptions, Volumes
from milo.core.launch import Launch, Mount
from milo.errors import TaskStartError
from tests.support.driver_rig import DriverRig, open_rig
from tests.support.java_homes import all_homes, copy_home
from tests.support.private_mounts import small_tmpfs
from tests.support.waiting import fail_after

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="containers need root"),
    pytest.mark.skipif(not all_homes(), reason="there is no JDK (./dev setup installs it)"),
]

FORMS = ("host", "minimal")


async def look(
    rig: DriverRig, jar_dir: Path, *questions: str, change: Any = None, **config: Any
) -> dict[str, str]:
    """Run the JAR that looks around; return question to answer.

    ``change`` is called with the launch and returns the one to start.
    """
    task = rig.task(jar_dir / "look.jar", args=list(questions), **config)
    await rig.registry.start(change(task.request) if change else task.request)
    with fail_after(120):
        await rig.registry.wait(task.id)
    await trio.to_thread.run_sync(task.out.wait_end)
    text = task.out.text.decode()
    found = dict(line.split(" -> ", 1) for line in text.splitlines() if " -> " in line)
    assert set(found) == set(questions), text + task.err.text.decode()
    return found


@pytest.mark.parametrize("home", all_homes(), ids=os.path.basename)
async def test_minimal_root_has_what_a_jvm_needs(jar_dir: Path, home: str) -> None:
    """TLS, time zones, fonts, names, native libraries and the JDK's tools work; no shell does."""
    libraries = [
        str(path)
        for name in ("libstdc++.so.6", "libgcc_s.so.1", "libz.so.1", "librt.so.1")
        if (path := Path("/usr/lib/x86_64-linux-gnu", name)).exists()
    ]
    questions = ["trust", "zone", "resolve localhost", "resolve no-such.invalid", "jcmd"]
    if any(Path("/usr/share/fonts").rglob("*.ttf")):
        questions.append("font")
    places = ["/bin", "/sbin", "/usr/bin", "/usr/sbin", "/home", "/root", "/etc/alternatives"]
    places += ["/bin/sh", "/usr/lib/python3", "/usr/share/doc", "/usr/local/bin", "/etc/shadow"]
    async with open_rig(PluginOptions(java_home=home)) as rig:
        found = await look(
            rig,
            jar_dir,
            *questions,
            *(f"load {path}" for path in libraries),
            *(f"exists {path}" for path in places),
            "run /bin/sh -c true",
            "list /usr",
            rootfs="minimal",
        )
    assert int(found["trust"]) > 50
    assert found["zone"].startswith("Europe/Berlin ")
    assert int(found.get("font", 100)) > 50
    assert found["resolve localhost"] == "127.0.0.1"
    assert found["resolve no-such.invalid"] == "unknown"
    assert found["jcmd"].startswith("0 "), found["jcmd"]
    assert {found[f"load {path}"] for path in libraries} == {"done"}
    assert {found[f"exists {path}"] for path in places} == {"false"}
    assert found["run /bin/sh -c true"].startswith("failed:")
    assert set(found["list /usr"].split()) <= {"lib", "lib32", "lib64", "local", "share"}


@pytest.fixture(params=["/home", "/opt", "/root", "/var/tmp"])
def own_home(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A JDK as SDKMAN installs it, in a directory that root alone can enter."""
    top = Path(tempfile.mkdtemp(prefix="milo-", dir=request.param))
    try:
        candidates = top / ".sdkman/candidates/java"
        candidates.mkdir(parents=True)
        home = candidates / "25.0.3-tem"
        copy_home(all_homes()[-1], home)
        (candidates / "current").symlink_to("25.0.3-tem")
        (top / "secret").write_text("secret")
        yield candidates / "current"
    finally:
        shutil.rmtree(top)


async def test_jdk_in_a_home_is_seen_alone(jar_dir: Path, own_home: Path) -> None:
    """A JDK in a closed directory runs, by its symlink too, and shows nothing beside it."""
    top = own_home.parents[3]
    async with open_rig(PluginOptions(java_home=str(own_home))) as rig:
        found = await look(
            rig, jar_dir, "jcmd", f"list {top}", f"list {top.parent}", rootfs="minimal"
        )
    assert found["jcmd"].startswith("0 ")
    assert found[f"list {top}"] == ".sdkman"
    if str(top.parent) != "/var/tmp":
        assert found[f"list {top.parent}"] == top.name


@pytest.mark.parametrize("form", FORMS)
async def test_nomads_and_milos_data_below_usr_are_hidden(jar_dir: Path, form: str) -> None:
    """Where data_dir and state_dir lie below /usr, tasks see empty directories there."""
    async with open_rig(parent="/usr/local/share") as rig:
        (rig.base / "client").mkdir()
        (rig.base / "client/state.db").write_text("secret")
        (rig.base / "fine").write_text("fine")
        places = [rig.base / "state", rig.base / "alloc", rig.base / "client"]
        found = await look(
            rig,
            jar_dir,
            *(f"list {place}" for place in places),
            f"exists {rig.base}/fine",
            "write /local/x",
            rootfs=form,
        )
    shown = "failed" if form == "minimal" else ""
    assert {found[f"list {place}"][:6] for place in places} == {shown}
    assert found[f"exists {rig.base}/fine"] == ("true" if form == "host" else "false")
    assert found["write /local/x"] == "done"


@pytest.mark.parametrize("user", ["", "daemon"])
async def test_tasks_own_directories_are_writable(jar_dir: Path, user: str) -> None:
    """As Nomad makes them, the task's directories belong to any user of the job; no other does."""
    own = ["/local/x", "/secrets/x", "/tmp/x", "/alloc/data/x"]
    own += ["/task/x", "x", "local/y", "alloc/data/y"]
    others = ["/x", "/etc/x", "/usr/x", "/run/x", "/var/x", "/dev/x", "/task/private/x"]
    others += ["/alloc/logs/x", "alloc/logs/x", "dev/x", "proc/x"]
    async with open_rig() as rig:
        found = await look(
            rig,
            jar_dir,
            *(f"write {path}" for path in own + others),
            change=lambda launch: attrs.evolve(launch, user=user),
            rootfs="minimal",
        )
    assert {found[f"write {path}"] for path in own} == {"done"}
    assert {found[f"write {path}"].split()[0] for path in others} == {"failed:"}


@pytest.mark.parametrize(
    ("work_dir", "expected"),
    [
        (None, "/task"),
        ("/", "/"),
        ("/local", "/local"),
        ("/alloc/data/a/b/", "/alloc/data/a/b"),
        ("/usr", "/usr"),
        ("/etc", "/etc"),
        ("/run", "/run"),
        ("/var", "/var"),
        ("/alloc/logs", "/alloc/logs"),
        ("/task/dev", "/task/dev"),
    ],
)
async def test_working_directory(jar_dir: Path, work_dir: str | None, expected: str) -> None:
    """It is the task's as with Nomad's java driver, or what the job says, made if it is missing."""
    config = {} if work_dir is None else {"work_dir": work_dir}
    async with open_rig() as rig:
        found = await look(rig, jar_dir, "cwd", "write here", **config)
    assert found["cwd"] == expected
    writable = expected in ("/local", "/alloc/data/a/b", "/task")
    assert (found["write here"] == "done") is writable


IMPOSSIBLE = (
    *("local", "/local/..", "/opt/none", "/local/look.jar", "/etc/none", "/alloc/logs/none"),
    *("/task/alloc/logs/none/none", "/task/private", "/task/private/none", "/task/proc/none"),
    *("/dev", "/dev/shm", "/proc/self", "/sys", "/local/" + "a" * 300, "/local" + "/none" * 900),
)


@pytest.mark.parametrize("work_dir", IMPOSSIBLE)
async def test_impossible_working_directory(jar_dir: Path, work_dir: str) -> None:
    """A working directory that cannot be is the job's error, names the key, and makes nothing."""
    async with open_rig() as rig:
        with pytest.raises(TaskStartError, match="Invalid value for work_dir"):
            await look(rig, jar_dir, "cwd", work_dir=work_dir)
        assert not [path for path in rig.base.rglob("*") if path.name.startswith("none")]


def with_volume(mount: Mount) -> Any:
    def change(launch: Launch) -> Launch:
        return attrs.evolve(launch, mounts=(mount,))

    return change


@pytest.mark.parametrize("form", FORMS)
async def test_mounts_of_the_job(jar_dir: Path, tmp_path: Path, form: str) -> None:
    """Permitted directories and files are mounted, read-only unless the job says otherwise."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    (tmp_path / "a/file").write_text("from the host")
    (tmp_path / "a/to-b").symlink_to("../b")
    (tmp_path / "hosts").write_text("127.0.0.9 milo.test")
    options = PluginOptions(volumes=Volumes(True, (str(tmp_path),)))
    mounts = [
        {"source": str(tmp_path / "a"), "target": "/data"},
        {"source": str(tmp_path / "a/to-b"), "target": "/local/b", "readonly": False},
        {"source": str(tmp_path / "hosts"), "target": "/etc/hosts"},
    ]
    async with open_rig(options) as rig:
        found = await look(
            rig,
            jar_dir,
            "read /data/file",
            "write /data/x",
            "write /local/b/x",
            "resolve milo.test",
            mounts=mounts,
            rootfs=form,
        )
    assert found["read /data/file"] == "from the host"
    assert found["write /data/x"].startswith("failed")
    assert found["write /local/b/x"] == "done"
    assert (tmp_path / "b/x").read_text() == "written"
    assert found["resolve milo.test"] == "127.0.0.9"


async def test_volume_in_the_hosts_directories_changes_none(jar_dir: Path, tmp_path: Path) -> None:
    """A mount below /usr has what lies beside it still there, and the host gets no mount point."""
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("from the volume")
    change = with_volume(Mount(str(tmp_path), "/usr/share/milo-test/a"))
    async with open_rig() as rig:
        found = await look(
            rig, jar_dir, "read /usr/share/milo-test/a/file", "zone", "list /usr", change=change
        )
    assert found["read /usr/share/milo-test/a/file"] == "from the volume"
    assert found["zone"].startswith("Europe/Berlin")
    assert found["list /usr"] == " ".join(sorted(os.listdir("/usr")))
    assert not os.path.lexists("/usr/share/milo-test")


async def test_what_is_mounted_below_a_volume_is_read_only_too(
    jar_dir: Path, tmp_path: Path
) -> None:
    """A read-only volume is so in all that the host has mounted in it."""
    tmp_path.chmod(0o755)
    (tmp_path / "inner").mkdir()
    with small_tmpfs(tmp_path / "inner"):
        (tmp_path / "inner").chmod(0o777)
        change = with_volume(Mount(str(tmp_path), "/data", readonly=True))
        async with open_rig() as rig:
            found = await look(rig, jar_dir, "list /data", "write /data/inner/x", change=change)
    assert found["list /data"] == "inner"
    assert "Read-only" in found["write /data/inner/x"]


@pytest.mark.parametrize("form", FORMS)
async def test_artifact_jdk_is_only_run_inside(jar_dir: Path, form: str) -> None:
    """A JDK unpacked below local/ runs the task in either form; its words lead to no secret."""
    async with open_rig() as rig:
        task = rig.task(
            jar_dir / "look.jar",
            args=["jcmd", "exists /root", "exists /etc/shadow"],
            rootfs=form,
            java_home="local/jdk",
        )
        home = Path(task.request.task_dir, "local/jdk")
        copy_home(all_homes()[-1], home)
        (home / "lib/libshadow.so").symlink_to("/etc/shadow")
        await rig.registry.start(task.request)
        with fail_after(120):
            await rig.registry.wait(task.id)
        await trio.to_thread.run_sync(task.out.wait_end)
    lines = task.out.text.decode().splitlines()
    assert lines[0].startswith("jcmd -> 0 "), lines
    assert lines[1:] == ["exists /root -> false", "exists /etc/shadow -> false"]
