"""Reads a configuration block as Nomad decoded it: each value checked to be of its type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

from milo.core.config.durations import parse_duration
from milo.errors import ConfigError

AttrType = Literal["string", "list(string)", "bool", "number", "list(map(string))"]

MAX_ARGUMENT_BYTES = 128 * 1024 - 1
"""Linux refuses to execute with a longer argument: MAX_ARG_STRLEN, 32 pages of 4 KiB with
the final NUL (execve(2))."""


@attrs.frozen
class Attr:
    """One key of a schema."""

    type: AttrType
    default: str | None = None
    """HCL literal that Nomad fills in; without one Nomad sends null for a key not given."""
    doc: str = attrs.field(default="", kw_only=True)
    """What it does, in a sentence of Markdown; see `milo.core.config.schema`."""
    unset: str = attrs.field(default="", kw_only=True)
    """What applies where the key is not given, when its value in the attrs class is empty."""
    example: str = attrs.field(default="", kw_only=True)
    """A value in JSON, which is HCL too."""


@attrs.frozen
class Block:
    """A key that holds keys of its own: ``name { … }``."""

    keys: Mapping[str, Attr]
    many: bool = False
    """Whether it may be given more than once, or as a list."""
    doc: str = attrs.field(default="", kw_only=True)
    """What it is for, in a sentence of Markdown."""


Schema = Mapping[str, Attr | Block]


class Reader:
    """Reads the values of one configuration, each checked to be of its type."""

    def __init__(self, config: Mapping[str, object], schema: Schema, within: str = "") -> None:
        for key in config:
            if key not in schema:
                shown = key[:40] if isinstance(key, str) else repr(key)[:40]
                raise ConfigError(
                    within + shown, "there is no such key", "one of " + ", ".join(schema)
                )
        self._config = config
        self._schema = schema
        self._within = within

    def text(self, key: str, expected: str) -> str | None:
        value = self._config.get(key)
        if value is None:
            return None
        return _check_text(self._within + key, value, expected, may_be_empty=False)

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._config.get(key)
        if value is None:
            return ()
        if not isinstance(value, list | tuple):
            raise _wrong_type(key, value, "a list of strings")
        return tuple(
            _check_text(f"{key}[{index}]", element, "a string", may_be_empty=True)
            for index, element in enumerate(value)
        )

    def flag(self, key: str) -> bool | None:
        value = self._config.get(key)
        if value is not None and not isinstance(value, bool):
            raise _wrong_type(self._within + key, value, "true or false")
        return value

    def whole_number(self, key: str, low: int, high: int) -> int | None:
        """Return a number without a fraction; HCL knows only one kind of number."""
        value = self._config.get(key)
        if value is None:
            return None
        expected = f"a whole number from {low} to {high}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong_type(key, value, expected)
        if value != value or not low <= value <= high or value != int(value):
            raise ConfigError(key, f"got {value}", expected)
        return int(value)

    def one_of(self, key: str, words: tuple[str, ...]) -> str | None:
        expected = " or ".join(f'"{word}"' for word in words)
        value = self.text(key, expected)
        if value is not None and value not in words:
            raise ConfigError(key, f"got {shown(value)}", expected)
        return value

    def pairs(self, key: str) -> dict[str, str]:
        """Return ``key { name = value … }``; Nomad packs such a block as a list of maps."""
        value = self._config.get(key)
        if value is None:
            return {}
        blocks = [value] if isinstance(value, Mapping) else value
        if not isinstance(blocks, list | tuple):
            raise _wrong_type(key, value, "a block of names and values")
        result: dict[str, str] = {}
        for block in blocks:
            if not isinstance(block, Mapping):
                raise _wrong_type(key, block, "a block of names and values")
            for name, item in block.items():
                if name in result:
                    raise ConfigError(f"{key}.{name}", "it is given twice", "each name once")
                result[str(name)] = _check_text(
                    f"{key}.{name}", item, "a string", may_be_empty=False
                )
        return result

    def blocks(self, key: str) -> tuple[Reader, ...]:
        """Return a reader for each block of that name."""
        value = self._config.get(key)
        if value is None:
            return ()
        blocks = [value] if isinstance(value, Mapping) else value
        item = self._schema[key]
        assert isinstance(item, Block)
        if not isinstance(blocks, list | tuple):
            raise _wrong_type(key, value, "a block")
        readers = []
        for index, block in enumerate(blocks):
            name = f"{key}[{index}]." if item.many else f"{key}."
            if not isinstance(block, Mapping):
                raise _wrong_type(name.rstrip("."), block, "a block")
            readers.append(Reader(block, item.keys, name))
        return tuple(readers)

    def seconds(self, key: str) -> float | None:
        expected = 'a duration of 0s or more, such as "30s" or "1m30s" ("0s" waits for ever)'
        value = self.text(key, expected)
        if value is None:
            return None
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            raise ConfigError(key, f"{shown(value)}: {error}", expected) from error
        if seconds < 0:
            raise ConfigError(key, f"{shown(value)} is negative", expected)
        return seconds

    def directory(self, key: str, expected: str) -> str | None:
        value = self.text(key, expected)
        return None if value is None else check_directory(self._within + key, value, expected)


def check_directory(key: str, value: str, expected: str) -> str:
    """Return an absolute path below ``/``, without doubled slashes; raises `ConfigError`."""
    if not value.startswith("/"):
        raise ConfigError(key, f"{shown(value)} is relative", expected)
    parts = [part for part in value.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ConfigError(key, f'{shown(value)} contains ".."', expected)
    if not parts:
        raise ConfigError(key, "it is the root directory", expected)
    return "/" + "/".join(parts)


def _check_text(key: str, value: object, expected: str, *, may_be_empty: bool) -> str:
    if not isinstance(value, str):
        raise _wrong_type(key, value, expected)
    if "\0" in value:
        raise ConfigError(key, "it contains a NUL character", expected)
    if not value and not may_be_empty:
        raise ConfigError(key, "it is empty", f"{expected}, or no {key} at all")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise ConfigError(key, "it is not valid Unicode", expected) from error
    if size > MAX_ARGUMENT_BYTES:
        raise ConfigError(
            key, f"it is {size} bytes long", f"at most {MAX_ARGUMENT_BYTES} bytes, Linux's limit"
        )
    return value


def _wrong_type(key: str, value: object, expected: str) -> ConfigError:
    names = {bool: "a bool", int: "a number", float: "a number", str: "a string"}
    kind = "null" if value is None else names.get(type(value), f"a {type(value).__name__}")
    return ConfigError(key, f"got {kind}", expected)


def shown(value: str | None) -> str:
    """Return a value for a message, bounded."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
