"""Launches for tests that look at a part of one."""

from __future__ import annotations

from typing import Any

from milo.core.config.plugin_options import PluginOptions
from milo.core.launch import Launch


def make_launch(**changes: Any) -> Launch:
    """Return a launch without limits and output, with ``changes``."""
    values: dict[str, Any] = {
        "task_id": "a1/web/x",
        "task_name": "web",
        "alloc_id": "a1",
        "alloc_dir": "/nowhere/a1",
        "stdout_path": "/dev/null",
        "stderr_path": "/dev/null",
        "state_dir": "/nowhere/state",
        "crun_path": "/usr/bin/crun",
        "javas": (),
        "plugin": PluginOptions(),
    }
    return Launch(**{**values, **changes})
