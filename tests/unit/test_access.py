"""What the task's user may use of what its JVM is to open: the kernel's own answer."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from milo import proc
from milo.core.config.plugin_options import PluginOptions
from milo.core.config.task_options import TaskOptions
from milo.core.container.mounts import Bind
from milo.core.container.spec import User
from milo.core.launch import Application, JavaRuntime, Launch, Mount
from milo.errors import AccessError
from milo.task.java.needs import needs
from milo.task.root import access
from tests.support.launches import make_launch

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

NOBODY = User(65534, 65534, (), "nobody")
OTHER = User(4711, 4712, (4713,), "")


@attrs.define
class Scene:
    """A task's directories, a volume and a JDK, below directories that nobody may pass."""

    launch: Launch
    home: Path
    volume: Path
    options: TaskOptions = attrs.field(factory=TaskOptions)
    jar: str = "/local/app.jar"
    class_path: str = ""
    work_dir: str = "/"

    @property
    def local(self) -> Path:
        return Path(self.launch.task_dir) / "local"

    def check(self, user: User = NOBODY) -> None:
        java = JavaRuntime(str(self.home), "21", 21, "test")
        app = Application(java, jar=self.jar, class_path=self.class_path)
        binds = [
            Bind(str(self.home), "/jdk"),
            Bind(str(self.local), "/local", origin="task"),
            Bind(self.launch.shared_dir, "/alloc", origin="task"),
            Bind(str(self.volume), "/data", origin="job"),
        ]
        wanted = needs(self.launch, app, binds, self.work_dir)
        access.check(wanted, binds, self.launch, self.options, user)

    def refused(self, user: User = NOBODY) -> str:
        with pytest.raises(AccessError) as caught:
            self.check(user)
        return str(caught.value)


@pytest.fixture
def scene() -> Iterator[Scene]:
    base = Path(tempfile.mkdtemp())  # mode 0700: the container does not go this way
    volume, home = base / "volume", base / "jdk"
    for path in ("alloc/a1/web/local/lib", "alloc/a1/alloc", "volume/lib", "jdk/bin", "jdk/lib"):
        (base / path).mkdir(parents=True)
    launch = make_launch(
        alloc_dir=str(base / "alloc/a1"), mounts=(Mount(str(volume), "/data"),), user="nobody"
    )
    scene = Scene(launch, home, volume)
    for file in (scene.local / "app.jar", scene.local / "lib/a.jar", volume / "lib/v.jar"):
        file.write_bytes(b"")
        file.chmod(0o644)
    (home / "bin/java").touch(0o755)
    (home / "lib/modules").touch(0o644)
    for directory, _, _ in os.walk(base):
        os.chmod(directory, 0o755)
    base.chmod(0o700)
    (base / "alloc").chmod(0o700)
    yield scene
    shutil.rmtree(base)


def test_what_all_may_read_is_fine(scene: Scene) -> None:
    """Whatever lies above the mounts."""
    scene.class_path = "/local/lib/*:/data/lib/v.jar:/local/lib:/local/missing.jar:/usr/x.jar"
    scene.work_dir = "/data/lib"
    scene.check()


@pytest.mark.parametrize(
    ("path", "mode", "text"),
    [
        (
            "local/app.jar",
            0o600,
            "read the JAR /local/app.jar: /local/app.jar has mode 0600",
        ),
        ("local", 0o700, "cannot read the JAR /local/app.jar: the directory /local has mode 0700"),
        ("local/lib/a.jar", 0o640, "the class path's /local/lib/a.jar: /local/lib/a.jar has"),
        ("local/lib", 0o744, "the class path's /local/lib/a.jar: the directory /local/lib has"),
        ("local/lib", 0o711, "cannot read the class path's /local/lib/*: the directory /local/lib"),
        ("volume/lib", 0o700, "cannot enter work_dir /data/lib: the directory /data/lib has"),
        ("jdk/bin/java", 0o744, "cannot use the JDK"),
        ("jdk/lib/modules", 0o600, "/jdk/lib/modules has mode 0600"),
        ("jdk", 0o700, "cannot enter the JDK"),
    ],
)
def test_what_is_in_the_way_is_named(scene: Scene, path: str, mode: int, text: str) -> None:
    """With mode, owner, user and remedy."""
    scene.class_path = "/local/lib/a.jar:/local/lib/*"
    scene.work_dir = "/data/lib"
    places = {"local": scene.local, "volume": scene.volume, "jdk": scene.home}
    place, _, rest = path.partition("/")
    (places[place] / rest).chmod(mode)
    told = scene.refused()
    assert text in told
    assert "User nobody (65534:65534)" in told
    assert "belongs to root:root" in told
    remedies = {"local": "chown = true", "volume": "volume's files", "jdk": "chmod -R a+rX"}
    assert remedies[place] in told


@pytest.mark.parametrize(
    ("path", "mode", "uid", "chmod"),
    [
        ("v.jar", 0o000, 65534, "u+r"),
        ("v.jar", 0o600, 0, "o+r"),
        ("", 0o600, 65534, "u+x"),
        ("", 0o700, 0, "o+x"),
    ],
)
def test_who_has_typed_it_is_told_the_command(
    scene: Scene, path: str, mode: int, uid: int, chmod: str
) -> None:
    """For the file of the host, and the part of the mode that counts for the user."""
    scene.launch = attrs.evolve(scene.launch, by_hand=True)
    scene.class_path = "/data/lib/v.jar"
    at = scene.volume / "lib" / path
    os.chown(at, uid, -1)
    at.chmod(mode)
    told = scene.refused()
    assert told.endswith(f"To let it: chmod {chmod} {at}") and "volume's files" not in told


