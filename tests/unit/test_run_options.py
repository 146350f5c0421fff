"""What ``milo run`` and ``milo dump`` make of their arguments, and of what a JVM has written."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from milo import proc
from milo.cli import dump, job, jvm_tools, run, run_leftovers, run_options, stop
from milo.cli.arguments import WrongValueError
from milo.cli.caller import Caller
from milo.cli.demo import sample
from milo.cli.doctor import agent_facts
from milo.cli.log_files import RotatingFile, hold_log_directory
from milo.cli.main import run_command
from milo.cli.new_file import NewFileError, new_file
from milo.cli.parser import build_parser
from milo.cli.parsing import commands_of, milo_words
from milo.cli.run_place import Place, _Jar
from milo.core import control
from milo.core.records import ExitRecord, ProcessId
from milo.errors import ArtifactError, ConfigError, StateError
from tests.support.waiting import fail_after, wait_for

ROOT = Path(__file__).parents[2]
IGNORING = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, "-m", "milo", "run", "-d", "no.jar"])
"""


def test_a_recording_is_its_owners_alone(tmp_path: Path) -> None:
    """It has the application's environment in it, as a heap dump may."""
    made = tmp_path / "alloc/data" / jvm_tools.RECORDING
    made.parent.mkdir(parents=True)
    made.write_bytes(b"FLR")
    target = tmp_path / "mine.jfr"
    before = os.umask(0o022)
    try:
        recording = jvm_tools.Recording(str(target))
        assert recording.keep(str(tmp_path))
    finally:
        os.umask(before)
    assert target.read_bytes() == b"FLR" and target.stat().st_mode & 0o777 == 0o600
    made.write_bytes(b"FLR2")
    assert recording.keep(str(tmp_path)) and target.read_bytes() == b"FLR2"  # of a watched run


def test_a_recording_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a file that was there, nor one that came during the run: two at a time, say."""
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "alloc/data" / jvm_tools.RECORDING
    made.parent.mkdir(parents=True)
    first, second = jvm_tools.Recording("recording.jfr"), jvm_tools.Recording("recording.jfr")
    assert not first.keep(str(tmp_path)) and not first.stays
    made.write_bytes(b"")
    assert not first.keep(str(tmp_path)) and not first.stays
    made.write_bytes(b"FLR")
    assert first.keep(str(tmp_path)) and not second.keep(str(tmp_path)) and second.stays
    assert f"it is there already. Give the path of a new file. It is in {made}" in (
        capsys.readouterr().err
    )
    for path in ("recording.jfr", "none/a.jfr", "recording.jfr/a.jfr"):
        with pytest.raises(ConfigError, match="as in --jfr=PATH"):
            jvm_tools.Recording(path)
    assert jvm_tools.Recording("").keep(str(tmp_path))


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names it; a file of somebody else's is left alone."""
    path, write = tmp_path / "new", os.write

    def small(fd: int, data: bytes) -> int:
        if os.fstat(fd).st_size:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[:4])

    with monkeypatch.context() as patch, pytest.raises(NewFileError) as caught:
        patch.setattr(os, "write", small)
        with new_file(str(path)) as file:
            file.write(b"12345678")
    assert str(caught.value) == f"Error: {path} cannot be written: No space left on device"
    assert not path.exists()
    path.write_text("mine")
    with pytest.raises(NewFileError, match="it is there already"), new_file(str(path)):
        pass
    assert path.read_text() == "mine"


