"""What a task makes of its own directory, which it can write: nobody is misled by it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import attrs
import pytest
import trio

from milo.core.config.plugin_options import PluginOptions
from milo.core.launch import Mount
from milo.errors import MiloError
from milo.task.root import brought
from tests.support import fake_crun, scripted_java
from tests.support.driver_rig import DriverRig, Task, open_rig
from tests.support.userns import WITH_AND_WITHOUT
from tests.support.waiting import fail_after, scaled

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

NOMADS = ("alloc", "dev", "local", "private", "proc", "secrets", "tmp")
NOBODY = 65534


def scripted(jdks: Path, script: str, **options: object) -> PluginOptions:
    """Return a configuration in which ``script`` is what every JAR does."""
    home = scripted_java.make(jdks / "jdk", script)
    return PluginOptions(java_home=str(home), **options)  # type: ignore[arg-type]


async def printed(rig: DriverRig, task: Task) -> str:
    """Run a task to its end; return what it printed."""
    with fail_after(60):
        await rig.registry.start(task.request)
        await rig.registry.wait(task.id)
        await trio.to_thread.run_sync(task.out.wait_end)
    return task.out.text.decode()


TRIES = """
cd /task || exit 1
for n in alloc dev local private proc secrets tmp alloc/logs; do
  mv $n $n.away && echo DONE mv $n
  rmdir $n && echo DONE rmdir $n
  ln -sfn /etc $n && [ -L $n ] && echo DONE link $n
  mkdir -p other && mv -T other $n && echo DONE over $n
