"""Writes docs/reference/: every option, attribute and command, from the code itself.

Usage: gen_reference.py [DIRECTORY]; the default is docs/reference. A unit test holds the
committed pages to what this writes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from milo.cli.parser import EXIT_STATUS, build_parser
from milo.core.config.options import Option, options_of
from milo.core.config.plugin_options import PluginOptions
from milo.core.config.task_options import TaskOptions
from milo.core.container import crun_holes
from milo.host.fingerprint import ATTRIBUTES

TYPES = {
    "string": "string",
    "list(string)": "list of strings",
    "bool": "bool",
    "number": "number",
    "list(map(string))": "block of names and strings",
    "block": "block",
    "blocks": "blocks",
}

WRITTEN = "<!-- Written by tools/gen_reference.py: change the code, not this page. -->\n"

TASK_HEAD = """\
# Keys of a job's config

The `config` block of a task with `driver = "milo"`. All keys are optional, but Nomad refuses a
block without any ([hashicorp/nomad#9497](https://github.com/hashicorp/nomad/issues/9497)):
`args = []` is enough. Keys that Nomad's `java` driver has mean the same.
"""
PLUGIN_HEAD = """\
# Keys of the plugin's config

The agent's configuration, on each client. All keys are optional; the block itself is not, since
Nomad 2.0 skips a plugin that its configuration does not name.

```hcl
plugin "milo" {
  config {
  }
}
```

One invalid key or value stops the whole agent, with all its other drivers. Check the configuration
before you restart the agent:

```sh
sudo milo doctor --config /etc/nomad.d
```
"""
CRUN_HEAD = f"""\
# Versions of crun

Milo runs with crun {crun_holes.OLDEST} and later; with an older one, or one that was built
without seccomp or capabilities, the driver is unhealthy and says so. The node's attribute is
`driver.milo.crun.version`. What is known to be wrong with versions is below: the driver warns of
it in the agent's log, and so does `milo doctor`. A distribution may have mended a fault without
another version number. [Compatibility](../compatibility.md#crun) says which versions the tests were
run with.
"""
ATTRIBUTES_HEAD = """\
# Attributes of a node

What a client with a healthy driver tells, in `nomad node status -self -verbose`, and what a job's
`constraint` and `affinity` can name, with `attr.` before it. Milo looks again every 30 seconds:
a Java that is installed or removed needs no restart.

`driver.milo` is `1`, not `true`: Nomad writes that for every driver, and a constraint has to
compare with `1`. It stays `1` while the driver is unhealthy, for example without crun or Java, and
the other attributes keep their values. A job needs no constraint on it, because Nomad places a task
only on clients where its driver is healthy.
"""
ATTRIBUTES_TAIL = """
```hcl
constraint {
  attribute = "${attr.driver.milo.java.17}"
  operator  = "is_set"
}

constraint {
  attribute = "${attr.driver.milo.version}"
  operator  = "semver"
  value     = ">= 0.1.0"
}
```

Which Java a task then runs on is [`java_version`](task.md#java_version).
"""
COMMANDS_HEAD = """\
# Commands

`milo COMMAND --help` prints the same.
"""
COMMANDS_TAIL = f"""
## Exit status

```text
{EXIT_STATUS.partition(chr(10))[2]}```
"""


def default_words(option: Option) -> str:
    """Return what applies where a key is not given."""
    if option.inherits:
        name = plugin_key(option.inherits)
        return f"the plugin's [`{name}`](plugin.md#{name})"
    if option.required or option.default in ("", (), {}) or option.unset:
        assert option.unset, f"{option.key} has no default, and no words for that"
        return option.unset
    return f"`{literal(option.default)}`"


def plugin_key(field: str) -> str:
    """Return the key that fills a field of the plugin's options."""
    [name] = [one.key for one in options_of(PluginOptions).values() if one.field == field]
    return name


def literal(value: object) -> str:
    """Return a value as HCL has it."""
    if isinstance(value, float):
        return f'"{value:g}s"'
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def example(option: Option) -> list[str]:
    """Return the lines of an example in HCL."""
    value = json.loads(option.example)
    if isinstance(value, dict):
        width = max(map(len, value))
        inner = [
            f'  "{name}"{" " * (width - len(name))} = "{item}"' for name, item in value.items()
        ]
        return [f"{option.key} {{", *inner, "}"]
    return [f"{option.key} = {option.example}"]


def type_words(option: Option) -> str:
    """Return the type of a key, and what of it is allowed."""
    kind = TYPES[option.value.hcl]
    return f"{kind}, {option.value.range}" if option.value.range else kind


def options(kind: type) -> Iterator[str]:
    """Yield the lines of a page: a table of all keys, then each with its example."""
    rows, sections = [], []
    for key, option in options_of(kind).items():
        rows.append((key, TYPES[option.value.hcl]))
        sections += [f"## {key}", "", option.doc, ""]
        if option.value.block is None:
            words = type_words(option)
            sections += [f"{words[0].upper()}{words[1:]}; default: {default_words(option)}.", ""]
            sections += ["```hcl", *example(option), "```", ""]
            continue
        inner = options_of(option.value.block)
        sections += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
        sections += [
            f"| `{name}` | {type_words(one)} | {default_words(one)} | {one.doc} |"
            for name, one in inner.items()
        ]
        width = max(map(len, inner))
        lines = [f"  {name.ljust(width)} = {one.example}" for name, one in inner.items()]
        sections += ["", "```hcl", f"{key} {{", *lines, "}", "```", ""]
    yield from ("| key | type |", "| --- | --- |")
    yield from (f"| [`{key}`](#{key}) | {kind_words} |" for key, kind_words in rows)
    yield ""
    yield from sections


def attributes() -> Iterator[str]:
    """Yield the table of a node's attributes."""
    yield from ("| attribute | type | meaning | example |", "| --- | --- | --- | --- |")
    for name, (kind, doc, shown) in ATTRIBUTES.items():
        yield f"| `{name}` | {kind} | {doc} | `{shown}` |"


def crun_versions() -> Iterator[str]:
    """Yield the table of what is known to be wrong with versions of crun."""
    yield "| crun | what is wrong | what Milo does |"
    yield "| --- | --- | --- |"
    for hole in crun_holes.HOLES:
        versions = f"before {hole.fixed}"
        if hole.since:
            versions = f"{hole.since}, until {hole.fixed}"
        if hole.userns:
            versions += ", with `userns = true`"
        held = f"It {hole.held}" if hole.held else "Nothing: take a later crun"
        yield f"| {versions} | {cell(hole.opens)} | {cell(held)} |"


def commands() -> Iterator[str]:
    """Yield a section for each command, from the parser's own words."""
    parser = build_parser()
    children = next(
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )
    helps = {action.dest: action.help or "" for action in children._choices_actions}
    yield from ("| command | what it does |", "| --- | --- |")
    for name in children.choices:
        yield f"| [`milo {name}`](#milo-{name}) | {cell(helps.get(name, ''))} |"
    for name, child in children.choices.items():
        yield from ("", f"## milo {name}", "")
        yield cell(child.description or f"{helps[name][:1].upper()}{helps[name][1:]}.")
        yield from ("", "```text", usage(name, child), "```")
        if rows := [row for action in child._actions if (row := describe(action))]:
            yield from ("", "| option or argument | meaning |", "| --- | --- |", *rows)
        if child.epilog:
            _, *lines = child.epilog.splitlines()  # of `milo.cli.parsing.examples`
            yield from ("", "```sh", *(line.strip() for line in lines), "```")


def usage(name: str, parser: argparse.ArgumentParser) -> str:
    """Return one line; argparse's own wraps differently with each release of Python."""
    words = ["milo", name, "[OPTION ...]"]
    for action in parser._actions:
        if action.option_strings or action.help == argparse.SUPPRESS:
            continue
        shown = str(action.metavar or action.dest)
        if action.nargs in ("?", "*"):
            shown = f"[{shown}{' ...' if action.nargs == '*' else ''}]"
        words.append(shown)
    return " ".join(words)


def describe(action: argparse.Action) -> str:
    """Return the row of an argument or option; nothing for --help."""
    if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:
        return ""
    text: Any = (action.help or "") % {**vars(action), "prog": "milo"}
    if not action.option_strings:
        return f"| `{action.metavar or action.dest}` | {cell(text)} |"
    value = ""
    if action.nargs != 0:
        choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else ""
        value = f"{action.metavar or choices or action.dest.upper()}"
        value = f"[={value}]" if action.nargs == "?" else f" {value}"
    shown = ", ".join(f"`{option}{value}`" for option in action.option_strings)
    return f"| {shown} | {cell(text)} |"


def cell(text: str) -> str:
    """Return a text for a table, in one line."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def pages() -> dict[str, str]:
    """Return each page's text, by its file name."""
    parts = {
        "task.md": (TASK_HEAD, options(TaskOptions), ""),
        "plugin.md": (PLUGIN_HEAD, options(PluginOptions), ""),
        "attributes.md": (ATTRIBUTES_HEAD, attributes(), ATTRIBUTES_TAIL),
        "crun.md": (CRUN_HEAD, crun_versions(), ""),
        "commands.md": (COMMANDS_HEAD, commands(), COMMANDS_TAIL),
    }
    return {
        name: WRITTEN + "\n" + head + "\n" + "\n".join(lines).rstrip() + "\n" + tail
        for name, (head, lines, tail) in parts.items()
    }


def main() -> None:
    """Write the pages."""
    root = Path(__file__).parents[1]
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else root / "docs" / "reference"
    target.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (target / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