def test_a_new_file_stays_where_its_directory_was(tmp_path: Path) -> None:
    """An application that owns the directory exchanges it, or the file's name, for a symlink."""
    share, protected = tmp_path / "share", tmp_path / "protected"
    share.mkdir()
    protected.mkdir()
    (protected / "roots").write_text("root's")
    made = tmp_path / "alloc/data" / jvm_tools.RECORDING
    made.parent.mkdir(parents=True)
    made.write_bytes(b"FLR")
    recording = jvm_tools.Recording(str(share / "rec.jfr"))
    with hold_log_directory(str(share)) as logs:
        share.rename(tmp_path / "moved")
        share.symlink_to(protected)
        assert recording.keep(str(tmp_path))
        RotatingFile(logs, "app", "stdout", size=1, count=1).close()
    assert sorted(path.name for path in (tmp_path / "moved").iterdir()) == [
        "app.stdout.0",
        "rec.jfr",
    ]
    (tmp_path / "moved/rec.jfr").unlink()
    (tmp_path / "moved/rec.jfr").symlink_to(protected / "roots")
    assert not recording.keep(str(tmp_path)) and recording.stays
    assert [path.name for path in protected.iterdir()] == ["roots"]
    assert (protected / "roots").read_text() == "root's"


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a directory of another user's")
def test_no_symlink_of_another_user_leads_a_new_file(tmp_path: Path) -> None:
    """He chose where root would write; root's own symlinks are followed."""
    protected, theirs = tmp_path / "protected", tmp_path / "theirs"
    protected.mkdir()
    theirs.mkdir()
    os.chown(theirs, 1001, 1001)
    (theirs / "out").symlink_to(protected)
    os.lchown(theirs / "out", 1001, 1001)
    path = str(theirs / "out/new")
    told = f"{theirs}/out: it is a symlink of the user 1001, which is not followed to write"
    with pytest.raises(NewFileError, match=told), new_file(path):
        pass
    with pytest.raises(ConfigError, match=told):
        jvm_tools.Recording(path)
    with pytest.raises(StateError, match="a symlink of the user 1001"):
        hold_log_directory(path)
    assert not list(protected.iterdir())
    os.lchown(theirs / "out", 0, 0)
    with new_file(path) as file:
        file.write(b"1")
    assert (protected / "new").read_bytes() == b"1"


@pytest.mark.parametrize("port", ["0", "65536", "x", "", " 1", "\u0661", "9" * 5000])
def test_a_port_is_a_number(port: str) -> None:
    """Whatever else was typed is refused, also digits that Python does not convert."""
    with pytest.raises(ConfigError, match="a port from 1 to 65535"):
        jvm_tools._port("--debug", port)


@pytest.mark.parametrize("argument", ["--debug", "--jmx"])
def test_a_port_that_nobody_reaches_is_refused(argument: str) -> None:
    """Of a container with a network of its own; without a port such a one is nothing unusual."""
    options = build_parser().parse_args(["run", "--net", "none", f"{argument}=5005", "app.jar"])
    with pytest.raises(WrongValueError, match=f"{argument}: with --network none") as caught:
        jvm_tools.check_ports(options)
    assert f"Expected --network host with {argument}." in str(caught.value)
    jvm_tools.check_ports(build_parser().parse_args(["run", "--net", "none", "app.jar"]))


def test_an_environment_file_is_read_whole_or_not(tmp_path: Path) -> None:
    """One that is longer than what is read is refused, and not cut."""
    path = tmp_path / "env"
    path.write_text("A=1\n# no\n\nB=2\n")
    options = Namespace(env_file=[str(path)], env=["B=3"], tty=False)
    assert run_options.environment(options) | {"A": "1", "B": "3"} == run_options.environment(
        options
    )
    path.write_text("A=" + "x" * run_options.MAX_ENV_FILE)
    with pytest.raises(ConfigError, match="more than 1 MiB"):
        run_options.environment(options)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_pipe_that_says_nothing_can_be_left(tmp_path: Path, number: signal.Signals) -> None:
    """A file of variables may be one, so that it is waited for; no signal is put off by that."""
    path = tmp_path / "env"
    os.mkfifo(path)
    words = [sys.executable, "-m", "milo", "run", "--env-file", str(path), sample.JAR]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE) as process:
        writer = wait_for("the command opens it", lambda: _writer(path))

        def has_ended() -> bool:
            # One may come between Python's look for signals and the read, which then waits on.
            process.send_signal(number)
            return process.poll() is not None

        wait_for("its end", has_ended)
        assert process.returncode in (-number, 128 + number)
        os.close(writer)


