"""Records docs/figures/milo-run.svg: a shell in a terminal of its own, in which `milo run` runs.

Usage: record_terminal.py [FILE]. Needs what `milo run` needs, and javac. The shell is given what
`TYPED` has, as from a keyboard; all that the picture shows came out of the terminal.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT: Final = Path(__file__).parents[1]
TARGET: Final = ROOT / "docs/figures/milo-run.svg"
PROMPT: Final = "$ "
COLUMNS: Final = 54
"""Few, so that the letters can be read on a telephone."""
LINES: Final = 40
PATIENCE_S: Final = 60.0
TYPED: Final = (
    "milo run -m 256m hello.jar",
    "milo run -d --name orders -m 512m orders.jar",
    "sleep 5",
    "milo logs -n 2 orders",
    "milo stop orders",
)
UNSEEN: Final = ("sleep 5",)
"""Lines that are typed, but left out of the picture."""
JARS: Final = {"hello.jar": "hello.jar", "streaming-test.jar": "orders.jar"}
"""Which of the tests' JARs are run, and what they are called."""
TEMPLATE: Final = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""rich's own loads a font from elsewhere."""


def record(directory: Path) -> str:
    """Return what a terminal shows while a shell in ``directory`` is given what is `TYPED`.

    Raises:
        TimeoutError: what was expected did not come.
    """
    environment = {
        "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}",
        "HOME": str(directory),
        "TERM": "dumb",  # nothing is drawn over
        "LANG": "C.UTF-8",
        "PS1": PROMPT,
    }
    master, slave = pty.openpty()
    size = struct.pack("4H", LINES, COLUMNS, 0, 0)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
    shell = subprocess.Popen(
        command(),
        cwd=directory,
        env=environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    try:
        shown = wait_for(master)
        for line in TYPED:
            os.write(master, f"{line}\n".encode())
            answer = wait_for(master)
            if line not in UNSEEN:
                shown += answer
        return shown.removesuffix(PROMPT)
    finally:
        os.write(master, b"milo gc --yes orders\nexit\n")
        shell.wait()
        os.close(master)


def command() -> list[str]:
    """Return the shell; root's is where a hybrid host's cgroup v2 mount is out of sight."""
    if os.geteuid() != 0:
        return ["sh", "-i"]
    hidden = "umount -l /sys/fs/cgroup/unified 2>/dev/null; exec sh -i"
    return ["unshare", "-m", "sh", "-c", hidden]


def wait_for(terminal: int) -> str:
    """Return what the terminal shows until the shell asks for the next line."""
    shown = ""
    deadline = time.monotonic() + PATIENCE_S
    while not shown.endswith(PROMPT):
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError(f"expected a prompt within {PATIENCE_S:.0f} s, got {shown!r}")
        shown += os.read(terminal, 65536).decode()
    return shown


def drawn(shown: str) -> str:
    """Return a terminal's output as SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for line in shown.splitlines():
        for start in range(0, max(len(line), 1), COLUMNS):
            console.print(Text(line[start : start + COLUMNS]))
    return console.export_svg(title="", theme=MONOKAI, code_format=TEMPLATE, unique_id="terminal")


def main() -> None:
    """Record, and write the picture."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    directory = Path(tempfile.mkdtemp(prefix="milo-record-"))
    try:
        directory.chmod(0o755)
        for made, name in JARS.items():
            build = [sys.executable, "-m", "tests.support.jars", str(directory / made)]
            subprocess.run(build, cwd=ROOT, check=True)
            (directory / made).rename(directory / name)
        target.write_text(drawn(record(directory)), encoding="utf-8")
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
