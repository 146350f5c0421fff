"""The `milo` command: its arguments, what it installs, and the parts of `milo run`."""

from __future__ import annotations

import argparse
import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import milo
from milo import entry
from milo.cli import output, run_options
from milo.cli import run as runner
from milo.cli.arguments import seconds_of
from milo.cli.caller import Caller
from milo.cli.executable import SHEBANG_BYTES, FileAccessError, write_launcher
from milo.cli.install import ChangeableError, install
from milo.cli.log_files import RotatingFile, hold_log_directory
from milo.cli.main import run_command
from milo.cli.output import write_all
from milo.cli.parser import build_parser
from milo.cli.run_place import Place, remove_directory
from milo.cli.run_signals import STOP_TIMEOUT_S, Signals
from milo.cli.run_streams import Copy
from milo.core import control
from milo.core.config.options import options_of
from milo.core.config.plugin_options import PluginOptions
from milo.core.config.rules import Asked, check_task
from milo.core.config.sizes import parse_size
from milo.core.config.spelling import SPELT_OTHERWISE
from milo.core.config.task_options import JobMount, TaskOptions, parse_task_options
from milo.core.container.spec import User
from milo.core.records import ExitRecord
from milo.errors import ArtifactError, ConfigError, StateError
from milo.task.logs.byte_counts import ByteCounts
from tests.support.log_rig import descriptors

ROOT = Path(__file__).parents[2]