def test_a_pipe_that_says_nothing_is_told(tmp_path: Path) -> None:
    """After a second; what comes later is read as what came at once."""
    path = tmp_path / "env"
    os.mkfifo(path)
    script = f"from milo.cli import run_options as r; print(r._lines({str(path)!r}))"
    words = [sys.executable, "-c", script]
    with subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None and process.stdout is not None
        assert process.stderr.readline() == f"milo: waiting for the lines of {path}, a pipe\n"
        path.write_text("A=b\n")
        assert process.stdout.read() == "[(1, 'A=b')]\n"


def _writer(fifo: Path) -> int | None:
    """Return a descriptor to write to, once somebody reads."""
    with contextlib.suppress(OSError):
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    return None


def test_no_command_waits_for_a_fifo(tmp_path: Path) -> None:
    """In the place of a JAR or a configuration it is refused: nothing may ever come out of it."""
    path = tmp_path / "agent.hcl"
    os.mkfifo(path)
    with pytest.raises(ArtifactError, match="it is not a regular file but a FIFO"):
        job._inspect(str(path), "")
    found = agent_facts.read_files([str(path)], None)
    assert found.errors == (f"{path} cannot be read: it is not a regular file but a FIFO",)


@pytest.mark.parametrize(
    ("hinder", "told"),
    [
        (os.mkfifo, "something took its file's place: it is not a regular file but a FIFO"),
        (lambda _: os.kill(os.getpid(), signal.SIGTERM), "SIGTERM has ended it"),
    ],
)
async def test_a_dump_does_not_wait_for_what_never_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hinder: Callable[[Path], None], told: str
) -> None:
    """The task can exchange the file that its JVM is to write; no half file stays."""
    (tmp_path / "alloc/data").mkdir(parents=True)

    async def jcmd(*words: object) -> bytes:
        hinder(tmp_path / str(words[-1]).removeprefix("/"))
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(dump, "_jcmd", jcmd)
    task: Any = Namespace(name="web", record=Namespace(alloc_dir=str(tmp_path)), launch=None)
    wanted = pytest.RaisesGroup(pytest.RaisesExc(dump.DumpError, match=told))
    with fail_after(10), wanted, new_file(str(tmp_path / "heap")) as file:
        await dump._written(task, "1", "heap", 1, file)
    assert not (tmp_path / "heap").exists() and not list((tmp_path / "alloc/data").iterdir())


@pytest.mark.parametrize(
    ("stays", "told", "most_s"),
    [
        (True, "something took its file's place: it is not a regular file but a FIFO", 10),
        (False, "its JVM did not answer within 60 s", 70),
    ],
)
async def test_a_recording_that_the_jvm_cannot_stop_ends_soon(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
    stays: bool,
    told: str,
    most_s: float,
) -> None:
    """It waits for a reader of the FIFO that the task has put in its file's place, or removed."""
    (tmp_path / "alloc/data").mkdir(parents=True)

    async def run_command(_: str, words: tuple[str, ...], **settings: Any) -> Namespace:
        if words[2] == "JFR.start":
            await settings["emit"](Namespace(data=b"Started recording 1."))
            return Namespace(exit_code=0, signal=0)
        if not stays:
            await trio.sleep_forever()
        path = tmp_path / words[-1].partition("=/")[2]
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path)
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(dump, "run_command", run_command)
    task: Any = Namespace(
        name="web", state_dir="", record=Namespace(alloc_dir=str(tmp_path)), launch=None
    )
    wanted = pytest.RaisesGroup(pytest.RaisesExc(dump.DumpError, match=told))
    begun = trio.current_time()
    with wanted, new_file(str(tmp_path / "rec")) as file:
        await dump._written(task, "1", "jfr", 1.0, file)
    assert trio.current_time() - begun < most_s


