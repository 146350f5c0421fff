"""The configuration of the task and of the plugin: the schema, and what Nomad cannot check.

Nomad holds a job's ``config`` block and the agent's ``plugin "milo"`` block to the schema
before Milo sees them. What is left is checked here. The classes that are filled,
`TaskOptions` and `PluginOptions`, live in `milo.core.launch`, since a task process shares
them; each of their fields has its key in a schema below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

from milo.core.durations import parse_duration
from milo.core.jvm_options import check_class_name, check_jvm_options
from milo.core.launch import PluginOptions, TaskOptions
from milo.errors import ConfigError

AttrType = Literal["string", "list(string)", "bool", "number"]

MAX_ARGUMENT_BYTES = 128 * 1024 - 1
"""Linux refuses to execute with a longer argument: MAX_ARG_STRLEN, 32 pages of 4 KiB with
the final NUL (execve(2))."""

MAX_STATE_DIR_BYTES = 107 - len("/0123456789abcdef/control.sock")
"""A unix socket's path has 108 bytes with its final NUL (unix(7)), and a task's is
``<state_dir>/<16 characters>/control.sock``."""


@attrs.frozen
class Attr:
    """One key of a schema."""

    type: AttrType
    default: str | None = None
    """HCL literal that Nomad fills in; without one Nomad sends null for a key not given."""


TASK_SCHEMA: Mapping[str, Attr] = {
    "jar_path": Attr("string"),
    "class": Attr("string"),
    "class_path": Attr("string"),
    "args": Attr("list(string)"),
    "jvm_options": Attr("list(string)"),
    "log_overflow": Attr("string"),
    "log_block_timeout": Attr("string"),
    "cpu_hard_limit": Attr("bool"),
}
"""The job's ``config`` block. No key has a default here: those that the job leaves out take
the plugin's value, or that of `TaskOptions`."""

PLUGIN_SCHEMA: Mapping[str, Attr] = {
    "java_home": Attr("string"),
    "crun_path": Attr("string"),
    "state_dir": Attr("string"),
    "allow_root": Attr("bool"),
    "log_overflow": Attr("string"),
    "log_block_timeout": Attr("string"),
}
"""The agent's ``plugin "milo" { config { … } }`` block; defaults are `PluginOptions`'s."""


def parse_task_options(config: Mapping[str, object], plugin: PluginOptions) -> TaskOptions:
    """Check a job's ``config`` block, as Nomad decoded it, and return its values.

    ``plugin`` gives the values of ``log_overflow`` and ``log_block_timeout`` for a job that
    says nothing. Raises `ConfigError` for the first key that is not valid.
    """
    reader = _Reader(config, TASK_SCHEMA)
    jar_path = reader.text("jar_path", "the path of a JAR, such as local/app.jar")
    main_class = reader.text("class", "the name of a class, such as com.example.Main")
    class_path = reader.text("class_path", "directories and JARs, separated by colons")
    if main_class is not None:
        check_class_name(main_class)
    if class_path is not None and main_class is None:
        raise _class_path_without_class(jar_path)
    args = reader.texts("args")
    jvm_options = reader.texts("jvm_options")
    check_jvm_options(jvm_options)
    overflow = reader.overflow() or plugin.log_overflow
    timeout_s = reader.seconds("log_block_timeout")
    if timeout_s is not None and overflow == "drop":
        raise ConfigError(
            "log_block_timeout",
            'log_overflow = "drop" never waits, so that a timeout means nothing',
            'log_block_timeout only together with log_overflow = "block"',
        )
    return TaskOptions(
        jar_path=jar_path or "",
        main_class=main_class or "",
        class_path=class_path or "",
        args=args,
        jvm_options=jvm_options,
        log_overflow=overflow,
        log_block_timeout_s=plugin.log_block_timeout_s if timeout_s is None else timeout_s,
        cpu_hard_limit=reader.flag("cpu_hard_limit") or False,
    )


