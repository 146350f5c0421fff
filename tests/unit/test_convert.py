"""What Nomad sends becomes a launch, and what the driver reports becomes what Nomad reads."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import Any, cast

import betterproto
import msgspec.msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo.core import report
from milo.core.cgroup import own_scope
from milo.core.config.options import options_of
from milo.core.config.plugin_options import PluginOptions
from milo.core.config.task_options import TaskOptions
from milo.core.exec_io import CommandEnd, Printed
from milo.core.launch import Device, Mount, Network, Resources
from milo.errors import ConfigError
from milo.plugin import convert, exec_service
from milo.plugin.schema import spec_of
from milo.plugin.start_message import TaskConfig
from milo.wire.hashicorp.nomad.plugins.base import proto as base
from milo.wire.hashicorp.nomad.plugins.drivers import proto as drivers
from milo.wire.hashicorp.nomad.plugins.shared import hclspec

ALLOC = "7fdf0669-5b96-5ddd-c086-b397e875d68c"
V2_SCOPE = f"/sys/fs/cgroup/nomad.slice/share.slice/{ALLOC}.app.scope"


def _over_the_wire(task: drivers.TaskConfig) -> TaskConfig:
    return TaskConfig.decode(bytes(task))


def test_a_full_task_becomes_a_request() -> None:
    """Every part of the request that a task process needs is in the request."""
    config = {"jar_path": "local/app.jar", "args": ["a", "ü"], "class": None}
    task = drivers.TaskConfig(
        id=f"{ALLOC}/app/1234",
        name="app",
        msgpack_driver_config=msgspec.msgpack.encode(config),
        env={"NOMAD_TASK_DIR": "/local"},
        user="www-data",
        alloc_id=ALLOC,
        alloc_dir=f"/var/nomad/alloc/{ALLOC}",
        stdout_path="/out.fifo",
        stderr_path="/err.fifo",
        resources=drivers.Resources(
            allocated_resources=drivers.AllocatedTaskResources(
                cpu=drivers.AllocatedCpuResources(cpu_shares=500),
                memory=drivers.AllocatedMemoryResources(memory_mb=256, memory_max_mb=512),
            ),
            linux_resources=drivers.LinuxResources(
                cpu_shares=500,
                memory_limit_bytes=512 * 1024 * 1024,
                cpuset_cpus="0,2",
                cpuset_cgroup=V2_SCOPE,
                percent_ticks=0.1,
            ),
        ),
        mounts=[drivers.Mount("/data", "/srv/data", True, "private")],
        devices=[drivers.Device("/dev/x", "/dev/x", "rw"), drivers.Device("/dev/y", "/dev/y")],
        network_isolation_spec=drivers.NetworkIsolationSpec(
            mode=drivers.NetworkIsolationSpecNetworkIsolationMode.from_string("GROUP"),
            path="/var/run/netns/x",
            hosts_config=drivers.HostsConfig("box", "10.0.0.2"),
        ),
        dns=drivers.DnsConfig(servers=["1.1.1.1"], searches=["lan"], options=["ndots:2"]),
    )
    request = convert.request_from_task(_over_the_wire(task))
    assert request.task_id == f"{ALLOC}/app/1234"
    assert request.task_dir == f"/var/nomad/alloc/{ALLOC}/app"
    assert request.config == {"jar_path": "local/app.jar", "args": ["a", "ü"]}
    assert (request.env, request.user) == ({"NOMAD_TASK_DIR": "/local"}, "www-data")
    assert (request.stdout_path, request.stderr_path) == ("/out.fifo", "/err.fifo")
    assert request.resources == Resources(
        memory_bytes=256 * 1024 * 1024,
        memory_max_bytes=512 * 1024 * 1024,
        cpu_shares=500,
        cpuset_cpus="0,2",
        cpu_percent_ticks=0.1,
    )
    assert request.cgroup_parent == V2_SCOPE.removeprefix("/sys/fs/cgroup")
    assert request.cpuset_cgroup == ""
    assert request.mounts == (Mount("/srv/data", "/data", True, "private"),)
    assert request.devices == (
        Device("/dev/x", "/dev/x", "rw"),
        Device("/dev/y", "/dev/y", "rwm"),
    )
    assert request.network == Network(
        mode="group",
        namespace_path="/var/run/netns/x",
        hostname="box",
        address="10.0.0.2",
        dns_servers=("1.1.1.1",),
        dns_searches=("lan",),
        dns_options=("ndots:2",),
    )


def test_an_empty_task_becomes_a_request_without_limits() -> None:
    """Nothing that is left out is invented: no limits, no cgroup, no log, the host's network."""
    request = convert.request_from_task(_over_the_wire(drivers.TaskConfig(id="x")))
    assert request.resources == Resources()
    assert (request.stdout_path, request.stderr_path) == ("/dev/null", "/dev/null")
    assert (request.config, request.mounts, request.devices) == ({}, (), ())
    assert (request.cgroup_parent, request.cpuset_cgroup) == ("", "")
    assert request.network == Network(mode="host")


