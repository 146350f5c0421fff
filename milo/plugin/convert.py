"""Converts between Nomad's messages and `milo.core`. Only it and `stats_message` know both.

All functions are pure. A message from Nomad is trusted to have the right types, but any field of
it may be missing.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec.msgpack

from milo.core.cgroup import CRUN_CGROUP_ROOT, own_scope, scope_that_fits
from milo.core.launch import Device, Mount, Network, Resources, TaskRequest
from milo.core.report import (
    ExitResult,
    Fingerprint,
    TaskEvent,
)
from milo.errors import ConfigError
from milo.plugin.nomad_versions import v1_parent_before_1_7
from milo.plugin.start_message import Resources as WireResources
from milo.plugin.start_message import TaskConfig
from milo.wire.hashicorp.nomad.plugins.base import proto as base
from milo.wire.hashicorp.nomad.plugins.drivers import proto as drivers
from milo.wire.hashicorp.nomad.plugins.shared import structs

_MIB = 1024 * 1024

# Go's zero time, for a time that is not known or has not come: Nomad refuses a status without
# one ("nil Timestamp"), and betterproto leaves the Unix epoch out, as any default.
_ZERO_TIME = datetime(1, 1, 1, tzinfo=UTC)

_V1_CPUSET_ROOT = f"{CRUN_CGROUP_ROOT}/cpuset"

# Bridge, none and cni/<name> are all GROUP to Nomad, which makes the namespace itself
# (client/allocrunner/network_manager_linux.go); TASK would be a driver's own network.
NETWORK_MODES = ("HOST", "GROUP", "NONE")
_CHILD = re.compile(r"periodic-\d+|dispatch-\d+-[0-9a-f]{8}", re.ASCII)
"""What a child's id has behind its parent's (nomad/structs: PeriodicLaunchSuffix, DispatchedID)."""


# ---- what comes in


def request_from_task(task: TaskConfig) -> TaskRequest:
    """What a StartTask request asks for.

    Raises `ConfigError` when the config block is not msgpack.
    """
    linux = task.resources.linux_resources
    cgroup_parent, cpuset_cgroup = cgroup_paths(linux.cpuset_cgroup, task.alloc_id, task.name)
    return TaskRequest(
        task_id=task.id,
        task_name=task.name,
        alloc_id=task.alloc_id,
        alloc_dir=task.alloc_dir,
        # Without a path there is no log; Nomad itself says /dev/null where a job wants none.
        stdout_path=task.stdout_path or os.devnull,
        stderr_path=task.stderr_path or os.devnull,
        config=decode_config(task.msgpack_driver_config, "config"),
        env=dict(task.env),
        user=task.user,
        resources=_resources(task.resources),
        cgroup_parent=scope_that_fits(cgroup_parent),
        cpuset_cgroup=cpuset_cgroup,
        mounts=tuple(
            Mount(m.host_path, m.task_path, m.readonly, m.propagation_mode) for m in task.mounts
        ),
        devices=tuple(
            Device(d.host_path, d.task_path, d.cgroup_permissions or "rwm") for d in task.devices
        ),
        network=_network(task),
        job_name=task.job_name,
        group_name=task.task_group_name,
        alloc_name=_alloc_name(task),
        namespace=task.namespace,
        job_id=_job_id(task),
    )


def _job_id(task: TaskConfig) -> str:
    """Return the job's id, or that of the periodic or parameterized job whose child it is.

    Nomad 2.0.5 has a field for the parent and leaves it empty. So it is taken from the environment,
    where a job may write anything: only if the child's own id is made of it as Nomad makes it.
    """
    told = task.env.get("NOMAD_JOB_PARENT_ID", "")
    parent, _, run = task.job_id.rpartition("/")
    known = bool(told) and parent == told and _CHILD.fullmatch(run) is not None
    return task.parent_job_id or (parent if known else task.job_id)


def _alloc_name(task: TaskConfig) -> str:
    """Return the allocation's name, which stands in the environment alone.

    A job may set that to anything, so that only the index is taken from it.
    """
    head, _, index = task.env.get("NOMAD_ALLOC_NAME", "").rpartition("[")
    prefix = f"{task.job_name}.{task.task_group_name}"
    number = index.removesuffix("]")
    known = head == prefix and number.isascii() and number.isdigit()
    return f"{prefix}[{number}]" if known else ""


def decode_config(data: bytes, key: str) -> dict[str, Any]:
    """A configuration block as Nomad packed it, without the keys that are not set.

    No bytes at all, or a null, is an empty block. Raises `ConfigError`, naming ``key``, for
    anything else that is not a map.
    """
    if not data:
        return {}
    try:
        value = msgspec.msgpack.decode(data)
        if value is None:
            return {}
        if isinstance(value, dict):
            return _without_null(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(key, f"it cannot be decoded ({error})", "MessagePack") from error
    raise ConfigError(key, f"it is a {type(value).__name__}", "a block of keys and values")


def cgroup_paths(cpuset_cgroup: str, alloc_id: str, task_name: str) -> tuple[str, str]:
    """The task's cgroup below the hierarchy's root, and on v1 the cpuset group to join.

    Nomad passes one path. On cgroup v2 it is the task's own scope. On v1 it is a group of the
    cpuset controller, ``<parent>/share``, or ``<parent>/reserve/<scope>`` for a task with
    cores of its own, while the other controllers hold ``<parent>/<scope>``, the scope being
    ``<alloc id>.<task>``. Source: Nomad 2.0.5, client/lib/cgroupslib/{editor,init}.go.
    """
    if not cpuset_cgroup.startswith(CRUN_CGROUP_ROOT + "/"):
        return "", ""
    if not cpuset_cgroup.startswith(_V1_CPUSET_ROOT + "/"):
        return cpuset_cgroup[len(CRUN_CGROUP_ROOT) :].rstrip("/"), ""
    scope = f"{alloc_id}.{task_name}"
    parent = cpuset_cgroup[len(_V1_CPUSET_ROOT) :].rstrip("/")
    if (older := v1_parent_before_1_7(parent)) is not None:
        return own_scope(f"{older}/{scope}"), cpuset_cgroup
    parent = parent.removesuffix(f"/{scope}").rpartition("/")[0]
    return f"{parent}/{scope}", cpuset_cgroup


def seconds(duration: timedelta) -> float:
    """A duration in seconds; one that Nomad left out is 0."""
    return duration.total_seconds()


def _without_null(block: dict[Any, Any]) -> dict[str, Any]:
    """Unset keys arrive as null, in nested blocks and lists of blocks too."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return _without_null(value)
        return [clean(item) for item in value] if isinstance(value, list) else value

    return {str(key): clean(value) for key, value in block.items() if value is not None}


