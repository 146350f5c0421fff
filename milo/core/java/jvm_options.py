"""Which JVM options a job may give: rules of the ``java`` launcher, not of the JVM.

The launcher takes the first word that is not an option for the main class, and some options take
the word after them. This is what the launchers of JDK 17 and 25 do, by their usage text, by the
strings in libjli.so, and by trying both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from milo.core.config.values import shown
from milo.errors import ConfigError

_KEY = "jvm_options"
WITH_VALUE = frozenset(
    (
        "--add-exports",
        "--add-modules",
        "--add-opens",
        "--add-reads",
        "--enable-native-access",
        "--limit-modules",
        "--module-path",
        "--patch-module",
        "--upgrade-module-path",
        "-p",
    )
)
"""Options whose value may be the next word."""
_CLASS_PATH = frozenset(("-classpath", "-cp", "--class-path"))
_APPLICATION = frozenset(("-jar", "-m", "--module", "--source", "-d", "--describe-module"))
"""Options that say what the launcher does, where the job's other keys do."""
_FREE_TEXT = re.compile(
    r"-D\S*?=|-XX:(?:OnError|OnOutOfMemoryError|CompileCommand)="
    r"|-(?:javaagent|agentlib|agentpath):\S*?=|-Xrun\w+:"
)
"""What follows is a property's value, a command or an agent's own words: anything at all."""
_NEXT_OPTION = re.compile(
    r"(?<=\S)\s+(?=-X|-D[\w.]|--[a-z]|-(?:javaagent|agentlib|agentpath):|@/"
    r"|-(?:ea|da|esa|dsa|cp|p|m|jar|classpath|verbose|server|client|showversion"
    r"|(?:en|dis)able(?:system)?assertions)(?:[\s:]|$))"
)
"""Between two words of which the second cannot but be meant as an option of its own."""
_CLASS_NAME = re.compile(r"[^\s/\\:;.\[\]-][^\s/\\:;.\[\]]*(?:\.[^\s/\\:;.\[\]]+)*")
_CLASS_EXPECTED = "the full name of a class, such as com.example.Main"


def check_jvm_options(options: Sequence[str], *, class_path_free: bool = False) -> None:
    """Raise `ConfigError` when the launcher would take an option for something else.

    With ``class_path_free`` an option may set the class path, since no key of the job's does.
    """
    takes_value = ""
    for index, option in enumerate(options):
        key = f"{_KEY}[{index}]"
        _check_single(key, option)
        if takes_value:
            takes_value = ""
            continue
        name = option.partition("=")[0]
        first, _, rest = option.partition(" ")
        if rest and first in WITH_VALUE | _CLASS_PATH | _APPLICATION:
            raise ConfigError(
                key,
                f"{shown(option)} is two words, and java takes it for one",
                f"two elements: {_elements([first, rest.strip()])}",
            )
        if class_path_free and option in _CLASS_PATH:
            takes_value = option
            continue
        if name in _CLASS_PATH and not class_path_free:
            raise ConfigError(key, f"{name} sets the class path", "the key class_path for that")
        if option in _APPLICATION or name in ("--module", "--source", "--describe-module"):
            raise ConfigError(
                key, f"{name} chooses what is run", "the keys jar_path and class for that"
            )
        if option[:1] not in ("-", "@") or option in ("-", "@"):
            raise ConfigError(
                key,
                f"{option[:60]!r} is no option, so that java would take it for the main class",
                'words that begin with "-" (or "@", for a file of options), one for each '
                "element of the list; arguments of the application belong into args",
            )
        takes_value = option if option in WITH_VALUE else ""
    if takes_value:
        raise ConfigError(
            f"{_KEY}[{len(options) - 1}]",
            f"{takes_value} stands last, and needs a value",
            f"its value as the next element, or {takes_value}=… as one",
        )


def _check_single(key: str, option: str) -> None:
    """Refuse an element that is two options: the JVM would take all of it for one."""
    if _FREE_TEXT.match(option):
        return
    parts = _NEXT_OPTION.split(option)
    if len(parts) > 1:
        raise ConfigError(
            key,
            f"{shown(option)} is more than one option, and java takes it for one",
            f"an element for each: {_elements(parts)}",
        )


def _elements(parts: Sequence[str]) -> str:
    """Return words as the elements of a list in HCL, not too many."""
    found = ", ".join(f'"{part.strip()}"' for part in parts)
    return found if len(found) <= 200 else found[:197] + "..."


def check_class_name(key: str, name: str) -> str:
    """Return ``name``; raises `ConfigError` when it cannot name a class."""
    if name.endswith((".class", ".java")):
        raise ConfigError(key, f"{name[:60]!r} names a file", _CLASS_EXPECTED)
    if _CLASS_NAME.fullmatch(name) is None:
        raise ConfigError(key, f"{name[:60]!r} is no name of a class", _CLASS_EXPECTED)
    return name
