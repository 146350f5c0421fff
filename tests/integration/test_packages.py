"""What a new user gets: the wheel, and the self-contained file, from a clean directory."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distributions
from pathlib import Path

import pytest
import trio
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import milo
from milo.host import spawner_client
from tests.bench.plugin_host import AGENT_PATH, Process, open_host, start_plugin
from tests.support import packages
from tests.support.driver_rig import open_rig
from tests.support.waiting import fail_after, scaled, wait_for
from tools import build_executable

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")
RUN_S = 120


@pytest.fixture(scope="session")
def file() -> Path:
    """The self-contained file."""
    return packages.executable()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the file unpacks itself in this test."""
    monkeypatch.setenv("MILO_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(
    *command: Path | str, cache: Path | None = None, ok: bool = True, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run ``command`` in an empty directory's environment, that of ``env -i``."""
    if cache is not None:
        env["MILO_CACHE_DIR"] = str(cache)
    done = subprocess.run(
        [str(word) for word in command],
        env=env,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=scaled(RUN_S),
    )
    assert not ok or done.returncode == 0, done.stdout + done.stderr
    return done


def interpreters() -> dict[str, str]:
    """Return the path of each interpreter of this machine that the file is made for, by version."""
    found = {}
    ask = "import sys; print(*sys.version_info[:2], sys.executable)"
    places = [Path("/usr/bin"), Path(sys.base_prefix) / "bin"]
    places += sorted(Path.home().glob(".pyenv/versions/3.1*/bin"))
    for path in [place / "python3" for place in places]:
        if path.exists():
            major, minor, executable = run(path, "-I", "-c", ask).stdout.split()
            if major == "3" and f"3{minor}" in build_executable.PYTHONS:
                found[str(path)] = executable
    return found


def unpacked(cache: Path) -> set[str]:
    """Return the names of the versions in the cache; anything unfinished fails the test."""
    names = {entry.name for entry in cache.iterdir()} - {".lock"}
    assert not [name for name in names if name.startswith(".")]
    return names


def launcher(file: Path, base: Path) -> Path:
    """Return a program that is ``file`` with this test's cache, for a start as by the agent."""
    path = base / "launch"
    cache = os.environ["MILO_CACHE_DIR"]
    path.write_text(f'#!/bin/sh\nMILO_CACHE_DIR="{cache}" exec "{file}" "$@"\n')
    path.chmod(0o755)
    return path


@needs_root
def test_the_wheel_in_a_fresh_environment(tmp_path: Path, jar_dir: Path) -> None:
    """With pip and the wheel alone: the command, a JAR, and a plugin that says hello."""
    wheel = packages.wheel()
    run(sys.executable, "-m", "venv", tmp_path / "venv", PATH=AGENT_PATH)
    install = (tmp_path / "venv/bin/python", "-m", "pip", "install", "--quiet", wheel)
    subprocess.run(install, check=True, timeout=scaled(300))
    command = tmp_path / "venv/bin/milo"
    assert run(command, "--version").stdout == f"milo {milo.__version__}\n"
    done = run(command, "run", jar_dir / "hello.jar", PATH=AGENT_PATH)
    assert done.stdout == "Hello, world!\nGoodbye.\n"
    run(command, "install", tmp_path / "plugins")
    start_plugin(tmp_path / "plugins/milo", tmp_path).end()


@needs_root
def test_the_file_runs_in_every_python_of_this_host(
    file: Path, tmp_path: Path, jar_dir: Path, cache: Path
) -> None:
    """Called by each of them, with no environment at all, it runs a JAR and says hello."""
    copy = Path(shutil.copy(file, tmp_path / "milo"))
    commands: list[Sequence[Path | str]] = [[copy]]
    commands += [[python, copy] for python in interpreters()]
    for command in commands:
        assert run(*command, "--version", cache=cache).stdout == f"milo {milo.__version__}\n"
        done = run(*command, "run", jar_dir / "hello.jar", cache=cache)
        assert done.stdout == "Hello, world!\nGoodbye.\n", command
    start_plugin(launcher(copy, tmp_path), tmp_path).end()
    assert cache.stat().st_mode & 0o777 == 0o700


@needs_root
def test_the_file_is_a_plugin_that_starts_tasks(
    file: Path, tmp_path: Path, jar_dir: Path, cache: Path
) -> None:
    """A StartTask over the wire; then another from a spawner that replaces a killed one."""

    async def talk() -> None:
        async with open_host(launcher(file, tmp_path), tmp_path, tmp_path / "state") as host:
            for _ in range(2):
                task = host.lay_out(jar_dir / "hello.jar", jvm_options=(), memory_mb=128)
                await host.start(task, stats=False)
                await task.first_byte()
                assert os.read(task.stdout, 4096).startswith(b"Hello, world!\n")
                await host.end(task, force=False)
                [spawner] = children(host.process.popen.pid, "milo-spawner")
                os.kill(spawner, signal.SIGKILL)

    asyncio.run(talk())


def children(pid: int, name: str) -> list[int]:
    """Return the children of process ``pid`` that have ``name``."""
    numbers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in numbers if Path(f"/proc/{one}/comm").read_text().strip() == name]