def client_mhz(config: base.NomadConfig) -> int:
    """Return what the client's processors can do, as its operator or else Nomad says; 0: unknown.

    Nomad sends it with the plugin's configuration, and sums it up as here (client/lib/numalib).
    """
    topology = config.driver.topology
    each = (core.base_speed or core.max_speed or core.guess_speed for core in topology.cores)
    return int(topology.override_total_compute or sum(each))


def _resources(resources: WireResources) -> Resources:
    linux = resources.linux_resources
    memory = resources.allocated_resources.memory
    # -1 is Nomad's word for no upper limit (nomad/structs, MemoryNoLimit) and stays -1.
    memory_max = memory.memory_max_mb
    return Resources(
        memory_bytes=memory.memory_mb * _MIB or linux.memory_limit_bytes,
        memory_max_bytes=memory_max * _MIB if memory_max > 0 else memory_max,
        cpu_shares=linux.cpu_shares or resources.allocated_resources.cpu.cpu_shares,
        cpuset_cpus=linux.cpuset_cpus,
        oom_score_adj=linux.oom_score_adj,
        cpu_percent_ticks=linux.percent_ticks,
    )


def _network(task: TaskConfig) -> Network:
    spec = task.network_isolation_spec
    # Without a specification the task is on the host's network, which is also mode 0.
    try:
        mode = drivers.NetworkIsolationSpecNetworkIsolationMode(spec.mode).name or ""
    except ValueError:
        mode = ""
    if mode not in NETWORK_MODES:
        # Never the host's network instead: the job asked for less.
        raise ConfigError(
            "network mode",
            f"Nomad asks for isolation of kind {mode or spec.mode}, which Milo does not offer",
            "host, bridge, none or cni/<name>",
        )
    return Network(
        mode=mode.lower(),
        namespace_path=spec.path,
        hostname=spec.hosts_config.hostname,
        address=spec.hosts_config.address,
        dns_servers=tuple(task.dns.servers),
        dns_searches=tuple(task.dns.searches),
        dns_options=tuple(task.dns.options),
    )


# ---- what goes out


def capabilities() -> drivers.DriverCapabilities:
    """What Milo can do, as far as Nomad asks."""
    return drivers.DriverCapabilities(
        send_signals=True,
        exec=True,
        fs_isolation=drivers.DriverCapabilitiesFsIsolation.from_string("IMAGE"),
        network_isolation_modes=[
            drivers.NetworkIsolationSpecNetworkIsolationMode.from_string(mode)
            for mode in NETWORK_MODES
        ],
        mount_configs=drivers.DriverCapabilitiesMountConfigs.from_string("ANY_MOUNTS"),
        # True would mean that Nomad starts no log collector for any task. A job that disables
        # its logs needs no capability: its task gets /dev/null as paths.
        disable_log_collection=False,
    )


def fingerprint(report: Fingerprint) -> drivers.FingerprintResponse:
    """Health and node attributes."""
    return drivers.FingerprintResponse(
        attributes={key: _attribute(value) for key, value in report.attributes.items()},
        health=drivers.FingerprintResponseHealthState.from_string(report.health.upper()),
        health_description=report.description,
    )


def _attribute(value: str | bool | int | float) -> structs.Attribute:
    if isinstance(value, bool):
        return structs.Attribute(bool_val=value)
    if isinstance(value, int):
        return structs.Attribute(int_val=value)
    if isinstance(value, float):
        return structs.Attribute(float_val=value)
    return structs.Attribute(string_val=value)


def wait_response(result: ExitResult) -> drivers.WaitTaskResponse:
    """The outcome of a task.

    One with an error is no success to Nomad, which shows the error's text as the exit message of
    the event Terminated. Source: Nomad 2.0.5, client/allocrunner/taskrunner/task_runner.go.
    """
    return drivers.WaitTaskResponse(result=_exit_result(result), err=result.message or result.error)


def _exit_result(result: ExitResult) -> drivers.ExitResult:
    code = exit_code(result)
    return drivers.ExitResult(exit_code=code, signal=result.signal, oom_killed=result.oom_killed)


def exit_code(result: ExitResult) -> int:
    """Return it as Nomad's own drivers say it: 128 and the number of the signal, if one it was."""
    return 128 + result.signal if result.signal else result.exit_code


def event(report: TaskEvent) -> drivers.DriverTaskEvent:
    """A line of the task's event list."""
    return drivers.DriverTaskEvent(
        task_id=report.task_id,
        alloc_id=report.alloc_id,
        task_name=report.task_name,
        timestamp=_timestamp(report.timestamp_s),
        message=report.message,
        annotations=dict(report.annotations),
    )


def _timestamp(unix_s: float | None) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC) if unix_s else _ZERO_TIME
