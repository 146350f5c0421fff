"""What a task process is told to run: plain values, encoded as JSON by msgspec.

The driver fills a `Launch` from Nomad's StartTask request (or ``milo run`` from its
command line), writes it to the task's state directory, and the task process works from it
alone. Paths are the host's unless a name says otherwise.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from milo.core.records import RECORD_VERSION, Int32


@attrs.frozen
class JavaRuntime:
    """One Java runtime of the host, as `milo.host.java.finder` found it."""

    home: str
    """Absolute, all symlinks resolved."""
    version: str
    """Full version, e.g. ``17.0.15`` or ``1.8.0_402``."""
    major: int
    """Feature release, e.g. 17 (8 for ``1.8.0_402``)."""
    source: str
    """Where it was found, for people: ``java_home``, ``JAVA_HOME``, ``/usr/lib/jvm`` ..."""
    binds: tuple[str, ...] = ()
    """Host paths outside of ``home`` that its symlinks lead to (Debian: /etc/java-17-openjdk)."""
    trusted: bool = True
    """Whether root alone can write its files, so that it was run to learn the version."""


DEFAULT_ALLOW_CAPS: Final = (
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


@attrs.frozen
class JobMount:
    """One entry of a job's ``mounts``."""

    source: str
    """On the host; absolute."""
    target: str
    """In the container; absolute."""
    readonly: bool = True
    propagation: str = ""
    """Nomad's words: ``private``, ``host-to-task`` or ``bidirectional``."""


@attrs.frozen
class Mount:
    """A bind mount that Nomad asks for (volume_mount, host volume)."""

    host_path: str
    task_path: str
    readonly: bool = False
    propagation: str = ""


@attrs.frozen
class Device:
    """A device node that Nomad asks for."""

    host_path: str
    task_path: str
    permissions: str = "rwm"


@attrs.frozen
class Resources:
    """The limits of one task. 0 means that there is no limit of that kind."""

    memory_bytes: int = 0
    memory_max_bytes: int = 0
    cpu_shares: int = 0
    """Nomad's MHz, used as cgroup v1 shares (and as weight, converted, on v2)."""
    cpu_percent_ticks: float = 0.0
    """LinuxResources.percent_ticks: the task's MHz over all MHz that the client offers (0 to 1);
    what ``cpu_hard_limit`` holds the task to."""
    cpuset_cpus: str = ""
    oom_score_adj: int = 0


@attrs.frozen
class Network:
    """Which network the container sees."""

    mode: str = "host"
    """``host``, ``group`` or ``none``."""
    namespace_path: str = ""
    hostname: str = ""
    address: str = ""
    dns_servers: tuple[str, ...] = ()
    dns_searches: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()


@attrs.frozen
class PluginOptions:
    """The plugin's configuration, in so far as a task process needs it.

    Filled by `milo.core.config.options.parse_plugin_options`.
    """

    java_home: str = ""
    crun_path: str = "crun"
    state_dir: str = "/run/milo"
    allow_root: bool = False
    log_overflow: str = "block"
    log_block_timeout_s: float = 30.0
    rootfs: str = "host"
    """For jobs that do not say: ``host`` or ``minimal``."""
    volumes_enabled: bool = False
    """The key ``volumes { enabled }``: whether a job may use ``mounts``."""
    volume_paths: tuple[str, ...] = ()
    """``volumes { paths }``: the host directories below which a source may lie, normalized."""
    allow_caps: tuple[str, ...] = DEFAULT_ALLOW_CAPS
    """Lower case, without ``cap_``; what a job's ``cap_add`` may ask for."""
    default_pid_mode: str = "private"
    default_ipc_mode: str = "private"
    allow_host_namespaces: bool = True
    """Whether a job may set ``pid_mode`` and ``ipc_mode`` to ``host``, as with the java driver."""
    seccomp_profile: str = ""
    """A path on the host, ``unconfined``, or empty for the default profile."""
    allow_seccomp_profiles: tuple[str, ...] = ()
    """What a job's ``seccomp_profile`` may name."""
    pids_limit: int = 4096
    """The most that a job may ask for, and what it gets when it does not."""
    userns: bool = False


