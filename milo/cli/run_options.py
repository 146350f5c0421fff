"""What ``milo run``'s arguments mean, as the values that a job would give."""

from __future__ import annotations

import os
import re
import select
from argparse import Namespace
from collections.abc import Sequence
from typing import Any, Final

from milo.cli.arguments import MIB, WrongValueError, absolute, is_text, size_of
from milo.cli.output import size, warn
from milo.cli.task_keys import read_task_keys
from milo.core.config.plugin_options import PluginOptions, Volumes
from milo.core.config.rules import Asked, check_sense
from milo.core.config.spelling import option_error, option_of
from milo.core.config.task_options import parse_task_options
from milo.core.config.values import shown
from milo.core.container.capabilities import ALL, NAMED_ONLY, holds
from milo.core.launch import Resources
from milo.errors import ConfigError
from milo.host import state_dirs

DEFAULT_MEMORY: Final = "512m"
MAX_ENV_FILE: Final = 1 << 20
PIPE_PATIENCE_MS: Final = 1000
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_COMMENT: Final = re.compile(r"\s*(#|$)")
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
                raise WrongValueError(key, f"{text!r} is not UTF-8", "text in UTF-8")


def require_jar(options: Namespace) -> None:
    """Refuse as the JAR what was meant as the value of an option.

    Raises:
        WrongValueError: with the option, as it has to be written.
    """
    if not os.path.isfile(options.jar) and (meant := _meant(options)):
        raise WrongValueError(
            "APP.JAR",
            f"{options.jar!r} is not the path of a JAR",
            f"the path of one. The option is written {meant}",
        )


def _meant(options: Namespace) -> str:
    """Return the option whose value stands in the place of the JAR, or nothing."""
    jar: str = options.jar
    if jar.isdecimal():
        return next((f"--{name}={jar}" for name in ("debug", "jmx") if getattr(options, name)), "")
    if options.jfr and jar.endswith(".jfr"):
        return f"--jfr={jar}"
    is_path = os.path.isdir(jar) or jar.startswith(("/", "./", "../"))
    return f"-v {jar}:TARGET" if options.verbose and is_path else ""


def jar_name(options: Namespace) -> str:
    """Return what the JAR is called in the container: its own name where Java can take that.

    A colon would make a class path of two out of it.
    """
    name = os.path.basename(options.jar)
    return name if is_text(name) and ":" not in name else "app.jar"


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
        raise WrongValueError("--cpus", f"got {options.cpus:g}", f"0.01 to {cores}, this host's")
    return Resources(memory_bytes=memory, cpu_percent_ticks=options.cpus / cores)


def limits_are_asked(options: Namespace) -> bool:
    """Whether the user has asked for limits, rather than left them as they are."""
    asked = (options.cpus, options.key_pids_limit)
    return options.memory != DEFAULT_MEMORY or any(value is not None for value in asked)


def doubts(options: Namespace) -> list[str]:
    """Return sentences on what is asked for and runs, but not as somebody may think."""
    found = []
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size_of("--memory", options.memory, MIN_MEMORY) > there:
        found.append(f"--memory {options.memory} is more than this host has: {size(there)}")
    allowed = PluginOptions().allow_caps
    keys = read_task_keys(options)
    asked = [name.lower().removeprefix("cap_") for name in keys.get("cap_add", ())]
    if more := [name for name in asked if not holds(allowed, name)]:
        found.append(f"under Nomad, the plugin's allow_caps has to hold {', '.join(more)}")
    if options.key_class_path and not options.main_class:
        found.append("--class-path has no effect without --class: java -jar ignores it")
    return found


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
        key = "java_home" if _is_home(options.java) else "java_version"
        if config.get(key, options.java) != options.java:
            raise WrongValueError(
                "--java",
                f"{shown(options.java)} and {option_of(key)} {shown(config[key])} differ",
                "one of the two",
            )
        config[key] = options.java
    if "java_home" in config:
        config["java_home"] = absolute(config["java_home"])
    return config


def check_config(config: dict[str, Any], plugin: PluginOptions, network: str) -> None:
    """Refuse values that are none, or contradict each other, before anything is started.

    Raises `WrongValueError`.
    """
    try:
        parsed = parse_task_options(config, plugin)
        check_sense(Asked(parsed, plugin, network_mode=network))
    except ConfigError as exc:
        said = option_error(exc)
        raise WrongValueError(said.key, said.problem, said.expected) from exc


def plugin_options(options: Namespace) -> PluginOptions:
    """Return what is permitted: all that the arguments ask for. Who runs it has the rights already.

    No agent's configuration is read: that is for jobs, and their authors are somebody else.
    """
    keys = read_task_keys(options)
    profile = keys.get("seccomp_profile")
    cache = state_dirs.trusted_cache_directory()
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
        startup_cache="auto" if cache else "off",
        cache_dir=cache or state_dirs.cache_directory(),
    )


