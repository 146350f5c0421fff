"""Whether the kernel passes an OCI process's arguments and variables on to it."""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from typing import Any

from milo.core.container import exec_limits


def check_process(process: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuse an OCI process object that execve(2) would; ``names`` are those of its arguments.

    Raises `ConfigError`.
    """
    args: list[str] = process["args"]
    own = [limit["soft"] for limit in process["rlimits"] if limit["type"] == "RLIMIT_STACK"]
    # Python says -1 where the kernel has the largest number.
    stack_bytes = own[0] if own else resource.getrlimit(resource.RLIMIT_STACK)[0] % 2**64
    strings = [*zip(names, args, strict=True), *map(exec_limits.variable, process["env"])]
    exec_limits.check(args[0], strings, stack_bytes)
