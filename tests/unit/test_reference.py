"""docs/reference/ is what the schemas, the attrs classes and the parser say."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest

from milo.cli.task_keys import add_task_keys, read_task_keys
from milo.core.config.options import Option, option, options_of, read_block
from milo.core.config.plugin_options import PluginOptions, Volumes, parse_plugin_options
from milo.core.config.task_options import TaskOptions
from milo.core.config.values import whole_number
from milo.errors import ConfigError
from milo.host.fingerprint import ATTRIBUTES, Fingerprinter
from milo.plugin.schema import spec_of
from tests.support.configs import accepted
from tools import gen_reference

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs/reference"
KINDS: dict[str, type] = {"task": TaskOptions, "plugin": PluginOptions}
PERMISSIVE = PluginOptions(
    allow_caps=("all",),
    allow_caps_with_host_namespaces=("all",),
    allow_host_namespaces=True,
    allow_host_ipc=True,
    volumes=Volumes(enabled=True, paths=("/srv",)),
    allow_seccomp_profiles=("/etc/milo/strict.json",),
)


def all_options(kind: type, within: str = "") -> dict[str, Option]:
    """Return every key by its dotted name, those in blocks too."""
    found = {}
    for key, one in options_of(kind).items():
        found[within + key] = one
        if one.value.block is not None:
            found |= all_options(one.value.block, f"{key}.")
    return found


def examples(kind: type) -> dict[str, Any]:
    """Return a configuration of all the examples."""
    return {
        key: json.loads(option.example)
        if option.value.block is None
        else examples(option.value.block)
        for key, option in options_of(kind).items()
    }


def test_committed_pages_are_fresh(tmp_path: Path) -> None:
    """Generating again gives the pages that are committed; else run tools/gen_reference.py."""
    generator = str(ROOT / "tools/gen_reference.py")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, generator, str(tmp_path)], check=True, env=env)
    fresh = {path.name: path.read_text() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_text() for path in REFERENCE.iterdir()}
    assert sorted(fresh) == sorted(committed)
    stale = [name for name in fresh if fresh[name] != committed[name]]
    assert stale == [], "run .venv/bin/python tools/gen_reference.py"


@pytest.mark.parametrize("name", KINDS)
def test_every_key_is_described(name: str) -> None:
    """No key comes without a sentence, and each ends in a full stop."""
    for key, one in all_options(KINDS[name]).items():
        assert one.doc.endswith("."), key


@attrs.frozen
class Wider(TaskOptions):
    """A job's keys, and one more: nothing else is said of that anywhere."""

    speed_percent: int = attrs.field(
        default=40,
        metadata=option(whole_number(10, 90), key="speed", doc="How fast `it` goes.", example="75"),
    )


def test_a_new_option_is_added_in_one_place() -> None:
    """A field of the table is in Nomad's schema, is read and checked, and is in the reference.

    ``milo run`` takes it too, and so the manual page and the shells' completion have it.
    """
    attribute = spec_of(Wider).object.attributes["speed"].attr
    assert (attribute.name, attribute.type) == ("speed", "number")
    assert read_block(Wider, {"speed": 50}, plugin=PluginOptions()).speed_percent == 50
    assert read_block(Wider, {}, plugin=PluginOptions()).speed_percent == 40
    with pytest.raises(ConfigError, match="a whole number from 10 to 90"):
        read_block(Wider, {"speed": 91}, plugin=PluginOptions())
    page = "\n".join(gen_reference.options(Wider))
    assert "| [`speed`](#speed) | number |" in page
    section = page.partition("## speed\n")[2]
    assert "How fast `it` goes.\n\nNumber, 10 to 90; default: `40`." in section
    assert "speed = 75" in section
    parser = argparse.ArgumentParser()
    add_task_keys(parser, Wider)
    assert "--speed N" in parser.format_help()
    assert read_task_keys(parser.parse_args(["--speed", "75"]), Wider) == {"speed": 75}


@pytest.mark.parametrize("name", KINDS)
def test_values_have_the_types_of_their_fields(name: str) -> None:
    """What the examples are read as is what the attrs class says, and so are the defaults."""
    kind: type[Any] = KINDS[name]
    config = examples(kind)
    for options in (read_block(kind, config), read_block(kind, {}, plugin=PluginOptions())):
        assert msgspec.json.decode(msgspec.json.encode(options), type=kind) == options


def test_what_is_inherited_has_the_plugins_default() -> None:
    """Without a job's word and without the plugin's, both classes say the same."""
    for one in options_of(TaskOptions).values():
        if one.inherits:
            assert one.default == getattr(PluginOptions(), one.inherits), one.key


def test_examples_of_a_job_are_valid() -> None:
    """All examples together are a configuration that a job may have, but for what excludes another.

    These are the ban on a timeout beside ``drop``, and the keys of the host's namespaces.
    """
    config = examples(TaskOptions)
    for key in ("log_block_timeout", "ipc_mode"):
        alone = {key: config.pop(key)}
        accepted(alone, PERMISSIVE)
    accepted(config, PERMISSIVE)


def test_examples_of_the_plugin_are_valid() -> None:
    """The same for the agent's configuration."""
    parse_plugin_options(examples(PluginOptions))


async def test_attributes_are_those_that_are_told(tmp_path: Path) -> None:
    """Each attribute of a healthy driver is in the table, with its type, and no other."""
    crun = tmp_path / "crun"
    crun.write_text("#!/bin/sh\necho crun version 1.14\n")
    home = tmp_path / "jdk-17"
    (home / "bin").mkdir(parents=True)
    (home / "lib").mkdir()
    (home / "lib/modules").touch()
    (home / "release").write_text('JAVA_VERSION="17.0.15"\n')
    java = home / "bin/java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"17.0.15\" 2025-04-15' >&2\n")
    crun.chmod(0o755)
    java.chmod(0o755)
    fingerprinter = Fingerprinter({})
    fingerprinter.configure(PluginOptions(crun_path=str(crun), java_home=str(home)))
    told = (await fingerprinter.fingerprint()).attributes
    majors = [name for name in told if name.rpartition(".")[2].isdigit()]
    assert majors
    kinds = {name: type(value).__name__ for name, value in told.items() if name not in majors}
    kinds["driver.milo.java.MAJOR"] = "str"
    assert kinds == {
        name: {"string": "str"}.get(kind, kind) for name, (kind, *_) in ATTRIBUTES.items()
    }


def test_examples_of_commands_are_lines_of_a_block() -> None:
    """Each can be copied by itself."""
    lines = list(gen_reference.commands())
    at = lines.index("milo gc --yes NAME")
    assert lines[at - 3 : at] == ["```sh", "milo gc", "milo gc --yes"] and lines[at + 1] == "```"
