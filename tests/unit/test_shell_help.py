"""The manual page, and the completion of shells."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from milo.cli.main import run_command
from milo.cli.parser import build_parser

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "man/milo.1"
COMMANDS = re.findall(r"^ {4}([a-z]+)(?: |$)", build_parser().format_help(), re.MULTILINE)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="argparse words usage otherwise since 3.13")
def test_the_manual_page_is_fresh(tmp_path: Path) -> None:
    """`python tools/gen_manpage.py` was run after the last change of the parser."""
    fresh = tmp_path / "milo.1"
    command = [sys.executable, str(ROOT / "tools/gen_manpage.py"), str(fresh)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert fresh.read_text() == PAGE.read_text(), "run: python tools/gen_manpage.py"


def test_the_manual_page_tells_of_every_command() -> None:
    """And a formatter has nothing to say against it."""
    text = PAGE.read_text().replace("\\-", "-")
    assert len(COMMANDS) > 10
    for name in COMMANDS:
        assert f"milo {name}" in text
    if shutil.which("groff") is None:
        pytest.skip("there is no groff to check the page with")
    done = subprocess.run(
        ["groff", "-man", "-ww", "-z", "-K", "utf8", str(PAGE)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def script(capsys: pytest.CaptureFixture[str], shell: str) -> str:
    """Return what `milo completion` prints."""
    assert run_command(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_valid(
    shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command is in them, and the shell can read them."""
    text = script(capsys, shell)
    for name in COMMANDS:
        assert name in text
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    path = tmp_path / "script"
    path.write_text(text)
    subprocess.run([shell, "-n", str(path)], check=True, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["milo", "do"], {"doctor"}),
        (["milo", "stop", "--sig"], {"--signal"}),
        (["milo", "completion", ""], {"bash", "zsh", "fish"}),
        (["milo", "install", "plug"], {"plugins"}),
        (["milo", "job", "ap"], {"app.jar"}),
    ],
)
def test_bash_completes(
    line: list[str], expected: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands, options, choices; directories and files where those are meant."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash here")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "app.jar").touch()
    (tmp_path / "script").write_text(script(capsys, "bash"))
    words = " ".join(f"'{word}'" for word in line)
    code = (
        "source ./script; "
        f"COMP_WORDS=({words}); COMP_CWORD={len(line) - 1}; COMP_LINE='{' '.join(line)}'; "
        "COMP_POINT=${#COMP_LINE}; _shtab_milo milo "
        f"'{line[-1]}' '{line[-2]}'; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert {word.strip().rstrip("/") for word in done.stdout.split("\n")} >= expected, done.stderr


def test_the_scripts_are_fresh(tmp_path: Path) -> None:
    """`python tools/gen_completion.py` was run after the last change of the parser."""
    command = [sys.executable, str(ROOT / "tools/gen_completion.py"), str(tmp_path)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    for path in tmp_path.iterdir():
        committed = ROOT / "milo/cli/completions" / path.name
        assert path.read_text() == committed.read_text(), "run: python tools/gen_completion.py"


def test_a_shell_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    """Those that are known are named."""
    assert run_command(["completion", "powershell"]) == 2
    assert "invalid choice" in capsys.readouterr().err
