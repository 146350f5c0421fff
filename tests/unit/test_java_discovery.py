"""Java discovery, on fake runtimes in a temporary directory."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from milo.core.launch import JavaRuntime
from milo.host.java.finder import MAX_RETRY_S, RETRY_S, JavaFinder
from milo.host.java.places import PLACES
from milo.host.java.survey import Rules, bind_for, survey

ME = os.geteuid()


class Host:
    """A host's directories for Java runtimes, below one of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.jvm = root / "jvm"
        self.opt = root / "opt"
        self.etc = root / "etc"
        for directory in (root, self.jvm, self.opt, self.etc):
            directory.mkdir(mode=0o755, exist_ok=True)
        self.rules = Rules(
            owners=(ME,),
            top=str(root),
            bindable=(f"{root}/etc/", f"{root}/jvm/"),
            ignored=(f"{root}/etc/doc/",),
        )
        self.finder = JavaFinder(
            places=((str(self.jvm), "*"), (str(self.opt), "*jdk*")), rules=self.rules, timeout_s=5
        )

    def runtime(self, home: Path, version: str = "17.0.15", *, script: str = "") -> Path:
        """Make a runtime whose launcher counts its runs and prints a version."""
        (home / "bin").mkdir(parents=True)
        (home / "lib").mkdir()
        (home / "lib/modules").touch(mode=0o644)
        (home / "release").write_text(f'JAVA_VERSION="{version}"\n')
        launcher = home / "bin/java"
        words = script or f"echo '    java.version = {version}' >&2"
        launcher.write_text(f"#!/bin/sh\necho run >> {self.root}/runs\n{words}\n")
        launcher.chmod(0o755)
        for directory in (home, home / "bin", home / "lib"):
            directory.chmod(0o755)
        return home

    @property
    def runs(self) -> int:
        """How often any launcher was run."""
        log = self.root / "runs"
        return len(log.read_text().splitlines()) if log.exists() else 0

    async def find(self, configured: str = "", **environ: str) -> tuple[JavaRuntime, ...]:
        """Find the host's runtimes, PATH being empty if not given."""
        return await self.finder.find(configured, environ)

    async def homes(self, configured: str = "", **environ: str) -> list[str]:
        """Find the host's runtimes and return their homes, relative to the root."""
        found = await self.find(configured, **environ)
        return [os.path.relpath(java.home, self.root) for java in found]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host without Java."""
    return Host(tmp_path / "host")


async def test_a_host_without_java_has_none(host: Host) -> None:
    """Nothing is found, nothing is run, and nothing is a problem."""
    assert await host.find(PATH="/nonexistent:relative:") == ()
    assert host.finder.problems == ()


async def test_for_one_start_a_release_file_will_do(host: Host) -> None:
    """To run each runtime takes longer; one without such a file is run all the same."""
    host.runtime(host.jvm / "a-17")
    host.finder = JavaFinder(places=((str(host.jvm), "*"),), rules=host.rules, runs=False)
    assert [java.version for java in await host.find()] == ["17.0.15"] and host.runs == 0
    (host.jvm / "a-17/release").unlink()
    assert [java.version for java in await host.find()] == ["17.0.15"] and host.runs == 1


async def test_the_order_of_preference(host: Host) -> None:
    """java_home, JAVA_HOME, the directories (default-java, then the newest), java on PATH."""
    for name, version in (
        ("a-11", "11.0.2"),
        ("b-21", "21"),
        ("c-17", "17.0.1"),
        ("d-8", "1.8.0_402"),
    ):
        host.runtime(host.jvm / name, version)
    (host.jvm / "default-java").symlink_to("c-17")
    (host.jvm / "not-java").mkdir()
    host.runtime(host.opt / "jdk-25", "25")
    host.runtime(host.opt / "other", "25")
    configured = host.runtime(host.root / "configured", "9")
    by_environment = host.runtime(host.root / "environment", "10")
    on_path = host.runtime(host.root / "path", "12")
    (host.root / "bin").mkdir()
    (host.root / "bin/java").symlink_to(on_path / "bin/java")
    found = await host.find(
        str(configured), JAVA_HOME=str(by_environment), PATH=f"/nonexistent:{host.root}/bin"
    )
    assert [(os.path.relpath(java.home, host.root), java.major) for java in found] == [
        ("configured", 9),
        ("environment", 10),
        ("jvm/c-17", 17),
        ("jvm/b-21", 21),
        ("jvm/a-11", 11),
        ("jvm/d-8", 8),
        ("opt/jdk-25", 25),
        ("path", 12),
    ]
    sources = [java.source for java in found]
    assert sources[:3] == ["java_home", "JAVA_HOME", str(host.jvm)]
    assert sources[-2:] == [str(host.opt), "PATH"]
    assert all(java.trusted for java in found)
    assert host.finder.problems == ()


async def test_the_same_home_counts_once(host: Host) -> None:
    """However many paths lead to a runtime, it is found and run once, as the first of them."""
    home = host.runtime(host.jvm / "jdk-17")
    (host.jvm / "java-1.17.0").symlink_to("jdk-17")
    (host.opt / "jdk").symlink_to(home)
    found = await host.find(str(host.opt / "jdk"), JAVA_HOME=str(home), PATH=f"{home}/bin")
    assert [(java.home, java.source) for java in found] == [(str(home), "java_home")]
    assert host.runs == 1


async def test_a_runtime_is_run_once_and_again_when_replaced(host: Host) -> None:
    """What was learned is kept until the files change; a runtime that is gone is forgotten."""
    home = host.runtime(host.jvm / "jdk")
    for _ in range(3):
        assert [java.version for java in await host.find()] == ["17.0.15"]
    assert host.runs == 1
    home.rename(host.root / "old")
    assert await host.find() == ()
    host.runtime(host.jvm / "jdk", "21.0.1")
    assert [java.version for java in await host.find()] == ["21.0.1"]
    assert host.runs == 2


async def test_a_runtime_that_failed_is_tried_again_when_it_is_complete(host: Host) -> None:
    """While a package is being unpacked its launcher fails; afterwards it is found."""
    home = host.runtime(
        host.jvm / "jdk",
        script=f"test -f {host.jvm}/jdk/lib/libjvm.so && echo '  java.version = 9'",
    )
    assert await host.find() == ()
    assert await host.find() == ()
    assert host.runs == 1
    assert "exit code 1" in host.finder.problems[0]
    (home / "lib/libjvm.so").touch(mode=0o644)
    assert [java.version for java in await host.find()] == ["9"]


def writable_launcher(home: Path) -> None:
    (home / "bin/java").chmod(0o775)


def writable_library(home: Path) -> None:
    (home / "lib/modules").chmod(0o666)


def writable_directory(home: Path) -> None:
    (home / "lib").chmod(0o777)


def writable_parent(home: Path) -> None:
    home.parent.chmod(0o775)


def linked_to_a_writable_file(home: Path) -> None:
    outside = home.parent.parent / "libfoo.so"
    outside.touch()
    outside.chmod(0o666)
    (home / "lib/libfoo.so").symlink_to(outside)


def linked_by_way_of_a_writable_directory(home: Path) -> None:
    root = home.parent.parent
    (root / "open").mkdir()
    (root / "open").chmod(0o777)
    (root / "etc/real").touch(mode=0o644)
    (root / "open/hop").symlink_to(root / "etc/real")
    (root / "etc/first").symlink_to(root / "open/hop")
    (home / "lib/jvm.cfg").symlink_to(root / "etc/first")


@pytest.mark.parametrize(
    "loosen",
    [
        writable_launcher,
        writable_library,
        writable_directory,
        writable_parent,
        linked_to_a_writable_file,
        linked_by_way_of_a_writable_directory,
    ],
)
async def test_a_runtime_that_others_can_change_is_never_run(
    host: Host, loosen: Callable[[Path], None]
) -> None:
    """Its version is that of the release file, and it is marked as not trusted."""
    home = host.runtime(host.jvm / "jdk", "17.0.15")
    loosen(home)
    found = await host.find()
    assert [(java.version, java.trusted) for java in found] == [("17.0.15", False)]
    assert host.runs == 0


async def test_a_runtime_of_another_owner_is_never_run(tmp_path: Path) -> None:
    """The owner counts, not only the mode."""
    host = Host(tmp_path / "host")
    host.runtime(host.jvm / "jdk")
    rules = Rules(owners=(ME + 1,), top=str(host.root))
    finder = JavaFinder(places=((str(host.jvm), "*"),), rules=rules)
    assert [java.trusted for java in await finder.find("", {})] == [False]
    assert host.runs == 0


async def test_a_runtime_that_becomes_writable_is_run_no_more(host: Host) -> None:
    """Trust is looked at each time, not remembered."""
    home = host.runtime(host.jvm / "jdk")
    assert [java.trusted for java in await host.find()] == [True]
    (home / "bin/java").chmod(0o777)
    assert [java.trusted for java in await host.find()] == [False]
    assert host.runs == 1


async def test_the_release_file_of_a_stranger_is_read_with_care(host: Host) -> None:
    """A FIFO does not block, a device is not opened, and only so much is read."""
    home = host.runtime(host.jvm / "jdk")
    (home / "bin/java").chmod(0o777)
    (home / "release").unlink()
    os.mkfifo(home / "release")
    assert await host.find() == ()
    (home / "release").unlink()
    (home / "release").symlink_to("/dev/zero")
    assert await host.find() == ()
    assert "a symlink in it leads out" in host.finder.problems[0]
    assert "can be written by others" in host.finder.problems[0]
    (home / "release").unlink()
    (host.root / "elsewhere").write_text('JAVA_VERSION="17"\n')
    (home / "release").symlink_to("../../elsewhere")
    assert await host.find() == ()
    (home / "release").unlink()
    (home / "lib/release").write_text('JAVA_VERSION="17"\n')
    (home / "release").symlink_to("lib/release")
    assert [java.version for java in await host.find()] == ["17"]
    (home / "release").unlink()
    (home / "release").write_text("#" * 70_000 + '\nJAVA_VERSION="17"\n')
    assert await host.find() == ()
    (home / "release").unlink()
    assert await host.find() == ()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exit 3", "exit code 3"),
        ("echo nonsense", "names no version"),
        ("echo 'java.version = soon'; echo 'x version \"soon\"'", "no version of Java"),
        ("while :; do echo flood of output; done", "more than 65536 bytes"),
        ("kill -9 $$", "exit code -9"),
    ],
)
async def test_a_runtime_that_fails_is_left_out_with_a_reason(
    host: Host, script: str, words: str
) -> None:
    """The others are found nevertheless."""
    host.runtime(host.jvm / "bad", script=script)
    host.runtime(host.jvm / "good")
    assert await host.homes() == ["jvm/good"]
    assert len(host.finder.problems) == 1
    assert words in host.finder.problems[0]
    assert f"{host.jvm}/bad" in host.finder.problems[0]


async def test_a_launcher_that_hangs_is_ended_with_its_children(host: Host) -> None:
    """After the timeout the whole session is gone and a reason is kept."""
    host.runtime(host.jvm / "jdk", script=f"sleep 1000 & echo $! > {host.root}/child; wait")
    host.finder = JavaFinder(((str(host.jvm), "*"),), host.rules, timeout_s=0.5)
    assert await host.find() == ()
    assert "did not end within 0.5 s" in host.finder.problems[0]
    child = int((host.root / "child").read_text())
    await until(lambda: not _is_running(child))


async def test_a_runtime_that_failed_once_is_asked_again(host: Host, mock_clock: MockClock) -> None:
    """A busy host would have lost it for good; but one that always fails is not run each time."""
    script = f"[ -e {host.root}/ready ] && echo '    java.version = 17.0.1' >&2"
    host.runtime(host.jvm / "jdk", script=script)
    assert await host.find() == ()
    for runs, waits_s in enumerate((RETRY_S, 2 * RETRY_S, 4 * RETRY_S), 1):
        mock_clock.jump(waits_s - 1)
        assert await host.find() == ()
        assert host.runs == runs
        mock_clock.jump(1)
        assert await host.find() == ()
        assert host.runs == runs + 1
    (host.root / "ready").touch()
    assert await host.find() == ()
    mock_clock.jump(8 * RETRY_S)
    assert [java.version for java in await host.find()] == ["17.0.1"]
    assert host.finder.problems == ()
    runs = host.runs
    mock_clock.jump(MAX_RETRY_S)
    assert [java.version for java in await host.find()] == ["17.0.1"]
    assert host.runs == runs


async def test_cancellation_ends_the_launcher(host: Host) -> None:
    """A cancelled search leaves no process behind."""
    host.runtime(host.jvm / "jdk", script=f"echo $$ > {host.root}/pid; exec sleep 1000")
    pid = host.root / "pid"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.find)
        await until(lambda: pid.exists() and pid.read_text().endswith("\n"))
        nursery.cancel_scope.cancel()
    assert not _is_running(int(pid.read_text()))


async def until(condition: Callable[[], bool]) -> None:
    """Wait until another process has made the condition true."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - a process cannot set a trio.Event
            await trio.sleep(0.01)