done
for n in private dev proc alloc/logs; do (echo >$n/x) && echo DONE write $n; done
ls private | grep . && echo DONE private
echo x >x && mkdir d && mv d e && rm -r x e && echo able
"""


@WITH_AND_WITHOUT
async def test_what_nomad_goes_by_cannot_be_replaced(
    jar_dir: Path, jdks: Path, userns: bool
) -> None:
    """A task cannot rename, remove or replace what Nomad makes and unmounts in its directory."""
    async with open_rig(scripted(jdks, TRIES, userns=userns)) as rig:
        task = rig.task(jar_dir / "hello.jar")
        Path(task.request.task_dir, "private").mkdir()
        Path(task.request.task_dir, "private/token").write_text("of Nomad's")
        text = await printed(rig, task)
    assert "DONE" not in text
    assert text.endswith("able\n")


async def test_a_descriptor_of_the_directory_gives_nothing(jar_dir: Path, jdks: Path) -> None:
    """Nor can another task to which it has passed a descriptor: for that, nothing is mounted.

    ``local`` and ``tmp`` are the user's own. Nomad only writes into them, before the first start.
    """
    async with open_rig(scripted(jdks, "sleep 1000")) as rig:
        task = rig.task(jar_dir / "hello.jar")
        for name in ("local", "tmp", "secrets"):
            os.chown(f"{task.request.task_dir}/{name}", NOBODY, NOBODY)
        os.chown(task.request.task_dir, NOBODY, NOBODY)
        for name in ("", "/logs", "/data"):
            os.chown(f"{task.request.alloc_dir}/alloc{name}", NOBODY, NOBODY)
        os.chown(f"{task.request.task_dir}/secrets", 0, 0)  # as Nomad makes it
        with fail_after(60):
            await rig.registry.start(task.request)
            moved = await trio.to_thread.run_sync(move_all, task)
            await rig.registry.stop(task.id, "SIGKILL", 0)
    assert set(moved.split()) <= {b"local", b"tmp"}


def move_all(task: Task) -> bytes:
    """Return what an ordinary user with descriptors of a task's directories can rename."""
    own = os.open(task.request.task_dir, os.O_RDONLY | os.O_DIRECTORY)
    shared = os.open(f"{task.request.alloc_dir}/alloc", os.O_RDONLY | os.O_DIRECTORY)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            moved = []
            for name, fd in (*((name, own) for name in NOMADS), ("logs", shared)):
                try:
                    os.rename(name, f"{name}.away", src_dir_fd=fd, dst_dir_fd=fd)
                    moved.append(name)
                except OSError:
                    pass
            os.write(writer, " ".join(moved).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        text = told.read()
    os.waitpid(pid, 0)
    os.close(own)
    os.close(shared)
    return text


ODD = """
cd /task
mkfifo fifo; ln -s /etc/shadow shadow; ln -s / etc2; ln -s /proc/1/root root; ln -s loop loop
mkdir -p etc/x usr/bin usr/share/app lib bin sys task var/run run; mkfifo etc/x/fifo etc/services
: >etc/passwd; : >etc/hosts; ln -s /etc/shadow etc/group; : >usr/bin/odd; : >task/inner; : >sys/x
ln -s ../../../../../../../etc/shadow 'a
b'; mkdir ' ' '...' '-rf' '%s'; : >"$(printf '\\377\\001')"; mkdir "$(printf '\\377d')"
d=deep; for i in 1 2 3 4 5 6 7; do d=$d/$d; mkdir -p $d; done
ln -s /usr usr/share/self; mkdir etc/ssl; ln -s /task/private etc/ssl/certs
: >opt; : >etc/ld.so.preload
[ -e again ] && echo again; : >again
cat fifo </dev/null 2>/dev/null & sleep 0.1; kill $!; wait
[ -r shadow ] && echo SHADOW; [ -r /shadow ] && echo SHADOW; cat etc/ssl/certs/token && echo TOKEN
echo ended
"""


async def test_odd_entries_hold_nothing_up(jar_dir: Path, jdks: Path) -> None:
    """FIFOs, symlinks, odd names and the names of system directories: the task starts again."""
    async with open_rig(scripted(jdks, ODD)) as rig:
        task = rig.task(jar_dir / "hello.jar")
        first = await printed(rig, task)
        again = rig.task(jar_dir / "hello.jar", alloc_id=task.request.alloc_id)
        second = await printed(rig, again)
    assert first.endswith("ended\n") and "again" not in first
    assert second.endswith("ended\n") and "again" in second
    for text in (first, second):
        assert "SHADOW" not in text and "TOKEN" not in text


async def test_very_many_entries(jar_dir: Path, jdks: Path) -> None:
    """An application that has written 100,000 files starts again as fast, and is told of it."""
    async with open_rig(scripted(jdks, "ls /task | wc -l; ls / | wc -l")) as rig:
        task = rig.task(jar_dir / "hello.jar")
        for number in range(100_000):
            os.close(os.open(f"{task.request.task_dir}/{number}", os.O_CREAT, 0o644))
        for top in ("usr/share", "usr/lib", "etc"):
            Path(task.request.task_dir, top).mkdir(parents=True)
            for number in range(900):
                Path(task.request.task_dir, top, f"{number}.x").touch()
        before = time.monotonic()
        text = await printed(rig, task)
        assert time.monotonic() - before < scaled(20)
        shown = brought.MAX_ENTRIES
        assert int(text.split()[0]) > 100_000 and shown < int(text.split()[1]) < shown + 100
        await rig.until_event(task, "at most 1000 entries")


FILL = """
cat /config/application.yml /lib/extra.jar /app.properties && echo
cd /task && mkdir -p var/a $(seq 3000) && touch var/a/1 $(seq 3001 9000)
echo ended
"""


async def test_what_the_job_has_brought_stays_at_the_root(jar_dir: Path, jdks: Path) -> None:
    """However much the application puts into its working directory, templates are found again."""
    async with open_rig(scripted(jdks, FILL)) as rig:
        task = rig.task(jar_dir / "hello.jar")
        for name in ("config/application.yml", "lib/extra.jar", "app.properties"):
            path = Path(task.request.task_dir, name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"<{name}>")
        first = await printed(rig, task)
        again = rig.task(jar_dir / "hello.jar", alloc_id=task.request.alloc_id)
        second = await printed(rig, again)
        said = await rig.until_event(again, "Seen")
    assert first == second
    assert first.startswith("<config/application.yml><lib/extra.jar><app.properties>")
    assert "at most 1000 entries of one directory" in said and said.endswith("oldest first: /")
    assert "something else is" not in said


@pytest.mark.parametrize("name", [name for name in NOMADS if name != "private"])
async def test_exchanged_after_the_check(jar_dir: Path, jdks: Path, name: str) -> None:
    """One of them that is a symlink when crun mounts it is refused, or leads nowhere."""
    crun = fake_crun.wrapper(jdks / "crun", "create", f". {jdks}/attack")
    options = scripted(jdks, "ls /task/private /usr/share/milo-canary; echo ran")
    async with open_rig(attrs.evolve(options, crun_path=str(crun))) as rig:
        task = rig.task(jar_dir / "hello.jar")
        canary = rig.base / "canary"
        canary.mkdir()
        place = f"{task.request.task_dir}/{name}"
        (jdks / "attack").write_text(f"mv {place} {place}.away; ln -s {canary} {place}\n")
        with fail_after(60), pytest.raises(MiloError):
            await rig.registry.start(task.request)
        assert not list(canary.iterdir())
        assert b"ran" not in task.out.text


@pytest.mark.parametrize("inside", ["/alloc", "/local", "/task/alloc", "/task"])
@pytest.mark.parametrize("target", ["/usr/share", "/usr/lib", "/run", "/secrets"])
async def test_mount_point_that_leads_elsewhere(
    jar_dir: Path, jdks: Path, inside: str, target: str
) -> None:
    """A mount point that another task exchanges makes nothing on the host, and is refused."""
    crun = fake_crun.wrapper(jdks / "crun", "create", f". {jdks}/attack")
    options = scripted(jdks, "echo ran")
    async with open_rig(attrs.evolve(options, crun_path=str(crun))) as rig:
        task = rig.task(jar_dir / "hello.jar")
        (rig.base / "volume").mkdir()
        mount = Mount(str(rig.base / "volume"), f"{inside}/in/milo-volume")
        task.request = attrs.evolve(task.request, mounts=(mount,))
        places = {"/alloc": task.request.alloc_dir + "/alloc", "/local": str(task.local)}
        place = places.get(inside.removeprefix("/task"), task.request.task_dir) + "/in"
        (jdks / "attack").write_text(f"mv {place} {place}.away; ln -s {target} {place}\n")
        with fail_after(60), pytest.raises(MiloError):
            await rig.registry.start(task.request)
        assert not os.path.lexists(f"{target}/milo-volume")
        assert b"ran" not in task.out.text
        assert not list((rig.base / "volume").iterdir())


async def test_template_below_the_shared_directory_is_refused(jar_dir: Path, jdks: Path) -> None:
    """What lies where the allocation's directory is mounted is not silently absent."""
    async with open_rig(scripted(jdks, "echo ran")) as rig:
        task = rig.task(jar_dir / "hello.jar")
        Path(task.request.task_dir, "alloc").mkdir()
        Path(task.request.task_dir, "alloc/app.conf").write_text("x")
        with fail_after(60), pytest.raises(MiloError, match=r"NOMAD_ALLOC_DIR\}/app.conf"):
            await rig.registry.start(task.request)


@pytest.mark.parametrize("name", ["alloc", "dev", "private", "proc"])
async def test_symlink_from_an_artifact(jar_dir: Path, jdks: Path, name: str) -> None:
    """A symlink in the place of one of Nomad's directories is refused, and not followed."""
    async with open_rig(scripted(jdks, "echo ran")) as rig:
        task = rig.task(jar_dir / "hello.jar")
        canary = rig.base / "canary"
        canary.mkdir()
        Path(task.request.task_dir, name).symlink_to(canary)
        with fail_after(60), pytest.raises(MiloError, match="no symlink"):
            await rig.registry.start(task.request)
        assert not list(canary.iterdir())