@attrs.frozen
class Launch:
    """Everything that is needed to run one task, once."""

    task_id: str
    task_name: str
    alloc_id: str
    alloc_dir: str
    """The allocation's directory: the task's own is ``alloc_dir/task_name``."""
    stdout_path: str
    """Nomad's FIFO, or /dev/null when log collection is disabled."""
    stderr_path: str
    state_dir: str
    """This task's own directory below the plugin's state_dir."""
    crun_path: str
    """Absolute."""
    javas: tuple[JavaRuntime, ...]
    """In the order of preference; the first one is the default JDK."""
    config: dict[str, Any] = attrs.field(factory=dict)
    """The job's ``config`` block as Nomad decoded it, not yet validated."""
    env: dict[str, str] = attrs.field(factory=dict)
    user: str = ""
    resources: Resources = attrs.field(factory=Resources)
    cgroup_parent: str = ""
    """The cgroup that Nomad made for the task, relative to the hierarchy's root, e.g.
    ``/nomad.slice/share.slice/<alloc>.<task>.scope``; empty outside of Nomad."""
    cpuset_cgroup: str = ""
    """cgroup v1 only: absolute path of the cpuset group that the processes join."""
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    network: Network = attrs.field(factory=Network)
    plugin: PluginOptions = attrs.field(factory=PluginOptions)
    log_dir: str = ""
    """Where ``milo run`` keeps what the task prints; empty under Nomad, which has a place."""
    version: Int32 = RECORD_VERSION
    """Of `milo.core.records`, which reads and writes it."""

    def is_same_task(self, other: Launch) -> bool:
        """Whether both are instances of one task: Nomad never wants two of them at a time."""
        return (self.alloc_id, self.task_name) == (other.alloc_id, other.task_name)

    @property
    def task_dir(self) -> str:
        """The task's own directory, which holds ``local``, ``secrets`` and ``tmp``."""
        return f"{self.alloc_dir}/{self.task_name}"

    @property
    def shared_dir(self) -> str:
        """The allocation's shared directory, ``/alloc`` in the container."""
        return f"{self.alloc_dir}/alloc"


@attrs.frozen
class TaskOptions:
    """The job's ``config`` block, validated by `milo.core.config.options.parse_task_options`."""

    jar_path: str = ""
    main_class: str = ""
    """The key ``class``."""
    class_path: str = ""
    args: tuple[str, ...] = ()
    jvm_options: tuple[str, ...] = ()
    log_overflow: str = "block"
    """``block`` or ``drop``."""
    log_block_timeout_s: float = 30.0
    """0 waits for ever."""
    cpu_hard_limit: bool = False
    rootfs: str = "host"
    """``host`` or ``minimal``."""
    work_dir: str = ""
    """In the container; empty is Milo's default."""
    mounts: tuple[JobMount, ...] = ()
    cap_add: tuple[str, ...] = ()
    """Lower case, without ``cap_``; may hold ``all``."""
    cap_drop: tuple[str, ...] = ()
    seccomp_profile: str = ""
    """A path on the host, ``unconfined``, or empty for the plugin's."""
    ulimit: dict[str, str] = attrs.field(factory=dict)
    """Name (``nofile``) to ``soft`` or ``soft:hard``."""
    sysctl: dict[str, str] = attrs.field(factory=dict)
    shm_size_bytes: int = 0
    """0: the default."""
    pids_limit: int = 0
    """0: the plugin's."""
    pid_mode: str = "private"
    """``private`` or ``host``."""
    ipc_mode: str = "private"
    init: bool = False
    """Whether a packaged init is the container's first process."""
    heap_percent: int = 0
    """The heap's share of the task's memory, 1 to 95; 0: Milo's default."""
    heap_dump_on_oom: bool = False
    java_version: str = ""
    """Which Java, such as ``>= 17``; see `milo.core.java.choice`."""
    java_home: str = ""
    """A Java of the host's, or one in the task's directories (``local/jdk``)."""
    extra_hosts: tuple[str, ...] = ()
    """``name:address``, as docker and Nomad's docker driver spell it."""
    hostname: str = ""


@attrs.frozen
class Application:
    """What the JVM is to run, as `milo.core.java.application` resolved it."""

    java: JavaRuntime
    jar: str = ""
    """Path inside the container of the JAR given to ``-jar`` or put on the class path."""
    main_class: str = ""
    """Empty when ``-jar`` runs the JAR's own Main-Class."""
    class_path: str = ""
    java_home: str = ""
    """Where the container has ``java``, if that came with the task; else it is where the host
    has it."""
    notes: tuple[str, ...] = ()
    """Sentences for the start event, e.g. why this Java was chosen."""
