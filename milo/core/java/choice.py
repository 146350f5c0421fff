"""Chooses which of the host's Java runtimes a task uses, by the job's ``java_version``. Pure."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import attrs

from milo.core.java.versions import parse_version, runtime_name
from milo.errors import ConfigError, JavaError

if TYPE_CHECKING:
    from milo.core.launch import JavaRuntime

KEY: Final = "java_version"
EXPECTED: Final = 'a version such as "17", ">= 17", ">= 17, < 22" or "21 || 25"'

_TERM = re.compile(r"\s*(?P<sign>>=|<=|>|<|=|)\s*(?P<number>[0-9][0-9A-Za-z._+-]*)\s*")
_SIGNS: Final[dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
MAX_CHARS: Final = 200


@attrs.frozen
class Requirement:
    """What a job asks of its Java: alternatives, each with terms that must all hold."""

    text: str
    alternatives: tuple[tuple[tuple[str, tuple[int, ...]], ...], ...]

    def allows(self, java: JavaRuntime) -> bool:
        """Whether ``java`` is what is asked for.

        Compared are as many numbers as the job gives: 17.0.15 satisfies ``17``, ``<= 17`` and
        ``>= 17.0``, and not ``> 17``.
        """
        return any(
            all(_holds(sign, wanted, parse_version(java.version).numbers) for sign, wanted in terms)
            for terms in self.alternatives
        )


def parse_requirement(text: str) -> Requirement:
    """Return what ``text``, the job's ``java_version``, asks for; raises `ConfigError`.

    Alternatives are separated by ``||``; the terms of each by commas or blanks.
    """
    if len(text) > MAX_CHARS:
        raise ConfigError(KEY, f"it is {len(text)} characters long", EXPECTED)
    alternatives = []
    for part in text.split("||"):
        terms = []
        rest = part.strip()
        while rest:
            match = _TERM.match(rest)
            if match is None:
                raise ConfigError(KEY, f"got {text!r}", EXPECTED)
            try:
                terms.append((match["sign"], parse_version(match["number"]).numbers))
            except ValueError as exc:
                raise ConfigError(KEY, f"{text!r}: {exc}", EXPECTED) from exc
            rest = rest[match.end() :].removeprefix(",")
        if not terms:
            raise ConfigError(KEY, f"got {text!r}", EXPECTED)
        alternatives.append(tuple(terms))
    return Requirement(text.strip(), tuple(alternatives))


def check_requirement(key: str, text: str) -> str:
    """Return the value of the key ``java_version``; raises `ConfigError`."""
    parse_requirement(text)
    return text


def candidates(
    javas: Sequence[JavaRuntime], requirement: Requirement | None
) -> tuple[JavaRuntime, ...]:
    """Return the Javas that a task may run on, in the order in which they are tried.

    ``javas`` has the default first; it is preferred when it is allowed. Then the oldest first:
    an application is most at home on the release that it was made for.

    Raises:
        JavaError: none satisfies ``requirement``; with those that there are.
    """
    allowed = [java for java in javas if requirement is None or requirement.allows(java)]
    if not allowed:
        assert requirement is not None
        there = ", ".join(runtime_name(java) for java in javas[:10])
        raise JavaError(
            f'java_version = "{requirement.text}": this host has no such Java, but {there}. '
            "Change java_version, constrain the job to clients that have it (attribute "
            "driver.milo.java.versions), or install it on the host."
        )
    default = [java for java in allowed if java == javas[0]]
    others = [java for java in allowed if java != javas[0]]
    others.sort(key=lambda java: parse_version(java.version).numbers)
    return (*default, *others)


def reason(java: JavaRuntime, javas: Sequence[JavaRuntime], requirement: Requirement | None) -> str:
    """Return why ``java`` was chosen, for the start event."""
    asked = "" if requirement is None else f' for java_version = "{requirement.text}"'
    if java == javas[0]:
        return f"the default{asked}"
    if requirement is None:
        return f"because the default, {runtime_name(javas[0])}, is too old for the application"
    return f"chosen{asked}"


def _holds(sign: str, wanted: tuple[int, ...], found: tuple[int, ...]) -> bool:
    # A version that is shorter than what is asked for ends in zeros: 21 is 21.0.0.
    compared = (found + (0,) * len(wanted))[: len(wanted)]
    return compared == wanted if sign in ("", "=") else _SIGNS[sign](compared, wanted)
