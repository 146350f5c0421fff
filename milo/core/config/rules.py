"""The rules across the keys of a job, and what the operator permits. Pure.

Keys that are harmless alone can be dangerous together. So `check_task` looks at all of them at
once, and at the task's user and network. docs/security.md says what each combination would give a
task, and tests/unit/test_rules.py checks every pair.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import attrs

from milo.core.config.plugin_options import PluginOptions
from milo.core.config.task_options import TaskOptions
from milo.core.container import capabilities, sysctls, ulimits, userns
from milo.core.container.spec import User
from milo.core.java.jvm_options import check_jvm_options
from milo.errors import ConfigError, UserError

DEFAULT_USER: Final = "nobody"
"""As in Nomad's own java driver."""

ROOT_CAPABILITIES: Final = ("setfcap", "setgid", "setpcap", "setuid")
"""With each of these a task makes itself root, or a file that makes root of who runs it."""

MODE_CAPABILITIES: Final = ("fowner", "fsetid")
OWNER_CAPABILITIES: Final = ("chown", "dac_override", "fowner", "fsetid")
"""One of the first with another of the second gives a program of the task's making to root, or
keeps root's own while it is rewritten, with its set-user-ID or set-group-ID bit."""

NETWORK_CAPABILITIES: Final = ("net_admin", "net_raw")
"""In the host's network they change that, or read and forge everybody's packets."""


@attrs.frozen
class Asked:
    """All that decides about a task's privileges."""

    options: TaskOptions
    plugin: PluginOptions
    user: User = attrs.field(factory=lambda: User(65534, 65534, name=DEFAULT_USER))
    """As the host's user database has it."""
    user_text: str = ""
    """The task's ``user`` as the job spells it."""
    network_mode: str = "host"
    """``host``, ``group`` or ``none``, as `milo.core.launch.Network` has it."""

    @property
    def host_namespaces(self) -> tuple[str, ...]:
        """The keys by which the task shares a namespace of the host's."""
        modes = (("pid_mode", self.options.pid_mode), ("ipc_mode", self.options.ipc_mode))
        return tuple(key for key, mode in modes if mode == "host")


def check_task(asked: Asked) -> None:
    """Refuse a task whose keys exclude each other, or that asks for more than is permitted.

    Raises:
        ConfigError, UserError: naming the job's key, and the plugin's that would permit it.
    """
    check_sense(asked)
    _check_user_namespace(asked)
    _check_each(asked)
    if not asked.plugin.insecure_java_driver_privileges:
        _check_together(asked)


def check_sense(asked: Asked) -> None:
    """Refuse keys of which one makes another mean nothing; raises `ConfigError`."""
    options = asked.options
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
    if (
        options.log_overflow == "drop"
        and options.log_block_timeout_s != asked.plugin.log_block_timeout_s
    ):
        raise ConfigError(
            "log_block_timeout",
            'log_overflow = "drop" never waits, so that a timeout means nothing',
            'log_block_timeout only together with log_overflow = "block"',
        )
    sysctls.check_network(options.sysctl, asked.network_mode)
    if options.ipc_mode == "host":
        sysctls.check_ipc(options.sysctl)
        if options.shm_size_bytes:
            raise ConfigError(
                "shm_size",
                'with ipc_mode = "host" the task uses the host\'s /dev/shm',
                'shm_size only together with ipc_mode = "private"',
            )


def _check_user_namespace(asked: Asked) -> None:
    """Refuse what a user namespace has no rights to, or no room for."""
    if not asked.plugin.userns:
        return
    for key in asked.host_namespaces:
        raise ConfigError(
            key,
            "the plugin's configuration has userns = true, and a user namespace has no "
            "rights in the host's",
            f'{key} = "private"',
        )
    if asked.network_mode == "group":
        # Nomad made the network's namespace, so that it belongs to the host's user namespace.
        for name in asked.options.sysctl:
            if name.startswith(sysctls.NET_PREFIX):
                raise ConfigError(
                    f"sysctl.{name}",
                    "the plugin's configuration has userns = true, and a user namespace has no "
                    "rights in the group's network",
                    'it only in a group whose network has mode = "none"',
                )
    user = asked.user
    if too_large := userns.unmapped((user.uid, user.gid, *user.groups)):
        raise UserError(
            asked.user_text or user.name,
            f"its id {too_large[0]} is above those that a user namespace maps, 0 to "
            f"{userns.BLOCK_SIZE - 1}. Set the task's user to another, or userns = false in the "
            "plugin's configuration",
        )


