"""A job's ``config`` block, checked as at the start of a task."""

from __future__ import annotations

from collections.abc import Mapping

from milo.core.config import rules
from milo.core.config.plugin_options import PluginOptions
from milo.core.config.task_options import TaskOptions, parse_task_options


def accepted(config: Mapping[str, object], plugin: PluginOptions | None = None) -> TaskOptions:
    """Return the values of a block; raises `ConfigError` where no task starts."""
    plugin = plugin or PluginOptions()
    options = parse_task_options(config, plugin)
    rules.check_task(options, plugin)
    return options
