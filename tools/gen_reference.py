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

import attrs

from milo.cli.parser import build_parser
from milo.core.config.options import parse_task_options
from milo.core.config.reader import Attr, Block, Schema
from milo.core.config.schema import PLUGIN_SCHEMA, TASK_SCHEMA
from milo.core.launch import JobMount, PluginOptions, TaskOptions
from milo.host.fingerprint import ATTRIBUTES

FIELDS = {
    "class": "main_class",
    "shm_size": "shm_size_bytes",
    "log_block_timeout": "log_block_timeout_s",
    "volumes.enabled": "volumes_enabled",
    "volumes.paths": "volume_paths",
}
"""Keys whose attribute in the attrs class has another name."""

OTHER: dict[str, Any] = {
    "log_overflow": "drop",
    "log_block_timeout_s": 1.0,
    "rootfs": "minimal",
    "default_pid_mode": "host",
    "default_ipc_mode": "host",
}
"""Values of the plugin's that are not the default, to see which keys of a job follow them."""

TYPES = {
    "string": "string",
    "list(string)": "list of strings",
    "bool": "bool",
    "number": "number",
    "list(map(string))": "block of names and strings",
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
"""
ATTRIBUTES_HEAD = """\
# Attributes of a node

What a client with a healthy driver tells, in `nomad node status -self -verbose`, and what a job's
`constraint` and `affinity` can name, with `attr.` before it. Milo looks again every 30 seconds:
a Java that is installed or removed needs no restart.
"""
ATTRIBUTES_TAIL = """
```hcl
constraint {
  attribute = "${attr.driver.milo.java.17}"
  operator  = "is_set"
}
```

Which Java a task then runs on is [`java_version`](task.md#java_version).
"""
COMMANDS_HEAD = """\
# Commands

`milo COMMAND --help` prints the same.
"""


def fields_of(kind: type) -> dict[str, object]:
    """Return the defaults of an attrs class, by attribute."""
    return attrs.asdict(kind(**({"source": "", "target": ""} if kind is JobMount else {})))


def followed() -> dict[str, str]:
    """Return which attribute of a job follows which of the plugin's, where the job is silent."""
    found = {}
    plain = attrs.asdict(parse_task_options({}, PluginOptions()))
    for name, value in OTHER.items():
        changed = parse_task_options({}, PluginOptions(**{name: value}))
        for field, new in attrs.asdict(changed).items():
            if new != plain[field]:
                found[field] = name.removesuffix("_s")
    return found


def default_words(key: str, attr: Attr, values: dict[str, object], plugin: dict[str, str]) -> str:
    """Return what applies where a key is not given."""
    field = FIELDS.get(key, key.rpartition(".")[2])
    value = values[field]
    if field in plugin:
        return f"the plugin's [`{plugin[field]}`](plugin.md#{plugin[field]})"
    if value in ("", (), {}) or (value == 0 and attr.type in ("number", "string")):
        assert attr.unset, f"{key} has no default, and no words for that"
        return attr.unset
    return f"`{literal(value)}`"


def literal(value: object) -> str:
    """Return a value as HCL has it."""
    if isinstance(value, float):
        return f'"{value:g}s"'
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def example(key: str, attr: Attr) -> list[str]:
    """Return the lines of an example in HCL."""
    value = json.loads(attr.example)
    if isinstance(value, dict):
        width = max(map(len, value))
        inner = [
            f'  "{name}"{" " * (width - len(name))} = "{item}"' for name, item in value.items()
        ]
        return [f"{key} {{", *inner, "}"]
    return [f"{key} = {attr.example}"]


def options(schema: Schema, kind: type, plugin: dict[str, str]) -> Iterator[str]:
    """Yield the lines of a page: a table of all keys, then each with its example."""
    values = fields_of(kind)
    rows, sections = [], []
    for key, item in schema.items():
        if isinstance(item, Attr):
            rows.append((key, TYPES[item.type]))
            words = default_words(key, item, values, plugin)
            sections += [f"## {key}", "", item.doc, ""]
            sections += [f"{TYPES[item.type].capitalize()}; default: {words}.", ""]
            sections += ["```hcl", *example(key, item), "```", ""]
            continue
        rows.append((key, "blocks" if item.many else "block"))
        inner = fields_of(JobMount) if kind is TaskOptions else values
        sections += [f"## {key}", "", item.doc, "", "| key | type | default | |"]
        sections += ["| --- | --- | --- | --- |"]
        for name, attr in block_attrs(item):
            words = default_words(f"{key}.{name}", attr, inner, plugin)
            sections.append(f"| `{name}` | {TYPES[attr.type]} | {words} | {attr.doc} |")
        width = max(len(name) for name in item.keys)
        lines = [f"  {name.ljust(width)} = {attr.example}" for name, attr in block_attrs(item)]
        sections += ["", "```hcl", f"{key} {{", *lines, "}", "```", ""]
    yield from ("| key | type |", "| --- | --- |")
    yield from (f"| [`{key}`](#{key}) | {kind} |" for key, kind in rows)
    yield ""
    yield from sections


def block_attrs(block: Block) -> list[tuple[str, Attr]]:
    """Return a block's keys."""
    return list(block.keys.items())


def attributes() -> Iterator[str]:
    """Yield the table of a node's attributes."""
    yield from ("| attribute | type | | example |", "| --- | --- | --- | --- |")
    for name, (kind, doc, shown) in ATTRIBUTES.items():
        yield f"| `{name}` | {kind} | {doc} | `{shown}` |"


def commands() -> Iterator[str]:
    """Yield a section for each command, from the parser's own words."""
    parser = build_parser()
    children = next(
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )
    helps = {action.dest: action.help or "" for action in children._choices_actions}
    yield from ("| command | |", "| --- | --- |")
    for name in children.choices:
        yield f"| [`milo {name}`](#milo-{name}) | {cell(helps.get(name, ''))} |"
    for name, child in children.choices.items():
        yield from ("", f"## milo {name}", "")
        yield cell(child.description or f"{helps[name][:1].upper()}{helps[name][1:]}.")
        yield from ("", "```", usage(name, child), "```")
        if rows := [row for action in child._actions if (row := describe(action))]:
            yield from ("", "| | |", "| --- | --- |", *rows)
        if child.epilog:
            yield from ("", cell(child.epilog))


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
        value = f" {action.metavar or choices or action.dest.upper()}"
    shown = ", ".join(f"{option}{value}" for option in action.option_strings)
    return f"| `{shown}` | {cell(text)} |"


def cell(text: str) -> str:
    """Return a text for a table, in one line."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def pages() -> dict[str, str]:
    """Return each page's text, by its file name."""
    parts = {
        "task.md": (TASK_HEAD, options(TASK_SCHEMA, TaskOptions, followed()), ""),
        "plugin.md": (PLUGIN_HEAD, options(PLUGIN_SCHEMA, PluginOptions, {}), ""),
        "attributes.md": (ATTRIBUTES_HEAD, attributes(), ATTRIBUTES_TAIL),
        "commands.md": (COMMANDS_HEAD, commands(), ""),
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
