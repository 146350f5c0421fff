"""How the command line is read: argparse, with words for people where something is wrong.

`milo_words` is for commands that pass words on, as ``milo run`` and ``milo exec`` do: what comes
after their last word of Milo's own is another program's, whatever it looks like.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from milo.core.text import did_you_mean

_CHOICE: Final = re.compile(r"invalid choice: '([^']*)' \((?:choose from|maybe you meant)")
_STRANGE: Final = "unrecognized arguments: "


class HelpFormatter(argparse.HelpFormatter):
    """Wraps text, and leaves text that has lines as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return "".join(indent + line for line in text.splitlines(keepends=True))
        return super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that names the word which somebody may have meant."""

    def __init__(self, *words: Any, **settings: Any) -> None:
        super().__init__(*words, **{"formatter_class": HelpFormatter, **settings})
        self.meant: Callable[[str, str], str] = lambda option, value: option
        """Takes a short option and what may be its value, and returns the option that is meant."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; what a command does not know is told by that command, which knows its options."""
        found, strange = super().parse_known_args(args, namespace)
        if strange:
            self.error(_STRANGE + " ".join(strange))
        return found, strange

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end with 2."""
        hint = ""
        if match := _CHOICE.search(message):
            words = [str(word) for action in self._actions for word in action.choices or ()]
            hint = did_you_mean(match[1], words)
        elif message.startswith(_STRANGE):
            word = message.removeprefix(_STRANGE).split()[0].partition("=")[0]
            hint = did_you_mean(word, option_strings(self)) if word.startswith("-") else ""
        super().error(message + hint)


def examples(*lines: str) -> str:
    """Return what stands below a command's options."""
    return "\n".join(("examples:", *(f"  {line}" for line in lines)))


def option_strings(parser: argparse.ArgumentParser) -> list[str]:
    """Return all spellings of a parser's options."""
    return [word for action in parser._actions for word in action.option_strings]


def commands_of(parser: argparse.ArgumentParser) -> dict[str, Parser]:
    """Return the parsers of a parser's commands by their names."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def milo_words(parser: Parser, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words of a command's own, and those that it passes on.

    Its own are the options before its first other word, and that word. An option is joined with
    its value (``--env=A=b``), which may look like an option. A lone ``--`` after that word is
    left out; as in the first versions of Milo, options may stand before it as well.
    """
    options, place = _options(parser, words, 0)
    if words[place : place + 1] == ["--"]:
        place += 1
    own = ["--", *words[place : place + 1]]
    rest = list(words[place + 1 :])
    if "--" in rest:
        more, end = _options(parser, rest, 0)
        if rest[end : end + 1] == ["--"]:
            return [*options, *more, *own], rest[end + 1 :]
    return [*options, *own], rest


def _options(parser: Parser, words: Sequence[str], place: int) -> tuple[list[str], int]:
    """Return the options that begin at ``place``, joined with their values, and where they end."""
    found: list[str] = []
    while place < len(words):
        word = words[place]
        if word in ("-", "--") or not word.startswith("-"):
            break
        read = _long if word.startswith("--") else _short
        more, place = read(parser, words, place)
        found += more
    return found, place


def _long(parser: Parser, words: Sequence[str], place: int) -> tuple[list[str], int]:
    """Read ``--option``, ``--option=value`` or ``--option value``."""
    name, equals, _ = words[place].partition("=")
    known = parser._option_string_actions
    near = [known[word] for word in known if word.startswith(name)]
    action = known.get(name) or (near[0] if near else None)
    if action is not None and action.nargs == "?" and not equals:
        return [f"{name}={action.const}"], place + 1  # a value is joined to it, or there is none
    if action is None or equals or action.nargs == 0 or place + 1 == len(words):
        return [words[place]], place + 1
    return [f"{name}={words[place + 1]}"], place + 2


def _short(parser: Parser, words: Sequence[str], place: int) -> tuple[list[str], int]:
    """Read ``-i``, ``-it``, ``-e A=b`` or ``-eA=b``; the result has the long spellings."""
    found: list[str] = []
    letters, after = words[place][1:], words[place + 1 : place + 2]
    for index, letter in enumerate(letters, 1):
        rest = letters[index:].removeprefix("=")
        option = parser.meant(f"-{letter}", rest or "".join(after))
        action = parser._option_string_actions.get(option)
        if action is None:
            return [words[place]], place + 1  # argparse says what is wrong with it
        name = action.option_strings[-1]
        if action.nargs == 0:
            found.append(name)
            continue
        if rest:
            return [*found, f"{name}={rest}"], place + 1
        return [*found, f"{name}={after[0]}" if after else name], place + 2
    return found, place + 1