def test_a_job_is_known_by_its_namespace_and_its_parents_id() -> None:
    """A run of a periodic job belongs to that job, and a job's name may be another's too."""
    task = drivers.TaskConfig(id="x", namespace="shop", job_id="clean/periodic-1", job_name="clean")
    request = convert.request_from_task(_over_the_wire(task))
    assert (request.namespace, request.job_id) == ("shop", "clean/periodic-1")
    task.parent_job_id = "clean"
    assert convert.request_from_task(_over_the_wire(task)).job_id == "clean"


@pytest.mark.parametrize(
    ("job_id", "told", "expected"),
    [
        ("clean/periodic-1795766427", "clean", "clean"),
        ("a/b/dispatch-1795766427-0a1b2c3d", "a/b", "a/b"),
        # What a job has in its environment makes it no other's child.
        ("clean", "other", "clean"),
        ("mine/periodic-1", "other", "mine/periodic-1"),
        ("clean/now", "clean", "clean/now"),
        ("clean/periodic-1", "", "clean/periodic-1"),
        ("/periodic-1", "", "/periodic-1"),
        ("clean/dispatch-1-XYZ", "clean", "clean/dispatch-1-XYZ"),
    ],
)
def test_a_childs_parent_is_known_from_its_id_too(job_id: str, told: str, expected: str) -> None:
    """Nomad itself leaves the parent's field empty, and a job's environment is its own."""
    env = {"NOMAD_JOB_PARENT_ID": told} if told else {}
    task = drivers.TaskConfig(id="x", job_id=job_id, env=env)
    assert convert.request_from_task(_over_the_wire(task)).job_id == expected


@pytest.mark.parametrize("mode", [2, 7])
def test_a_network_that_milo_does_not_offer_is_refused(mode: int) -> None:
    """A kind of isolation that is not among the capabilities never becomes the host's network."""
    spec = drivers.NetworkIsolationSpec(mode=mode)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="network mode"):
        convert.request_from_task(_over_the_wire(drivers.TaskConfig(network_isolation_spec=spec)))


def test_the_modes_of_the_network_are_told_to_nomad() -> None:
    """The host's network, the allocation's and none are among the capabilities."""
    assert convert.capabilities().network_isolation_modes == [0, 1, 3]
    assert not convert.capabilities().must_create_network


def test_memory_max_without_limit_stays_negative() -> None:
    """Nomad's -1 for memory_max means no upper limit and is not multiplied."""
    memory = drivers.AllocatedMemoryResources(memory_mb=100, memory_max_mb=-1)
    resources = drivers.Resources(allocated_resources=drivers.AllocatedTaskResources(memory=memory))
    launch = convert.request_from_task(_over_the_wire(drivers.TaskConfig(resources=resources)))
    assert launch.resources.memory_bytes == 100 * 1024 * 1024
    assert launch.resources.memory_max_bytes == -1