def _is_running(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


async def test_a_launcher_has_a_clean_environment(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the agent's environment, no input, and the root as working directory."""
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-javaagent:evil.jar")
    home = host.runtime(
        host.jvm / "jdk",
        script=f"env > {host.root}/env; pwd >> {host.root}/env; cat; echo '  java.version = 17'",
    )
    assert [java.home for java in await host.find()] == [str(home)]
    words = (host.root / "env").read_text().split()
    names = {word.partition("=")[0] for word in words[:-1]}
    assert names <= {"PATH", "LANG", "PWD", "OLDPWD", "SHLVL", "_"}
    assert words[-1] == "/"


async def test_named_places_that_are_no_runtime_are_problems(host: Host) -> None:
    """java_home and JAVA_HOME are somebody's wish, so that it is told why they are not used."""
    (host.opt / "nothing").mkdir()
    host.runtime(host.jvm / "jdk")
    found = await host.homes("relative/jdk", JAVA_HOME=str(host.opt / "nothing"))
    assert found == ["jvm/jdk"]
    assert "java_home relative/jdk: it is no absolute path" in host.finder.problems
    assert any("no executable bin/java" in problem for problem in host.finder.problems)
    await host.find("/usr", JAVA_HOME="/nonexistent")
    assert any("/usr: it is no directory of" in problem for problem in host.finder.problems)
    assert any("it does not exist" in problem for problem in host.finder.problems)


async def test_a_launcher_without_a_runtime_around_it_is_none(host: Host) -> None:
    """A wrapper script named java on PATH does not make its directory a JDK."""
    home = host.runtime(host.root / "shims")
    (home / "release").unlink()
    (home / "lib/modules").unlink()
    assert await host.find(PATH=f"{home}/bin") == ()
    assert "none of the files of a Java runtime" in host.finder.problems[0]


async def test_the_jre_of_a_jdk_8_stands_for_the_jdk(host: Host) -> None:
    """java on PATH may lead to jre/bin/java inside of a JDK 8."""
    home = host.runtime(host.root / "jdk8", "1.8.0_402")
    (home / "jre/bin").mkdir(parents=True)
    os.rename(home / "bin/java", home / "jre/bin/java")
    (home / "bin/java").symlink_to("../jre/bin/java")
    for directory in (home / "jre", home / "jre/bin"):
        directory.chmod(0o755)
    assert await host.homes(PATH=f"{home}/bin") == ["jdk8"]


# binds


def etc_file(host: Host, name: str, mode: int = 0o644) -> Path:
    """Make a file below the host's etc."""
    path = host.etc / name
    path.parent.mkdir(parents=True, exist_ok=True)
    for parent in path.parents:
        if parent == host.root:
            break
        parent.chmod(0o755)
    path.touch()
    path.chmod(mode)
    return path


async def test_links_to_configuration_are_bound(host: Host) -> None:
    """Debian's way: a directory named after Java is bound whole, another file alone."""
    home = host.runtime(host.jvm / "jdk")
    (home / "lib/jvm.cfg").symlink_to(etc_file(host, "java-17-openjdk/jvm.cfg"))
    (home / "lib/net").symlink_to(etc_file(host, "java-17-openjdk/security/net"))
    (home / "lib/cacerts").symlink_to("../../../etc/ssl/certs/java/cacerts")
    etc_file(host, "ssl/certs/java/cacerts")
    (home / "lib/tz").symlink_to(etc_file(host, "zone/tz.dat"))
    (home / "lib/self").symlink_to(home / "release")
    (home / "lib/gone").symlink_to(host.etc / "gone")
    (home / "lib/doc").symlink_to(etc_file(host, "doc/java/readme"))
    found = await host.find()
    assert [os.path.relpath(bind, host.etc) for bind in found[0].binds] == [
        "java-17-openjdk",
        "ssl/certs/java",
        "zone/tz.dat",
    ]
    assert found[0].trusted


async def test_links_behind_links_are_bound(host: Host) -> None:
    """What a bound directory links to is bound too, or the container would see a dead link."""
    home = host.runtime(host.jvm / "jdk")
    real = etc_file(host, "pki/extracted/java/cacerts")
    (host.etc / "pki/java").mkdir(mode=0o755)
    (host.etc / "pki/java/cacerts").symlink_to(real)
    (home / "lib/cacerts").symlink_to(host.etc / "pki/java/cacerts")
    binds = (await host.find())[0].binds
    assert binds == (f"{host.etc}/pki/extracted/java", f"{host.etc}/pki/java")


def test_only_what_is_safe_is_bound(host: Host) -> None:
    """Never a place itself, a directory of something else, a secret, or what others change."""
    secret = etc_file(host, "shadow", 0o640)
    loose = etc_file(host, "java/loose", 0o666)
    (host.etc / "java").chmod(0o777)
    (host.etc / "link").symlink_to(host.root)
    (host.etc / "cron.d").mkdir(mode=0o755)
    (host.root / "home").touch()
    targets = [host.etc, host.root, secret, loose, host.etc / "link", host.etc / "cron.d",
               host.root / "home", host.etc / "gone", Path("/"), Path("/root"), Path("/home"),
               Path("/etc"), Path("/proc/self")]  # fmt: skip
    assert [bind_for(str(target), host.rules) for target in targets] == [""] * len(targets)
    assert [bind_for(path, Rules()) for path in ("/etc", "/etc/", "/etc/shadow", "/root/jdk")] == (
        [""] * 4
    )


async def test_a_stranger_cannot_have_secrets_bound(host: Host) -> None:
    """A runtime that others can change gets no bind that could be exchanged or is private."""
    home = host.runtime(host.jvm / "jdk")
    (home / "lib").chmod(0o777)
    (home / "lib/a").symlink_to(etc_file(host, "shadow", 0o600))
    (home / "lib/b").symlink_to(host.root)
    (home / "lib/c").symlink_to(etc_file(host, "java-17/fine"))
    found = await host.find()
    assert found[0].binds == (f"{host.etc}/java-17",)
    assert not found[0].trusted


# bounds


def test_a_tree_without_end_is_not_trusted(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk stops at its limits of files and depth."""
    home = host.runtime(host.jvm / "jdk")
    monkeypatch.setattr("milo.host.java.survey.MAX_FILES", 4)
    assert "too many files" in survey(str(home), host.rules).distrust
    monkeypatch.setattr("milo.host.java.survey.MAX_FILES", 1000)
    deep = home
    for _ in range(30):
        deep = deep / "d"
        deep.mkdir(mode=0o755)
    assert "too many files" in survey(str(home), host.rules).distrust


def test_a_link_to_a_parent_is_no_endless_walk(host: Host) -> None:
    """Trees that link to each other are each looked through once."""
    home = host.runtime(host.jvm / "jdk")
    other = host.runtime(host.jvm / "other-jdk")
    (home / "lib/other").symlink_to(other)
    (other / "lib/jdk").symlink_to(home)
    (home / "lib/up").symlink_to("../..")
    found = survey(str(home), host.rules)
    assert found.distrust == ""
    assert found.files < 100


async def test_a_ring_of_symlinks_is_not_trusted(host: Host) -> None:
    """A path that leads round in a circle ends."""
    home = host.runtime(host.jvm / "jdk")
    (host.etc / "ring").symlink_to("ring")
    (home / "lib/ring").symlink_to(host.etc / "ring")
    assert bind_for(f"{host.etc}/ring", host.rules) == ""
    assert survey(str(home), host.rules).binds == ()


@pytest.mark.parametrize(
    "place",
    [
        "/usr/lib/jvm/temurin-25-jdk-amd64",
        "/opt/jdk-25+36",
        "/opt/zulu21.30.15-ca",
        "/opt/graalvm-ce-21",
        "/opt/sdkman/candidates/java/21.0.4-tem",
        "/root/.sdkman/candidates/java/current",
        "/root/.asdf/installs/java/temurin-21.0.4",
    ],
)
def test_places_where_runtimes_are_installed(place: str) -> None:
    """Packages, unpacked archives, SDKMAN and asdf are looked at, other users' homes are not."""
    directory, _, name = place.rpartition("/")
    patterns = [pattern for where, pattern in PLACES if where == directory]
    assert any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    assert not [where for where, _ in PLACES if where.startswith("/home")]
