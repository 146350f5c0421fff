"""What a task process is told to run: plain values, encoded as JSON by msgspec.

The driver makes a `Launch` from Nomad's StartTask request, or ``milo run`` from its command line,
and writes it to the task's state directory. The task process uses nothing else. Paths are the
host's unless a name says otherwise.
"""

from __future__ import annotations

import unicodedata
from typing import Any, Final

import attrs

from milo.core.config.plugin_options import PluginOptions
from milo.core.container.rights import ROOT, Rights
from milo.core.records import RECORD_VERSION, Int32, TaskNames
from milo.errors import ConfigError

SHARED_DIRECTORY: Final = "alloc"
"""Of an allocation: what its tasks share, beside a directory of each one's own."""


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
    openj9: bool = False
    """Whether its JVM is Eclipse OpenJ9 (IBM J9), and not HotSpot, as GraalVM's is too."""


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
    """In a request Nomad's MHz; in a launch what the kernel takes of them
    (`milo.core.cgroup.kernel_shares`), for v2 still to be converted."""
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
class TaskRequest:
    """What is asked for: by Nomad's StartTask request, or by the command line of ``milo run``."""

    task_id: str
    task_name: str
    alloc_id: str
    alloc_dir: str
    """The allocation's directory: the task's own is ``alloc_dir/task_name``."""
    stdout_path: str
    """Nomad's FIFO, or /dev/null when log collection is disabled."""
    stderr_path: str
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
    job_name: str = ""
    """Empty outside of Nomad, as is what follows; and of a task that an older Milo has started."""
    group_name: str = ""
    alloc_name: str = ""
    """Of the allocation: ``job.group[index]``."""
    namespace: str = ""
    """Nomad's, of the job."""
    job_id: str = ""
    """The job's, which its name need not be; of a child of a periodic or parameterized job its
    parent's."""
    log_dir: str = ""
    """Where ``milo run`` keeps what the task prints; empty under Nomad, which has a place."""

    def is_same_task(self, other: TaskRequest) -> bool:
        """Whether both are instances of one task: Nomad never wants two of them at a time."""
        return (self.alloc_id, self.task_name) == (other.alloc_id, other.task_name)

    @property
    def names(self) -> TaskNames:
        """Whose it is."""
        return TaskNames(
            task_name=self.task_name,
            alloc_id=self.alloc_id,
            job_name=self.job_name,
            group_name=self.group_name,
            alloc_name=self.alloc_name,
        )

    @property
    def task_dir(self) -> str:
        """The task's own directory, which holds ``local``, ``secrets`` and ``tmp``."""
        return f"{self.alloc_dir}/{self.task_name}"

    @property
    def shared_dir(self) -> str:
        """The allocation's shared directory, ``/alloc`` in the container."""
        return f"{self.alloc_dir}/{SHARED_DIRECTORY}"


def check_task_name(name: str) -> None:
    """Raise `ConfigError` unless ``name`` is the name of one directory, and of one line.

    Nomad's servers refuse some names, but whoever can talk to the agent's plugin, or an older
    server, may not: two jobs with a task ``..`` have shared their directories, secrets included.
    """
    if name in ("", ".", "..", SHARED_DIRECTORY):
        problem = f"{name!r} is no directory of the task's own"
    elif "/" in name or any(unicodedata.category(char) in _NOT_IN_NAMES for char in name):
        problem = f"{name!r} has a slash or a control character"
    else:
        return
    raise ConfigError("the task's name", problem, 'a name such as "web"')


_NOT_IN_NAMES: Final = frozenset(("Cc", "Cs", "Zl", "Zp"))
"""Control characters, halves of characters, and ends of lines and paragraphs, in Unicode."""


@attrs.frozen(kw_only=True)
class Launch(TaskRequest):
    """Everything that is needed to run one task, once: the request, and what this host has.

    The file `milo.core.records.LAUNCH_FILE` is this, all of it at one level.
    """

    state_dir: str
    """This task's own directory below the plugin's state_dir."""
    crun_path: str
    """Absolute."""
    javas: tuple[JavaRuntime, ...]
    """In the order of preference; the first one is the default JDK."""
    plugin: PluginOptions
    """As they are at the start: a task keeps them."""
    rights: Rights = ROOT
    """What the task process may do on this host."""
    by_hand: bool = False
    """Whether a person has typed it: messages then name options of ``milo run``, not keys."""
    terminal: bool = False
    """Whether the application has a pseudo terminal for its standard streams."""
    version: Int32 = RECORD_VERSION
    """Of `milo.core.records`, which reads and writes it."""

    @classmethod
    def of(
        cls,
        request: TaskRequest,
        *,
        state_dir: str,
        crun_path: str,
        javas: tuple[JavaRuntime, ...],
        plugin: PluginOptions,
    ) -> Launch:
        """Return the launch of ``request`` on this host."""
        asked = {field.name: getattr(request, field.name) for field in attrs.fields(TaskRequest)}
        return cls(**asked, state_dir=state_dir, crun_path=crun_path, javas=javas, plugin=plugin)


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
