"""docs/reference/ is what the schemas, the attrs classes and the parser say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from milo.core.config.options import parse_plugin_options, parse_task_options
from milo.core.config.reader import Attr, Block, Schema
from milo.core.config.schema import PLUGIN_SCHEMA, TASK_SCHEMA
from milo.core.launch import PluginOptions
from milo.host.fingerprint import ATTRIBUTES, Fingerprinter

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs/reference"
SCHEMAS = {"task": TASK_SCHEMA, "plugin": PLUGIN_SCHEMA}
PERMISSIVE = PluginOptions(
    volumes_enabled=True, volume_paths=("/srv",), allow_seccomp_profiles=("/etc/milo/strict.json",)
)


def attrs_of(schema: Schema) -> dict[str, Attr]:
    """Return every attribute of a schema by its dotted name."""
    found = {}
    for key, item in schema.items():
        if isinstance(item, Attr):
            found[key] = item
        else:
            found |= {f"{key}.{name}": attr for name, attr in item.keys.items()}
    return found


def examples(schema: Schema) -> dict[str, Any]:
    """Return a configuration of all the examples."""
    config: dict[str, Any] = {}
    for key, item in schema.items():
        if isinstance(item, Attr):
            config[key] = json.loads(item.example)
        else:
            config[key] = {name: json.loads(attr.example) for name, attr in item.keys.items()}
    return config


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


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_key_is_described(name: str) -> None:
    """No key comes without a sentence, and each ends in a full stop."""
    blocks = {key: item for key, item in SCHEMAS[name].items() if isinstance(item, Block)}
    for key, item in (attrs_of(SCHEMAS[name]) | blocks).items():
        assert item.doc.endswith("."), key


def test_examples_of_a_job_are_valid() -> None:
    """All examples together are a configuration that a job may have, but for what excludes another.

    These are the ban on a timeout beside ``drop``, and the keys of the host's namespaces.
    """
    config = examples(TASK_SCHEMA)
    for key in ("log_block_timeout", "ipc_mode"):
        alone = {key: config.pop(key)}
        parse_task_options(alone, PERMISSIVE)
    parse_task_options(config, PERMISSIVE)


def test_examples_of_the_plugin_are_valid() -> None:
    """The same for the agent's configuration, without the ban on the host's namespaces."""
    config = examples(PLUGIN_SCHEMA)
    assert config.pop("allow_host_namespaces") is False
    parse_plugin_options(config)


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
