"""Every command, in every surrounding that a shell can give it: a sentence and an exit status.

Each test goes through all commands, since what turns errors into words is one place.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from milo.core.records import short_id
from milo.host.state_dirs import RUN_DIRECTORY
from tests.support import private_mounts
from tests.support.driver_rig import DriverRig, Task, open_rig
from tests.support.leftovers import runs_in
from tests.support.waiting import scaled

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

MILO = [sys.executable, "-m", "milo"]
NOWHERE = "http://127.0.0.1:1"
"""No Nomad agent answers there."""


@attrs.frozen
class Surroundings:
    """A running task, and the places that the commands are given."""

    rig: DriverRig
    task: Task
    id: str
    jar_dir: Path

    @property
    def state_dir(self) -> str:
        return str(self.rig.state_dir)

    @property
    def plugins(self) -> str:
        return str(self.rig.base / "plugins")

    def commands(self) -> Iterator[list[str]]:
        """Yield a command line for each command that prints something and ends by itself."""
        state = ["--state-dir", self.state_dir]
        yield ["--version"]
        yield ["--help"]
        yield ["ps", "--help"]
        yield ["ps", *state]
        yield ["ps", "--json", *state]
        yield ["stats", "--interval", "100ms", *state]
        yield ["logs", self.id, *state]
        yield ["exec", *state, self.id, "--", "sh", "-c", "echo out; cat"]
        yield ["gc", *state]
        yield ["doctor", "--address", NOWHERE]
        yield ["job", str(self.jar_dir / "hello.jar")]
        yield ["completion", "bash"]
        yield ["install", self.plugins]
        yield ["uninstall", self.plugins]


@asynccontextmanager
async def surroundings(jar_dir: Path, name: str = "app") -> AsyncIterator[Surroundings]:
    """Run a task that prints until it is stopped, with a log file as Nomad's collector writes."""
    async with open_rig() as rig:
        task = rig.task(jar_dir / "clock.jar", name=name)
        await rig.registry.start(task.request)
        logs = Path(task.request.alloc_dir) / "alloc/logs"
        (logs / f"{name}.stdout.0").write_bytes(b"a line of the log\n" * 1000)
        short = short_id(task.id)
        yield Surroundings(rig, task, short, jar_dir)


async def milo(
    words: list[str],
    redirection: str = "",
    *,
    stdout: int = subprocess.PIPE,
    env: Mapping[str, str] | None = None,
) -> Done:
    """Run the command from a shell, with ``redirection`` after it."""
    return await in_shell(f"exec {shlex.join([*MILO, *words])} {redirection}", stdout, env)


async def in_shell(
    line: str, stdout: int = subprocess.PIPE, env: Mapping[str, str] | None = None
) -> Done:
    """Run a line of shell."""

    def run() -> Done:
        done = subprocess.run(
            ["sh", "-c", line],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=env,
            timeout=scaled(60),
        )
        err = done.stderr.decode(errors="backslashreplace")
        return Done(done.returncode, done.stdout or b"", err)

    return await trio.to_thread.run_sync(run)


@attrs.frozen
class Done:
    """How a command ended."""

    status: int
    out: bytes
    err: str