def parse_plugin_options(config: Mapping[str, object]) -> PluginOptions:
    """Check the agent's configuration of the plugin and return its values.

    Nothing is looked up on the host. Raises `ConfigError` for the first key that is not
    valid.
    """
    reader = _Reader(config, PLUGIN_SCHEMA)
    default = PluginOptions()
    java_home = reader.directory("java_home", "the absolute path of a Java runtime")
    crun_path = reader.text("crun_path", "a name to look for on PATH, or an absolute path")
    if crun_path is not None and "/" in crun_path and not crun_path.startswith("/"):
        raise ConfigError(
            "crun_path",
            f"{crun_path!r} is relative, and the agent's working directory is not known",
            "a name to look for on PATH, or an absolute path",
        )
    state_dir = reader.directory("state_dir", "an absolute path, such as /run/milo")
    if state_dir is not None and len(state_dir.encode()) > MAX_STATE_DIR_BYTES:
        raise ConfigError(
            "state_dir",
            f"it is {len(state_dir.encode())} bytes long, and the path of a unix socket has "
            "room for 108 in all",
            f"a path of at most {MAX_STATE_DIR_BYTES} bytes",
        )
    timeout_s = reader.seconds("log_block_timeout")
    return PluginOptions(
        java_home=default.java_home if java_home is None else java_home,
        crun_path=default.crun_path if crun_path is None else crun_path,
        state_dir=default.state_dir if state_dir is None else state_dir,
        allow_root=reader.flag("allow_root") or default.allow_root,
        log_overflow=reader.overflow() or default.log_overflow,
        log_block_timeout_s=default.log_block_timeout_s if timeout_s is None else timeout_s,
    )


def _class_path_without_class(jar_path: str | None) -> ConfigError:
    if jar_path is not None:
        problem = "it has no effect beside jar_path alone: java -jar ignores the class path"
    else:
        problem = "it has no effect without class: the JAR under local/ is run by java -jar"
    return ConfigError(
        "class_path", problem, "class_path only together with class, the class to run"
    )


class _Reader:
    """Reads the values of one configuration, each checked to be of its type."""

    def __init__(self, config: Mapping[str, object], schema: Mapping[str, Attr]) -> None:
        for key in config:
            if key not in schema:
                shown = key[:40] if isinstance(key, str) else repr(key)[:40]
                raise ConfigError(shown, "there is no such key", "one of " + ", ".join(schema))
        self._config = config

    def text(self, key: str, expected: str) -> str | None:
        value = self._config.get(key)
        if value is None:
            return None
        return _check_text(key, value, expected, may_be_empty=False)

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._config.get(key)
        if value is None:
            return ()
        if not isinstance(value, list | tuple):
            raise _wrong_type(key, value, "a list of strings")
        return tuple(
            _check_text(f"{key}[{index}]", element, "a string", may_be_empty=True)
            for index, element in enumerate(value)
        )

    def flag(self, key: str) -> bool | None:
        value = self._config.get(key)
        if value is not None and not isinstance(value, bool):
            raise _wrong_type(key, value, "true or false")
        return value

    def overflow(self) -> str | None:
        expected = '"block" or "drop"'
        value = self.text("log_overflow", expected)
        if value not in (None, "block", "drop"):
            raise ConfigError("log_overflow", f"got {_shown(value)}", expected)
        return value

    def seconds(self, key: str) -> float | None:
        expected = 'a duration of 0s or more, such as "30s" or "1m30s" ("0s" waits for ever)'
        value = self.text(key, expected)
        if value is None:
            return None
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            raise ConfigError(key, f"{_shown(value)}: {error}", expected) from error
        if seconds < 0:
            raise ConfigError(key, f"{_shown(value)} is negative", expected)
        return seconds

    def directory(self, key: str, expected: str) -> str | None:
        value = self.text(key, expected)
        if value is None:
            return None
        if not value.startswith("/"):
            raise ConfigError(key, f"{_shown(value)} is relative", expected)
        parts = [part for part in value.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise ConfigError(key, f'{_shown(value)} contains ".."', expected)
        if not parts:
            raise ConfigError(key, "it is the root directory", expected)
        return "/" + "/".join(parts)


def _check_text(key: str, value: object, expected: str, *, may_be_empty: bool) -> str:
    if not isinstance(value, str):
        raise _wrong_type(key, value, expected)
    if "\0" in value:
        raise ConfigError(key, "it contains a NUL character", expected)
    if not value and not may_be_empty:
        raise ConfigError(key, "it is empty", f"{expected}, or no {key} at all")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise ConfigError(key, "it is not valid Unicode", expected) from error
    if size > MAX_ARGUMENT_BYTES:
        raise ConfigError(
            key, f"it is {size} bytes long", f"at most {MAX_ARGUMENT_BYTES} bytes, Linux's limit"
        )
    return value


def _wrong_type(key: str, value: object, expected: str) -> ConfigError:
    names = {bool: "a bool", int: "a number", float: "a number", str: "a string"}
    kind = "null" if value is None else names.get(type(value), f"a {type(value).__name__}")
    return ConfigError(key, f"got {kind}", expected)


def _shown(value: str | None) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