@pytest.mark.parametrize(
    ("given_path", "parent", "cpuset"),
    [
        (V2_SCOPE, f"/nomad.slice/share.slice/{ALLOC}.app.scope", ""),
        (
            "/sys/fs/cgroup/cpuset/nomad/share",
            f"/nomad/{ALLOC}.app",
            "/sys/fs/cgroup/cpuset/nomad/share",
        ),
        (
            f"/sys/fs/cgroup/cpuset/nomad/reserve/{ALLOC}.app",
            f"/nomad/{ALLOC}.app",
            f"/sys/fs/cgroup/cpuset/nomad/reserve/{ALLOC}.app",
        ),
        (
            "/sys/fs/cgroup/cpuset/custom/parent/share",
            f"/custom/parent/{ALLOC}.app",
            "/sys/fs/cgroup/cpuset/custom/parent/share",
        ),
        (
            "/sys/fs/cgroup/cpuset/nomad/shared",
            own_scope(f"/nomad/{ALLOC}.app"),
            "/sys/fs/cgroup/cpuset/nomad/shared",
        ),
        (
            f"/sys/fs/cgroup/cpuset/custom/parent/reserved/{ALLOC}-app",
            own_scope(f"/custom/parent/{ALLOC}.app"),
            f"/sys/fs/cgroup/cpuset/custom/parent/reserved/{ALLOC}-app",
        ),
        (
            f"/sys/fs/cgroup/nomad.slice/{ALLOC}.app.scope",
            f"/nomad.slice/{ALLOC}.app.scope",
            "",
        ),
        ("", "", ""),
        ("/elsewhere", "", ""),
    ],
)
def test_cgroup_paths(given_path: str, parent: str, cpuset: str) -> None:
    """The task's own cgroup is found from the one path that Nomad passes, on v1 and v2.

    Before Nomad 1.7 the scope on v1 is Milo's own, since Nomad has none.
    """
    assert convert.cgroup_paths(given_path, ALLOC, "app") == (parent, cpuset)


@pytest.mark.parametrize("data", [b"", msgspec.msgpack.encode(None), msgspec.msgpack.encode({})])
def test_an_empty_config_is_an_empty_block(data: bytes) -> None:
    """No bytes, a null and an empty map are all a block without keys."""
    assert convert.decode_config(data, "config") == {}


@pytest.mark.parametrize("data", [b"\xc1", b"\x81\xa1", msgspec.msgpack.encode([1])])
def test_a_broken_config_names_its_key(data: bytes) -> None:
    """Bytes that are no block are a configuration error."""
    with pytest.raises(ConfigError) as caught:
        convert.decode_config(data, "plugin config")
    assert caught.value.key == "plugin config"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_block_or_a_configuration_error(data: bytes) -> None:
    """Decoding never fails in any other way."""
    with contextlib.suppress(ConfigError):
        assert isinstance(convert.decode_config(data, "config"), dict)


def test_unset_keys_are_left_out_in_nested_blocks_too() -> None:
    """Nomad sends null for a key that is not set."""
    packed = msgspec.msgpack.encode({"a": None, "b": {"c": None, "d": 0}, "e": False})
    assert convert.decode_config(packed, "config") == {"b": {"d": 0}, "e": False}


def test_schema_attributes_carry_their_names() -> None:
    """Each key is an optional attribute of its own name and type, or a block with such in it."""
    attributes = hclspec.Spec().parse(bytes(spec_of(TaskOptions))).object.attributes
    assert attributes["class"].attr == hclspec.Attr(name="class", type="string")
    assert attributes["ulimit"].attr == hclspec.Attr(name="ulimit", type="list(map(string))")
    mounts = attributes["mounts"].block_list
    assert mounts.name == "mounts"
    assert mounts.nested.object.attributes["readonly"].attr.type == "bool"
    volumes = hclspec.Spec().parse(bytes(spec_of(PluginOptions))).object.attributes["volumes"]
    assert volumes.block_value.nested.object.attributes["paths"].attr.type == "list(string)"


def test_both_schemas_convert() -> None:
    """Every key of the task's and the plugin's schema reaches Nomad."""
    for kind in (TaskOptions, PluginOptions):
        spec = hclspec.Spec().parse(bytes(spec_of(kind)))
        assert set(spec.object.attributes) == set(options_of(kind))


def test_fingerprint_attributes_keep_their_types() -> None:
    """Also values that equal protobuf's defaults, such as false and 0, arrive as what they are."""
    values: dict[str, str | bool | int | float] = {"s": "", "t": True, "f": False, "n": 0, "x": 0.5}
    answer = convert.fingerprint(report.Fingerprint("unhealthy", "no crun", values))
    wire = drivers.FingerprintResponse().parse(bytes(answer))
    assert (wire.health, wire.health_description, wire.err) == (1, "no crun", "")
    kinds = {key: a.to_dict(include_default_values=False) for key, a in wire.attributes.items()}
    assert kinds == {
        "s": {"stringVal": ""},
        "t": {"boolVal": True},
        "f": {"boolVal": False},
        "n": {"intVal": "0"},
        "x": {"floatVal": 0.5},
    }


@pytest.mark.parametrize(("health", "number"), [("undetected", 0), ("healthy", 2)])
def test_fingerprint_health(health: str, number: int) -> None:
    """Each health has its number on the wire."""
    assert convert.fingerprint(report.Fingerprint(health)).health == number


