"""What a job brings is there: files beside local/, its mounts, and a working directory to write."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
import pytest
import trio

from milo.core.config.plugin_options import PluginOptions
from milo.core.launch import Mount
from milo.errors import TaskStartError
from milo.task.root import minimal_root, rootfs
from tests.support.driver_rig import DriverRig, Task, open_rig
from tests.support.java_homes import all_homes
from tests.support.waiting import fail_after

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="containers need root"),
    pytest.mark.skipif(not all_homes(), reason="there is no JDK (./dev setup installs it)"),
]

FORMS = ("host", "minimal")
JDK_BELOW_USR = next((home for home in all_homes() if home.startswith("/usr/lib/jvm/")), "")


async def look(rig: DriverRig, task: Task) -> dict[str, str]:
    """Run a task of the JAR that looks around; return question to answer."""
    await rig.registry.start(task.request)
    with fail_after(120):
        await rig.registry.wait(task.id)
    await trio.to_thread.run_sync(task.out.wait_end)
    text = task.out.text.decode()
    found = dict(line.split(" -> ", 1) for line in text.splitlines() if " -> " in line)
    assert set(found) == set(task.request.config["args"]), text + task.err.text.decode()
    return found


def bring(task: Task, files: dict[str, str]) -> None:
    """Put files into the task's directory, as a template does: made by root, and renamed."""
    for name, text in files.items():
        path = Path(task.request.task_dir, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize("form", FORMS)
async def test_files_beside_local_are_where_the_job_expects_them(jar_dir: Path, form: str) -> None:
    """They are found from the working directory, from the root, and beside ``NOMAD_TASK_DIR``."""
    files = {
        "config/application.yml": "port: 1",
        "app.properties": "a=b",
        "lib/extra.jar": "a jar",
        "etc/krb5.conf": "[libdefaults]",
        "etc/app/app.conf": "x",
        "usr/share/app/page": "y",
        "opt/app/page": "z",
    }
    questions = [
        f"read {begin}{name}" for name in files for begin in ("", "/", "/local/../", "/task/")
    ]
    async with open_rig() as rig:
        task = rig.task(jar_dir / "look.jar", args=[*questions, "cwd", "resolve localhost"])
        task.request.config["rootfs"] = form
        bring(task, files)
        found = await look(rig, task)
    assert found["cwd"] == "/task"
    assert found["resolve localhost"] == "127.0.0.1"
    for name, text in files.items():
        for begin in ("", "/", "/local/../", "/task/"):
            assert found[f"read {begin}{name}"] == text, f"{begin}{name}"


@pytest.mark.parametrize("form", FORMS)
async def test_what_public_libraries_look_for(jar_dir: Path, form: str) -> None:
    """The host's /etc/os-release, /etc/localtime and others are there, where the host has them."""
    left_out = minimal_root.NOT_NEEDED if form == "minimal" else ()
    names = [name for name in rootfs.HOST_ETC if os.path.exists(name) and name not in left_out]
    names += [
        "/etc/nsswitch.conf",
        "/etc/host.conf",
        "/etc/resolv.conf",
        "/usr/lib/ssl/openssl.cnf",
    ]
    assert "/etc/os-release" in names and "/etc/localtime" in names
    async with open_rig() as rig:
        task = rig.task(jar_dir / "look.jar", args=[f"exists {name}" for name in names])
        task.request.config["rootfs"] = form
        found = await look(rig, task)
    missing = [name for name in names if found[f"exists {name}"] != "true"]
    assert [name for name in missing if os.path.exists(name)] == []


GROUPS = (
    ("/etc/ssl/certs", "/var/run/app", "/usr/share/app/data", "/alloc/vol", "/data", "/tmp"),
    ("/alloc/data/vol", "/local/vol", "/run/other", "/opt/app", "/var/lib/app", "/task/in/here"),
    ("/usr/local/bin", "/lib/app", "/etc/ssl/certs/java", "/srv", "/secrets/a/b"),
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("destinations", GROUPS)
async def test_mounts_where_the_java_driver_takes_them(
    jar_dir: Path, tmp_path: Path, form: str, destinations: tuple[str, ...]
) -> None:
    """A mount of the job's takes the place of what is there, and what is beside it stays."""
    tmp_path.chmod(0o755)
    mounts = []
    for number, destination in enumerate(destinations):
        volume = tmp_path / str(number)
        volume.mkdir()
        volume.chmod(0o777)
        (volume / "file").write_text(destination)
        mounts.append(Mount(str(volume), destination))
    own = ("/data", "/local", "/alloc", "/tmp", "/secrets")
    relative = [destination for destination in destinations if destination.startswith(own)]
    questions = [f"read {place}/file" for place in destinations]
    questions += [f"read .{place}/file" for place in relative]
    questions += [f"write {place}/new" for place in destinations]
    before = [sorted(os.listdir(place)) for place in ("/etc/ssl/certs", "/usr/share", "/usr/lib")]
    async with open_rig() as rig:
        task = rig.task(jar_dir / "look.jar", args=[*questions, "zone", "write x"])
        task.request.config["rootfs"] = form
        task.request = attrs.evolve(task.request, mounts=tuple(mounts))
        found = await look(rig, task)
    for place in destinations:
        assert found[f"read {place}/file"] == place
        assert found[f"write {place}/new"] == "done"
    for place in relative:
        assert found[f"read .{place}/file"] == place
    assert found["write x"] == "done"
    assert found["zone"].startswith("Europe/Berlin")
    after = [sorted(os.listdir(place)) for place in ("/etc/ssl/certs", "/usr/share", "/usr/lib")]
    assert before == after


async def test_files_mounted_over_the_hosts(jar_dir: Path, tmp_path: Path) -> None:
    """One file of a directory of the host's is another, and the rest of it is as it was."""
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("mine")
    certificates = "/etc/ssl/certs/ca-certificates.crt"
    places = ("/etc/ssl/certs/own.pem", "/etc/localtime", "/etc/os-release", "/etc/hosts")
    for form in FORMS:
        async with open_rig() as rig:
            args = [f"read {place}" for place in places] + [f"exists {certificates}", "trust"]
            task = rig.task(jar_dir / "look.jar", args=args, rootfs=form)
            mounts = tuple(Mount(str(tmp_path / "file"), place, True) for place in places)
            task.request = attrs.evolve(task.request, mounts=mounts)
            found = await look(rig, task)
        assert {found[f"read {place}"] for place in places} == {"mine"}
        assert found[f"exists {certificates}"] == str(os.path.exists(certificates)).lower()
        assert int(found["trust"]) > 50


async def test_a_volume_at_private(jar_dir: Path, tmp_path: Path) -> None:
    """It is where the job wants it, and ./private stays Nomad's and empty."""
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("mine")
    async with open_rig() as rig:
        args = ["read /private/file", "exists ./private/file", "exists /private/file"]
        task = rig.task(jar_dir / "look.jar", args=args)
        task.request = attrs.evolve(task.request, mounts=(Mount(str(tmp_path), "/private"),))
        found = await look(rig, task)
    assert list(found.values()) == ["mine", "false", "true"]


@pytest.mark.parametrize(
    ("destination", "words"),
    [
        ("/task", "taken by the task's own directory"),
        ("/task/alloc", "taken by the task's own directory"),
        ("/alloc/logs", "taken by the task's own directory"),
        ("/alloc/logs/x", "taken by the task's own directory"),
        ("/task/private/x", "taken by the task's own directory"),
        ("/usr/lib/jvm", "above the JDK"),
        ("/lib", "above the system's libraries"),
        (os.path.dirname(os.path.realpath("/lib64/ld-linux-x86-64.so.2")), "above the system's"),
        ("/proc/x", "outside of /dev, /proc and /sys"),
    ],
)
async def test_places_that_cannot_be_had(
    jar_dir: Path, tmp_path: Path, destination: str, words: str
) -> None:
    """The message names what is there, and nothing has been made in the volume."""
    async with open_rig(PluginOptions(java_home=JDK_BELOW_USR)) as rig:
        task = rig.task(jar_dir / "look.jar", args=["cwd"])
        mount = Mount(str(tmp_path), destination)
        task.request = attrs.evolve(task.request, mounts=(mount,))
        with pytest.raises(TaskStartError, match=words):
            await rig.registry.start(task.request)
    assert not list(tmp_path.iterdir())


async def test_mount_of_the_name_of_nomads_directory(jar_dir: Path, tmp_path: Path) -> None:
    """A mount at /private/x is there, and nothing is made in Nomad's own ``private``."""
    (tmp_path / "file").write_text("here")
    tmp_path.chmod(0o755)
    async with open_rig() as rig:
        task = rig.task(jar_dir / "look.jar", args=["read /private/x/file"])
        mount = Mount(str(tmp_path), "/private/x")
        task.request = attrs.evolve(task.request, mounts=(mount,))
        found = await look(rig, task)
        assert not os.listdir(f"{task.request.task_dir}/private")
    assert found["read /private/x/file"] == "here"
