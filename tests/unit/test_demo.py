"""`milo demo` without an agent: what it serves, writes and says."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from milo.cli.demo import dev_agent, sample
from milo.cli.main import run_command
from milo.core.java.jar import Jar
from milo.errors import ConfigError
from tests.support import jars

ROOT = Path(__file__).parents[2]
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def test_the_sample_is_made_from_its_source(tmp_path: Path) -> None:
    """`python tools/gen_demo.py` was run after the last change of tools/demo/Hello.java."""
    if reason := jars.missing_tools():
        pytest.skip(reason)
    command = [sys.executable, str(ROOT / "tools/gen_demo.py"), str(tmp_path)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (tmp_path / "hello.jar").read_bytes() == sample.jar_bytes()


def test_every_java_runs_the_sample() -> None:
    """It is compiled for Java 8."""
    with open(sample.JAR, "rb") as file:
        assert Jar(file, sample.JAR).class_version("Hello") == 52


def test_both_files_are_served() -> None:
    """As they are, and each that somebody gets is told; nothing else is there."""
    fetched: list[str] = []
    with sample.serve(0, fetched.append) as url:
        with OPENER.open(f"{url}/hello.jar") as answer:
            assert answer.read() == sample.jar_bytes()
        with OPENER.open(f"{url}/hello.nomad.hcl") as answer:
            assert f'source = "{url}/hello.jar"' in answer.read().decode()
        head = urllib.request.Request(f"{url}/hello.jar", method="HEAD")
        with OPENER.open(head) as answer:
            assert answer.headers["Content-Length"] == str(len(sample.jar_bytes()))
        with pytest.raises(urllib.error.HTTPError, match="404") as caught:
            OPENER.open(f"{url}/../../etc/passwd")
        caught.value.close()
    assert fetched == ["hello.jar", "hello.nomad.hcl"]


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one is used, unless it was asked for."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = int(other.getsockname()[1])
        monkeypatch.setattr(sample, "PORT", taken)
        with sample.serve(None, print) as url:
            assert not url.endswith(f":{taken}")
        with pytest.raises(ConfigError, match="in use"), sample.serve(taken, print):
            pass
    with pytest.raises(ConfigError, match="a port from 1 to 65535"), sample.serve(70000, print):
        pass


def test_both_files_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To a directory, where nothing is replaced."""
    assert run_command(["demo", "--write", str(tmp_path)]) == 0
    assert (
        capsys.readouterr().out == f"Wrote {tmp_path}/hello.jar\nWrote {tmp_path}/hello.nomad.hcl\n"
    )
    assert (tmp_path / "hello.jar").read_bytes() == sample.jar_bytes()
    assert run_command(["demo", "--write", str(tmp_path)]) == 1
    assert "hello.jar cannot be written: it is there already" in capsys.readouterr().err
    assert run_command(["demo", "--write", str(tmp_path / "no")]) == 1
    assert f"there is no directory {tmp_path}/no. Make it" in capsys.readouterr().err


def test_without_nomad_or_root(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What is missing is said."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_command(["demo", "--agent"]) == 1
    assert "nomad is not on PATH" in capsys.readouterr().err
    (tmp_path / "nomad").touch(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run_command(["demo", "--agent"]) == 1
    assert "needs root" in capsys.readouterr().err


def test_its_agent_takes_other_ports_where_the_usual_are_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All three are other ones, then."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = int(other.getsockname()[1])
        monkeypatch.setattr(dev_agent, "USUAL_PORTS", (0, taken, 0))
        ports = dev_agent._free_ports()
    assert len(set(ports)) == 3 and taken not in ports
