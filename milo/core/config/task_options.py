"""A job's ``config`` block: every key, with all that is known of it.

The rules across keys are in `milo.core.config.rules`.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from milo.core.config.options import option, read_block
from milo.core.config.plugin_options import (
    LOG_BLOCK_TIMEOUT,
    LOG_OVERFLOW,
    MAX_PIDS,
    MODE,
    PROFILE,
    ROOTFS,
    STARTUP_CACHE,
    PluginOptions,
)
from milo.core.config.values import (
    blocks,
    directory,
    flag,
    one_of,
    pairs,
    size,
    text,
    texts,
    whole_number,
)
from milo.core.container.capabilities import parse_name
from milo.core.container.host_names import check_extra_host, check_hostname
from milo.core.container.sysctls import check_names
from milo.core.container.ulimits import parse_ulimits
from milo.core.java import choice
from milo.core.java.jvm_options import check_class_name


@attrs.frozen
class JobMount:
    """One entry of a job's ``mounts``."""

    source: str = attrs.field(
        metadata=option(
            directory("the absolute path of a file or directory of the host"),
            doc="An absolute path of the host.",
            unset="required",
            example='"/srv/data"',
        )
    )
    target: str = attrs.field(
        metadata=option(
            directory("an absolute path in the container"),
            doc="An absolute path in the container.",
            unset="required",
            example='"/data"',
        )
    )
    readonly: bool = attrs.field(
        default=True,
        metadata=option(flag(), doc="Whether the task may only read it.", example="false"),
    )
    propagation: str = attrs.field(
        default="private",
        metadata=option(
            one_of("private", "host-to-task", "bidirectional"),
            doc='Whether later mounts below it are passed on: `"private"` (no), '
            '`"host-to-task"` or `"bidirectional"`.',
            example='"host-to-task"',
        ),
    )