@pytest.mark.parametrize(
    ("redirection", "problem"),
    [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")],
    ids=["full", "closed"],
)
async def test_output_that_cannot_be_written(jar_dir: Path, redirection: str, problem: str) -> None:
    """A full disk and a closed stdout are one sentence each, and the exit status is 1."""
    async with surroundings(jar_dir) as place:
        for words in place.commands():
            done = await milo(words, redirection)
            expected = f"Error: standard output cannot be written: {problem}\n"
            assert (done.status, done.err) == (1, expected), words


async def test_a_reader_that_has_gone(jar_dir: Path) -> None:
    """Piped into head, a command ends without a word, as one that SIGPIPE ends: 141."""
    async with surroundings(jar_dir) as place:
        for words in place.commands():
            read, write = os.pipe()
            os.close(read)
            try:
                done = await milo(words, stdout=write)
            finally:
                os.close(write)
            assert (done.status, done.err) == (141, ""), words


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"], ids=["closed", "full"])
async def test_errors_that_nobody_can_hear(jar_dir: Path, redirection: str) -> None:
    """Without a stderr the exit status remains, and no error goes to stdout."""
    async with surroundings(jar_dir) as place:
        state = ["--state-dir", place.state_dir]
        for words in (
            ["logs", "nobody", *state],
            ["exec", *state, "nobody", "true"],
            ["stop", "nobody", *state],
            ["job", "/nowhere.jar"],
            ["uninstall", "/nowhere"],
        ):
            assert await milo(words, redirection) == Done(1, b"", ""), words
        assert (await milo(["--nonsense"], redirection)).status == 2


async def test_a_closed_stdin_is_an_empty_one(jar_dir: Path) -> None:
    """No command takes a file that it opens itself for its standard input."""
    async with surroundings(jar_dir) as place:
        for words in place.commands():
            done = await milo(words, "<&-")
            assert done.status in (0, 1) and "Traceback" not in done.err, words
        words = ["exec", "--state-dir", place.state_dir, place.id, "--", "cat"]
        assert await milo(words, "<&-") == Done(0, b"", "")
        done = await milo(words, "0>/dev/null")
        assert done.status == 1
        assert done.err.startswith("Error: standard input cannot be read: Bad file descriptor")


LOCALES: Mapping[str, Mapping[str, str]] = {
    "C": {"LC_ALL": "C"},
    "ascii": {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    "nothing": {},
}


@pytest.mark.parametrize("name", LOCALES)
async def test_names_that_the_locale_cannot_show(jar_dir: Path, name: str) -> None:
    """Whatever the environment says of the encoding, or does not say, and without a HOME."""
    env = {"PATH": os.defpath, **LOCALES[name]}
    async with surroundings(jar_dir, name="zoë") as place:
        for words in place.commands():
            if words[0] == "logs":
                continue
            done = await milo(words, env=env)
            assert done.status in (0, 1) and "Traceback" not in done.err, (words, done.err)
            assert done.out, words
        listed = await milo(["ps", "--state-dir", place.state_dir], env=env)
        assert re.search(rb"zo(\xc3\xab|\\xeb|\\u00eb)", listed.out), listed.out
        for words in (["logs", "zoë"], ["exec", "zoë", "--", "echo", "ë"], ["stop", "zoë"]):
            done = await milo([words[0], "--state-dir", place.state_dir, *words[1:]], env=env)
            assert done.status == 0, (words, done.err)


async def test_arguments_that_are_no_text(jar_dir: Path) -> None:
    """A byte that is no UTF-8 is shown as what it is, and looked for as what it is."""
    odd = os.fsdecode(b"/nowhere/\xff\xfe")
    async with surroundings(jar_dir) as place:
        state = ["--state-dir", place.state_dir]
        for words in (
            [odd],
            ["ps", odd],
            ["logs", odd, *state],
            ["stats", odd, *state],
            ["exec", *state, odd, "true"],
            ["exec", *state, place.id, "--", "printf", "%s", odd],
            ["stop", odd, *state],
            ["stop", place.id, "--signal", odd, *state],
            ["stop", place.id, "--timeout", odd, *state],
            ["job", odd],
            ["job", "--name", odd, str(jar_dir / "hello.jar")],
            ["uninstall", odd],
            ["completion", odd],
            ["run", odd],
            ["run", "--memory", odd, str(jar_dir / "hello.jar")],
            ["run", "--java", odd, str(jar_dir / "hello.jar")],
            ["run", "--user", odd, str(jar_dir / "hello.jar")],
            ["run", "--class", odd, str(jar_dir / "hello.jar")],
            ["run", "--name", odd, str(jar_dir / "hello.jar")],
            ["run", "--mount", odd, str(jar_dir / "hello.jar")],
            ["run", "--env", f"A={odd}", str(jar_dir / "hello.jar")],
            ["run", str(jar_dir / "hello.jar"), "--", odd],
        ):
            done = await milo(words)
            assert done.status in (1, 2), words
            assert done.err and "Traceback" not in done.err and "fault" not in done.err, (
                words,
                done.err,
            )
        for words in (["install", f"{place.rig.base}/{odd}"], ["gc", "--state-dir", odd]):
            done = await milo(words)
            assert done.status in (0, 1) and "Traceback" not in done.err, (words, done.err)
        copy = os.fsencode(place.rig.base) + b"/\xff.jar"
        Path(os.fsdecode(copy)).write_bytes((jar_dir / "hello.jar").read_bytes())
        done = await milo(["job", os.fsdecode(copy)])
        assert done.status == 0 and b"/%FF.jar" in done.out, done
        done = await milo(["run", os.fsdecode(copy)])
        assert done.status == 0 and done.out, done


async def test_a_working_directory_that_is_gone(jar_dir: Path, tmp_path: Path) -> None:
    """Absolute paths still work; a relative one is refused with the reason."""
    gone = tmp_path / "gone"
    async with surroundings(jar_dir) as place:
        inside = f"mkdir {gone} && cd {gone} && rmdir {gone} && "
        for words in place.commands():
            done = await in_shell(inside + shlex.join([*MILO, *words]))
            assert done.status in (0, 1) and done.out and "Traceback" not in done.err, (words, done)
            assert "fault" not in done.err, (words, done)
        for words in (
            ["install", "plugins"],
            ["uninstall", "plugins"],
            ["job", "app.jar"],
            ["run", "app.jar"],
            ["run", "--log-dir", "logs", str(jar_dir / "hello.jar")],
            ["run", "--mount", "data:/data", str(jar_dir / "hello.jar")],
            ["gc", "--state-dir", "state"],
            ["ps", "--state-dir", "state"],
        ):
            done = await in_shell(inside + shlex.join([*MILO, *words]))
            assert done.status == 1 and "No such file or directory" in done.err, (words, done)
            assert "Traceback" not in done.err and "fault" not in done.err, (words, done)


async def test_ctrl_c(jar_dir: Path) -> None:
    """Each command that lasts ends with 130 and without a traceback, and leaves the task alone."""
    async with surroundings(jar_dir) as place:
        state = ["--state-dir", place.state_dir]
        for words, mark in (
            (["logs", "-f", *state, place.id], b"a line of the log"),
            (["stats", "-f", "--interval", "100ms", *state], b"MEMORY"),
            (["exec", *state, place.id, "--", "sh", "-c", "echo up; exec sleep 600"], b"up"),
        ):
            done = await trio.to_thread.run_sync(interrupt_after, words, mark)
            assert (done.status, done.err) == (130, ""), words
        listed = await milo(["ps", *state])
        assert re.search(rb"%s .* running " % place.id[:8].encode(), listed.out), listed.out


def interrupt_after(words: list[str], mark: bytes) -> Done:
    """Send Ctrl-C once the command has printed ``mark``."""
    with subprocess.Popen(
        [*MILO, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        seen = b""
        while mark not in seen:
            data = os.read(process.stdout.fileno(), 4096)
            assert data, process.stderr.read()
            seen += data
        process.send_signal(signal.SIGINT)
        # Whatever else it prints is read away.
        reader = threading.Thread(target=process.stdout.read)
        reader.start()
        err = process.stderr.read().decode()
        status = process.wait(scaled(30))
        reader.join()
    return Done(status, seen, err)


INTERRUPTER = """
import builtins, signal, sys
from importlib.abc import MetaPathFinder

class Interrupter(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupter())
sys.argv[1:] = {words!r}
from milo.entry import main
main()
"""


@pytest.mark.parametrize(
    "module",
    ["milo.plugin.handshake", "milo.cli.main", "milo.cli.parser", "milo.cli.tasks", "trio"],
)
def test_ctrl_c_at_the_start(module: str) -> None:
    """While modules are still imported, it is 130 without a traceback too."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTER.format(module=module, words=["ps"])],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=scaled(60),
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


RAISER = """
import sys
import milo.cli.ps
def show_tasks(options):
    raise {error}
milo.cli.ps.show_tasks = show_tasks
sys.argv[1:] = ["ps", "--json"]
from milo.entry import main
main()
"""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            "KeyError('x')",
            "Error: a fault in Milo: KeyError: 'x'. To see where: MILO_DEBUG=1 milo ps --json\n",
        ),
        (
            "ExceptionGroup('g', [KeyError('x'), ExceptionGroup('h', [KeyError('x')])])",
            "Error: a fault in Milo: KeyError: 'x'. To see where: MILO_DEBUG=1 milo ps --json\n",
        ),
        (
            "PermissionError(13, 'Permission denied', '/run/\\udcff')",
            "Error: /run/\\udcff: Permission denied\n",
        ),
    ],
)
def test_what_nobody_expected(error: str, expected: str) -> None:
    """It is a sentence that says how to see more; with MILO_DEBUG there is a traceback as well."""
    command = [sys.executable, "-c", RAISER.format(error=error)]
    env = {key: value for key, value in os.environ.items() if key != "MILO_DEBUG"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)
    done = subprocess.run(command, capture_output=True, text=True, env=env | {"MILO_DEBUG": "1"})
    assert done.returncode == 1 and done.stderr.endswith(expected)
    assert "Traceback (most recent call last)" in done.stderr


@pytest.mark.parametrize(
    ("redirection", "status", "words"),
    [
        (">/dev/full", 1, "standard output cannot be written: No space left on device"),
        (">&-", 1, "standard output cannot be written: Bad file descriptor"),
    ],
    ids=["full", "closed"],
)
async def test_run_goes_on_without_its_output(
    jar_dir: Path, redirection: str, status: int, words: str
) -> None:
    """The application ends as it would, and 0 becomes 1."""
    jar = jar_dir / "both.jar"
    line = f"{{ {shlex.join([*MILO, 'run', str(jar), '--', '20000'])}; echo $? >&3; }}"
    done = await in_shell(f"{{ {line} {redirection} ; }} 3>&1 2>&1")
    assert done.out.splitlines()[-1] == b"%d" % status
    assert words.encode() in done.out
    assert b"err 19999" in done.out and b"Traceback" not in done.out
    jar = jar_dir / "exit42.jar"
    done = await in_shell(f"{shlex.join([*MILO, 'run', str(jar)])} >/dev/full")
    assert done.status == 42
    done = await in_shell(f"{{ {line} | true ; }} 3>&1 2>&1")
    assert done.out.splitlines()[-1] == b"141"
    assert b"nobody reads the output any more: stopping the application" in done.out


def test_run_is_interrupted_before_it_has_begun(jar_dir: Path) -> None:
    """Ctrl-C while the Javas are looked for leaves nothing behind."""
    code = INTERRUPTER.format(module="milo.cli.run", words=["run", str(jar_dir / "hello.jar")])
    with private_mounts.small_tmpfs(Path(RUN_DIRECTORY)):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True)
        assert (done.returncode, done.stderr) == (130, b"")
        assert runs_in(RUN_DIRECTORY) == []
