"""The agent's ``plugin "milo" { config { … } }`` block: every key, with all that is known of it.

`PluginOptions` is part of a `milo.core.launch.Launch` and so is written to disk. A new field needs
a default, which older records then have, and no field may change its meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

import attrs

from milo.core.config.options import option, problems_of, read_block
from milo.core.config.places import CACHE_DIR, STATE_DIR
from milo.core.config.values import (
    block,
    check_directory,
    directory,
    duration,
    flag,
    one_of,
    shown,
    size,
    text,
    texts,
    whole_number,
)
from milo.core.container.capabilities import parse_name
from milo.core.container.profile_name import check_profile_name
from milo.errors import ConfigError

MAX_STATE_DIR_BYTES: Final = 107 - len("/0123456789abcdef/control.sock")
"""A unix socket's path has 108 bytes with its final NUL (unix(7)), and a task's is
``<state_dir>/<16 characters>/control.sock``."""

MAX_PORT: Final = 65535
MAX_PIDS: Final = 4_194_304
"""PID_MAX_LIMIT of a 64-bit kernel; proc(5)."""

LOG_OVERFLOW: Final = one_of("block", "drop")
LOG_BLOCK_TIMEOUT: Final = duration(
    'a duration of 0s or more, such as "30s" or "1m30s" ("0s" waits for ever)'
)
ROOTFS: Final = one_of("host", "minimal")
MODE: Final = one_of("private", "host")
STARTUP_CACHE: Final = one_of("off", "auto")
PROFILE: Final = text(
    'the absolute path of a seccomp profile (JSON), or "unconfined"', check_profile_name
)

JAVA_DRIVER_CAPS: Final = (
    "audit_write",
    "chown",
    "dac_override",
    "fowner",
    "fsetid",
    "kill",
    "mknod",
    "net_bind_service",
    "setfcap",
    "setgid",
    "setpcap",
    "setuid",
    "sys_chroot",
)
"""What Nomad's own java driver lets a job add unless its operator says otherwise."""


def _check_crun_path(key: str, value: str) -> str:
    if "/" in value and not value.startswith("/"):
        raise ConfigError(
            key,
            f"{shown(value)} is relative, and the agent's working directory is not known",
            "a name to look for on PATH, or an absolute path",
        )
    return value


def _check_state_dir(key: str, value: str) -> str:
    path = check_directory(key, value, "an absolute path, such as /run/milo")
    size = len(path.encode())
    if size > MAX_STATE_DIR_BYTES:
        raise ConfigError(
            key,
            f"it is {size} bytes long, and the path of a unix socket has room for 108 in all",
            f"a path of at most {MAX_STATE_DIR_BYTES} bytes",
        )
    return path


def _check_volume_path(key: str, value: str) -> str:
    expected = "the absolute path of a directory of the host"
    return value if value == "/" else check_directory(key, value, expected)


@attrs.frozen
class Volumes:
    """The block ``volumes``."""

    enabled: bool = attrs.field(
        default=False,
        metadata=option(flag(), doc="Whether jobs may use `mounts` at all.", example="true"),
    )
    paths: tuple[str, ...] = attrs.field(
        default=(),
        metadata=option(
            texts(_check_volume_path),
            doc="The host's directories that a source may be, or lie below, once its symlinks "
            "are resolved.",
            unset="none, so that every source is refused",
            example='["/srv/data"]',
        ),
    )
    """Normalized."""


def _check_address(key: str, value: str) -> str:
    expected = 'an IP address and a port, such as "127.0.0.1:494" or "[::1]:494"'
    host, port = split_address(value)
    try:
        IPv6Address(host) if value.startswith("[") else IPv4Address(host)
    except ValueError as error:
        raise ConfigError(key, f"got {shown(value)}", expected) from error
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) <= MAX_PORT):
        raise ConfigError(
            key, f"{shown(port)} is no port", f"{expected}; ports are 1 to {MAX_PORT}"
        )
    return value


def split_address(value: str) -> tuple[str, str]:
    """Return IP address and port of what has passed as ``metrics.address``."""
    host, _, port = value.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), port


@attrs.frozen
class Metrics:
    """The block ``metrics``."""

    address: str = attrs.field(
        default="",
        metadata=option(
            text("an IP address and a port", _check_address),
            doc="Where [figures for Prometheus](../metrics.md#milos-own-figures) are served, at "
            "`/metrics` over HTTP: an IP address and a port. One below 1024 no task in the host's "
            "network can take while no plugin runs.",
            unset="none are served",
            example='"127.0.0.1:494"',
        ),
    )
    allow_other_hosts: bool = attrs.field(
        default=False,
        metadata=option(
            flag(),
            doc="Whether `address` may be one that other hosts reach. Nobody is asked for a "
            "password: whoever reaches it sees the names of namespaces, jobs and tasks, and their "
            "figures.",
            example="true",
        ),
    )


