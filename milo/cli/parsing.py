"""How the command line is read: argparse, with words for people where something is wrong.

`milo_words` is for commands that pass words on, as ``milo run`` and ``milo exec`` do: what comes
after their last word of Milo's own is another program's, whatever it looks like.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

from milo.core.config.places import STATE_DIR
from milo.core.text import did_you_mean

_CHOICE: Final = re.compile(r"invalid choice: '([^']*)' \((?:choose from|maybe you meant)")
_NO_VALUE: Final = re.compile(r"argument (\S+): ignored explicit argument ('.*')")
WRONG: Final = 2
KEY: Final = "key_"
"""The names of what is read as a key of a job's config begin so."""
"""The exit status of a command line that is wrong."""
_STRANGE: Final = "unrecognized arguments: "


TASK_HELP: Final = (
    "the name of the task, its job, allocation or container, or the id of the task or its "
    "allocation; ids can be cut short"
)


def add_state_dir(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--state-dir``, which each command has that looks for tasks."""
    parser.add_argument(
        "--state-dir",
        default=STATE_DIR,
        metavar="DIR",
        help="state_dir of the plugin's configuration; default %(default)s",
    )


class HelpFormatter(argparse.HelpFormatter):
    """Wraps text, and leaves text that has lines as it is."""

    def add_argument(self, action: argparse.Action) -> None:
        """Take an argument; the names of commands are indented once more than is counted."""
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            self._action_max_length += self._indent_increment

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return "".join(indent + line for line in text.splitlines(keepends=True))
        return super()._fill_text(text, width, indent)

    def _format_usage(self, *words: Any) -> str:
        return _joined(super()._format_usage(*words))

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return _joined(super()._format_action_invocation(action))


def _joined(text: str) -> str:
    """Return help in which a value that may be left out is joined to its option, as it has to be.

    argparse has ``--debug [PORT]``, which looks like two words.
    """
    return re.sub(r"(?<=--)([a-z]+) \[([A-Z]+)\]", r"\1[=\2]", text)


class Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that names the word which somebody may have meant."""

    def __init__(self, *words: Any, **settings: Any) -> None:
        super().__init__(*words, **{"formatter_class": HelpFormatter, **settings})
        self.meant: Callable[[str, str], str] = lambda option, value: option
        """Takes a short option and what may be its value, and returns the option that is meant."""
        self.strange_hint = ""
        """What else may be meant by words that the command does not know."""
        self.others: Mapping[str, str] = {}
        """Of words that people know from elsewhere, a sentence of what to do instead."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; what a command does not know is told by that command, which knows its options.

        A value that is empty, as of a variable that is not set, is no value; but for the keys of a
        job, which have it so.
        """
        for word in args or ():
            name, equals, value = word.partition("=")
            action = self._option_string_actions.get(name)
            if action is not None and equals and not value and not action.dest.startswith(KEY):
                self.error(f"argument {name}: its value is empty")
        found, strange = super().parse_known_args(args, namespace)
        if strange:
            self.error(_STRANGE + " ".join(strange))
        return found, strange

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end with 2."""
        hint = ""
        if match := _NO_VALUE.search(message):
            message = f"argument {match[1]}: it takes no value, got {match[2]}"
        message = message.replace("expected one argument", "it needs a value")
        if match := _CHOICE.search(message):
            words = [str(word) for action in self._actions for word in action.choices or ()]
            if match[1] in self.others:
                hint = f". {self.others[match[1]]}"
            elif match[1].endswith(".jar") and "run" in words:
                hint = f". To run a JAR: milo run {shlex.quote(match[1])}"
            else:
                hint = did_you_mean(match[1].lower(), words)
        elif message.startswith(_STRANGE):
            word = message.removeprefix(_STRANGE).split()[0].partition("=")[0]
            if word in self.others:
                hint = f". {self.others[word]}"
            elif word.startswith("-"):
                hint = did_you_mean(word, option_strings(self))
            hint += self.strange_hint
        self.exit(
            WRONG, f"{self.prog}: error: {message}{hint}\nFor all options: {self.prog} --help\n"
        )


def as_typed(text: str, parser: argparse.ArgumentParser, words: Sequence[str]) -> str:
    """Return a message in which options are spelt as among ``words``: -m for --memory."""
    known = parser._option_string_actions
    for word in words:
        name = word.partition("=")[0] if word.startswith("--") else word[:2]
        for other in known[name].option_strings if name in known else ():
            if other != name and other not in words:
                text = re.sub(rf"(?<![\w-]){re.escape(other)}(?![\w-])", name, text)
    return text


def whole_number(text: str) -> int:
    """Return a number for argparse, which else says "invalid int value"."""
    return int(_number(text, r"-?[0-9]{1,18}", "a whole number"))


def decimal_number(text: str) -> float:
    """Return a number that may have a fraction, as `whole_number` does."""
    return float(_number(text, r"-?([0-9]{0,18}\.)?[0-9]{1,18}", "a number, such as 1.5"))


def _number(text: str, pattern: str, expected: str) -> str:
    if not re.fullmatch(pattern, text, re.ASCII):
        raise argparse.ArgumentTypeError(f"got {text[:40]!r}. Expected {expected}")
    return text


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