@attrs.frozen
class TaskOptions:
    """The job's ``config`` block. What it leaves out has the plugin's value, or the default."""

    jar_path: str = attrs.field(
        default="",
        metadata=option(
            text("the path of a JAR, such as local/app.jar"),
            doc="The JAR to run, in the task's `local/`, `secrets/` or `/alloc/`, or in another "
            "directory of the task's: absolute in the container, as `${NOMAD_TASK_DIR}/app.jar` "
            "is, or relative to `work_dir`, to the task's directory or to `/`.",
            unset="without `class`, the one JAR directly under `local/`",
            example='"local/app.jar"',
        ),
    )
    main_class: str = attrs.field(
        default="",
        metadata=option(
            text("the name of a class, such as com.example.Main", check_class_name),
            key="class",
            doc="The class to run in place of the JAR's own Main-Class.",
            unset="the JAR's Main-Class",
            example='"com.example.Main"',
        ),
    )
    class_path: str = attrs.field(
        default="",
        metadata=option(
            text("directories and JARs, separated by colons"),
            doc="Class path for `class`, separated by colons; relative entries begin at "
            "`work_dir`, or in the task's directory or at `/` without it, and the JAR of "
            "`jar_path` comes first.",
            unset="none",
            example='"local/app.jar:local/lib/*"',
        ),
    )
    args: tuple[str, ...] = attrs.field(
        default=(),
        metadata=option(
            texts(empty=True),
            doc="Arguments of the application.",
            unset="none",
            example='["--port", "8080"]',
        ),
    )
    jvm_options: tuple[str, ...] = attrs.field(
        default=(),
        metadata=option(
            texts(empty=True),
            doc="Options of the JVM, one for each element; they win over what Milo adds.",
            unset="none",
            example='["-XX:+UseG1GC", "-Dapp.mode=batch"]',
        ),
    )
    log_overflow: str = attrs.field(
        default="block",
        metadata=option(
            LOG_OVERFLOW,
            inherits="log_overflow",
            doc='When nobody reads the log and all buffers are full: `"block"`, the application '
            'waits and nothing is lost, or `"drop"`, it never waits and what is dropped is '
            "counted.",
            example='"drop"',
        ),
    )
    log_block_timeout_s: float = attrs.field(
        default=30.0,
        metadata=option(
            LOG_BLOCK_TIMEOUT,
            key="log_block_timeout",
            inherits="log_block_timeout_s",
            doc='With `log_overflow = "block"`: after so long without a byte moving, output is '
            'dropped until the reader is back; `"0s"` waits for ever.',
            example='"2m"',
        ),
    )
    """0 waits for ever."""
    cpu_hard_limit: bool = attrs.field(
        default=False,
        metadata=option(
            flag(),
            doc="Hold the task to its `cpu`, instead of letting it use what is idle.",
            example="true",
        ),
    )
    rootfs: str = attrs.field(
        default="host",
        metadata=option(
            ROOTFS,
            inherits="rootfs",
            doc='What the container sees of the host, read-only in any case: `"host"`, its '
            '`/usr` with all programs, or `"minimal"`, the Java runtime with what it needs, and '
            "no shell.",
            example='"minimal"',
        ),
    )
    work_dir: str = attrs.field(
        default="",
        metadata=option(
            text("a directory in the container"),
            doc="The application's working directory, absolute and without symlinks; below "
            "`/task`, `/local`, `/alloc/data`, `/secrets` and `/tmp` it is made if it is missing.",
            unset='`"/task"`, the task\'s own directory, which it can write to',
            example='"/local"',
        ),
    )
    """In the container; empty is Milo's default."""
    mounts: tuple[JobMount, ...] = attrs.field(
        default=(),
        metadata=option(
            blocks(JobMount),
            doc="Shows a file or directory of the host in the container, where the plugin's "
            "`volumes` permits it; the block may be repeated. A `volume` of Nomad's needs no "
            "such permission.",
        ),
    )
    cap_add: tuple[str, ...] = attrs.field(
        default=(),
        metadata=option(
            texts(parse_name, once=True),
            doc="Capabilities of the application, of those that the plugin's `allow_caps` holds; "
            '`"all"` is every one.',
            unset="none: an application has no capabilities",
            example='["net_bind_service"]',
        ),
    )
    """Lower case, without ``cap_``; may hold ``all``."""
    cap_drop: tuple[str, ...] = attrs.field(
        default=(),
        metadata=option(
            texts(parse_name, once=True),
            doc='Capabilities to leave out of `cap_add = ["all"]`; without that it has no effect.',
            unset="none",
            example='["net_raw"]',
        ),
    )
    seccomp_profile: str = attrs.field(
        default="",
        metadata=option(
            PROFILE,
            inherits="seccomp_profile",
            doc="A seccomp profile (JSON) on the client by its absolute path, or "
            '`"unconfined"`; it has to be one that the plugin\'s configuration names.',
            example='"/etc/milo/strict.json"',
        ),
    )
    """A path on the host, ``unconfined``, or empty for the default profile."""
    ulimit: dict[str, tuple[int, int]] = attrs.field(
        factory=dict,
        metadata=option(
            pairs(parse_ulimits),
            doc="Resource limits by the names of getrlimit(2) in lower case, as "
            '`"soft:hard"` or one number for both; `"unlimited"` or -1 is no limit.',
            unset="open files as high as the client may give, no core files",
            example='{"nofile": "65536", "core": "0:unlimited"}',
        ),
    )
    """By their OCI names (``RLIMIT_NOFILE``): soft and hard limit."""
    sysctl: dict[str, str] = attrs.field(
        factory=dict,
        metadata=option(
            pairs(check_names),
            doc="Kernel settings of the container's own namespaces: `kernel.msg*`, "
            "`kernel.sem`, `kernel.shm*` and `fs.mqueue.*`, and in a network that is not the "
            "host's `net.*`.",
            unset="the kernel's own",
            example='{"kernel.shmmax": "268435456"}',
        ),
    )
    shm_size_bytes: int = attrs.field(
        default=0,
        metadata=option(
            size('a size above 0 such as "256m", "1g", or a number of bytes'),
            key="shm_size",
            doc="The size of `/dev/shm`, a number of bytes or with `k`, `m` or `g`; what is in "
            "it counts as the task's memory.",
            unset='`"64m"`',
            example='"256m"',
        ),
    )
    """0: the default."""
    pids_limit: int = attrs.field(
        default=4096,
        metadata=option(
            whole_number(1, MAX_PIDS),
            inherits="pids_limit",
            doc="The most threads and processes at a time, up to the plugin's `pids_limit`.",
            example="512",
        ),
    )
    pid_mode: str = attrs.field(
        default="private",
        metadata=option(
            MODE,
            inherits="default_pid_mode",
            doc='`"private"`, or `"host"`: the task sees the host\'s processes.',
            example='"host"',
        ),
    )
    ipc_mode: str = attrs.field(
        default="private",
        metadata=option(
            MODE,
            inherits="default_ipc_mode",
            doc='`"private"`, or `"host"`: the task shares the host\'s System V IPC, message '
            "queues and `/dev/shm`.",
            example='"host"',
        ),
    )
    init: bool = attrs.field(
        default=False,
        metadata=option(
            flag(),
            doc="Has no effect. Whatever an application leaves behind is reaped, as process 1 of "
            "its container is not the JVM but a process of Milo's, which is there for that.",
            example="true",
        ),
    )
    heap_percent: int = attrs.field(
        default=0,
        metadata=option(
            whole_number(1, 95),
            doc="The heap's share of the task's `memory`; options such as `-Xmx` win.",
            unset="[a rule](../memory.md) that leaves room for the rest of the JVM",
            example="60",
        ),
    )
    """0: Milo's default."""
    heap_dump_on_oom: bool = attrs.field(
        default=False,
        metadata=option(
            flag(),
            doc="Have the JVM write a dump to `/alloc/data` at its first OutOfMemoryError; an "
            "event names the file.",
            example="true",
        ),
    )
    dump_on_kill: bool = attrs.field(
        default=True,
        metadata=option(
            flag(),
            doc="Before the SIGKILL of a stop that has taken too long, have the JVM print what its "
            "threads are doing: in the last second of the kill timeout, into the task's log.",
            example="false",
        ),
    )
    flight_recorder: bool = attrs.field(
        default=False,
        metadata=option(
            flag(),
            doc="Have Java's flight recorder run along: the last ten minutes, in at most 64 MiB of "
            "`/alloc/data`, are there after a crash or a kill, too, and `milo dump jfr` "
            "fetches them.",
            example="true",
        ),
    )
    java_version: str = attrs.field(
        default="",
        metadata=option(
            text(choice.EXPECTED, choice.check_requirement),
            doc='Which Java of the client runs the task: `"17"`, `">= 17"`, `">= 17, < 22"` or '
            '`"21 || 25"`; the default Java is preferred, then the oldest.',
            unset="any that can run the main class",
            example='">= 17"',
        ),
    )
    java_home: str = attrs.field(
        default="",
        metadata=option(
            text("the path of a Java on the host or in the task"),
            doc="A Java that Milo has found on the client, by its home, or one that came with "
            "the task in `local/`, `secrets/` or `/alloc/`.",
            unset="one of the client's, by `java_version`",
            example='"local/jdk-21"',
        ),
    )
    startup_cache: str = attrs.field(
        default="off",
        metadata=option(
            STARTUP_CACHE,
            inherits="startup_cache",
            doc='`"auto"`: keep an archive of the classes that the application has loaded, with '
            "which it [starts faster](../howto/startup.md) the next time on this client.",
            example='"auto"',
        ),
    )
    extra_hosts: tuple[str, ...] = attrs.field(
        default=(),
        metadata=option(
            texts(check_extra_host),
            doc='More lines of `/etc/hosts`, as `"name:address"`; `"name:host-gateway"` is the '
            "host.",
            unset="none",
            example='["db:10.0.0.5", "build:host-gateway"]',
        ),
    )
    hostname: str = attrs.field(
        default="",
        metadata=option(
            text("a host name", check_hostname),
            doc="The container's host name.",
            unset="the host's with the host's network, else `alloc-` with the beginning of the "
            "allocation's id",
            example='"web-1"',
        ),
    )


def parse_task_options(config: Mapping[str, object], plugin: PluginOptions) -> TaskOptions:
    """Check each key of a job's ``config`` block, as Nomad decoded it, and return its values.

    ``plugin`` has what the job inherits. Whether the job may have all this is for
    `milo.core.config.rules` to say. Raises `ConfigError` for the first key that is not valid.
    """
    return read_block(TaskOptions, config, plugin=plugin)
