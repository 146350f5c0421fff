"""A job's ``config`` block, checked as at the start of a task."""

from __future__ import annotations

from collections.abc import Mapping

from milo.core.config.plugin_options import PluginOptions
from milo.core.config.rules import Asked, check_task
from milo.core.config.task_options import TaskOptions, parse_task_options


def accepted(
    config: Mapping[str, object],
    plugin: PluginOptions | None = None,
    *,
    network_mode: str = "group",
) -> TaskOptions:
    """Return the values of a block for a task of ``nobody``; raises `ConfigError`."""
    plugin = plugin or PluginOptions()
    options = parse_task_options(config, plugin)
    check_task(Asked(options, plugin, network_mode=network_mode))
    return options