@needs_root
async def test_task_processes_import_nothing(
    jar_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its start to its end, so that the Milo and the Python it began with may be replaced."""
    log = tmp_path / "imports"
    note = f"event == 'import' and open({str(log)!r}, 'a').write(str(args[0]) + chr(10))"
    code = spawner_client.CODE.replace("main()", f"sys.addaudithook(lambda event, args: {note})")
    assert code != spawner_client.CODE
    # By a name for which the suite does not have the spawner measured: coverage imports things.
    python = Path(sys.executable)
    monkeypatch.setattr(sys, "executable", f"{python.parent}/./{python.name}")
    monkeypatch.setattr(spawner_client, "CODE", f"{code}; import colorsys; main()")
    async with open_rig() as rig:
        ending = rig.task(jar_dir / "exit42.jar")
        await rig.registry.start(ending.request)
        await rig.registry.wait(ending.id)
        lasting = rig.task(jar_dir / "stubborn.jar", args=["100"])
        await rig.registry.start(lasting.request)
        await trio.to_thread.run_sync(lasting.out.wait_for, b"running")
        first = await rig.supervisor(lasting)
        os.kill(first, signal.SIGKILL)
        with fail_after(30):
            while not any("taken over" in text for text in rig.texts(lasting)):  # noqa: ASYNC110
                await trio.sleep(0.02)
        await rig.registry.stop(lasting.id, "SIGTERM", 10)
        await rig.registry.destroy(ending.id, force=True)
    # What the spawner itself imported shows that the hook works.
    assert log.read_text().split() == ["colorsys"]


def test_many_first_starts_at_once(file: Path, cache: Path) -> None:
    """Nomad may start several: each runs, and one directory is unpacked."""
    with ThreadPoolExecutor(6) as pool:
        for done in pool.map(lambda _: run(file, "--version", cache=cache), range(6)):
            assert done.stdout == f"milo {milo.__version__}\n"
    assert len(unpacked(cache)) == 1


def test_what_a_killed_first_start_left_is_replaced(file: Path, cache: Path) -> None:
    """A directory that was not finished is neither used nor kept."""
    (cache / ".new-abc/milo").mkdir(parents=True)
    cache.chmod(0o700)
    run(file, "--version", cache=cache)
    assert len(unpacked(cache)) == 1


@pytest.fixture
def newer(file: Path, tmp_path: Path) -> Path:
    """The next version's file."""
    (tmp_path / "newer").mkdir()
    return packages.another_version(file, "99.0.0", tmp_path / "newer/milo")


@pytest.fixture
def running(file: Path, tmp_path: Path, cache: Path) -> Iterator[Process]:
    """A plugin process of the self-contained file."""
    process = start_plugin(launcher(file, tmp_path), tmp_path)
    yield process
    process.end()


def test_versions_in_use_are_kept(
    file: Path, newer: Path, cache: Path, running: Process, tmp_path: Path
) -> None:
    """A newer file removes what an older one unpacked only when none of its drivers runs."""
    old = unpacked(cache)
    assert run(newer, "--version", cache=cache).stdout == "milo 99.0.0\n"
    new = unpacked(cache) - old
    assert unpacked(cache) == old | new
    running.popen.send_signal(signal.SIGTERM)
    running.popen.wait()
    # Its spawner, which has the same lock, ends after it.
    newest = packages.another_version(file, "100.0.0", tmp_path / "milo")

    def only_newest() -> bool:
        run(newest, "--version", cache=cache)
        if len(names := unpacked(cache)) == 1:
            return True
        shutil.rmtree(cache / (names - old - new).pop())
        return False

    wait_for("the old versions to be removed", only_newest)


@pytest.mark.parametrize("kind", ["writable", "foreign", "symlink"])
def test_a_cache_that_others_could_change_is_refused(file: Path, cache: Path, kind: str) -> None:
    """Code is run from it as root: it must be the user's own and nobody else's."""
    if kind == "symlink":
        (cache.parent / "real").mkdir(mode=0o700)
        cache.symlink_to(cache.parent / "real")
    else:
        cache.mkdir(mode=0o700)
    if kind == "writable":
        cache.chmod(0o777)
    if kind == "foreign":
        if os.geteuid() != 0:
            pytest.skip("only root can give a directory away")
        os.chown(cache, 65534, 65534)
    done = run(file, "--version", cache=cache, ok=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"milo: {cache} must be a directory of the user with id ")


@needs_root
def test_a_user_without_a_home(file: Path) -> None:
    """It runs from a directory of that user's alone; from nothing that another has made."""
    shutil.copy(file, copy := Path("/tmp") / f"milo-test-{os.getpid()}")
    cache = Path("/var/tmp/milo-cache-64999")
    user = ("setpriv", "--reuid=64999", "--regid=64999", "--clear-groups", copy, "--version")
    try:
        done = run(*user, PATH=AGENT_PATH, HOME="/nonexistent")
        assert done.stdout == f"milo {milo.__version__}\n"
        assert (cache.stat().st_uid, cache.stat().st_mode & 0o777) == (64999, 0o700)
        shutil.rmtree(cache)
        cache.mkdir()
        done = run(*user, ok=False, PATH=AGENT_PATH, HOME="/nonexistent")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1 and "MILO_CACHE_DIR" in done.stderr
    finally:
        copy.unlink()
        shutil.rmtree(cache, ignore_errors=True)


def test_a_damaged_file_is_not_run(file: Path, cache: Path, tmp_path: Path) -> None:
    """Nor one that is replaced while it starts: what is unpacked must be what was built."""
    damaged = tmp_path / "milo"
    shutil.copy(file, damaged)
    with zipfile.ZipFile(file) as archive:
        info = archive.getinfo("packages.zip")
    with damaged.open("r+b") as writing:
        writing.seek(info.header_offset + 1_000_000)
        writing.write(b"damage")
    done = run(damaged, "--version", cache=cache, ok=False)
    assert done.returncode == 1 and "damaged" in done.stderr
    assert unpacked(cache) == set()


def test_a_python_that_does_not_fit_says_what_does(
    file: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no interpreter on PATH fits, the text names those that would."""
    monkeypatch.setattr(build_executable, "SUFFIXES", (".cpython-399-none.so",))
    other = packages.another_version(file, "99.0.0", tmp_path / "milo")
    done = run(other, "--version", cache=cache, ok=False, PATH=AGENT_PATH)
    assert done.returncode == 1
    assert "needs CPython 3.11 to 3.14" in done.stderr and "pipx" in done.stderr
    assert run(other, ok=False, PATH=str(tmp_path)).returncode == 127


def test_the_file_holds_what_its_packages_require(file: Path, cache: Path) -> None:
    """The lock has every requirement, in a version that satisfies it, for each Python."""
    run(file, "--version", cache=cache)
    [directory] = unpacked(cache)
    found = {
        canonicalize_name(one.name): one for one in distributions(path=[str(cache / directory)])
    }
    for python in build_executable.PYTHONS:
        environment = {
            "python_version": f"3.{python[1:]}",
            "python_full_version": f"3.{python[1:]}.1",
        }
        for one in found.values():
            for text in one.requires or []:
                need = Requirement(text)
                if need.marker is None or need.marker.evaluate({**environment, "extra": ""}):
                    held = found.get(canonicalize_name(need.name))
                    assert held is not None, f"{one.name} requires {text}"
                    assert need.specifier.contains(held.version, prereleases=True), text


def test_the_file_installs_itself(file: Path, cache: Path, tmp_path: Path) -> None:
    """``milo install`` of the file copies it, executable; ``milo uninstall`` knows it again."""
    plugins = tmp_path / "plugins"
    run(file, "install", plugins, cache=cache)
    assert (plugins / "milo").read_bytes() == file.read_bytes()
    assert (plugins / "milo").stat().st_mode & 0o777 == 0o755
    done = run(plugins / "milo", "uninstall", plugins, cache=cache)
    assert f"Removed {plugins}/milo, Milo's self-contained executable." in done.stdout
    assert not (plugins / "milo").exists()


def test_the_same_sources_give_the_same_bytes(file: Path, tmp_path: Path) -> None:
    """The wheel and the file can be built again by anyone who wants to compare."""
    again = build_executable.build_wheel(tmp_path)
    assert again.read_bytes() == packages.wheel().read_bytes()
    repacked = build_executable.pack(packages.packed_files(file), tmp_path / "milo")
    assert repacked.read_bytes() == file.read_bytes()