def test_a_job_without_a_user_has_to_name_one_for_chown(scene: Scene) -> None:
    """Nomad's chown does nothing without the task's user."""
    (scene.local / "app.jar").chmod(0o600)
    assert 'user = "nobody"' not in scene.refused()
    scene.launch = attrs.evolve(scene.launch, user="")
    assert 'and user = "nobody" in the task' in scene.refused()


def test_owner_group_and_supplementary_groups_count(scene: Scene) -> None:
    """As they do for the application."""
    jar = scene.local / "app.jar"
    for uid, gid, mode in ((4711, 0, 0o400), (0, 4712, 0o040), (0, 4713, 0o040)):
        os.chown(jar, uid, gid)
        jar.chmod(mode)
        scene.check(OTHER)
        assert "cannot read" in scene.refused()
    os.chown(jar, 4711, 0)
    jar.chmod(0o044)  # the owner is asked as the owner
    assert "belongs to 4711:root" in scene.refused(OTHER)


@pytest.mark.parametrize("name", access.OVERRIDES)
@pytest.mark.parametrize("user", [NOBODY, User(0, 0, (), "root")])
def test_capabilities_that_open_everything(scene: Scene, name: str, user: User) -> None:
    """Root without them is a user as any other."""
    jar = scene.local / "app.jar"
    jar.chmod(0o600)
    os.chown(jar, 4711, 4712)
    assert "cannot read the JAR" in scene.refused(user)
    scene.options = TaskOptions(cap_add=(name,))
    scene.check(user)


def test_access_lists_count(scene: Scene) -> None:
    """An entry for the task's user opens a file, and takes it away."""
    jar = scene.local / "app.jar"
    jar.chmod(0o600)
    give_acl(jar, nobody=4, others=0)
    scene.check()
    give_acl(jar, nobody=0, others=4)
    assert "cannot read the JAR" in scene.refused()
    scene.check(OTHER)


def give_acl(path: Path, *, nobody: int, others: int) -> None:
    """Set an access list: its owner, the user nobody, its group, the mask, all others; acl(5)."""
    entries = [(1, 6, -1), (2, nobody, NOBODY.uid), (4, 0, -1), (16, 4, -1), (32, others, -1)]
    packed = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", kind, bits, number % 2**32) for kind, bits, number in entries
    )
    try:
        os.setxattr(path, "system.posix_acl_access", packed)
    except OSError as exc:
        pytest.skip(f"no access lists here: {exc}")


def test_symlinks_are_followed_as_in_the_container(scene: Scene) -> None:
    """The directory of the symlink has to be passed too, and that which it leads to."""
    (scene.local / "lib/link.jar").symlink_to("/alloc/real/app.jar")
    real = Path(scene.launch.shared_dir) / "real"
    real.mkdir(mode=0o755)
    real.chmod(0o755)
    (real / "app.jar").touch()
    (real / "app.jar").chmod(0o644)
    scene.jar = "/local/lib/link.jar"
    scene.check()
    (scene.local / "lib").chmod(0o700)
    assert "the directory /local/lib has" in scene.refused()
    (scene.local / "lib").chmod(0o755)
    real.chmod(0o700)
    assert "the directory /alloc/real has" in scene.refused()


def test_in_a_user_namespace(scene: Scene) -> None:
    """The task's own files keep their owners; the host's belong to strangers."""
    plugin = PluginOptions(userns=True)
    scene.launch = attrs.evolve(scene.launch, plugin=plugin)
    jar = scene.local / "app.jar"
    os.chown(jar, 65534, 65534)
    jar.chmod(0o400)
    scene.check()
    os.chown(scene.home / "lib/modules", 65534, 65534)
    (scene.home / "lib/modules").chmod(0o440)
    assert "/jdk/lib/modules" in scene.refused()


def test_a_long_class_path_takes_few_descriptors(scene: Scene) -> None:
    """However many files there are to ask about."""
    for number in range(200):
        (scene.local / f"lib/{number}.jar").touch(0o644)
    scene.class_path = ":".join(f"/local/lib/{number}.jar" for number in range(200))
    (scene.local / "lib/199.jar").chmod(0o600)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, limits[1]))
    try:
        text = scene.refused()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert "199.jar" in text


def test_who_cannot_become_the_user_refuses_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application then says itself what it cannot read."""
    (scene.local / "app.jar").chmod(0o600)

    def refuse(_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "setgroups", refuse)
    monkeypatch.setattr(access, "groups_are_kept", lambda: False)
    scene.check()


@pytest.mark.parametrize("user", [OTHER, User(0, 0, (), "root")])
def test_whoever_asks_is_afterwards_what_it_was(
    scene: Scene, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the answer is, and also when the question fails."""
    outside = os.fork()
    if outside == 0:  # of the test's own process no signal is set
        status = 1
        try:
            proc.die_with(os.getppid(), signal.SIGURG)
            before = identity()
            scene.check(user)
            assert identity() == before
            (scene.local / "app.jar").chmod(0o000)
            scene.refused(user)
            assert identity() == before

            def fail(*_: object) -> str:
                assert identity() != before
                raise ZeroDivisionError

            monkeypatch.setattr(access, "_refuses", fail)
            with pytest.raises(ZeroDivisionError):
                scene.check(user)
            assert identity() == before
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(outside, 0) == (outside, 0)


def identity() -> tuple[object, ...]:
    """Return all that changes with a process's user."""
    fields = (proc.status_field(name) for name in (b"CapPrm", b"CapEff", b"CapInh", b"CapBnd"))
    ids = os.getresuid(), os.getresgid(), os.getgroups()
    return (*ids, *fields, proc.death_signal())
