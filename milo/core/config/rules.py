"""What the keys of a job mean together, and what the operator permits. Pure.

Keys that are harmless one by one can be a hole together, so that one function looks at all
of them at once.
"""

from __future__ import annotations

from milo.core.config.plugin_options import PluginOptions
from milo.core.config.task_options import TaskOptions
from milo.core.container import capabilities, sysctls, ulimits
from milo.core.java.jvm_options import check_jvm_options
from milo.errors import ConfigError


def check_task(options: TaskOptions, plugin: PluginOptions) -> None:
    """Refuse a job whose keys exclude each other, or ask for more than the operator permits.

    Raises:
        ConfigError: naming the key, and where the plugin's configuration could permit it, how.
    """
    if options.class_path and not (options.main_class or options.jar_path):
        raise ConfigError(
            "class_path",
            "it has no effect without class: the JAR under local/ is run by java -jar",
            "class_path only together with class, the class to run",
        )
    check_jvm_options(
        options.jvm_options,
        class_path_free=bool(options.main_class) and not (options.class_path or options.jar_path),
    )
    if options.log_overflow == "drop" and options.log_block_timeout_s != plugin.log_block_timeout_s:
        raise ConfigError(
            "log_block_timeout",
            'log_overflow = "drop" never waits, so that a timeout means nothing',
            'log_block_timeout only together with log_overflow = "block"',
        )
    if options.pids_limit > plugin.pids_limit:
        raise ConfigError(
            "pids_limit",
            f"{options.pids_limit} is above the plugin's pids_limit",
            f"a number up to {plugin.pids_limit}",
        )
    capabilities.check_allowed(options.cap_add, options.cap_drop, plugin.allow_caps)
    profile = options.seccomp_profile
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
    ulimits.check_allowed(options.ulimit, plugin.allow_caps)
    if options.ipc_mode == "host":
        sysctls.check_ipc(options.sysctl)
        if options.shm_size_bytes:
            raise ConfigError(
                "shm_size",
                'with ipc_mode = "host" the task uses the host\'s /dev/shm',
                'shm_size only together with ipc_mode = "private"',
            )
