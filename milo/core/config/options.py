"""How a key of a configuration is declared, and how a block is read. Pure.

A block is an attrs class. Each of its keys is a field that contains everything about the key::

    pids_limit: int = attrs.field(
        default=4096,
        metadata=option(whole_number(1, MAX_PIDS), doc="…", example="512"),
    )

The HCL schema that Nomad checks jobs with (`milo.plugin.schema`), the reader below, the reference
and manual pages, and the arguments of ``milo run`` are derived from it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import attrs

from milo.core.config.values import Value, shown_key, wrong_type
from milo.core.text import did_you_mean
from milo.errors import ConfigError

T = TypeVar("T")

_METADATA: Final = "milo.option"


@attrs.frozen
class Option:
    """One key."""

    key: str
    """As it is spelt in HCL."""
    field: str
    """The attribute of the attrs class that it fills."""
    value: Value
    doc: str
    """What it does, in sentences of Markdown."""
    example: str
    """A value in JSON, which is HCL too; empty for a block, whose keys have theirs."""
    unset: str
    """What applies where the key is not given and ``default`` is empty, in Markdown."""
    inherits: str
    """The field of the plugin's options that applies where the key is not given."""
    default: Any
    """`attrs.NOTHING` where the key has to be given."""

    @property
    def required(self) -> bool:
        return self.default is attrs.NOTHING


def option(
    value: Value,
    *,
    doc: str,
    example: str = "",
    unset: str = "",
    key: str = "",
    inherits: str = "",
) -> dict[str, Any]:
    """Return the metadata of a field that a key fills; ``key`` only where it is not its name."""
    return {_METADATA: (value, doc, example, unset, key, inherits)}


@functools.cache
def options_of(kind: type) -> Mapping[str, Option]:
    """Return the keys of a block by their names, in the order of its fields."""
    found = {}
    for field in attrs.fields(kind):
        value, doc, example, unset, key, inherits = field.metadata[_METADATA]
        default = field.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            default = default.factory()
        name = key or field.name
        found[name] = Option(name, field.name, value, doc, example, unset, inherits, default)
    return found


def read_block(
    kind: type[T], config: Mapping[str, object], *, within: str = "", plugin: object = None
) -> T:
    """Return the values of a block, each checked by itself.

    ``within`` comes before the names of the keys in errors, as ``mounts[0].``; ``plugin`` has
    the values of keys that are inherited. An empty text is a key that is not set, as with
    Nomad's own drivers: it is what a variable without a value gives.

    Raises:
        ConfigError: an unknown key, or the first value that is not valid.
    """
    problems: list[ConfigError] = []
    values = _read(kind, config, within, plugin, problems)
    if problems:
        raise problems[0]
    return kind(**values)


def problems_of(kind: type, config: Mapping[str, object]) -> list[ConfigError]:
    """Return all that `read_block` has to say against a block, not only the first."""
    problems: list[ConfigError] = []
    _read(kind, config, "", None, problems)
    return problems


def _read(
    kind: type,
    config: Mapping[str, object],
    within: str,
    plugin: object,
    problems: list[ConfigError],
) -> dict[str, Any]:
    """Return a block's values by their fields; what is not valid is left out, and a problem."""
    options = options_of(kind)
    for key in config:
        if key not in options:
            what = "there is no such key" + did_you_mean(shown_key(key), options).rstrip("?")
            problems.append(
                ConfigError(within + shown_key(key), what, "one of " + ", ".join(options))
            )
    values: dict[str, Any] = {}
    for key, item in options.items():
        value = config.get(key)
        try:
            if value is None or (item.value.hcl == "string" and value == ""):
                if item.required:
                    raise ConfigError(within + key, "it is not set", "a value")
                if item.inherits and plugin is not None:
                    values[item.field] = getattr(plugin, item.inherits)
            elif item.value.read is None:
                values[item.field] = _read_inner(within + key, item.value, value, problems)
            else:
                values[item.field] = item.value.read(within + key, value)
        except ConfigError as exc:
            problems.append(exc)
    return values


def _read_inner(key: str, kind: Value, value: Any, problems: list[ConfigError]) -> Any:
    """Return a block's values, or a tuple of them for one that may be repeated."""
    assert kind.block is not None
    many = kind.hcl == "blocks"
    blocks = [value] if isinstance(value, Mapping) else value
    if not isinstance(blocks, list | tuple):
        raise wrong_type(key, value, "a block")
    if len(blocks) > 1 and not many:
        raise ConfigError(key, "it is given more than once", "one block")
    found: list[Any] = []
    for index, block in enumerate(blocks):
        name = f"{key}[{index}]" if many else key
        if not isinstance(block, Mapping):
            raise wrong_type(name, block, "a block")
        count = len(problems)
        values = _read(kind.block, block, f"{name}.", None, problems)
        if len(problems) == count:
            found.append(kind.block(**values))
    if many:
        return tuple(found)
    return found[0] if found else kind.block()
