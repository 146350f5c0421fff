"""What a Nomad agent's configuration says about this driver: from its files or its API. Pure."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from milo.cli.doctor.hcl import Body
from milo.core.config.options import options_of
from milo.core.config.values import Value

PLUGIN: Final = "milo"
"""The name of the executable, and so of the plugin block."""


@attrs.frozen
class AgentConfig:
    """The configuration of one agent, as far as it concerns this driver."""

    source: str
    """Where it is from, for people."""
    plugin_dir: str = ""
    """Of the agent's default too, which is below its data directory; empty: not known."""
    data_dir: str = ""
    has_block: bool = False
    """Whether there is a block ``plugin "milo"``."""
    options: Mapping[str, Any] = attrs.field(factory=dict)
    """That block's ``config``."""
    client: bool | None = None
    """Whether the agent is a client; None: not said."""
    other_blocks: tuple[str, ...] = ()
    """The names of the other plugin blocks."""
    plugin_dir_given: bool = True
    """False: nobody chose ``plugin_dir``, the agent takes one below its data directory."""


@attrs.frozen
class AgentArguments:
    """What an agent's command line says."""

    config_paths: tuple[str, ...] = ()
    plugin_dir: str = ""
    data_dir: str = ""
    dev: bool = False


def from_files(
    files: Sequence[tuple[str, Body]], arguments: AgentArguments, source: str
) -> AgentConfig:
    """Return what the files say together, in the order in which the agent merges them.

    The agent takes the last value that is not empty, and a plugin's last ``config`` block that
    is not (Config.Merge and PluginConfigSetMerge in Nomad 2.0.5).
    """
    plugin_dir = data_dir = ""
    client: bool | None = None
    options: dict[str, Any] = {}
    names: set[str] = set()
    for _, body in files:
        plugin_dir = body.text("plugin_dir") or plugin_dir
        data_dir = body.text("data_dir") or data_dir
        block = body.body("client")
        if block is not None and "enabled" in block.plain():
            client = block.plain()["enabled"] is True
        for name, content in body.blocks("plugin"):
            names.add(name)
            config = content.body("config")
            if name == PLUGIN and config is not None and config.items:
                options = config.plain()
    return _completed(
        AgentConfig(
            source=source,
            plugin_dir=arguments.plugin_dir or plugin_dir,
            data_dir=arguments.data_dir or data_dir,
            has_block=PLUGIN in names,
            options=options,
            client=True if arguments.dev else client,
            other_blocks=tuple(sorted(names - {PLUGIN})),
        )
    )


def as_nomad_converts(config: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Return a ``config`` block as the driver gets it: ``pids_limit = "512"`` is a number.

    A value of one simple type becomes the other that the schema has (HCL's own conversions);
    what cannot be converted stays as it is.
    """
    options = options_of(kind)
    return {
        key: _convert(value, options[key].value) if key in options else value
        for key, value in config.items()
    }


def _convert(value: Any, wanted: Value) -> Any:
    if wanted.block is not None and isinstance(value, dict):
        return as_nomad_converts(value, wanted.block)
    if wanted.hcl == "list(string)" and isinstance(value, list):
        return [_as_text(item) for item in value]
    if wanted.hcl == "string":
        return _as_text(value)
    if wanted.hcl == "bool" and isinstance(value, str):
        return {"true": True, "1": True, "false": False, "0": False}.get(value, value)
    if wanted.hcl == "number" and isinstance(value, str):
        with contextlib.suppress(ValueError):
            return int(value)
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def _as_text(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int | float) else value


def from_api(config: Mapping[str, Any], source: str) -> AgentConfig:
    """Return what a running agent says of itself: ``config`` of ``GET /v1/agent/self``."""
    listed = config.get("Plugins")
    plugins = [mapping(one) for one in listed] if isinstance(listed, list) else []
    own = [one for one in plugins if one.get("Name") == PLUGIN]
    client = config.get("Client")
    return _completed(
        AgentConfig(
            source=source,
            plugin_dir=text(config.get("PluginDir")),
            data_dir=text(config.get("DataDir")),
            has_block=bool(own),
            options=mapping(own[-1].get("Config")) if own else {},
            client=bool(client.get("Enabled")) if isinstance(client, dict) else None,
            other_blocks=tuple(sorted(text(one.get("Name")) for one in plugins if one not in own)),
        )
    )


def text(value: object) -> str:
    """Return a string of an agent's answer; empty when it is none, or none that can be a path."""
    return value if isinstance(value, str) and value.isprintable() else ""


def mapping(value: object) -> Mapping[str, Any]:
    """Return an object of an agent's answer; empty when it is none."""
    return value if isinstance(value, dict) else {}


def parse_command(words: Sequence[str]) -> AgentArguments:
    """Return what the words of ``nomad agent …`` say; Go's flags take one dash or two."""
    found: dict[str, list[str]] = {}
    rest = list(words)
    while rest:
        match = re.fullmatch(r"--?([a-z-]+)(?:=(.*))?", rest.pop(0), re.DOTALL)
        if match is None:
            continue
        name, value = match[1], match[2]
        if value is None and name in ("config", "plugin-dir", "data-dir") and rest:
            value = rest.pop(0)
        found.setdefault(name, []).append(value or "")
    return AgentArguments(
        config_paths=tuple(found.get("config", ())),
        plugin_dir=found.get("plugin-dir", [""])[-1],
        data_dir=found.get("data-dir", [""])[-1],
        dev=any(name.startswith("dev") for name in found),
    )


def parse_exec_start(line: str) -> AgentArguments:
    """Return the same from a unit's ``ExecStart=`` line."""
    try:
        return parse_command(shlex.split(line))
    except ValueError:
        return AgentArguments()


def _completed(config: AgentConfig) -> AgentConfig:
    if config.plugin_dir or not config.data_dir:
        return config
    # Nomad's own default (command/agent/command.go).
    return attrs.evolve(
        config, plugin_dir=f"{config.data_dir.rstrip('/')}/plugins", plugin_dir_given=False
    )
