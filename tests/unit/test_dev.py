"""`./dev setup` on machines that lack something: which step it is at, and what it says to do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("cat", "cksum", "date", "dirname", "env", "rm", "stat", "tail")
"""What the script uses of every Unix."""
PYTHON = """\
case "$*" in
*ensurepip*) [ -z "$NO_VENV" ] ;;
*"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python && cp "$0" .venv/bin/milo ;;
*"pip install"*) [ -z "$NO_INDEX" ] || { echo "no index at all"; exit 1; } ;;
-V) echo "Python 3.13.5" ;;
*print*) echo " python3.13-venv" ;;
esac
"""


@attrs.frozen
class Machine:
    """A directory with a copy of the script, and one of programs, the only ones it finds."""

    checkout: Path
    programs: Path

    def has(self, name: str, text: str = "") -> None:
        """Add a program, a shell script."""
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{text}")
        path.chmod(0o755)

    def setup(self, word: str = "setup", **env: str) -> tuple[int, str]:
        """Run the script, and return its exit status and what it prints."""
        done = subprocess.run(
            ["/bin/sh", str(self.checkout / "dev"), word],
            env={"PATH": str(self.programs), "NO_VENV": "", "NO_INDEX": "", **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """One that has everything, with root at the keyboard."""
    made = Machine(tmp_path / "milo", tmp_path / "bin")
    made.checkout.mkdir()
    made.programs.mkdir()
    shutil.copy(ROOT / "pyproject.toml", made.checkout)
    # This machine's own Pythons are none of the made-up one's.
    script = (ROOT / "dev").read_text().replace("/usr/bin/python3", "/nowhere/python3")
    (made.checkout / "dev").write_text(script)
    # No links: what a test writes in the place of one would be written to this machine's own.
    for name in (*TOOLS, "cp", "mkdir"):
        made.has(name, f'exec {shutil.which(name)} "$@"\n')
    for name in ("apt-get", "crun", "javac", "unshare"):
        made.has(name)
    made.has("id", "case $1 in -u) echo 0 ;; *) echo root ;; esac\n")
    made.has("python3", PYTHON)
    return made


def user(machine: Machine) -> None:
    """Put somebody else at the keyboard."""
    machine.has("id", "case $1 in -u) echo 1000 ;; *) echo ann ;; esac\n")


def test_each_step_has_a_line_with_its_time(machine: Machine) -> None:
    """And nothing else is printed but where to go on; the second time there is no step."""
    status, said = machine.setup()
    assert status == 0, said
    steps = [line for line in said.splitlines() if " ... " in line]
    assert len(steps) == 3 and all(line.endswith(" s") for line in steps), said
    assert "A Nomad client needs one file" in said
    status, said = machine.setup()
    assert status == 0 and " ... " not in said


def test_packages(machine: Machine) -> None:
    """All that are missing are installed at once."""
    for name in ("crun", "javac"):
        (machine.programs / name).unlink()
    status, said = machine.setup(NO_VENV="1")
    assert "Installing crun default-jdk-headless python3.13-venv ... " in said
    assert status == 1 and "python3 has no venv or ensurepip: install them" in said


def test_no_root(machine: Machine) -> None:
    """All that are missing are named in one line for root."""
    user(machine)
    (machine.programs / "crun").unlink()
    (machine.programs / "python3").unlink()
    status, said = machine.setup()
    assert status == 1
    assert "sudo apt-get install --no-install-recommends crun python3 python3-venv\n" in said
    assert "Nothing was set up" in said


def test_no_apt(machine: Machine) -> None:
    """Another distribution's user is told names, and not to use apt-get."""
    user(machine)
    for name in ("apt-get", "crun"):
        (machine.programs / name).unlink()
    status, said = machine.setup()
    assert status == 1 and "Please install what Debian calls: crun\n" in said
    assert "sudo" not in said


def test_no_network_for_apt(machine: Machine) -> None:
    """Its last words, and what it needs."""
    (machine.programs / "crun").unlink()
    machine.has("apt-get", "echo 'E: Could not resolve the host'; exit 100\n")
    status, said = machine.setup()
    assert status == 1 and "Installing crun ... failed\nE: Could not resolve the host\n" in said
    assert "It needs the network, or a mirror" in said


def test_no_network_for_pip(machine: Machine) -> None:
    """Its last words, what it needs, and nothing that looks as if it were set up."""
    status, said = machine.setup(NO_INDEX="1")
    assert status == 1 and "no index at all" in said
    assert "pip config list" in said
    assert machine.setup()[0] == 0


def test_the_environment_of_another(machine: Machine) -> None:
    """Who cannot write .venv is told whose it is; who need not, is not."""
    assert machine.setup()[0] == 0
    # Root can write everything, so the answer is made up.
    machine.has("stat", "echo bob\n")
    script = machine.checkout / "dev"
    script.write_text(script.read_text().replace('[ -w "$place" ]', "false"))
    user(machine)
    assert machine.setup()[0] == 0
    (machine.checkout / "pyproject.toml").write_text("# changed\n")
    status, said = machine.setup()
    assert status == 1 and "belongs to bob, and ann cannot write there" in said


def test_what_only_builds_needs_neither_crun_nor_a_jdk(machine: Machine) -> None:
    """Who wants the file for a client makes it on any machine with Python."""
    user(machine)
    for name in ("crun", "javac"):
        (machine.programs / name).unlink()
    status, said = machine.setup("build")
    assert "crun" not in said and "Installing Milo" in said
    assert status != 0  # there is no nox in the made-up environment
