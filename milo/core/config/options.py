"""The configuration of the task and of the plugin: what Nomad cannot check with the schema.

Nomad holds a job's ``config`` block and the agent's ``plugin "milo"`` block to the schema
before Milo sees them. What is left is checked here. The classes that are filled,
`TaskOptions` and `PluginOptions`, live in `milo.core.launch`, since a task process shares
them; each of their fields has its key in a schema in `milo.core.config.schema`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from milo.core.config.privileges import PROFILE, check_plugin, check_task
from milo.core.config.reader import Reader, check_directory, shown
from milo.core.config.schema import PLUGIN_SCHEMA, TASK_SCHEMA
from milo.core.container.capabilities import parse_names
from milo.core.container.host_names import check_extra_hosts, check_hostname
from milo.core.java import choice
from milo.core.java.jvm_options import check_class_name, check_jvm_options
from milo.core.launch import JobMount, PluginOptions, TaskOptions
from milo.errors import ConfigError

MAX_STATE_DIR_BYTES = 107 - len("/0123456789abcdef/control.sock")
"""A unix socket's path has 108 bytes with its final NUL (unix(7)), and a task's is
``<state_dir>/<16 characters>/control.sock``."""


ROOTFS = ("host", "minimal")
MODES = ("private", "host")
PROPAGATION = ("private", "host-to-task", "bidirectional")

MAX_PIDS = 4_194_304
"""PID_MAX_LIMIT of a 64-bit kernel; proc(5)."""


def parse_task_options(config: Mapping[str, object], plugin: PluginOptions) -> TaskOptions:
    """Check a job's ``config`` block, as Nomad decoded it, and return its values.

    ``plugin`` gives the values of ``log_overflow`` and ``log_block_timeout`` for a job that
    says nothing. Raises `ConfigError` for the first key that is not valid.
    """
    reader = Reader(config, TASK_SCHEMA)
    jar_path = reader.text("jar_path", "the path of a JAR, such as local/app.jar")
    main_class = reader.text("class", "the name of a class, such as com.example.Main")
    class_path = reader.text("class_path", "directories and JARs, separated by colons")
    if main_class is not None:
        check_class_name(main_class)
    if class_path is not None and main_class is None and jar_path is None:
        raise ConfigError(
            "class_path",
            "it has no effect without class: the JAR under local/ is run by java -jar",
            "class_path only together with class, the class to run",
        )
    args = reader.texts("args")
    jvm_options = reader.texts("jvm_options")
    check_jvm_options(
        jvm_options,
        class_path_free=main_class is not None and class_path is None and jar_path is None,
    )
    overflow = reader.one_of("log_overflow", ("block", "drop")) or plugin.log_overflow
    timeout_s = reader.seconds("log_block_timeout")
    if timeout_s is not None and overflow == "drop":
        raise ConfigError(
            "log_block_timeout",
            'log_overflow = "drop" never waits, so that a timeout means nothing',
            'log_block_timeout only together with log_overflow = "block"',
        )
    options = TaskOptions(
        jar_path=jar_path or "",
        main_class=main_class or "",
        class_path=class_path or "",
        args=args,
        jvm_options=jvm_options,
        log_overflow=overflow,
        log_block_timeout_s=plugin.log_block_timeout_s if timeout_s is None else timeout_s,
        cpu_hard_limit=reader.flag("cpu_hard_limit") or False,
        rootfs=reader.one_of("rootfs", ROOTFS) or plugin.rootfs,
        work_dir=reader.text("work_dir", "a directory in the container") or "",
        mounts=tuple(_job_mount(block) for block in reader.blocks("mounts")),
        cap_add=parse_names("cap_add", reader.texts("cap_add")),
        cap_drop=parse_names("cap_drop", reader.texts("cap_drop")),
        seccomp_profile=reader.text("seccomp_profile", PROFILE) or "",
        ulimit=reader.pairs("ulimit"),
        sysctl=reader.pairs("sysctl"),
        shm_size_bytes=_size(reader, "shm_size"),
        pids_limit=reader.whole_number("pids_limit", 1, plugin.pids_limit) or 0,
        pid_mode=reader.one_of("pid_mode", MODES) or plugin.default_pid_mode,
        ipc_mode=reader.one_of("ipc_mode", MODES) or plugin.default_ipc_mode,
        init=reader.flag("init") or False,
        heap_percent=reader.whole_number("heap_percent", 1, 95) or 0,
        heap_dump_on_oom=reader.flag("heap_dump_on_oom") or False,
        java_version=_java_version(reader),
        java_home=reader.text("java_home", "the path of a Java on the host or in the task") or "",
        extra_hosts=check_extra_hosts(reader.texts("extra_hosts")),
        hostname=check_hostname(reader.text("hostname", "a host name")),
    )
    check_task(options, plugin)
    return options


def parse_plugin_options(config: Mapping[str, object]) -> PluginOptions:
    """Check the agent's configuration of the plugin and return its values.

    Nothing is looked up on the host. Raises `ConfigError` for the first key that is not
    valid.
    """
    reader = Reader(config, PLUGIN_SCHEMA)
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
    options = PluginOptions(
        java_home=default.java_home if java_home is None else java_home,
        crun_path=default.crun_path if crun_path is None else crun_path,
        state_dir=default.state_dir if state_dir is None else state_dir,
        allow_root=reader.flag("allow_root") or default.allow_root,
        log_overflow=reader.one_of("log_overflow", ("block", "drop")) or default.log_overflow,
        log_block_timeout_s=default.log_block_timeout_s if timeout_s is None else timeout_s,
        rootfs=reader.one_of("rootfs", ROOTFS) or default.rootfs,
        **_volumes(reader),
        allow_caps=default.allow_caps
        if config.get("allow_caps") is None
        else parse_names("allow_caps", reader.texts("allow_caps")),
        default_pid_mode=reader.one_of("default_pid_mode", MODES) or default.default_pid_mode,
        default_ipc_mode=reader.one_of("default_ipc_mode", MODES) or default.default_ipc_mode,
        allow_host_namespaces=_flag(reader, "allow_host_namespaces", default.allow_host_namespaces),
        seccomp_profile=reader.text("seccomp_profile", PROFILE) or default.seccomp_profile,
        allow_seccomp_profiles=reader.texts("allow_seccomp_profiles"),
        pids_limit=reader.whole_number("pids_limit", 1, MAX_PIDS) or default.pids_limit,
        userns=reader.flag("userns") or default.userns,
    )
    check_plugin(options)
    return options


def _java_version(reader: Reader) -> str:
    text = reader.text(choice.KEY, choice.EXPECTED) or ""
    if text:
        choice.parse_requirement(text)
    return text


def _flag(reader: Reader, key: str, default: bool) -> bool:
    value = reader.flag(key)
    return default if value is None else value


def _volumes(reader: Reader) -> dict[str, Any]:
    """Return the values of ``volumes { enabled = …, paths = [ … ] }``."""
    expected = "the absolute path of a directory of the host"
    values: dict[str, Any] = {}
    for block in reader.blocks("volumes"):
        values["volumes_enabled"] = block.flag("enabled") or False
        values["volume_paths"] = tuple(
            path if path == "/" else check_directory("volumes.paths", path, expected)
            for path in block.texts("paths")
        )
    return values


def _job_mount(block: Reader) -> JobMount:
    source = block.directory("source", "the absolute path of a file or directory of the host")
    target = block.directory("target", "an absolute path in the container")
    if source is None or target is None:
        raise ConfigError("mounts", "an entry lacks source or target", "both")
    return JobMount(
        source=source,
        target=target,
        readonly=_flag(block, "readonly", True),
        propagation=block.one_of("propagation", PROPAGATION) or "",
    )


def _size(reader: Reader, key: str) -> int:
    """Return bytes; 0 when the key is not given."""
    expected = 'a size above 0 such as "256m", "1g", or a number of bytes'
    text = reader.text(key, expected)
    if text is None:
        return 0
    match = re.fullmatch(r"(\d{1,15})\s*([kmg]?)(?:i?b)?", text.strip().lower())
    size = int(match[1]) * 1024 ** " kmg".index(match[2] or " ") if match else 0
    if size == 0:
        raise ConfigError(key, f"got {shown(text)}", expected)
    return size
