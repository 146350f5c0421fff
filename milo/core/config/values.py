"""The kinds of values that a key of a configuration can have: HCL type, reader and range. Pure.

The tables `milo.core.config.task_options` and `milo.core.config.plugin_options` give each key its
`Value`. A reader gets the key's full name, such as ``mounts[0].source``, and names it in errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import attrs

from milo.core.config.durations import parse_duration
from milo.core.config.sizes import parse_size
from milo.errors import ConfigError

HclType = Literal[
    "string", "list(string)", "bool", "number", "list(map(string))", "block", "blocks"
]

MAX_ARGUMENT_BYTES: Final = 128 * 1024 - 1
"""Linux refuses to execute with a longer argument: MAX_ARG_STRLEN, 32 pages of 4 KiB with
the final NUL (execve(2))."""

CheckText = Callable[[str, str], Any]
"""Takes a key's full name and its text, and returns its value; raises `ConfigError`."""


@attrs.frozen
class Value:
    """What a key may hold."""

    hcl: HclType
    """``block`` is given at most once, ``blocks`` any number of times."""
    read: Callable[[str, Any], Any] | None = None
    """Takes the key's full name and what Nomad decoded: never null, and never the empty text
    for a ``string``, which both mean that the key is not set. Raises `ConfigError`. None for
    blocks, whose keys are read one by one."""
    range: str = ""
    """What is allowed, in Markdown."""
    choices: tuple[str, ...] = ()
    """The words that are allowed, where there are only some."""
    block: type | None = None
    """The attrs class with the keys of a block."""


def text(expected: str, check: CheckText | None = None) -> Value:
    """A text, with ``expected`` said to whom gives something else."""

    def read(key: str, value: Any) -> Any:
        found = _text(key, value, expected)
        return found if check is None else check(key, found)

    return Value("string", read)


def texts(check: CheckText | None = None, *, empty: bool = False, once: bool = False) -> Value:
    """A list of texts.

    An empty element is left out, since that is what a variable without a value gives, unless
    ``empty`` says that it means something. ``once``: what is repeated is left out.
    """

    def read(key: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise wrong_type(key, value, "a list of strings")
        found = []
        for index, element in enumerate(value):
            name = f"{key}[{index}]"
            item = _text(name, element, "a string")
            if item or empty:
                found.append(item if check is None else check(name, item))
        return tuple(dict.fromkeys(found)) if once else tuple(found)

    return Value("list(string)", read)


def flag() -> Value:
    """True or false."""

    def read(key: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise wrong_type(key, value, "true or false")
        return value

    return Value("bool", read)


def whole_number(low: int, high: int) -> Value:
    """A number without a fraction; HCL knows only one kind of number."""

    def read(key: str, value: Any) -> int:
        expected = f"a whole number from {low} to {high}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong_type(key, value, expected)
        if value != value or not low <= value <= high or value != int(value):
            raise ConfigError(key, f"got {value}", expected)
        return int(value)

    return Value("number", read, range=f"{low} to {high}")


def one_of(*words: str) -> Value:
    """One of some words."""
    expected = listed([f'"{word}"' for word in words])

    def read(key: str, value: Any) -> str:
        found = _text(key, value, expected)
        if found not in words:
            raise ConfigError(key, f"got {shown(found)}", expected)
        return found

    return Value("string", read, range=listed([f'`"{word}"`' for word in words]), choices=words)


def pairs(check: Callable[[str, dict[str, str]], Any] | None = None) -> Value:
    """A block of any names with texts: ``key { name = value … }``.

    A name whose value is empty is left out, as a key is. ``check`` takes the key's full name
    and the pairs, and returns the value.
    """

    def read(key: str, value: Any) -> Any:
        # Nomad packs such a block as a list of maps.
        blocks = [value] if isinstance(value, Mapping) else value
        if not isinstance(blocks, list | tuple):
            raise wrong_type(key, value, "a block of names and values")
        found: dict[str, str] = {}
        for block in blocks:
            if not isinstance(block, Mapping):
                raise wrong_type(key, block, "a block of names and values")
            for name, item in block.items():
                within = f"{key}.{shown_key(name)}"
                if name in found:
                    raise ConfigError(within, "it is given twice", "each name once")
                if element := _text(within, item, "a string"):
                    found[str(name)] = element
        return found if check is None else check(key, found)

    return Value("list(map(string))", read)


def duration(expected: str) -> Value:
    """Seconds, given as Go writes durations; 0 or more."""

    def read(key: str, value: Any) -> float:
        found = _text(key, value, expected)
        try:
            seconds = parse_duration(found)
        except ValueError as error:
            raise ConfigError(key, f"{shown(found)}: {error}", expected) from error
        if seconds < 0:
            raise ConfigError(key, f"{shown(found)} is negative", expected)
        return seconds

    return Value("string", read)


def size(expected: str) -> Value:
    """Bytes, above 0; a number without a unit is one of bytes."""

    def read(key: str, value: Any) -> int:
        found = _text(key, value, expected)
        try:
            count = parse_size(found, bare=True)
        except ValueError as error:
            raise ConfigError(key, f"{shown(found)}: {error}", expected) from error
        if count == 0:
            raise ConfigError(key, f"got {shown(found)}", expected)
        return count

    return Value("string", read)


def directory(expected: str) -> Value:
    """An absolute path that is not ``/``, without doubled slashes."""
    return text(expected, lambda key, value: check_directory(key, value, expected))


def block(kind: type) -> Value:
    """A block ``key { … }`` with the keys of the attrs class ``kind``, at most once."""
    return Value("block", block=kind)


def blocks(kind: type) -> Value:
    """The same, any number of times."""
    return Value("blocks", block=kind)


def check_directory(key: str, value: str, expected: str) -> str:
    """Return an absolute path below ``/``, without doubled slashes; raises `ConfigError`."""
    if not value.startswith("/"):
        raise ConfigError(key, f"{shown(value)} is relative", expected)
    parts = [part for part in value.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ConfigError(key, f'{shown(value)} contains ".."', expected)
    if not parts:
        raise ConfigError(key, f"{shown(value)} is the root directory", f"{expected}, below /")
    return "/" + "/".join(parts)


def listed(words: Sequence[str]) -> str:
    """Return words as ``one, two or three``."""
    return " or ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def shown(value: str | None) -> str:
    """Return a value for a message, bounded."""
    found = repr(value)
    return found if len(found) <= 60 else found[:57] + "..."


def shown_key(key: object) -> str:
    """Return the name of a key for a message, bounded, without control characters."""
    found = key if isinstance(key, str) and key.isprintable() else repr(key)
    return found[:60]


def _text(key: str, value: object, expected: str) -> str:
    if not isinstance(value, str):
        raise wrong_type(key, value, expected)
    if "\0" in value:
        raise ConfigError(key, "it contains a NUL character", expected)
    try:
        count = len(value.encode())
    except UnicodeEncodeError as error:
        raise ConfigError(key, "it is not valid Unicode", expected) from error
    if count > MAX_ARGUMENT_BYTES:
        raise ConfigError(
            key, f"it is {count} bytes long", f"at most {MAX_ARGUMENT_BYTES} bytes, Linux's limit"
        )
    return value


def wrong_type(key: str, value: object, expected: str) -> ConfigError:
    """Return the error for a value of another type than that of the key."""
    names = {bool: "a bool", int: "a number", float: "a number", str: "a string"}
    kind = "null" if value is None else names.get(type(value), f"a {type(value).__name__}")
    return ConfigError(key, f"got {kind}", expected)