@attrs.frozen
class PluginOptions:
    """The plugin's configuration."""

    java_home: str = attrs.field(
        default="",
        metadata=option(
            directory("the absolute path of a Java runtime"),
            doc="The default Java, by its home; the others of the client are used as well.",
            unset="the first that Milo finds, in [this "
            "order](../howto/java-versions.md#see-what-is-installed)",
            example='"/usr/lib/jvm/temurin-25-jdk-amd64"',
        ),
    )
    crun_path: str = attrs.field(
        default="crun",
        metadata=option(
            text("a name to look for on PATH, or an absolute path", _check_crun_path),
            doc="crun, by a name to look for on PATH or by its absolute path.",
            example='"/usr/local/bin/crun"',
        ),
    )
    state_dir: str = attrs.field(
        default=STATE_DIR,
        metadata=option(
            text("an absolute path, such as /run/milo", _check_state_dir),
            doc="Where bundles, control sockets and exit records are kept, by an absolute path "
            "of at most 77 bytes; it must not survive a reboot, and nobody but root may change it "
            "or a directory above it.",
            example='"/run/milo-test"',
        ),
    )
    allow_root: bool = attrs.field(
        default=False,
        metadata=option(
            flag(),
            doc='Whether a job may run as root (`user = "root"`), as a user of root\'s group, or '
            "with capabilities that make root of it: `setuid`, `setgid`, `setpcap`, `setfcap`.",
            example="true",
        ),
    )
    log_overflow: str = attrs.field(
        default="block",
        metadata=option(LOG_OVERFLOW, doc="For jobs that do not say.", example='"drop"'),
    )
    log_block_timeout_s: float = attrs.field(
        default=30.0,
        metadata=option(
            LOG_BLOCK_TIMEOUT,
            key="log_block_timeout",
            doc="For jobs that do not say.",
            example='"2m"',
        ),
    )
    rootfs: str = attrs.field(
        default="host",
        metadata=option(ROOTFS, doc="For jobs that do not say.", example='"minimal"'),
    )
    volumes: Volumes = attrs.field(
        factory=Volumes,
        metadata=option(
            block(Volumes), doc="Which of the host's directories jobs may mount with `mounts`."
        ),
    )
    allow_caps: tuple[str, ...] = attrs.field(
        default=("net_bind_service",),
        metadata=option(
            texts(parse_name, once=True),
            doc='What a job\'s `cap_add` may ask for; `[]` permits none, `["all"]` every '
            "capability but `mknod`, which has to be named. Some are the host's root under "
            "another name: see [what capabilities give](../security.md#what-capabilities-give).",
            example='["net_bind_service", "sys_nice"]',
        ),
    )
    """Lower case, without ``cap_``; may hold ``all``."""
    allow_caps_with_host_namespaces: tuple[str, ...] = attrs.field(
        default=(),
        metadata=option(
            texts(parse_name, once=True),
            doc="Capabilities, of those of `allow_caps`, that a job may also have with `pid_mode` "
            'or `ipc_mode = "host"`, and `net_admin` and `net_raw` in the host\'s network.',
            unset="none",
            example='["sys_ptrace"]',
        ),
    )
    """Lower case, without ``cap_``; may hold ``all``."""
    default_pid_mode: str = attrs.field(
        default="private",
        metadata=option(MODE, doc="`pid_mode` for jobs that do not say.", example='"host"'),
    )
    default_ipc_mode: str = attrs.field(
        default="private",
        metadata=option(MODE, doc="`ipc_mode` for jobs that do not say.", example='"host"'),
    )
    allow_host_namespaces: bool = attrs.field(
        default=False,
        metadata=option(
            flag(),
            doc='Whether a job may set `pid_mode = "host"`: it then sees the host\'s processes, '
            "and has those of its own user. `ipc_mode` has `allow_host_ipc`.",
            unset='`false`, and `true` with `default_pid_mode = "host"`',
            example="true",
        ),
    )
    allow_host_ipc: bool = attrs.field(
        default=False,
        metadata=option(
            flag(),
            doc='Whether a job may set `ipc_mode = "host"`: what it leaves in `/dev/shm` and in '
            "System V segments is outside of every limit and stays when it ends.",
            unset='`false`, and `true` with `default_ipc_mode = "host"`',
            example="true",
        ),
    )
    allow_users_with_host_namespaces: tuple[str, ...] = attrs.field(
        default=(),
        metadata=option(
            texts(),
            doc='Users that a job may name with `pid_mode` or `ipc_mode = "host"`, beside '
            "`nobody`: it has their processes and memory. As the job spells them where that is "
            "`user:group`; `root` takes `allow_root` too.",
            unset="none",
            example='["node-exporter"]',
        ),
    )
    insecure_java_driver_privileges: bool = attrs.field(
        default=False,
        metadata=option(
            flag(),
            doc="Let jobs have what Nomad's java driver lets them have, in any combination: "
            "`allow_host_namespaces`, `allow_host_ipc` and the 13 capabilities of that driver "
            "where the keys for these are not set. A job can then be the host's root.",
            example="true",
        ),
    )
    seccomp_profile: str = attrs.field(
        default="",
        metadata=option(
            PROFILE,
            doc="A seccomp profile (JSON) for all jobs by its absolute path, used as it is, or "
            '`"unconfined"`.',
            unset="the containers project's profile, where it is installed, or a list of Milo's "
            "own, with [more refused](../security.md)",
            example='"/etc/milo/seccomp.json"',
        ),
    )
    """A path on the host, ``unconfined``, or empty for the default profile."""
    allow_seccomp_profiles: tuple[str, ...] = attrs.field(
        default=(),
        metadata=option(
            texts(check_profile_name),
            doc="What a job's `seccomp_profile` may name.",
            unset="none",
            example='["/etc/milo/strict.json", "unconfined"]',
        ),
    )
    pids_limit: int = attrs.field(
        default=4096,
        metadata=option(
            whole_number(1, MAX_PIDS),
            doc="The most threads and processes that a job may ask for, and what it gets when it "
            "does not say.",
            example="1024",
        ),
    )
    startup_cache: str = attrs.field(
        default="off",
        metadata=option(STARTUP_CACHE, doc="For jobs that do not say.", example='"auto"'),
    )
    cache_dir: str = attrs.field(
        default=CACHE_DIR,
        metadata=option(
            directory("an absolute path, such as /var/cache/milo-startup"),
            doc="Where startup archives are kept, on a disk; nobody but root may change it or a "
            "directory above it.",
            example='"/srv/milo-startup"',
        ),
    )
    cache_size_bytes: int = attrs.field(
        default=1 << 30,
        metadata=option(
            size('a size above 0 such as "512m", "2g", or a number of bytes'),
            key="cache_size",
            doc="The most that startup archives take; those that were used longest ago are "
            "removed.",
            unset='`"1g"`',
            example='"4g"',
        ),
    )
    userns: bool = attrs.field(
        default=False,
        metadata=option(
            flag(),
            doc="Run each task in a user namespace, with ids of its own on the host; where crun "
            "or the kernel cannot, no task starts.",
            example="true",
        ),
    )
    metrics: Metrics = attrs.field(
        factory=Metrics,
        metadata=option(block(Metrics), doc="Serves figures of tasks and JVMs for Prometheus."),
    )