def test_a_dump_that_was_exchanged_is_no_success(tmp_path: Path) -> None:
    """Whatever the JVM has said of it; nothing is followed."""
    task: Any = Namespace(name="web", record=Namespace(alloc_dir=str(tmp_path)), launch=None)
    path = tmp_path / "dump"
    path.symlink_to("/etc/passwd")
    for told in (
        "something took its file's place: it is ",
        "there is no file. Its JVM said: Heap dump file created",
    ):
        with pytest.raises(dump.DumpError, match=told), new_file(str(tmp_path / "mine")) as file:
            dump._copy(task, str(path), file, 1 << 20, b"Heap dump file created\n")
        assert not (tmp_path / "mine").exists()
        path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"A=1\nbad line\n", r"line 2 of .*: 'bad line' is no name.*NAME=VALUE"),
        (b"#\n\nexport B=2", r"line 3 of .*: 'export B' is no name.*the same without export"),
        (b"NOT_SET_HERE", r"line 1 of .*: 'NOT_SET_HERE' is not set in this shell"),
        (b"PK\3\4\0\0", r"is no text in UTF-8"),
        (b"A=\xff", r"is no text in UTF-8"),
        (b"\xc3\xa4=1", r"line 1 of .* is no name of a variable"),
    ],
)
def test_a_wrong_line_of_an_environment_file_is_named(
    tmp_path: Path, text: bytes, told: str
) -> None:
    """By its number, in quotes and short; nothing of it becomes a variable."""
    path = tmp_path / "env"
    path.write_bytes(text)
    options = Namespace(env_file=[str(path)], env=[], tty=False)
    with pytest.raises(ConfigError, match=told) as caught:
        run_options.environment(options)
    assert len(str(caught.value)) < 200 + len(str(path))


@pytest.mark.parametrize("pair", ["A B=1", "=1", "1A=1", "export A=1", "", "A\n=1"])
def test_a_variable_has_a_name(pair: str) -> None:
    """One that a shell and a file of variables can have."""
    options = Namespace(env_file=[], env=[pair], tty=False)
    with pytest.raises(ConfigError, match="no name of a variable"):
        run_options.environment(options)


def test_what_production_refuses_is_said() -> None:
    """And a limit that limits nothing."""
    parser = commands_of(build_parser())["run"]

    def doubts(*words: str) -> list[str]:
        return run_options.doubts(parser.parse_args([*words, "app.jar"]))

    assert doubts() == doubts("--cap-add", "net_bind_service") == []
    assert doubts("--cap-add", "CAP_NET_ADMIN") == [
        "under Nomad, the plugin's allow_caps has to hold net_admin"
    ]
    assert "is more than this host has: " in doubts("-m", "900g", "--cap-add", "chown")[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--debug", "5006"], "The option is written --debug=5006"),
        (["--jmx", "9011"], "The option is written --jmx=9011"),
        (["--jfr", "a.jfr"], "The option is written --jfr=a.jfr"),
        (["-v", "."], "The option is written -v .:TARGET"),
        (["-v", "/no/such"], "The option is written -v /no/such:TARGET"),
        (["-v", "no.jar"], "no.jar cannot be read"),
    ],
)
def test_a_value_that_is_taken_for_the_jar(words: list[str], told: str) -> None:
    """The option is told as it has to be written; all else is a JAR that is not there."""
    run_parser = commands_of(build_parser())["run"]
    own, _ = milo_words(run_parser, [*words, "app.jar"])
    options = run_parser.parse_args(own)
    with pytest.raises((WrongValueError, ArtifactError), match=re.escape(told)):
        run_options.require_jar(options)
        _Jar(options.jar)


def test_two_javas_are_refused() -> None:
    """Of which only one could be run on."""
    parser = commands_of(build_parser())["run"]
    options = parser.parse_args(["--java", "17", "--java-version", "25", "app.jar"])
    with pytest.raises(ConfigError, match="'17' and --java-version '25' differ"):
        run_options.task_config(options, [])


