"""A terminal for tests, with somebody who types and looks: a window of tmux."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence

import attrs
import pytest

from tests.support.waiting import wait_for

_numbers = itertools.count(1)


@attrs.frozen
class Terminal:
    """One window, in which a shell waits for commands."""

    server: str

    def type(self, *keys: str) -> None:
        """Press these keys, named as tmux(1) has them: words, ``Enter``, ``C-c``."""
        self._tmux("send-keys", *keys)

    def run(self, argv: Sequence[str]) -> None:
        """Have the shell run a command."""
        # Not typed: a long line would be wrapped, and be on the screen itself.
        script = f'{shlex.join(argv)}; echo "status $?."; exec sh'
        self._tmux("respawn-window", "-k", "sleep 60")
        self._tmux("send-keys", "-R")
        self._tmux("clear-history")
        self._tmux("respawn-window", "-k", script)

    def shown(self) -> str:
        """Return what is on the screen, and above it."""
        return self._tmux("capture-pane", "-p", "-J", "-S", "-1000")

    def wait_for(self, text: str, count: int = 1) -> str:
        """Wait until ``text`` is there ``count`` times, and return all that is shown."""
        seen = ""

        def is_there() -> bool:
            nonlocal seen
            seen = self.shown()
            return seen.count(text) >= count

        try:
            wait_for(f"{text!r} on the terminal", is_there)
        except AssertionError as exc:
            raise AssertionError(f"{exc}, in:\n{seen}") from None
        return seen

    def resize(self, columns: int, rows: int) -> None:
        """Give the window another size."""
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def close(self) -> None:
        """Close the window, as with a click."""
        self._tmux("kill-server")

    def _tmux(self, *words: str) -> str:
        argv = ["tmux", "-L", self.server, *words]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


@contextlib.contextmanager
def terminal(columns: int = 80, rows: int = 24) -> Iterator[Terminal]:
    """Open a window of this size, and close it again; skip where there is no tmux."""
    if shutil.which("tmux") is None:
        pytest.skip("there is no tmux here")
    opened = Terminal(f"milo-{os.getpid()}-{next(_numbers)}")
    size = ("-x", str(columns), "-y", str(rows))
    argv = ["tmux", "-L", opened.server, "-f", os.devnull, "new-session", "-d", *size, "sh"]
    subprocess.run(argv, check=True, env={**os.environ, "TMUX": ""})
    try:
        yield opened
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            opened.close()
