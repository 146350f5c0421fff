"""Log lines for the agent: hclog's JSON on stderr, one object a line.

Nothing here blocks or raises. After the agent was killed, the plugin's stderr is broken, and an
agent that stops reading must not stop the driver. A line that cannot be written at once is dropped
and counted.
"""

from __future__ import annotations

import json
import logging
import os
import time

from milo.core.text import printable
from milo.proc import reopen

# A write of at most PIPE_BUF bytes (4096 on Linux, pipe(7)) goes into a pipe whole or not at all.
_LINE_BYTES = 4096
_MESSAGE_CHARS = 3000

_LEVELS = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warn",
    logging.ERROR: "error",
    logging.CRITICAL: "error",
}


class HclogHandler(logging.Handler):
    """Writes the records of Python's logging to ``fd`` as hclog lines.

    A record's ``extra={"fields": {...}}`` adds free keys to the line, and ``at_s`` there says when
    it was written, where that was before it came here.
    """

    def __init__(self, fd: int = 2) -> None:
        super().__init__()
        self.dropped = 0
        """Lines that were given up because nobody read them."""
        self._fd = _open_nonblocking(fd)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, or drop it."""
        try:
            line = format_line(record)
        except Exception:
            self.dropped += 1
            return
        try:
            os.write(self._fd, line)
        except OSError:
            self.dropped += 1


def setup_logging(fd: int = 2) -> HclogHandler:
    """Send all of Python's logging to ``fd``: Milo's own from debug up, others' from warnings."""
    handler = HclogHandler(fd)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("milo").setLevel(logging.DEBUG)
    logging.raiseExceptions = False
    return handler


def format_line(record: logging.LogRecord) -> bytes:
    """One hclog line for ``record``, at most 4096 bytes with its newline.

    A message that is too long loses its middle, so that a traceback keeps its last line.
    """
    message = printable(record.getMessage())
    if record.exc_info:
        trace = logging.Formatter().formatException(record.exc_info)
        message = "\n".join((message, *map(printable, trace.splitlines())))
    fields: dict[str, object] = {
        key: printable(value) if isinstance(value, str) else value
        for key, value in getattr(record, "fields", {}).items()
    }
    limit = _MESSAGE_CHARS
    while True:
        line = _encode(record, _shorten(message, limit), fields)
        if len(line) <= _LINE_BYTES:
            return line
        # The free keys go first; then what escaping has made longer.
        if fields:
            fields = {}
        else:
            limit //= 2


def _encode(record: logging.LogRecord, message: str, fields: dict[str, object]) -> bytes:
    at_s = getattr(record, "at_s", record.created)
    seconds = int(at_s)
    micros = int((at_s - seconds) * 1_000_000)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    entry = {
        "@level": _LEVELS.get(record.levelno, "info"),
        "@message": message,
        "@module": record.name,
        "@timestamp": f"{stamp}.{micros:06d}Z",
        **fields,
    }
    return json.dumps(entry, default=str).encode() + b"\n"


def _shorten(message: str, limit: int) -> str:
    if len(message) <= limit:
        return message
    half = limit // 2
    return f"{message[:half]} [...] {message[-half:]}"


def _open_nonblocking(fd: int) -> int:
    """A non-blocking descriptor of the pipe behind ``fd``, leaving ``fd`` itself as it is.

    O_NONBLOCK belongs to the open file, which may be shared with a terminal or another process;
    opening the pipe anew through /proc gives one of our own. What cannot be opened so (a socket)
    is used as it is.
    """
    try:
        return reopen(fd, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
    except OSError:
        return fd