def test_an_unknown_outcome_is_an_error_and_not_a_success() -> None:
    """A result with an error text has it in the answer's err, where Nomad looks for it."""
    lost = convert.wait_response(report.ExitResult(error="the task process was killed"))
    assert lost.err == "the task process was killed"
    killed = convert.wait_response(report.ExitResult(137, 9, True))
    assert killed.result == drivers.ExitResult(137, 9, True)
    assert killed.err == ""


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        (convert.wait_response(report.ExitResult()), "result"),
        (convert.event(report.TaskEvent("x", ALLOC, "app", "", 0.0)), "timestamp"),
        (exec_service.task_response(b"", CommandEnd(0)), "result"),
        (exec_service.streaming_response(CommandEnd(0)), "result"),
        (exec_service.streaming_response(Printed(closed=True)), "stdout"),
        (exec_service.streaming_response(Printed(to_stderr=True)), "stderr"),
        (drivers.CapabilitiesResponse(capabilities=convert.capabilities()), "capabilities"),
    ],
)
def test_no_message_vanishes_because_it_is_empty(message: betterproto.Message, needed: str) -> None:
    """Nomad's client takes a missing time for an error, and falls over a missing result."""
    data, kind = bytes(message), cast(Any, type(message))
    for name in needed.split("."):
        about = kind._betterproto
        number = about.meta_by_field_name[name].number
        found = [field for field in betterproto.parse_fields(data) if field.number == number]
        assert found, f"{name} is not on the wire"
        data, kind = found[0].value, about.cls_by_field.get(name)


@pytest.mark.parametrize("value", [False, 0, 0.0, ""])
def test_an_attribute_keeps_the_value_that_is_its_types_default(value: Any) -> None:
    """An attribute whose value is lost on the way is one of no type to Nomad."""
    made = convert.fingerprint(report.Fingerprint("healthy", "", {"k": value}))
    back = drivers.FingerprintResponse().parse(bytes(made)).attributes["k"]
    name, found = betterproto.which_one_of(back, "value")
    assert (type(found), found) == (type(value), value), name


def test_a_signal_is_told_as_nomads_own_drivers_do() -> None:
    """A task that a signal ended has the exit code 128 and its number, and the number."""
    result = convert.wait_response(report.ExitResult(signal=9, oom_killed=True)).result
    assert (result.exit_code, result.signal, result.oom_killed) == (137, 9, True)


def test_events_keep_text_and_annotations() -> None:
    """An event arrives with its task, text, time and annotations."""
    event = report.TaskEvent("x", ALLOC, "app", "Task completed successfully", 5.0, {"a": "b"})
    wire = drivers.DriverTaskEvent().parse(bytes(convert.event(event)))
    assert (wire.task_id, wire.alloc_id, wire.task_name) == ("x", ALLOC, "app")
    assert (wire.message, wire.annotations) == ("Task completed successfully", {"a": "b"})
    assert wire.timestamp.timestamp() == 5.0


def test_durations_are_seconds() -> None:
    """A stop's timeout crosses as seconds, and one that is left out is 0."""
    stop = drivers.StopTaskRequest("x", timedelta(seconds=5, milliseconds=250))
    assert convert.seconds(drivers.StopTaskRequest().parse(bytes(stop)).timeout) == 5.25
    assert convert.seconds(drivers.StopTaskRequest().parse(b"").timeout) == 0.0


@pytest.mark.parametrize(
    ("topology", "mhz"),
    [
        ({}, 0),
        ({"override_total_compute": 600_000}, 600_000),
        ({"cores": [(2000, 3000, 0), (0, 3000, 1), (0, 0, 1500)]}, 6500),
        ({"cores": [(2000, 0, 0)], "override_total_compute": 7}, 7),
    ],
)
def test_what_the_clients_processors_can_do(topology: dict[str, Any], mhz: int) -> None:
    """Nomad's description of them is summed up as Nomad does it, unless the operator says more."""
    cores = [
        base.ClientTopologyCore(base_speed=one, max_speed=two, guess_speed=three)
        for one, two, three in topology.pop("cores", ())
    ]
    config = base.NomadConfig(
        driver=base.NomadDriverConfig(topology=base.ClientTopology(cores=cores, **topology))
    )
    data = bytes(base.SetConfigRequest(nomad_config=config))
    assert convert.client_mhz(base.SetConfigRequest().parse(data).nomad_config) == mhz
