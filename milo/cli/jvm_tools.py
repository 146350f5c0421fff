"""``--debug``, ``--jmx`` and ``--jfr``: what the JVM needs for each, and what to connect to."""

from __future__ import annotations

import errno
import os
import re
import socket
from argparse import Namespace
from collections.abc import Sequence
from typing import Final

from milo import proc, walk
from milo.cli.arguments import WrongValueError, absolute
from milo.cli.new_file import NewFileError, Target
from milo.cli.output import warn
from milo.core.java.flight_recorder import QUIET_SINCE
from milo.core.launch import JavaRuntime
from milo.errors import ConfigError, PathError
from milo.walk import Kind

RECORDING: Final = "milo-run.jfr"
"""In /alloc/data, until it is copied."""
BLOCK_BYTES: Final = 1 << 20


def quiet_options(options: Namespace, javas: Sequence[JavaRuntime]) -> list[str]:
    """Return what keeps the JVM's words on its recording off the application's output.

    An older Java does not start with it. Which of ``javas`` it is going to be is not known yet.
    """
    known = options.jfr and all(java.major >= QUIET_SINCE and not java.openj9 for java in javas)
    return ["-Xlog:jfr+startup=off"] if known else []


class Recording:
    """The flight recording of a run: of a watched one, the last."""

    def __init__(self, asked: str) -> None:
        """``asked`` is where it is to be; empty: none is wanted.

        Raises:
            ConfigError: no new file can be made there. Said before the run, not after it.
        """
        self._target: Target | None = None
        self._made: os.stat_result | None = None
        self.stays = False
        """Whether it stays where the JVM has written it, because it cannot be moved."""
        if not asked:
            return
        expected = "the path of a new file, as in --jfr=PATH"
        try:
            self._target = target = Target(absolute(asked))
        except NewFileError as exc:
            raise ConfigError("--jfr", f"{exc.path}: {exc.problem}", expected) from exc
        if target.is_there():
            raise ConfigError("--jfr", f"{target.path} is there already", expected)
        if not target.may_be_made():
            directory = os.path.dirname(target.path)
            raise ConfigError("--jfr", f"no file can be made in {directory}", expected)

    def keep(self, alloc_dir: str) -> bool:
        """Put it where the caller wants it; return False if it is not there."""
        if not self._target:
            return True
        data = f"{alloc_dir}/alloc/data/{RECORDING}"
        try:
            with walk.hold(data, beneath=alloc_dir, kind=Kind.FILE) as held:
                source = os.fdopen(held.open(), "rb")
        except PathError as exc:
            warn(f"milo: there is no flight recording: {exc.words}")
            return False
        with source:
            if not os.fstat(source.fileno()).st_size:
                warn("milo: there is no flight recording: the JVM could not write it")
                return False
            try:
                if self._made:  # the one of the run before, which had another JAR
                    self._target.remove(self._made)
                with self._target.new_file() as file:
                    while block := source.read(BLOCK_BYTES):
                        file.write(block)
                    self._made = file.status()
            except NewFileError as exc:
                problem = f"cannot be written to {self._target.path}: {exc.problem}"
                warn(f"milo: the flight recording {problem}. It is in {data}")
                self.stays = True
                return False
        warn(f"milo: the flight recording is in {self._target.path}")
        return True


def check_ports(options: Namespace) -> None:
    """Refuse a port that the JVM could not listen on, or nobody reach; raises `ConfigError`.

    It would end at once, or in the background after the command has said that it runs.
    """
    given = {"--debug": options.debug, "--jmx": options.jmx}
    ports = {argument: int(_port(argument, text)) for argument, text in given.items() if text}
    if options.network != "host":
        for argument in ports:
            raise WrongValueError(
                argument,
                f"with --network {options.network} the JVM listens on a loopback interface of its "
                "own, which nothing outside of the container reaches",
                f"--network host with {argument}",
            )
        return
    lowest = int(proc.sysctl("net.ipv4.ip_unprivileged_port_start") or 1024)
    for argument, port in ports.items():
        if port < lowest:
            raise ConfigError(argument, f"port {port} is for root alone", f"{lowest} to 65535")
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Java does
            try:
                sock.bind(("127.0.0.1", port))
            except OSError as exc:
                used = exc.errno == errno.EADDRINUSE
                words = "in use" if used else f"refused: {exc.strerror}"
                raise ConfigError(
                    argument, f"port {port} is {words}", f"a free one: {argument}=PORT"
                ) from exc
    if len(set(ports.values())) < len(ports):
        raise ConfigError("--jmx", f"--debug has port {ports['--jmx']}, too", "another port")


def jvm_options(options: Namespace) -> list[str]:
    """Return the options for the JVM; raises `ConfigError` for a port that is none."""
    found = []
    if options.debug:
        port = _port("--debug", options.debug)
        found.append(
            f"-agentlib:jdwp=transport=dt_socket,server=y,suspend=n,address=127.0.0.1:{port}"
        )
    if options.jmx:
        port = _port("--jmx", options.jmx)
        words = {
            "port": port,
            "rmi.port": port,
            "host": "127.0.0.1",
            "authenticate": "false",
            "ssl": "false",
        }
        found += [f"-Dcom.sun.management.jmxremote.{key}={word}" for key, word in words.items()]
        found.append("-Djava.rmi.server.hostname=127.0.0.1")
    if options.jfr:
        found.append(f"-XX:StartFlightRecording=filename=/alloc/data/{RECORDING},dumponexit=true")
    return found


def say_where(options: Namespace) -> None:
    """Say what to connect to. Both listen on this host's loopback address alone."""
    if options.debug:
        warn(f"milo: a debugger can connect to 127.0.0.1:{options.debug}")
    if options.jmx:
        warn(f"milo: JMX clients can connect to 127.0.0.1:{options.jmx}, as jconsole does")


def _port(argument: str, text: str) -> str:
    if not (re.fullmatch("[0-9]{1,5}", text) and 0 < int(text) < 65536):
        raise WrongValueError(argument, f"got {text[:40]!r}", "a port from 1 to 65535")
    return text