def test_what_a_jvm_has_left_is_no_empty_file(tmp_path: Path) -> None:
    """A recording is named as the JVM has put it together, or else as what it has left of it."""
    place = Place(Caller(str(tmp_path)))
    data = Path(place.alloc_dir, "alloc/data")
    for path in ("a.recording/1", "b.recording/1", "c.recording"):
        (data / path).mkdir(parents=True)
    for name, text in {"a.jfr": "", "b.jfr": "x", "c.jfr": "", "d.hprof": "x"}.items():
        (data / name).write_text(text)
    left = [os.path.basename(path) for path in place.dumps()]
    place.close()
    assert left == ["a.recording", "b.jfr", "d.hprof"]


def test_what_takes_the_jars_place_is_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A JAR that its user alone may read is copied, as it was when it was looked at."""
    jar = tmp_path / "app.jar"
    jar.write_bytes(b"PK" * 5000)
    jar.chmod(0o600)
    find = os.path.realpath

    def exchange(path: str) -> str:
        jar.unlink()
        os.mkfifo(jar)
        return find(path)

    monkeypatch.setattr(os.path, "realpath", exchange)
    place = Place(Caller(str(tmp_path)))
    place.lay_out("web", str(jar), "app.jar")
    copied = Path(place.alloc_dir, "web/local/app.jar")
    assert copied.read_bytes() == b"PK" * 5000 and copied.stat().st_mode & 0o777 == 0o644
    place.close()


def test_a_threads_name_does_not_control_the_terminal() -> None:
    """The application has chosen it."""
    assert dump._for_terminal(b'"a\x1b]0;t\x07" #1\n') == b'"a\\x1b]0;t\\x07" #1\n'


@pytest.mark.parametrize(
    ("stopped", "changed", "watch", "background", "over"),
    [
        (False, False, False, False, True),
        (False, False, True, False, False),
        (True, False, True, False, True),
        (True, True, True, False, False),
        (True, True, True, True, False),
        (False, False, True, True, True),
    ],
)
def test_watching_goes_on_where_somebody_sees_it(
    stopped: bool, changed: bool, watch: bool, background: bool, over: bool
) -> None:
    """In the background a run ends with its application, unless the JAR has changed."""
    end = run._End(ExitRecord(exit_code=0), stopped=stopped, changed=changed)
    assert run._is_over(end, watch=watch, background=background) is over


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_only_a_file_is_a_jar_that_has_changed(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    """The application is not stopped for anything else, and nothing else is waited for."""
    jar = tmp_path / "app.jar"
    assert run._stamp(str(jar)) is None
    make(jar)
    assert run._stamp(str(jar)) is None


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        ({"stopped": True, "signal": signal.SIGINT}, 130, ""),
        ({"stopped": True, "signal": signal.SIGTERM}, 143, ""),
        ({"stopped": True}, 143, "Error: stopped\n"),
        ({"stopped": True, "unread": True}, 141, ""),
        ({}, 1, ""),
    ],
)
def test_a_stop_during_the_start_is_no_failure(
    end: dict[str, Any], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has a status as the same signal has before and after; what failed has said why."""
    failed = run._End(control.StartFailed(text="Error: stopped", recoverable=False), **end)
    assert run._tell_end(failed, Caller("/run"), None, Namespace()) == status
    assert capsys.readouterr().err == said