def test_without_arguments_it_helps(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever starts it by hand is told what it is, and which commands there are."""
    assert run_command([]) == 0
    text = capsys.readouterr().out
    assert "Nomad" in text and "install" in text and "run" in text


def test_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`milo --version` is the package's."""
    assert run_command(["--version"]) == 0
    assert capsys.readouterr().out == f"milo {milo.__version__}\n"


def test_what_follows_two_dashes_is_the_applications(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what looks like an option of milo's own."""
    seen: list[tuple[argparse.Namespace, list[str]]] = []

    def run_jar(options: argparse.Namespace, application: list[str]) -> int:
        seen.append((options, application))
        return 7

    monkeypatch.setattr(runner, "run_jar", run_jar)
    arguments = ["run", "app.jar", "--memory", "64m", "--env", "A=b", "--", "--memory", "x", "--"]
    assert run_command(arguments) == 7
    ((options, application),) = seen
    assert (options.jar, options.memory, options.env) == ("app.jar", "64m", ["A=b"])
    assert application == ["--memory", "x", "--"]


def test_commands_print_through_one_module() -> None:
    """What others have chosen is made printable there; no command writes to a stream by itself."""
    texts = {path.name: path.read_text() for path in (ROOT / "milo/cli").rglob("*.py")}
    printing = {name for name, text in texts.items() if re.search(r"(?<![\w.])print\(", text)}
    assert printing == {"output.py"}
    writing = {name for name, text in texts.items() if re.search(r"std(out|err)\.(buf|wri)", text)}
    assert writing == {"completion.py", "dump.py", "job.py", "log_printer.py"}


HOSTILE = "a\x1b]0;title\x07\nb\u202e\udcff"
SHOWN = r"a\x1b]0;title\x07\nb\u202e\udcff"


@pytest.mark.parametrize("terminal", [False, True])
def test_control_characters_are_shown(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In lines, tables and errors, on a terminal and in a pipe; JSON has its own escapes."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setenv("COLUMNS", "200")
    output.say(HOSTILE)
    output.warn(HOSTILE)
    output.print_table(("TASK",), [[HOSTILE]])
    output.print_json({"task": HOSTILE})
    shown = capsys.readouterr()
    lines = [line.strip() for line in shown.out.splitlines()]
    assert lines[0] == SHOWN and lines[2] == SHOWN
    assert lines[4] == r'"task": "a\u001b]0;title\u0007\nb\u202e\udcff"'
    assert shown.err == f"{SHOWN}\n"


def test_install_writes_an_executable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It runs this very Milo, can be installed again, and the advice names the directory."""
    plugins = tmp_path / "plugins"
    for _ in range(2):
        assert run_command(["install", str(plugins)]) == 0
    path = plugins / "milo"
    assert [entry.name for entry in plugins.iterdir()] == ["milo"]
    assert path.stat().st_mode & 0o777 == 0o755
    assert f'plugin_dir = "{plugins}"' in capsys.readouterr().out
    done = subprocess.run([path, "--version"], capture_output=True, text=True, env={}, check=True)
    assert done.stdout == f"milo {milo.__version__}\n"


def test_install_says_where_it_cannot(tmp_path: Path) -> None:
    """A file in the way, a directory in the place of the executable: nothing temporary stays."""
    (tmp_path / "file").write_text("")
    for path in ("file", "file/below"):
        with pytest.raises(ConfigError, match="is not a directory"):
            install(str(tmp_path / path))
    (tmp_path / "plugins/milo").mkdir(parents=True)
    with pytest.raises(FileAccessError, match="plugins/milo cannot be written: Is a dir"):
        install(str(tmp_path / "plugins"))
    assert [entry.name for entry in (tmp_path / "plugins").iterdir()] == ["milo"]


def test_a_stale_temporary_file_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an install that was killed has left is not taken for a directory that is none."""
    (tmp_path / f"milo.{os.getpid()}").touch()
    monkeypatch.setattr("secrets.token_hex", lambda _: "00")
    assert install(str(tmp_path)) == 0
    (tmp_path / "milo.00").touch()
    with pytest.raises(FileAccessError, match="milo cannot be written: File exists"):
        install(str(tmp_path))
    assert (tmp_path / "milo.00").exists()


def set_owner(path: Path) -> None:
    os.chown(path, 65534, 65534)


def let_others_write(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o002)


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's files need root")
@pytest.mark.parametrize("spoil", [set_owner, let_others_write])
@pytest.mark.parametrize("part", ["plugins", "above", "interpreter", "packages", "module"])
def test_install_refuses_what_others_can_change(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    spoil: Callable[[Path], None],
) -> None:
    """The directory, one above it, the interpreter, the packages: the agent runs them as root."""
    places = {
        "above": tmp_path / "above",
        "plugins": tmp_path / "above/plugins",
        "interpreter": tmp_path / "bin/python",
        "packages": tmp_path / "site",
        "module": tmp_path / "site/milo/cli/run.py",
    }
    for directory in (places["plugins"], tmp_path / "bin", places["module"].parent):
        directory.mkdir(parents=True)
    for name in ("interpreter", "module"):
        places[name].touch(0o644)
    monkeypatch.setattr(sys, "executable", str(places["interpreter"]))
    monkeypatch.setattr(milo, "__file__", f"{places['packages']}/milo/__init__.py")
    assert install(str(places["plugins"])) == 0
    (places["plugins"] / "milo").unlink()
    spoil(places[part])
    with pytest.raises(ChangeableError, match=re.escape(str(places[part]))):
        install(str(places["plugins"] / "new"))
    assert list(places["plugins"].iterdir()) == []


@pytest.mark.parametrize("name", ["python", "with a blank", "it's", "x" * 120])
def test_the_launcher_takes_any_interpreter(tmp_path: Path, name: str) -> None:
    """Also one whose path a first line cannot hold; nothing of the caller's gets in."""
    directory = tmp_path / name
    directory.mkdir()
    interpreter = directory / "python"
    interpreter.symlink_to(sys.executable)
    packages = tmp_path / "site"
    (packages / "milo").mkdir(parents=True)
    (packages / "milo/__init__.py").write_text("")
    (packages / "milo/entry.py").write_text(
        "import sys\ndef main(): print(sys.argv[1:], sys.flags.isolated)\n"
    )
    path = tmp_path / "milo"
    path.write_text(write_launcher(str(interpreter), str(packages)))
    path.chmod(0o755)
    (tmp_path / "cwd").mkdir()
    (tmp_path / "cwd/sys.py").write_text("raise SystemExit('of the working directory')")
    done = subprocess.run(
        [path, "a b", "$c"],
        capture_output=True,
        text=True,
        cwd=tmp_path / "cwd",
        env={"PYTHONHOME": "/nonexistent", "PATH": os.defpath},
        check=True,
    )
    assert done.stdout == "['a b', '$c'] 1\n"
    first = path.read_text().splitlines()[0]
    assert len(first.encode()) <= SHEBANG_BYTES + 1


def test_the_entry_is_the_plugin_or_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nomad's magic cookie tells which."""
    calls: list[str] = []

    def run_plugin() -> None:
        calls.append("plugin")
        raise SystemExit(0)

    def command() -> int:
        calls.append("command")
        return 3

    monkeypatch.setattr("milo.plugin.main.run_plugin", run_plugin)
    monkeypatch.setattr("milo.cli.main.main", command)
    for start, status in ((True, 0), (False, 3)):
        monkeypatch.setattr("milo.plugin.handshake.is_plugin_start", lambda start=start: start)
        with pytest.raises(SystemExit) as caught:
            entry.main()
        assert caught.value.code == status
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("milo", run_name="__main__")
    assert (caught.value.code, calls) == (3, ["plugin", "command", "command"])


# ---- milo run --------------------------------------------------------------------------


def test_a_task_is_laid_out_as_nomad_does(tmp_path: Path) -> None:
    """The JAR in local/, the directories for everyone, the FIFOs for root alone."""
    jar = tmp_path / "app.jar"
    jar.write_bytes(b"PK")
    jar.chmod(0o600)  # so that it is copied, since the application could not read it
    place = Place(Caller(str(tmp_path), str(tmp_path)))
    alloc = Path(place.alloc_dir)
    place.lay_out("run", str(jar), "app.jar")
    assert (alloc / "run/local/app.jar").read_bytes() == b"PK"
    assert (alloc / "run/secrets").stat().st_mode & 0o777 == 0o777
    fifo = alloc / "alloc/logs/stdout.fifo"
    place.make_fifos()
    assert fifo.is_fifo() and fifo.stat().st_mode & 0o777 == 0o600
    dump = alloc / "alloc/data/run-1.hprof"
    dump.touch()
    assert place.dumps() == []  # a JVM makes it long before it writes it
    dump.write_bytes(b"JAVA PROFILE")
    assert place.dumps() == [str(dump)]
    place.close(keep=True)
    assert dump.exists()
    place.close()
    assert not alloc.exists()


def test_what_a_run_leaves_is_removed_however_deep(tmp_path: Path) -> None:
    """An application may have made directories deeper than Python's stack."""
    at = os.open(tmp_path, os.O_RDONLY)
    for name in ["base", *["d"] * 1500]:
        os.mkdir(name, dir_fd=at)
        inner = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    remove_directory(str(tmp_path / "base"))
    assert not list(tmp_path.iterdir())


def test_a_jar_that_is_none_is_said_before_anything(tmp_path: Path) -> None:
    """Missing, or a directory."""
    for path, words in (("none.jar", "cannot be read: No such file"), (".", "is not a file")):
        with pytest.raises(ArtifactError, match=words):
            Place(Caller(str(tmp_path))).lay_out("run", str(tmp_path / path), path)
    assert not list(tmp_path.rglob("alloc-dir"))


def test_the_environment_has_nomads_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what the command line gives; each has a name and a value."""
    monkeypatch.setenv("HERE", "there")
    env = run_options.environment(parsed("-e", "A=b=c", "--env", "EMPTY=", "-e", "HERE"))
    assert (env["A"], env["EMPTY"], env["NOMAD_TASK_DIR"]) == ("b=c", "", "/local")
    assert env["HERE"] == "there"
    for pair in ("NOT_SET_ANYWHERE", "=b"):
        with pytest.raises(ConfigError, match="NAME=VALUE"):
            run_options.environment(parsed("--env", pair))


def parsed(*words: str) -> argparse.Namespace:
    """Return the options of ``milo run`` with these words."""
    return build_parser().parse_args(["run", *words, "app.jar"])


@pytest.mark.parametrize(
    ("text", "mib"), [("64m", 64), ("64 MB", 64), ("1g", 1024), ("1.5GiB", 1536), ("65536k", 64)]
)
def test_sizes_are_read_as_people_write_them(text: str, mib: int) -> None:
    """With a unit, in powers of 1024."""
    assert run_options.resources(parsed("--memory", text)).memory_bytes == mib << 20


@pytest.mark.parametrize(
    "words", [("--memory", "x"), ("--memory", "1m"), ("--cpus", "0"), ("--memory", "512")]
)
def test_limits_that_make_no_sense_are_refused(words: tuple[str, str]) -> None:
    """The error names the argument; a bare number of memory is one of them.

    A job's ``memory`` counts megabytes and its ``shm_size`` bytes.
    """
    with pytest.raises(ConfigError, match=words[0]):
        run_options.resources(parsed(*words))


def test_sizes_have_one_reader() -> None:
    """What it takes, and what it says of the rest."""
    assert [parse_size(text) for text in ("1k", "1.5m", "2 GiB", "1T", "3kB")] == [
        1024,
        1536 << 10,
        2 << 30,
        1 << 40,
        3072,
    ]
    assert parse_size("67108864", bare=True) == 64 << 20
    for text, words in (
        *(("512", "no unit"), ("", "no size"), ("m", "no size"), ("1mm", "no size")),
        *(("-1m", "no size"), ("1e3m", "no size"), ("٣m", "no size"), ("9" * 15 + "t", "larger")),
    ):
        with pytest.raises(ValueError, match=words):
            parse_size(text)


@pytest.mark.parametrize("text", ["-1s", "2h", "soon", "-1", "1e3", "٣"])
def test_times_are_durations(text: str) -> None:
    """As those of a job are, or a number of seconds; what makes no sense is refused."""
    assert seconds_of("--interval", "500ms", 0.1, 3600) == 0.5
    assert [seconds_of("--interval", one) for one in ("5", "5s", "1.5", "1m")] == [5, 5, 1.5, 60]
    with pytest.raises(ConfigError, match="--interval"):
        seconds_of("--interval", text, 0.1, 3600)


def test_arguments_become_the_keys_of_a_job() -> None:
    """So that one check holds for both."""
    config = run_options.task_config(
        parsed("--java", "17", "--mount", "/srv/a:/b", "--mount", "/c:/d:rw", "--cpus", "0.5"),
        ["x"],
    )
    assert parse_task_options(config, PluginOptions()) == TaskOptions(
        jar_path="local/app.jar",
        args=("x",),
        java_version="17",
        cpu_hard_limit=True,
        mounts=(JobMount("/srv/a", "/b"), JobMount("/c", "/d", readonly=False)),
    )
    assert run_options.task_config(parsed("--java", "/opt/jdk"), [])["java_home"] == "/opt/jdk"
    for mount in ("/a", "/a:/b:x", ":/b", "a:b:c:d"):
        with pytest.raises(ConfigError, match="--mount"):
            run_options.task_config(parsed("--mount", mount), [])


def test_every_key_of_a_job_has_an_argument() -> None:
    """Its own, or one made from the table; what is not given is not in the block."""
    options = parsed(
        *("--cap-add", "chown", "--cap-add", "kill", "--init", "--pids-limit", "9999"),
        *("--ulimit", "nofile=9:10", "--ulimit", "core=0", "--pid-mode", "host"),
        *("--seccomp-profile", "unconfined", "--shm-size", "1m"),
    )
    config = run_options.task_config(options, [])
    assert {key: value for key, value in config.items() if key not in SPELT_OTHERWISE} == {
        "cap_add": ["chown", "kill"],
        "init": True,
        "pids_limit": 9999,
        "ulimit": {"nofile": "9:10", "core": "0"},
        "pid_mode": "host",
        "seccomp_profile": "unconfined",
        "shm_size": "1m",
    }
    plugin = run_options.plugin_options(options)
    found = parse_task_options(config, plugin)
    check_task(Asked(found, plugin, User(0, 0, name="root"), "root", "host"))
    assert found.ulimit == {"RLIMIT_NOFILE": (9, 10), "RLIMIT_CORE": (0, 0)}
    assert set(SPELT_OTHERWISE) < set(options_of(TaskOptions))
    with pytest.raises(ConfigError, match="--sysctl"):
        run_options.task_config(parsed("--sysctl", "x"), [])
    plain = run_options.plugin_options(parsed())
    assert parse_task_options({}, plain).pids_limit == PluginOptions().pids_limit


def test_log_files_rotate_by_size_and_number(tmp_path: Path) -> None:
    """Nothing is torn or lost but the oldest file; a later run goes on with the numbers."""
    for round_number in range(2):
        with hold_log_directory(str(tmp_path / "new/logs")) as logs:
            file = RotatingFile(logs, "app", "stdout", size=10, count=3)
            for number in range(4):
                file.write(b"%d%d 345678\n" % (round_number, number))
            file.close()
    names = sorted(path.name for path in (tmp_path / "new/logs").iterdir())
    assert names == ["app.stdout.5", "app.stdout.6", "app.stdout.7"]
    assert (tmp_path / "new/logs/app.stdout.7").read_bytes() == b"13 345678\n"
    with pytest.raises(StateError, match="--log-dir"):
        hold_log_directory(str(tmp_path / "new/logs/app.stdout.5"))


async def copied(feed: Callable[[int], None], target: int, path: Path) -> bool:
    """Copy what ``feed`` writes to a FIFO into ``target``, until the writer has gone.

    Returns whether nothing was lost.
    """
    os.mkfifo(path)
    source = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    copy = Copy(source, target, None, lambda: None, ByteCounts())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(copy.run)
        await trio.testing.wait_all_tasks_blocked()
        writer = os.open(path, os.O_WRONLY)
        with trio.fail_after(20):
            await trio.to_thread.run_sync(feed, writer)
        os.close(writer)
    os.close(source)
    return copy.complete


async def test_output_comes_out_as_it_is(tmp_path: Path) -> None:
    """Every byte, also more than any pipe holds, to a terminal that is slower."""
    data = os.urandom(3 << 20)

    def feed(writer: int) -> None:
        write_all(writer, data)

    with (tmp_path / "output").open("wb") as file:
        assert await copied(feed, file.fileno(), tmp_path / "fifo")
    assert (tmp_path / "output").read_bytes() == data


async def test_output_piped_into_head_does_not_stop_the_task(tmp_path: Path) -> None:
    """What nobody wants any more is read all the same, so that the application can end."""
    read, write = os.pipe()
    os.close(read)

    def feed(writer: int) -> None:
        for _ in range(20):
            write_all(writer, b"x" * 100_000)

    before = descriptors()
    assert await copied(feed, write, tmp_path / "fifo")
    assert descriptors() == before
    os.close(write)


async def test_output_to_a_full_disk_does_not_stop_the_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said once, and what was lost is known at the end."""

    def feed(writer: int) -> None:
        for _ in range(20):
            write_all(writer, b"x" * 100_000)

    with open("/dev/full", "wb") as full:
        assert not await copied(feed, full.fileno(), tmp_path / "fifo")
    assert (
        capsys.readouterr().err.count("No space left on device. The application keeps running") == 1
    )


class Stoppable:
    """A supervisor that notes how it was asked to stop."""

    def __init__(self) -> None:
        self.stops: list[tuple[int, float]] = []

    def request_stop(self, number: int, timeout_s: float) -> None:
        self.stops.append((number, timeout_s))


@pytest.mark.parametrize(
    ("words", "named", "status"),
    [
        (["-m", "5x"], "for -m: '5x'", 2),
        (["--memory=5x"], "for --memory: '5x'", 2),
        (["--add-host", "a:1"], "for --add-host: ", 2),
        (["--ipc", "host", "--shm-size=1m"], 'with --ipc "host" the task uses', 2),
        (["--sysctl", "net.core.somaxconn=1"], "for --sysctl net.core.somaxconn: ", 2),
    ],
)
def test_an_option_is_called_as_it_was_typed(
    words: list[str], named: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one that only another makes wrong; after the JAR nothing is an option."""
    (jar := tmp_path / "app.jar").touch()
    before = os.umask(0o077)
    try:
        assert run_command(["run", *words, str(jar), "--memory", "-m"]) == status
    finally:
        os.umask(before)
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-v", "/:/host"], "for -v: '/' is the root directory. Expected the absolute path of a"),
        (
            ["-v", "."],
            "'.' is not the path of a JAR. Expected the path of one. The option is written -v .:T",
        ),
    ],
)
def test_a_volume_that_is_none(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The words say what was wrong, and the status that the command line was."""
    (jar := tmp_path / "app.jar").touch()
    before = os.umask(0o077)
    try:
        assert run_command(["run", *words, str(jar)]) == 2
    finally:
        os.umask(before)
    assert told in capsys.readouterr().err


def test_a_jar_with_a_colon_in_its_name_has_another_in_the_container() -> None:
    """There java -jar takes it for a class path of two."""
    for name, expected in (("a:b.jar", "app.jar"), ("a b.jar", "a b.jar")):
        options = build_parser().parse_args(["run", f"/x/{name}"])
        assert run_options.jar_name(options) == expected
        assert run_options.task_config(options, [])["jar_path"] == f"local/{expected}"


def test_no_setting_of_the_driver_is_told_to_who_runs_a_jar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a full disk, say: `milo run` has no state_dir."""

    def fill(*_: object) -> int:
        raise StateError("/x/claim.json", "No space left. Free space there, or set state_dir")

    monkeypatch.setattr(runner, "run_jar", fill)
    assert run_command(["run", "app.jar"]) == 1
    assert capsys.readouterr().err.endswith("claim.json: No space left. Free space there\n")


def test_a_class_path_without_a_class_is_told() -> None:
    """java -jar ignores it."""
    options = build_parser().parse_args(["run", "--class-path", "/x", "app.jar"])
    (doubt,) = run_options.doubts(options)
    assert doubt == "--class-path has no effect without --class: java -jar ignores it"


async def test_a_second_interrupt_does_not_wait() -> None:
    """Ctrl-C stops the application; again, and it is killed."""
    stoppable: Any = Stoppable()
    with Signals.received() as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(signals.obey, stoppable)
            with trio.fail_after(10):
                for count, number in enumerate((signal.SIGTERM, signal.SIGINT), 1):
                    signal.raise_signal(number)
                    while len(stoppable.stops) < count:
                        await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert stoppable.stops == [
        (signal.SIGTERM, STOP_TIMEOUT_S),
        (signal.SIGTERM, 0.0),
    ]
    assert signals.asked == signal.SIGTERM  # the first, of which the status tells


async def test_a_signal_that_comes_twice_waits() -> None:
    """timeout(1) sends SIGTERM to its command and to the group, and so does a closed terminal."""
    stoppable: Any = Stoppable()
    with Signals.received() as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(signals.obey, stoppable)
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP, signal.SIGHUP):
                signal.raise_signal(number)
                await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
    assert set(stoppable.stops) == {(signal.SIGTERM, STOP_TIMEOUT_S)}


async def test_under_nohup_a_closed_terminal_stops_nothing() -> None:
    """Which has SIGHUP ignored."""
    stoppable: Any = Stoppable()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals.received() as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(signals.obey, stoppable)
                with trio.fail_after(10):
                    for number in (signal.SIGHUP, signal.SIGTERM):
                        signal.raise_signal(number)
                        await trio.testing.wait_all_tasks_blocked()
                    while not stoppable.stops:
                        await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert len(stoppable.stops) == 1


@pytest.mark.parametrize(
    ("outcome", "complete", "status", "words"),
    [
        (ExitRecord(exit_code=0), True, 0, ""),
        (ExitRecord(exit_code=0), False, 1, ""),
        (ExitRecord(exit_code=42), True, 42, ""),
        (ExitRecord(exit_code=42), False, 42, ""),
        (ExitRecord(exit_code=0, signal=15), True, 143, "SIGTERM"),
        (ExitRecord(exit_code=0, signal=9, oom_killed=True), True, 137, "OOM"),
        (control.StartFailed(text="Error: no", recoverable=False), True, 1, ""),
    ],
)
def test_the_status_is_the_applications(
    outcome: ExitRecord | control.StartFailed,
    complete: bool,
    status: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A death by signal is 128 and its number, with a sentence; 0 is 1 when output was lost."""
    monkeypatch.setattr(trio, "run", lambda *_, **_kw: runner._End(outcome, complete))
    monkeypatch.setattr(runner, "enter", lambda _: Caller("/nowhere"))
    before = os.umask(0o077)
    try:
        options = build_parser().parse_args(["run", "app.jar"])
        assert runner.run_jar(options, []) == status
        assert os.umask(before) == 0o022
    finally:
        os.umask(before)
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("help", "For help: milo --help"),
        ("PS", "Did you mean ps?"),
        ("list", "To list tasks: milo ps"),
        ("my app.jar", "To run a JAR: milo run 'my app.jar'"),
    ],
)
def test_a_word_that_is_no_command(
    capsys: pytest.CaptureFixture[str], word: str, hint: str
) -> None:
    """What was meant is said where that can be known."""
    assert run_command([word]) == 2
    assert hint in capsys.readouterr().err


def test_a_narrow_terminal_cuts_no_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It wraps the lines by itself."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "24")
    output.print_table(("ID", "TASK", "CPU"), [["0123456789abcdef", "web", "41.3%"]], ("TASK",))
    said = capsys.readouterr().out
    assert all(value in said for value in ("0123456789abcdef", "web", "41.3%"))
