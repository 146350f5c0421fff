"""What the commands print, and where: the standard streams, tables for people, JSON for scripts."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import shutil
import signal
import sys
import termios
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from milo.core.text import printable
from milo.errors import MiloError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

COLOURS: Final = {
    "running": "green",
    "ok": "green",
    "starting": "cyan",
    "warning": "yellow",
    "unsupervised": "yellow",
    "lost": "red",
    "failed": "red",
    "✓": "green",
    "!": "yellow",
    "✗": "red",
    "X": "red",
}
"""Words that mean something, and rich's names for their colours."""

READER_GONE: Final = 128 + signal.SIGPIPE
"""The exit status of ``ls`` in ``ls | head -1``, and of every command here."""
UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


class OutputError(MiloError):
    """A standard stream takes no more: its disk is full, or it was closed from the start."""

    def __init__(self, stream: str, problem: str) -> None:
        self.stream = stream
        self.problem = problem
        super().__init__(f"Error: {stream} cannot be written: {problem}")


class ReaderGoneError(OutputError):
    """The program that read a standard stream has ended: ``head`` has seen enough."""


def open_standard_streams() -> None:
    """Make stdin, stdout and stderr usable, whatever this process was started with.

    A descriptor that the caller closed would be given to the next file that is opened, and
    output would go there. ``sys.stdout`` then raises `OutputError` and nothing else; what
    ``sys.stderr`` does not take is dropped, since there is nowhere left to say so.
    """
    # Opened for reading, stdout fails with the same error as a closed one, as coreutils do it.
    for fd, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)  # takes the lowest number: fd
    sys.stdout = _text_stream(1, sys.stdout)
    sys.stderr = _text_stream(2, sys.stderr)


def _text_stream(fd: int, before: io.TextIOBase | Any) -> io.TextIOWrapper:
    encoding = getattr(before, "encoding", None) or "utf-8"
    buffer = io.BufferedWriter(_StandardStream(fd))
    line_by_line = fd == 2 or os.isatty(fd)
    return io.TextIOWrapper(buffer, encoding, "backslashreplace", line_buffering=line_by_line)


class _StandardStream(io.RawIOBase):
    """Descriptor 1 or 2, written as `write_all` does."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._failed = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def write(self, data: ReadableBuffer) -> int:
        view = memoryview(data)
        # After a failure the interpreter still wants to flush at its end, and must not fail again.
        if not self._failed:
            try:
                write_all(self._fd, view)
            except OutputError:
                self._failed = True
                if self._fd == 1:
                    raise
        return view.nbytes


def write_all(fd: int, data: ReadableBuffer) -> None:
    """Write ``data`` to standard output (1) or error (2), however little it takes at a time.

    Raises:
        OutputError: it cannot be written.
    """
    name = "standard output" if fd == 1 else "standard error"
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            # Another program that has the same terminal or pipe made it so.
            select.select((), (fd,), ())
        except BrokenPipeError as exc:
            raise ReaderGoneError(name, "its reader has ended") from exc
        except OSError as exc:
            raise OutputError(name, exc.strerror or str(exc)) from exc


def say(*lines: str) -> None:
    """Print lines; what a terminal could obey in them is escaped: a tenant may have chosen it."""
    for line in lines:
        print(printable(line))


def warn(line: str) -> None:
    """Print a line to standard error, as `say` does."""
    print(printable(line), file=sys.stderr, end=_line_end(2))


def _line_end(fd: int) -> str:
    """Return what a line ends with: on a terminal in raw mode nobody else moves the cursor back."""
    with contextlib.suppress(termios.error):  # it is none
        if not termios.tcgetattr(fd)[1] & termios.OPOST:
            return "\r\n"
    return "\n"


def clear_screen() -> None:
    """Empty the terminal."""
    print("\x1b[H\x1b[2J", end="")


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], folded: Sequence[str] = ()
) -> None:
    """Print aligned columns: with colours on a terminal, plain and uncut where it is piped.

    Where the terminal is too narrow, the columns ``folded`` take several lines; without any
    named all do. Where that is not enough, the terminal wraps plain lines: no value is cut. Cells
    are escaped as `say` does it.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    if not sys.stdout.isatty() or (folded and _cuts(columns, widths, folded)):
        for row in (columns, *rows):
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            print("  ".join(cells).rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=bool(folded) and column not in folded)
    for row in rows:
        table.add_row(
            *(Text(cell, style=COLOURS.get(cell.split()[0] if cell else "", "")) for cell in row)
        )
    Console().print(table)


def _cuts(columns: Sequence[str], widths: Sequence[int], folded: Sequence[str]) -> bool:
    """Whether the terminal has no room for the columns that are not folded."""
    needed = len(columns) - 1
    for column, width in zip(columns, widths, strict=True):
        needed += len(column) if column in folded else width
    return needed > shutil.get_terminal_size().columns


def progress(text: str) -> contextlib.AbstractContextManager[object]:
    """Show ``text`` with a moving sign while something takes its time, on a terminal alone."""
    if not sys.stderr.isatty():
        return contextlib.nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(text)


def print_json(value: Any) -> None:
    """Print ``value`` as JSON, indented for people, stable for scripts, in ASCII alone."""
    print(json.dumps(value, indent=2, sort_keys=True))


def size(number: float) -> str:
    """Return bytes as people read them: ``1.5 MiB``."""
    for unit in UNITS[:-1]:
        if abs(number) < 1024:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} {UNITS[-1]}"


def span(seconds: float) -> str:
    """Return a time span as people read it: ``5s``, ``3m10s``, ``2h5m``, ``3d4h``."""
    whole = max(0, int(seconds))
    days, hours, minutes, rest = (
        whole // 86400,
        whole // 3600 % 24,
        whole // 60 % 60,
        whole % 60,
    )
    if days:
        return f"{days}d{hours}h"
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
