"""The input and output of a command that runs in a task's container. Pure values."""

from __future__ import annotations

import attrs


@attrs.frozen
class TerminalSize:
    """The user's terminal has this size now."""

    rows: int
    columns: int


@attrs.frozen
class Typed:
    """Bytes for the command's standard input, and perhaps its end."""

    data: bytes = b""
    closed: bool = False


@attrs.frozen
class Printed:
    """Bytes of the command's output. With a terminal all of it is standard output."""

    data: bytes = b""
    to_stderr: bool = False
    closed: bool = False


@attrs.frozen
class CommandEnd:
    """How the command ended: an exit code, or a signal's number."""

    exit_code: int
    signal: int = 0

    @property
    def shell_code(self) -> int:
        """The exit code that a shell would give: 128 and the signal's number for a signal."""
        return 128 + self.signal if self.signal else self.exit_code


ExecInput = TerminalSize | Typed
ExecOutput = Printed | CommandEnd
EOT = b"\x04"
"""What a terminal takes for the end of its input, termios(3)."""
