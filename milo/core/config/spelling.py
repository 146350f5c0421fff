"""How ``milo run`` spells the keys of a job's config, and what is said of them. Pure."""

from __future__ import annotations

import re
from typing import Final

from milo.core.config.options import options_of
from milo.core.config.task_options import TaskOptions
from milo.errors import ConfigError

SPELT_OTHERWISE: Final = {
    "jar_path": "APP.JAR",
    "args": "ARGUMENT",
    "class": "--class",
    "jvm_options": "--jvm-option",
    "mounts": "--volume",
    "cpu_hard_limit": "--cpus",
}
"""Keys that ``milo run`` has arguments of its own for, and these."""
ALSO: Final = {
    "work_dir": ("-w", "--workdir"),
    "pid_mode": ("--pid",),
    "ipc_mode": ("--ipc",),
    "extra_hosts": ("--add-host",),
}
"""As docker and podman spell the options of some keys."""

_KEY: Final = re.compile(r"([a-z_]+)(?:\[[0-9]+\])?(?:\.(.*))?", re.DOTALL)


def option_of(key: str) -> str:
    """Return the argument that stands for a key of a job."""
    return SPELT_OTHERWISE.get(key) or "--" + key.replace("_", "-")


def in_options(error: ConfigError) -> ConfigError:
    """Return an error for who has typed options: it names these in place of keys."""
    keys = options_of(TaskOptions)
    match = _KEY.fullmatch(error.key)
    if match is None or match[1] not in keys:
        return error
    name = option_of(match[1])
    if match[2] and match[1] != "mounts":
        name = f"{name} {match[2]}"

    def spelt(text: str) -> str:
        for key in keys:
            text = re.sub(rf'\b{key} = (?=["0-9a-z])', f"{option_of(key)} ", text)
            if "_" in key:
                text = re.sub(rf"(?<![\w-]){key}\b", option_of(key), text)
        return text

    return ConfigError(name, spelt(error.problem), spelt(error.expected))
