"""A job file that runs one JAR, as ``nomad fmt`` leaves it. Pure."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, unquote, urlsplit

import attrs

from milo.cli.arguments import is_text
from milo.core.java.application import is_jar_name
from milo.core.java.versions import java_name
from milo.errors import ConfigError

PORT: Final = 8000
"""What Python's http.server listens on when nobody says otherwise."""


@attrs.frozen
class JobPlan:
    """What the job is to be."""

    jar: str
    """An http(s) URL, or the absolute path of a file."""
    name: str = ""
    """Of the job; empty: made from the JAR's."""
    service: bool = False
    count: int = 1
    cpu_mhz: int = 500
    memory_mib: int = 512
    args: tuple[str, ...] = ()
    """The application's arguments."""
    asked_class: str = ""
    """The class to run in place of the JAR's own; empty for that."""
    main_class: str = ""
    """What is run of the JAR, where that is known."""
    java_release: int = 0
    """What that class was compiled for; 0: not known."""


def is_url(jar: str) -> bool:
    """Whether ``jar`` is what Nomad can fetch, and no path."""
    return jar.lower().startswith(("http://", "https://"))


def write_job(plan: JobPlan) -> str:
    """Return the job file's text.

    Raises:
        ConfigError: the URL names no host or no file, or the name cannot be a job's.
    """
    source, file_name, hints = _artifact(plan.jar)
    artifact: dict[str, str] = {"source": _quoted(source)}
    if not is_jar_name(_last_part(source)) or not is_text(file_name):
        # Else the file would be called as the address ends, and only a .jar is taken for one;
        # and a job file has no way to write a byte that is no UTF-8.
        file_name = "app.jar"
        artifact |= {"destination": _quoted(f"local/{file_name}"), "mode": _quoted("file")}
    stem = file_name[: -len(".jar")]
    name = plan.name or re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "app"
    if not re.fullmatch(r"[^\s\x00-\x1f\x7f\ud800-\udfff]{1,128}", name):
        raise ConfigError("--name", repr(name), "up to 128 characters without blanks")
    config = {"jar_path": _quoted(f"local/{file_name}")}
    config_hints: list[str] = []
    if plan.java_release:
        config_hints = [f"{plan.main_class} is compiled for {java_name(plan.java_release)}."]
        config["java_version"] = _quoted(f">= {plan.java_release}")
    if plan.asked_class:
        config["class"] = _quoted(plan.asked_class)
    if plan.args:
        config["args"] = f"[{', '.join(map(_quoted, plan.args))}]"
    kind = "service" if plan.service else "batch"
    resources = {"cpu": str(plan.cpu_mhz), "memory": str(plan.memory_mib)}
    task = _block(
        'task "app"',
        [
            'driver = "milo"',
            "",
            *_block("artifact", [*hints, *_aligned(artifact)]),
            "",
            *_block("config", [*_comments(config_hints), *_aligned(config)]),
            "",
            "# MHz and MiB. The JVM sizes itself by the memory.",
            *_block("resources", _aligned(resources)),
        ],
    )
    count = [f"count = {plan.count}", ""] if plan.count != 1 else []
    job = _block(
        f"job {_quoted(name)}", [f'type = "{kind}"', "", *_block('group "app"', [*count, *task])]
    )
    return "\n".join(line.rstrip() for line in job) + "\n"


def _artifact(jar: str) -> tuple[str, str, list[str]]:
    """Return the artifact's source, the JAR's file name, and comments."""
    if is_url(jar):
        try:
            parts = urlsplit(jar)
            host = parts.hostname
        except ValueError as exc:
            raise ConfigError(
                "APP.JAR", f"{jar!r}: {exc}", "a URL such as https://host/app.jar"
            ) from exc
        if not host or not _last_part(jar):
            raise ConfigError(
                "APP.JAR", f"{jar!r} does not name a file", "a URL such as https://host/app.jar"
            )
        return jar, unquote(_last_part(jar)), []
    directory, _, name = jar.rpartition("/")
    if not is_jar_name(name):
        raise ConfigError("APP.JAR", repr(name), "the path of a .jar file, or an http(s) URL")
    where = shlex.quote(directory or "/")
    hints = [
        "Nomad fetches over the network alone, no file of the client's. Serve this one there:",
        f"  python3 -m http.server {PORT} --bind 127.0.0.1 --directory {where}",
        "or put it where every client can fetch it, and say here where that is.",
    ]
    return f"http://127.0.0.1:{PORT}/{quote(os.fsencode(name))}", name, _comments(hints)


def _last_part(url: str) -> str:
    return urlsplit(url).path.rpartition("/")[2]


def _block(head: str, lines: Iterable[str]) -> list[str]:
    return [f"{head} {{", *_indented(lines), "}"]


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" if line else "" for line in lines]


def _aligned(pairs: dict[str, str]) -> list[str]:
    width = max(map(len, pairs))
    return [f"{key.ljust(width)} = {value}" for key, value in pairs.items()]


def _comments(lines: Iterable[str]) -> list[str]:
    return [f"# {_one_line(line)}" for line in lines]


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


def _quoted(text: str) -> str:
    """Return a string of HCL 2, in which nothing is interpolated."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    escaped = re.sub(r"([$%])(?=\{)", r"\1\1", escaped)
    return '"' + "".join(_character(char) for char in escaped) + '"'


def _character(char: str) -> str:
    if char.isprintable():
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