def _is_home(java: str) -> bool:
    """Whether that is a JDK's directory: without a slash one that is there, and no version."""
    return "/" in java or ((java[:1].isalpha() or java[:1] == ".") and _is_jdk(java))


def _is_jdk(path: str) -> bool:
    return os.path.exists(os.path.join(path, "bin/java"))


def _java_home(options: Namespace, keys: dict[str, Any]) -> str:
    is_home = _is_home(options.java)
    if is_home and not _is_jdk(options.java):
        raise ConfigError("--java", f"there is no {options.java}/bin/java", "a JDK, or a version")
    home = keys.get("java_home") or (options.java if is_home else "")
    return absolute(home) if home else ""


def environment(options: Namespace) -> dict[str, str]:
    """Return the application's environment; raises `ConfigError`."""
    env = {"NOMAD_TASK_DIR": "/local", "NOMAD_ALLOC_DIR": "/alloc", "NOMAD_SECRETS_DIR": "/secrets"}
    if options.tty:
        env["TERM"] = os.environ.get("TERM", "xterm")
    for path in options.env_file:
        for number, line in _lines(path):
            env |= _variable("--env-file", line, f"line {number} of {path}: ")
    for pair in options.env:
        env |= _variable("--env", pair)
    return env


def _lines(path: str) -> list[tuple[int, str]]:
    """Return the lines of an environment file that say something, and their numbers."""
    try:
        data = _read_env_file(path)
    except OSError as exc:
        raise ConfigError(
            "--env-file", f"{path}: {exc.strerror}", "a file that can be read"
        ) from exc
    if len(data) > MAX_ENV_FILE:
        raise ConfigError("--env-file", f"{path}: it has more than 1 MiB", "less")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ConfigError(
            "--env-file", f"{path} is no text in UTF-8", "a file with a line NAME=VALUE for each"
        )
    lines = ((number, line.strip("\r")) for number, line in enumerate(text.split("\n"), 1))
    return [(number, line) for number, line in lines if not _COMMENT.match(line)]


def _read_env_file(path: str) -> bytes:
    """Return what a file holds, or what comes through a pipe: that is waited for, and told."""
    # So opened, a pipe without a writer does not keep Ctrl-C waiting.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        told = False
        while not poll.poll(PIPE_PATIENCE_MS):
            if not told:
                warn(f"milo: waiting for the lines of {path}, a pipe")
            told = True
        os.set_blocking(fd, True)
        return file.read(MAX_ENV_FILE + 1)


def _variable(argument: str, pair: str, at: str = "") -> dict[str, str]:
    """Return the variable of ``NAME=VALUE``, or of NAME in this shell; ``at`` is where it stands.

    Raises:
        ConfigError: it is neither.
    """
    name, equals, value = pair.partition("=")
    if not _VARIABLE.fullmatch(name):
        expected = "NAME=VALUE, or NAME for this shell's value"
        if name.startswith("export "):
            expected = "the same without export, which is a word of the shell's"
        raise WrongValueError(argument, f"{at}{shown(name)} is no name of a variable", expected)
    if not equals:
        if name not in os.environ:
            raise ConfigError(argument, f"{at}{shown(name)} is not set in this shell", "NAME=VALUE")
        value = os.environ[name]
    if not is_text(value):
        raise ConfigError(argument, f"the value of {name} is not UTF-8", "text in UTF-8")
    return {name: value}


def _mount(argument: str, text: str, mode: str) -> dict[str, Any]:
    """Return a mount for ``SOURCE:TARGET[:ro|rw]``; ``mode`` is what it is without the last."""
    if argument == "--mount" and text.startswith("type="):
        return _mount_of_pairs(text)
    parts = text.split(":")
    mode = parts.pop() if len(parts) == 3 else mode
    if len(parts) != 2 or mode not in ("ro", "rw") or not all(parts):
        raise WrongValueError(argument, f"got {text!r}", "SOURCE:TARGET, :ro or :rw after")
    return {"source": absolute(parts[0]), "target": parts[1], "readonly": mode == "ro"}


def _mount_of_pairs(text: str) -> dict[str, Any]:
    """Return a mount as docker and podman spell it: ``type=bind,source=…,target=…[,ro]``."""
    found = dict(word.partition("=")[::2] for word in text.split(","))
    source = found.pop("source", "") or found.pop("src", "")
    target = found.pop("target", "") or found.pop("dst", "") or found.pop("destination", "")
    flags = {word for word in ("ro", "readonly") if found.pop(word, None) in ("", "true")}
    if found != {"type": "bind"} or not source or not target:
        raise WrongValueError(
            "--mount", f"got {text!r}", "type=bind,source=SOURCE,target=TARGET[,ro]"
        )
    return {"source": absolute(source), "target": target, "readonly": bool(flags)}
