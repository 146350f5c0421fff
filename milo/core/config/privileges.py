"""Checks a job's privileges against the plugin's configuration, and that against itself. Pure."""

from __future__ import annotations

from milo.core.container import capabilities, seccomp, sysctls, ulimits
from milo.core.launch import PluginOptions, TaskOptions
from milo.errors import ConfigError

PROFILE = 'the absolute path of a seccomp profile (JSON), or "unconfined"'


def check_task(options: TaskOptions, plugin: PluginOptions) -> None:
    """Refuse what the plugin's configuration does not let a job have.

    Raises:
        ConfigError: naming the first key that asks for too much, or is not valid.
    """
    capabilities.check_allowed(options.cap_add, options.cap_drop, plugin.allow_caps)
    profile = options.seccomp_profile
    if profile:
        check_profile("seccomp_profile", profile)
        allowed = (plugin.seccomp_profile, *plugin.allow_seccomp_profiles)
        if profile not in allowed:
            names = ", ".join(name for name in allowed if name)
            raise ConfigError(
                "seccomp_profile",
                f"the plugin's allow_seccomp_profiles does not hold {profile[:80]!r}",
                f"one of {names}" if names else "no seccomp_profile: none is allowed here",
            )
    for key, mode in (("pid_mode", options.pid_mode), ("ipc_mode", options.ipc_mode)):
        if mode == "host" and not plugin.allow_host_namespaces:
            raise ConfigError(
                key, "the plugin's allow_host_namespaces is false", f'{key} = "private"'
            )
    ulimits.parse_ulimits(options.ulimit, plugin.allow_caps)
    sysctls.check_sysctls(options.sysctl, ipc_mode=options.ipc_mode)
    if options.shm_size_bytes and options.ipc_mode == "host":
        raise ConfigError(
            "shm_size",
            'with ipc_mode = "host" the task uses the host\'s /dev/shm',
            'shm_size only together with ipc_mode = "private"',
        )


def check_plugin(options: PluginOptions) -> None:
    """Refuse a plugin's configuration that contradicts itself; raises `ConfigError`."""
    if options.seccomp_profile:
        check_profile("seccomp_profile", options.seccomp_profile)
    for index, profile in enumerate(options.allow_seccomp_profiles):
        check_profile(f"allow_seccomp_profiles[{index}]", profile)
    if not options.allow_host_namespaces:
        for key, mode in (
            ("default_pid_mode", options.default_pid_mode),
            ("default_ipc_mode", options.default_ipc_mode),
        ):
            if mode == "host":
                raise ConfigError(key, "allow_host_namespaces is false", f'{key} = "private"')


def check_profile(key: str, value: str) -> None:
    """Refuse what is neither an absolute path nor ``unconfined``; raises `ConfigError`."""
    if value != seccomp.UNCONFINED and not value.startswith("/"):
        raise ConfigError(key, f"got {value[:80]!r}", PROFILE)
