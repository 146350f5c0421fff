"""`milo demo`: with the agent of its own, and for one that is there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import leftovers, networks
from tests.support.agent import MILO, missing
from tests.support.nomad import Nomad
from tests.support.waiting import scaled, wait_for

READY_S = 120


@contextmanager
def demo(tmp_path: Path, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run `milo demo`; gives it and the file with its output. At the end it is killed."""
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [MILO, "demo", *words],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, "NOMAD_ADDR": "http://192.0.2.1:4646", "NOMAD_TOKEN": "x"},
            start_new_session=True,
        )
    try:
        yield process, output
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def own_machine() -> Iterator[None]:
    """A network without anybody else's agent, where the demo has the usual ports."""
    if reason := missing() or networks.missing():
        pytest.skip(reason)
    with networks.own_network():
        yield


def wait_text(output: Path, text: str) -> str:
    """Wait until the demo has printed ``text``, and return all that it has printed."""

    def probe() -> str | None:
        shown = output.read_text()
        return shown if text in shown else None

    try:
        return wait_for(repr(text), probe, READY_S)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{output.read_text()}") from None


def base_of(text: str) -> Path:
    """Return the directory with everything of the demo's agent."""
    found = re.search(r"-config (\S+)/agent\.hcl", text)
    assert found, text
    return Path(found[1])


def assert_nothing_left(base: Path) -> None:
    """No process, mount or file of the demo's is there."""
    wait_for("its processes to end", lambda: not leftovers.processes(base), 10)
    wait_for("its mounts to go", lambda: not leftovers.mounts(base), 10)
    wait_for("its files to go", lambda: not base.exists(), 10)


@pytest.mark.usefixtures("own_machine")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_agent_of_its_own(tmp_path: Path, number: signal.Signals) -> None:
    """It runs the job and shows its log; each of these signals ends all of it."""
    with demo(tmp_path, "--agent") as (process, output):
        text = wait_text(output, "Line 2")
        assert "\nHello from Java " in text and "Its address is http://127.0.0.1:4646" in text
        process.send_signal(number)
        assert process.wait(scaled(60)) == 0, output.read_text()
    text = output.read_text()
    assert "Asked to end. Goodbye!" in text and text.endswith("Nothing of it is left.\n")
    assert "removed" not in text, "something had to be removed by force"
    assert "rror" not in text
    assert_nothing_left(base_of(text))


@pytest.mark.usefixtures("own_machine")
def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    """Everything is killed then, and what that leaves is removed as well."""
    with demo(tmp_path, "--agent") as (process, output):
        base = base_of(wait_text(output, "Line 2"))
        process.send_signal(signal.SIGINT)
        wait_text(output, "does not wait")
        process.send_signal(signal.SIGINT)
        assert process.wait(scaled(60)) == 0, output.read_text()
    assert_nothing_left(base)


@pytest.mark.usefixtures("own_machine")
def test_a_killed_demo_ends_all_of_it(tmp_path: Path) -> None:
    """Its agent, driver and task end as when it is asked to, and its files are removed."""
    with demo(tmp_path, "--agent") as (process, output):
        base = base_of(wait_text(output, "Line 2"))
        process.kill()
        process.wait()
        wait_text(output, "Nothing of it is left.")
    assert_nothing_left(base)


@pytest.mark.usefixtures("own_machine")
def test_a_signal_before_the_job_runs(tmp_path: Path) -> None:
    """The agent that is about to start is ended, too."""
    with demo(tmp_path, "--agent") as (process, output):
        base = base_of(wait_text(output, "$ nomad agent"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(scaled(60)) == 0, output.read_text()
    assert_nothing_left(base)


def test_an_agent_that_is_there(nomad: Nomad, tmp_path: Path) -> None:
    """What it prints are the commands that run the job, which is as it is printed."""
    with demo(tmp_path) as (process, output):
        text = wait_text(output, "milo demo --agent")
        run, follow, stop = re.findall(r"^    nomad (.*)$", text, re.MULTILINE)
        assert follow == "logs -f -job hello"
        url = re.search(r"http://\S+/hello.jar", text)
        assert url is not None and url[0].removesuffix(".jar") in run
        nomad.cli(*run.split())
        wait_text(output, "Fetched: hello.jar")
        wait_for("a line", lambda: "Line 1" in nomad.cli("logs", "-job", "hello"))
        assert "Argument: allocation " in nomad.cli("logs", "-job", "hello")
        nomad.cli(*stop.split())
        process.send_signal(signal.SIGINT)
        assert process.wait(scaled(60)) == 0
