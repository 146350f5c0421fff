"""How much execve(2) passes on to a program, counted as the kernel counts it. Pure.

fs/exec.c of Linux: a string may have 32 pages with its final NUL (MAX_ARG_STRLEN); all strings,
and a pointer to each, a quarter of the stack's soft limit, but no more than 6 MiB and no less than
128 KiB (``bprm_stack_limits``; without the 6 MiB before 4.13).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from milo.core.text import shortened
from milo.errors import ConfigError

PAGE_BYTES: Final = 4096
MAX_STRING_BYTES: Final = 32 * PAGE_BYTES - 1
"""Of one argument, or of one variable with its name and the equals sign."""
MAX_TOTAL_BYTES: Final = 6 << 20
MIN_TOTAL_BYTES: Final = 128 << 10
STACK_SHARE: Final = 4
POINTER_BYTES: Final = 8

_EXPECTED: Final = "a file that the application reads, such as a template's, for what is longer"

Named = tuple[str, str]
"""What a job calls a string, and the string."""


def total_bytes(stack_bytes: int) -> int:
    """Return how much can be passed on; ``stack_bytes`` is the soft RLIMIT_STACK."""
    return max(min(MAX_TOTAL_BYTES, stack_bytes // STACK_SHARE), MIN_TOTAL_BYTES)


def variable(item: str) -> Named:
    """Return a variable, which is ``NAME=value``."""
    return f"the variable {shortened(item.partition('=')[0])}", item


def check(program: str, strings: Sequence[Named], stack_bytes: int) -> None:
    """Refuse what the kernel would not pass on to ``program``, a path.

    Raises:
        ConfigError: one string, or all of them together, are too long; with name and size.
    """
    sizes = [(_size(text), name) for name, text in strings]
    check_each(sizes)
    most = total_bytes(stack_bytes)
    total = sum(size + 1 + POINTER_BYTES for size, _ in sizes) + _size(program) + 1
    if total > most:
        raise _too_much(total, most, sizes)


def check_each(sizes: Iterable[tuple[int, str]]) -> None:
    """Refuse a string, given by its size and its name, that is too long. Raises `ConfigError`."""
    for size, name in sizes:
        if size > MAX_STRING_BYTES:
            raise ConfigError(
                name,
                f"it has {size} bytes, and the kernel passes on at most {MAX_STRING_BYTES} in one",
                _EXPECTED,
            )


def check_request(config: Mapping[str, Any], env: Mapping[str, str]) -> None:
    """Refuse a request that no kernel passes on, whatever its keys mean.

    So that nothing has to hold, write and read what may be hundreds of MiB. Raises `ConfigError`.
    """
    strings = [*_strings("", config), *(variable(f"{name}={value}") for name, value in env.items())]
    sizes = [(_size(text), name) for name, text in strings]
    check_each(sizes)
    if (total := sum(size for size, _ in sizes)) > MAX_TOTAL_BYTES:
        raise _too_much(total, MAX_TOTAL_BYTES, sizes)


def _strings(key: str, value: object) -> Iterator[Named]:
    match value:
        case str():
            yield key, value
        case Mapping():
            for name, item in value.items():
                yield from _strings(f"{key}.{shortened(str(name))}" if key else str(name), item)
        case list() | tuple():
            for number, item in enumerate(value):
                yield from _strings(f"{key}[{number}]", item)


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


def _too_much(total: int, most: int, sizes: Iterable[tuple[int, str]]) -> ConfigError:
    largest, name = max(sizes)
    return ConfigError(
        "args and env",
        f"they have {total} bytes in all, and the kernel passes on at most {most} here. "
        f"The largest is {name} with {largest}",
        _EXPECTED,
    )