def test_the_caller_may_ignore_the_end_of_children() -> None:
    """A run in the background that fails still says why, and nothing about Milo's own faults."""
    done = subprocess.run(
        [sys.executable, "-c", IGNORING], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "no.jar cannot be read" in done.stderr
    assert "fault" not in done.stderr


def test_input_for_a_command_can_be_asked_for_as_with_docker() -> None:
    """``milo exec -it web sh``."""
    execute = commands_of(build_parser())["exec"]
    own, rest = milo_words(execute, ["-it", "web", "sh", "-i"])
    options = execute.parse_args(own)
    assert (options.task, options.tty, rest) == ("web", True, ["sh", "-i"])


def test_no_more_is_asked_for_than_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    """``milo run`` needs a JAR; the application may have no arguments."""
    with pytest.raises(SystemExit):
        commands_of(build_parser())["run"].parse_args(["--"])
    assert capsys.readouterr().err.startswith(
        "milo run: error: the following arguments are required: APP.JAR\n"
    )


def test_a_killed_run_is_ended_from_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user namespace is entered while there is one thread: before progress is shown."""
    order: list[str] = []

    @contextlib.contextmanager
    def shown(_: str) -> Iterator[None]:
        order.append("progress")
        yield

    def work(*_: object) -> str:
        order.append("work")
        return "The task has ended"

    state_dir = "/run/user/1/milo/x/y"
    task = Namespace(name="web", exit=None, running=True, supervised=False, state_dir=state_dir)
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    monkeypatch.setattr(stop, "tasks_of_host", lambda _: [task])
    monkeypatch.setattr(stop, "find_task", lambda *_: task)
    monkeypatch.setattr(stop, "is_run", lambda _: True)
    monkeypatch.setattr(stop, "enter", lambda: order.append("enter"))
    monkeypatch.setattr(stop, "progress", shown)
    monkeypatch.setattr(trio, "run", work)
    assert stop.stop_task(Namespace(task="web", signal="SIGTERM", timeout="1s")) == 0
    assert order == ["enter", "progress", "work", "work"]


def test_the_end_of_a_process_is_waited_for() -> None:
    """As long as was asked for."""
    with subprocess.Popen(["sleep", "60"]) as child:
        ticks = proc.start_ticks(child.pid)
        assert ticks is not None
        process = ProcessId(child.pid, ticks)
        assert not trio.run(run_leftovers.ends_within, process, 0.05)
        child.kill()
        child.wait()
        assert trio.run(run_leftovers.ends_within, process, 5)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left"), "a file cannot be written: No space left"),
        (OSError(errno.ENOSPC, "No space left", "/new"), "/new: No space left"),
        (OSError(errno.ENOSPC, "No space left", "/app.jar", None, "/copy"), "/copy: No space left"),
        (OSError(errno.ENOENT, "Not there", "/app.jar", None, "/copy"), "/app.jar: Not there"),
    ],
)
def test_a_full_disk_is_no_fault_in_milo(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: OSError,
    words: str,
) -> None:
    """Wherever it shows: named is the file that is written, of a copy the second one."""

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("milo.cli.main.build_parser", fail)
    assert run_command(["ps"]) == 1
    assert capsys.readouterr().err == f"Error: {words}\n"


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ([], False),
        (["--memory", "512m"], False),
        (["-m", "1g"], True),
        (["--cpus", "1"], True),
        (["--pids-limit", "100"], True),
    ],
)
def test_which_limits_are_asked_for(words: list[str], asked: bool) -> None:
    """Where nothing holds an ordinary user's run to them, who has asked for one is told."""
    options = build_parser().parse_args(["run", *words, "app.jar"])
    assert run_options.limits_are_asked(options) == asked


@pytest.mark.parametrize("word", [".", "jdk", "./jdk", "jdk/"])
def test_a_jdk_is_named_by_any_path(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by one without a slash, but for what a version begins with."""
    for name in (".", "jdk", "17"):
        (tmp_path / name / "bin").mkdir(parents=True)
        (tmp_path / name / "bin/java").touch()
    monkeypatch.chdir(tmp_path)
    options = build_parser().parse_args(["run", "--java", word, "app.jar"])
    home = os.path.normpath(tmp_path / word)
    assert run_options.task_config(options, [])["java_home"] == home
    assert run_options.plugin_options(options).java_home == home
    options = build_parser().parse_args(["run", "--java", "17", "app.jar"])
    assert run_options.task_config(options, [])["java_version"] == "17"
    assert run_options.plugin_options(options).java_home == ""
