"""What ``milo run``'s arguments mean, as the values that a job would give."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from typing import Any, Final

from milo.cli.arguments import MIB, absolute, is_text, size_of
from milo.cli.task_keys import read_task_keys
from milo.core.config.plugin_options import PluginOptions, Volumes
from milo.core.container.capabilities import ALL, NAMED_ONLY
from milo.core.launch import Resources
from milo.errors import ConfigError

DEFAULT_MEMORY: Final = "512m"
MAX_ENV_FILE: Final = 1 << 20
MIN_MEMORY: Final = 16 * MIB
"""No JVM starts in less."""


def require_text(options: Namespace, application: Sequence[str]) -> None:
    """Refuse arguments that are no text: neither a record's JSON nor a container's can hold them.

    Raises:
        ConfigError: one is not UTF-8. The JAR's own path may be anything.
    """
    given = {f"--{name.replace('_', '-')}": value for name, value in vars(options).items()}
    for key, value in {**given, "--jar": "", "ARGUMENT": list(application)}.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not is_text(text):
                raise ConfigError(key, f"{text!r} is not UTF-8", "text in UTF-8")


def jar_name(options: Namespace) -> str:
    """Return what the JAR is called in the container: its own name where that is text."""
    name = os.path.basename(options.jar)
    return name if is_text(name) else "app.jar"


def resources(options: Namespace) -> Resources:
    """Return the limits that ``--memory`` and ``--cpus`` ask for.

    Raises:
        ConfigError: a size or number that makes no sense.
    """
    memory = size_of("--memory", options.memory, MIN_MEMORY)
    cores = os.cpu_count() or 1
    if options.cpus is None:
        return Resources(memory_bytes=memory)
    if not 0.01 <= options.cpus <= cores:
        raise ConfigError("--cpus", f"got {options.cpus:g}", f"0.01 to {cores}, this host's")
    return Resources(memory_bytes=memory, cpu_percent_ticks=options.cpus / cores)


def limits_are_asked(options: Namespace) -> bool:
    """Whether the user has asked for limits, rather than left them as they are."""
    return options.cpus is not None or options.memory != DEFAULT_MEMORY


def task_config(options: Namespace, application: Sequence[str]) -> dict[str, Any]:
    """Return the ``config`` block that these arguments stand for."""
    config = {
        **read_task_keys(options),
        "jar_path": f"local/{jar_name(options)}",
        "args": list(application),
        "jvm_options": options.jvm_option,
        "cpu_hard_limit": options.cpus is not None,
        "mounts": [
            *(_mount("--volume", text, "rw") for text in options.volume),
            *(_mount("--mount", text, "ro") for text in options.mount),
        ],
    }
    if options.main_class:
        config["class"] = options.main_class
    if options.java:
        config["java_home" if "/" in options.java else "java_version"] = options.java
    if "java_home" in config:
        config["java_home"] = absolute(config["java_home"])
    return config


def plugin_options(options: Namespace) -> PluginOptions:
    """Return what is permitted: all that the arguments ask for. Who runs it has the rights already.

    No agent's configuration is read: that is for jobs, and their authors are somebody else.
    """
    keys = read_task_keys(options)
    profile = keys.get("seccomp_profile")
    return PluginOptions(
        allow_root=True,
        allow_caps=(ALL, *NAMED_ONLY),
        allow_host_namespaces=True,
        allow_host_ipc=True,
        allow_seccomp_profiles=(profile,) if profile else (),
        insecure_java_driver_privileges=True,
        pids_limit=max(PluginOptions().pids_limit, keys.get("pids_limit", 0)),
        volumes=Volumes(enabled=True, paths=("/",)),
        java_home=_java_home(options, keys),
    )


def _java_home(options: Namespace, keys: dict[str, Any]) -> str:
    home = keys.get("java_home") or (options.java if "/" in options.java else "")
    return absolute(home) if home else ""


def environment(options: Namespace) -> dict[str, str]:
    """Return the application's environment; raises `ConfigError`."""
    env = {"NOMAD_TASK_DIR": "/local", "NOMAD_ALLOC_DIR": "/alloc", "NOMAD_SECRETS_DIR": "/secrets"}
    for path in options.env_file:
        env |= _variables("--env-file", _lines(path))
    return env | _variables("--env", options.env)


def _lines(path: str) -> list[str]:
    """Return the lines of an environment file that say something."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(MAX_ENV_FILE + 1)
    except OSError as exc:
        raise ConfigError(
            "--env-file", f"{path}: {exc.strerror}", "a file that can be read"
        ) from exc
    if len(text) > MAX_ENV_FILE:
        raise ConfigError("--env-file", f"{path}: it has more than 1 MiB", "less")
    lines = (line.rstrip("\r") for line in text.split("\n"))
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _variables(argument: str, pairs: Sequence[str]) -> dict[str, str]:
    env = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name:
            raise ConfigError(argument, repr(pair), "NAME=VALUE, or NAME for this shell's value")
        if not equals:
            if name not in os.environ:
                raise ConfigError(argument, f"{name} is not set in this shell", "NAME=VALUE")
            value = os.environ[name]
        if not (is_text(name) and is_text(value)):
            raise ConfigError(argument, f"{name!r} is not UTF-8", "text in UTF-8")
        env[name] = value
    return env


def _mount(argument: str, text: str, mode: str) -> dict[str, Any]:
    """Return a mount for ``SOURCE:TARGET[:ro|rw]``; ``mode`` is what it is without the last."""
    if argument == "--mount" and text.startswith("type="):
        return _mount_of_pairs(text)
    parts = text.split(":")
    mode = parts.pop() if len(parts) == 3 else mode
    if len(parts) != 2 or mode not in ("ro", "rw") or not all(parts):
        raise ConfigError(argument, f"got {text!r}", "SOURCE:TARGET, :ro or :rw after")
    return {"source": absolute(parts[0]), "target": parts[1], "readonly": mode == "ro"}


def _mount_of_pairs(text: str) -> dict[str, Any]:
    """Return a mount as docker and podman spell it: ``type=bind,source=…,target=…[,ro]``."""
    found = dict(word.partition("=")[::2] for word in text.split(","))
    source = found.pop("source", "") or found.pop("src", "")
    target = found.pop("target", "") or found.pop("dst", "") or found.pop("destination", "")
    flags = {word for word in ("ro", "readonly") if found.pop(word, None) in ("", "true")}
    if found != {"type": "bind"} or not source or not target:
        raise ConfigError("--mount", f"got {text!r}", "type=bind,source=SOURCE,target=TARGET[,ro]")
    return {"source": absolute(source), "target": target, "readonly": bool(flags)}