def parse_plugin_options(config: Mapping[str, object]) -> PluginOptions:
    """Check the agent's configuration of the plugin and return its values.

    Nothing is looked up on the host. Raises `ConfigError` for the first key that is not valid,
    or that contradicts another.
    """
    options = read_block(PluginOptions, config)
    insecure = options.insecure_java_driver_privileges
    implied = {
        "allow_caps": JAVA_DRIVER_CAPS if insecure else options.allow_caps,
        "allow_host_namespaces": insecure or options.default_pid_mode == "host",
        "allow_host_ipc": insecure or options.default_ipc_mode == "host",
    }
    silent: dict[str, Any] = {
        key: value for key, value in implied.items() if config.get(key) is None
    }
    options = attrs.evolve(options, **silent)
    for key, mode, permit, permitted in (
        (
            "default_pid_mode",
            options.default_pid_mode,
            "allow_host_namespaces",
            options.allow_host_namespaces,
        ),
        ("default_ipc_mode", options.default_ipc_mode, "allow_host_ipc", options.allow_host_ipc),
    ):
        if mode == "host" and not permitted:
            raise ConfigError(key, f"{permit} is false", f'{key} = "private", or no {permit}')
    address = options.metrics.address
    if address and not (options.metrics.allow_other_hosts or _is_loopback(address)):
        raise ConfigError(
            "metrics.address",
            f"other hosts reach {address}, and allow_other_hosts is not set",
            "an address of the host's own, such as 127.0.0.1, or allow_other_hosts = true",
        )
    return options


def _is_loopback(address: str) -> bool:
    return ip_address(split_address(address)[0]).is_loopback


def plugin_problems(config: Mapping[str, object]) -> list[ConfigError]:
    """Return all that `parse_plugin_options` has to say against a configuration."""
    if problems := problems_of(PluginOptions, config):
        return problems
    try:
        parse_plugin_options(config)
    except ConfigError as exc:
        return [exc]
    return []