def _check_each(asked: Asked) -> None:
    """Refuse each privilege that the operator has not switched on."""
    options, plugin, user = asked.options, asked.plugin, asked.user
    if not plugin.allow_root and 0 in (user.uid, user.gid, *user.groups):
        what = "root" if user.uid == 0 else "a member of root's group"
        raise UserError(
            asked.user_text or DEFAULT_USER,
            f"{what} is not permitted on this client. Set the task's user to another, "
            "or allow_root = true in the plugin's configuration",
        )
    if options.mounts and not plugin.volumes.enabled:
        raise ConfigError(
            "mounts",
            "this client does not let jobs mount directories of the host",
            "a volume block, or volumes { enabled = true } in the plugin's configuration",
        )
    if options.pids_limit > plugin.pids_limit:
        raise ConfigError(
            "pids_limit",
            f"{options.pids_limit} is above the plugin's pids_limit",
            f"a number up to {plugin.pids_limit}",
        )
    capabilities.check_allowed(options.cap_add, options.cap_drop, plugin.allow_caps)
    profile = options.seccomp_profile
    profiles = (plugin.seccomp_profile, *plugin.allow_seccomp_profiles)
    if profile not in profiles:
        names = ", ".join(name for name in profiles if name)
        raise ConfigError(
            "seccomp_profile",
            f"the plugin's allow_seccomp_profiles does not hold {profile[:80]!r}",
            f"one of {names}" if names else "no seccomp_profile: none is allowed here",
        )
    for key, permit, permitted in (
        ("pid_mode", "allow_host_namespaces", plugin.allow_host_namespaces),
        ("ipc_mode", "allow_host_ipc", plugin.allow_host_ipc),
    ):
        if key in asked.host_namespaces and not permitted:
            raise ConfigError(
                key,
                f"the plugin's {permit} is false",
                f'{key} = "private", or {permit} = true in the plugin\'s configuration',
            )
    ulimits.check_allowed(options.ulimit, plugin.allow_caps)


def _check_together(asked: Asked) -> None:
    """Refuse privileges that together are one which the operator has not switched on."""
    plugin = asked.plugin
    wanted = capabilities.wanted(asked.options.cap_add, asked.options.cap_drop)
    if not plugin.allow_root:
        if rooting := [name for name in ROOT_CAPABILITIES if name in wanted]:
            raise ConfigError(
                "cap_add",
                f"{', '.join(rooting)} would make root of the task or of others, and the "
                "plugin's allow_root is false",
                f"cap_add without {', '.join(rooting)}, or allow_root = true in the plugin's "
                "configuration",
            )
        owning = [name for name in OWNER_CAPABILITIES if name in wanted]
        if len(owning) > 1 and {*owning} & {*MODE_CAPABILITIES}:
            raise ConfigError(
                "cap_add",
                f"{', '.join(owning)} together can leave a set-user-ID program of root's on "
                "the host's disk, and the plugin's allow_root is false",
                "one of them, or allow_root = true in the plugin's configuration",
            )
    for key in asked.host_namespaces:
        _check_capabilities(asked, wanted, f'{key} = "host"')
        _check_user(asked, key)
    if asked.network_mode == "host":
        found = [name for name in NETWORK_CAPABILITIES if name in wanted]
        _check_capabilities(asked, found, "the host's network")


def _check_capabilities(asked: Asked, wanted: Collection[str], place: str) -> None:
    """Refuse capabilities in a namespace of the host's, but for those that the operator names."""
    permitted = asked.plugin.allow_caps_with_host_namespaces
    missing = [name for name in wanted if not capabilities.holds(permitted, name)]
    if missing:
        raise ConfigError(
            "cap_add",
            f"with {place} {', '.join(missing)} would reach all of the host, and the plugin's "
            "allow_caps_with_host_namespaces does not hold that",
            "no such capability, a namespace of the task's own, or the capability in "
            "allow_caps_with_host_namespaces in the plugin's configuration",
        )


def _check_user(asked: Asked, key: str) -> None:
    """Refuse a user whose processes of the host a task would then have, but for named ones.

    By the text for ``user:group``, which is another group than the user database gives.
    """
    text = asked.user_text or DEFAULT_USER
    names = {text} if ":" in text else {text, asked.user.name} - {""}
    permitted = {DEFAULT_USER, *asked.plugin.allow_users_with_host_namespaces}
    if not names & permitted:
        raise UserError(
            text,
            f'with {key} = "host" it would have the host\'s processes or memory of this user, '
            f"and the plugin's allow_users_with_host_namespaces does not hold {text!r}. Set the "
            f"task's user to another, {key} to private, or name the user there",
        )
