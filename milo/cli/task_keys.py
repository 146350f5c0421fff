"""Arguments of ``milo run`` for the keys of a job's config, made from their table."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

from milo.cli.arguments import WrongValueError
from milo.cli.parsing import KEY, whole_number
from milo.core.config.options import Option, options_of
from milo.core.config.spelling import ALSO, SPELT_OTHERWISE, option_of, words_in_options
from milo.core.config.task_options import TaskOptions


def add_task_keys(parser: argparse.ArgumentParser, kind: type = TaskOptions) -> None:
    """Add an argument for each key of ``kind`` that has none yet."""
    group = parser.add_argument_group(
        "further options",
        "A job has these as keys of its config, and the agent's operator may "
        "forbid some; here all are permitted.",
    )
    for key, option in options_of(kind).items():
        if key not in SPELT_OTHERWISE:
            words: dict[str, Any] = {"dest": KEY + key, "help": _plain(option)}
            if option.value.hcl == "bool" and option.default:
                words |= {"action": argparse.BooleanOptionalAction, "default": None}
            elif option.value.hcl == "bool":
                words |= {"action": "store_true", "default": None}
            elif option.value.hcl == "number":
                words |= {"type": whole_number, "metavar": "N"}
            elif option.value.choices:
                words |= {"choices": option.value.choices}
            elif option.value.hcl == "string":
                words |= {"metavar": key.rpartition("_")[2].upper()}
            else:
                pairs = option.value.hcl == "list(map(string))"
                words |= {"action": "append", "metavar": "NAME=VALUE" if pairs else "WORD"}
            group.add_argument(*ALSO.get(key, ()), option_of(key), **words)


def read_task_keys(options: argparse.Namespace, kind: type = TaskOptions) -> dict[str, Any]:
    """Return the ``config`` block of the keys that were given; raises `ConfigError`."""
    config = {}
    for key, option in options_of(kind).items():
        value = getattr(options, KEY + key, None)
        if value is not None:
            pairs = option.value.hcl == "list(map(string))"
            config[key] = _pairs(option_of(key), value) if pairs else value
    return config


def _pairs(argument: str, words: Sequence[str]) -> dict[str, str]:
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise WrongValueError(argument, f"got {word[:60]!r}", "NAME=VALUE")
        found[name] = value
    return found


def _plain(option: Option) -> str:
    """Return what a key does without Markdown, as argparse takes it, and in options' words."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", option.doc).replace("`", "")
    return words_in_options(text).rstrip(".").replace("%", "%%")
