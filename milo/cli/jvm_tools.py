"""``--debug``, ``--jmx`` and ``--jfr``: what the JVM needs for each, and what to connect to."""

from __future__ import annotations

import os
import re
import shutil
from argparse import Namespace
from typing import Final

from milo import walk
from milo.cli.arguments import absolute
from milo.cli.output import warn
from milo.errors import ConfigError, PathError
from milo.walk import Kind

RECORDING: Final = "milo-run.jfr"
"""In /alloc/data, until it is copied."""


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


def keep_recording(options: Namespace, alloc_dir: str) -> None:
    """Put the flight recording where the caller asked for it."""
    if not options.jfr:
        return
    target = absolute(options.jfr)
    try:
        data = f"{alloc_dir}/alloc/data/{RECORDING}"
        with walk.hold(data, beneath=alloc_dir, kind=Kind.FILE) as held:
            source = os.fdopen(held.open(), "rb")
        with source, open(target, "wb", opener=_for_its_owner) as file:
            shutil.copyfileobj(source, file)
    except PathError as exc:
        warn(f"milo: there is no flight recording: {exc.words}")
    except OSError as exc:
        warn(f"milo: the flight recording cannot be written to {target}: {exc.strerror}")
    else:
        warn(f"milo: the flight recording is in {target}")


def _for_its_owner(path: str, flags: int) -> int:
    """Open a file that only its owner can read if it is new: it has the environment in it."""
    return os.open(path, flags, 0o600)


def _port(argument: str, text: str) -> str:
    if not (re.fullmatch("[0-9]{1,5}", text) and 0 < int(text) < 65536):
        raise ConfigError(argument, f"got {text[:40]!r}", "a port from 1 to 65535")
    return text
