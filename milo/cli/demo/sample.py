"""What ``milo demo`` has to show: a JAR and its job, served over HTTP on the loopback interface."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from milo.cli.arguments import WrongValueError
from milo.cli.new_file import ANYBODYS, new_file
from milo.errors import ConfigError

JOB: Final = "hello"
JAR_NAME: Final = "hello.jar"
JOB_NAME: Final = "hello.nomad.hcl"
PORT: Final = 8000
"""Tried first, so that a page can show the whole address."""
JAR: Final = os.path.join(os.path.dirname(__file__), JAR_NAME)
"""Written by tools/gen_demo.py."""

JOB_FILE: Final = """\
job "hello" {
  type = "service"

  update {
    min_healthy_time = "1s" # Nomad's own 10s are for real services.
  }

  group "app" {
    task "hello" {
      driver = "milo"

      artifact {
        source = "URL/hello.jar"
      }

      config {
        args = ["allocation ${NOMAD_SHORT_ALLOC_ID}"]
      }

      resources {
        cpu    = 200
        memory = 128
      }
    }
  }
}
"""


def jar_bytes() -> bytes:
    """Return the sample JAR."""
    with open(JAR, "rb") as file:
        return file.read()


def job_text(url: str) -> str:
    """Return a job file that runs the sample JAR from below ``url``."""
    return JOB_FILE.replace("URL", url)


def commands(url: str) -> tuple[str, str, str]:
    """Return the commands that run the job, follow its log and end it."""
    return (
        f"nomad job run {url}/{JOB_NAME}",
        f"nomad logs -f -job {JOB}",
        f"nomad job stop {JOB}",
    )


def write(directory: str) -> list[str]:
    """Write both files to a directory, and return their paths; raises `NewFileError`."""
    contents = {JAR_NAME: jar_bytes(), JOB_NAME: job_text(f"http://127.0.0.1:{PORT}").encode()}
    paths = []
    for name, content in contents.items():
        paths.append(path := os.path.join(directory, name))
        with new_file(path, ANYBODYS) as file:
            file.write(content)
    return paths


@contextlib.contextmanager
def serve(port: int | None, fetched: Callable[[str], None]) -> Iterator[str]:
    """Serve both files while the context lasts; gives the base URL.

    Without a ``port`` it is `PORT`, or any that is free. ``fetched`` is called by another thread
    with the name of each file that somebody has got.

    Raises:
        ConfigError: the port cannot be listened at.
    """
    server = _listen(port)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    server.files = {f"/{JAR_NAME}": jar_bytes(), f"/{JOB_NAME}": job_text(url).encode()}
    server.fetched = fetched
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield url
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    """A client that is slow does not keep the command from ending."""
    files: Mapping[str, bytes]
    fetched: Callable[[str], None]


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        if content := self._head():
            self.wfile.write(content)
            self.server.fetched(self.path[1:])

    def _head(self) -> bytes:
        content = self.server.files.get(self.path, b"")
        if not content:
            self.send_error(404)
            return b""
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return content

    def log_message(self, format: str, *args: Any) -> None:  # the base's name
        """Say nothing: a line a request is not for people."""


def _listen(port: int | None) -> _Server:
    try:
        return _Server(("127.0.0.1", PORT if port is None else port), _Handler)
    except OverflowError as exc:
        raise WrongValueError("--port", f"got {port}", "a port from 1 to 65535") from exc
    except OSError as exc:
        if port is None and exc.errno == errno.EADDRINUSE:
            return _Server(("127.0.0.1", 0), _Handler)
        expected = "a port that is free"
        if exc.errno == errno.EACCES:  # ip_unprivileged_port_start
            expected = "a port from 1024 on: those below are root's"
        raise ConfigError("--port", f"{port or PORT}: {exc.strerror}", expected) from exc
