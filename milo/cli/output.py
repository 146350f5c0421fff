"""What the commands print: tables for people, JSON for scripts."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

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

PIPED_WIDTH: Final = 10_000
"""Nothing is cut for a program that reads it."""

UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns: with colours on a terminal, plain and uncut where it is piped."""
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        for row in (columns, *rows):
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            print("  ".join(cells).rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(
            *(Text(cell, style=COLOURS.get(cell.split()[0] if cell else "", "")) for cell in row)
        )
    Console().print(table)


def progress(text: str) -> contextlib.AbstractContextManager[object]:
    """Show ``text`` with a moving sign while something takes its time, on a terminal alone."""
    if not sys.stderr.isatty():
        return contextlib.nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(text)


def write_all(fd: int, data: bytes) -> None:
    """Write ``data`` to a descriptor, however little it takes at a time. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def print_json(value: Any) -> None:
    """Print ``value`` as JSON, indented for people, stable for scripts."""
    print(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False))


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
