"""Changes values inside of JSON and MessagePack: random bytes rarely are either."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec

INTERESTING: list[Any] = [
    *(None, True, False, 0, 1, -1, 64, 65, 2**31 - 1, 2**31, -(2**63), 2**63, 2**64 - 1),
    *(0.0, -0.5, 1e308, "", "x", "\0", "ü" * 100, "1h", "-1s", "../x", "/run/milo", [], {}),
    *([[]], {"": None}, ["a", 1], "x" * 5_000, "driver", "block", "drop", "-Xmx64m", b"\xff"),
]


def mutator(name: str) -> Callable[[bytes, int, int], bytes] | None:
    """Return a mutator for a target's format, None for one that is no structure."""
    if name.startswith("jar") or name == "perf_data":
        return None
    codec: Any = msgspec.msgpack if name.endswith("_config") else msgspec.json

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        import atheris

        generator = random.Random(seed)
        if generator.randrange(4):
            try:
                changed = codec.encode(_changed(codec.decode(data), generator))
                if len(changed) <= max_size:
                    return bytes(changed)
            except (msgspec.MsgspecError, ValueError, TypeError, RecursionError, OverflowError):
                pass
        return bytes(atheris.Mutate(data, max_size))

    return mutate


def _changed(value: Any, generator: random.Random) -> Any:
    """Return ``value`` with one thing in it changed."""
    if isinstance(value, dict) and value and generator.randrange(8):
        key = generator.choice(list(value))
        match generator.randrange(8):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return {**value, generator.choice(["", "version", "x" * 50, 1]): value[key]}
            case _:
                return {**value, key: _changed(value[key], generator)}
    if isinstance(value, list) and value and generator.randrange(8):
        at = generator.randrange(len(value))
        match generator.randrange(4):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return value + value
            case _:
                return [*value[:at], _changed(value[at], generator), *value[at + 1 :]]
    if isinstance(value, int) and generator.randrange(2):
        return value + generator.randint(-2, 2)
    if isinstance(value, str) and generator.randrange(2):
        at = generator.randint(0, len(value))
        return (
            value[:at]
            + generator.choice(["\0", " ", "/", "..", ":", "-", "9", "\u2028"])
            + value[at:]
        )
    return generator.choice(INTERESTING)
