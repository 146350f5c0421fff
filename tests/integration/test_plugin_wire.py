"""The plugin process over its real wire, the test being go-plugin's host.

The registry behind the services is a stand-in, so that no Java and no crun is needed.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import attrs
import msgspec.msgpack
import pytest
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

import milo
from milo.plugin.greeter import SETTINGS
from milo.plugin.handshake import COOKIE_NAME, COOKIE_VALUE
from milo.plugin.rpc import StatusDetails
from milo.proc import children, identify, lives
from milo.wire import plugin as goplugin
from milo.wire.grpc.health import v1 as health
from milo.wire.hashicorp.nomad.plugins.base import proto as base
from milo.wire.hashicorp.nomad.plugins.drivers import proto as drivers
from milo.wire.hashicorp.nomad.plugins.shared.structs import RecoverableError
from tests.support.waiting import scaled, wait_for

T = TypeVar("T")

LAUNCHER = """\
import os
import sys
import time
from milo.plugin.main import run_plugin

def make_registry(spawner):
    if gate := os.environ.get("GATE"):
        open(gate).close()  # waits until the test opens it as well
    import trio
    from milo.core import report
    from milo.errors import CrunMissingError, NoJavaError, ArtifactError, TaskNotFoundError

    class Registry:
        options = None
        async def run(self, task_status):
            task_status.started()
            await trio.sleep_forever()
        async def configure(self, options, client_mhz=0):
            self.options = options
        async def start(self, launch):
            match launch.config.get("fail"):
                case "retry": raise CrunMissingError("crun")
                case "fatal": raise ArtifactError("Artifact must be a .jar file, got: my-script.py")
                case "bug": return 1 // 0
                case "group":
                    async with trio.open_nursery():
                        raise ArtifactError("inside of a nursery")
            return b"state of " + launch.task_id.encode()
        async def recover(self, task_id, driver_state):
            if driver_state != b"state of " + task_id.encode():
                raise TaskNotFoundError(task_id)
        async def wait(self, task_id):
            if task_id == "forever":
                await trio.sleep_forever()
            return report.ExitResult(42, 0, False)
        async def stop(self, task_id, signal, timeout_s): pass
        async def destroy(self, task_id, force): pass
        async def inspect(self, task_id):
            return report.TaskStatus(task_id, "app", report.TaskState.RUNNING, 1.5)
        async def signal(self, task_id, signal): pass
        async def stats(self, task_id, interval_s):
            while True:
                yield report.TaskUsage(task_id, time.time())
                await trio.sleep(interval_s)
        async def events(self):
            yield report.TaskEvent("id", "alloc", "app", "hello", time.time())
            await trio.sleep_forever()
        async def fingerprints(self):
            yield report.Fingerprint("healthy", "ready", {"driver.milo": True})
            try:
                await trio.sleep_forever()
            finally:
                print("a fingerprint stream ended", file=sys.stderr, flush=True)
    return Registry()

run_plugin(make_registry=make_registry)
"""


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS
"""How a client begins."""


@attrs.define
class Host:
    """go-plugin's side of one plugin process."""

    process: subprocess.Popen[bytes]
    line: str
    stderr_path: Path

    @property
    def socket_path(self) -> str:
        """The address in the handshake line."""
        return self.line.split("|")[3]

    def call(self, talk: Callable[[Channel], Awaitable[T]]) -> T:
        """Connect, run ``talk`` with the channel, and close."""

        async def run() -> T:
            channel = Channel(path=self.socket_path, status_details_codec=StatusDetails())
            try:
                return await asyncio.wait_for(self._talk(talk, channel), 20)
            finally:
                channel.close()

        return asyncio.run(run())

    @staticmethod
    async def _talk(talk: Callable[[Channel], Awaitable[T]], channel: Channel) -> T:
        return await talk(channel)

    def logged(self) -> str:
        """What the plugin wrote to stderr so far."""
        return self.stderr_path.read_text()


Start = Callable[..., Host]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start plugin processes as the agent does; those that are left are killed at the end."""
    launcher = tmp_path / "milo"
    launcher.write_text(f"#!{sys.executable} -I\n{LAUNCHER}")
    launcher.chmod(0o755)
    sockets = tmp_path / "s"
    sockets.mkdir()
    hosts: list[Host] = []

    def start_one(*wrapper: str, **variables: str) -> Host:
        env = {
            **variables,
            COOKIE_NAME: COOKIE_VALUE,
            "PLUGIN_UNIX_SOCKET_DIR": str(sockets),
            "PLUGIN_MIN_PORT": "10000",
            "PLUGIN_MAX_PORT": "25000",
            "PLUGIN_PROTOCOL_VERSIONS": "2",
        }
        stderr_path = tmp_path / f"stderr-{len(hosts)}"
        with stderr_path.open("wb") as stderr:
            process = subprocess.Popen(
                [*wrapper, str(launcher)],
                env=env,
                stdin=subprocess.PIPE if wrapper else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        assert process.stdout is not None
        host = Host(process, process.stdout.readline().decode(), stderr_path)
        hosts.append(host)
        assert host.line, host.logged()
        return host

    yield start_one
    for host in hosts:
        host.process.kill()
        host.process.wait()
        for pipe in (host.process.stdin, host.process.stdout):
            if pipe is not None:
                pipe.close()


def test_handshake_line_names_a_socket_in_a_private_directory(start: Start) -> None:
    """The first line on stdout tells go-plugin where to connect, and only root may enter."""
    host = start()
    assert host.line == f"1|2|unix|{host.socket_path}|grpc|\n"
    directory = Path(host.socket_path).parent
    assert directory.stat().st_mode & 0o7777 == 0o700
    assert directory.parent.name == "s"


def test_stdout_is_silent_after_the_handshake(start: Start) -> None:
    """Stdout is given away, so that nothing can ever follow the handshake line."""
    host = start()
    assert host.process.stdout is not None
    readable, _, _ = select.select([host.process.stdout], [], [], 5)
    assert readable
    assert host.process.stdout.read() == b""
    assert host.process.poll() is None
    assert os.readlink(f"/proc/{host.process.pid}/fd/1") == "/dev/null"


def test_a_connection_begins_while_the_plugin_is_not_ready(start: Start, tmp_path: Path) -> None:
    """The agent gives up on one that has no first frame in 20 s, and then does not start.

    So whoever connects has one at once, a connection that goes away again costs nothing, and all
    are served as soon as that can be.
    """
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    host = start(GATE=str(gate))
    with socket.socket(socket.AF_UNIX) as gone, socket.socket(socket.AF_UNIX) as early:
        for client in (gone, early):
            client.settimeout(scaled(10))
            client.connect(host.socket_path)
            assert client.recv(100) == SETTINGS
        gone.close()

        async def talk(channel: Channel) -> str:
            # Its own first call goes out before the plugin can answer any.
            asking = asyncio.ensure_future(
                base.BasePluginStub(channel).plugin_info(base.PluginInfoRequest())
            )
            await asyncio.sleep(0)
            gate.write_text("")
            return (await asking).name

        assert host.call(talk) == "milo"
        early.sendall(PREFACE)
        assert early.recv(100)[3:4] == SETTINGS[3:4]
    assert host.call(_ask_name) == "milo"


def test_without_the_cookie_it_only_says_what_it_is(tmp_path: Path) -> None:
    """Started by hand, the plugin says on stderr what to do, and ends with 1."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", "from milo.plugin.main import run_plugin; run_plugin()"],
        env={},
        capture_output=True,
        text=True,
        timeout=scaled(20),
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "milo --help" in done.stderr


def test_a_driver_that_cannot_go_on_ends_and_says_why(tmp_path: Path) -> None:
    """A failure of the whole driver is in the agent's log, and Nomad starts another plugin."""
    code = "from milo.plugin.main import run_plugin; run_plugin(make_registry=lambda _: 1 // 0)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        env={COOKIE_NAME: COOKIE_VALUE, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=scaled(20),
    )
    assert done.returncode == 1
    assert done.stdout.startswith("1|2|unix|")
    entry = json.loads(done.stderr)
    assert entry["@level"] == "error" and "ZeroDivisionError" in entry["@message"]
    assert list(tmp_path.iterdir()) == []


def test_health_knows_go_plugins_service(start: Start) -> None:
    """go-plugin's ping is answered, and another name is not found."""

    async def talk(channel: Channel) -> None:
        stub = health.HealthStub(channel)
        answer = await stub.check(health.HealthCheckRequest(service="plugin"))
        assert answer.status == 1
        with pytest.raises(GRPCError) as caught:
            await stub.check(health.HealthCheckRequest(service="other"))
        assert caught.value.status is Status.NOT_FOUND
        async for first in stub.watch(health.HealthCheckRequest(service="plugin")):
            assert first.status == 1
            break

    start().call(talk)


def test_plugin_info_schemas_and_capabilities(start: Start) -> None:
    """Nomad learns name, version, both schemas and what the driver can do."""

    async def talk(channel: Channel) -> None:
        info = await base.BasePluginStub(channel).plugin_info(base.PluginInfoRequest())
        assert (info.name, info.type, info.plugin_version) == ("milo", 2, milo.__version__)
        assert info.plugin_api_versions == ["v0.1.0"]

        schema = await base.BasePluginStub(channel).config_schema(base.ConfigSchemaRequest())
        assert schema.spec.object.attributes["crun_path"].attr.type == "string"

        driver = drivers.DriverStub(channel)
        task = await driver.task_config_schema(drivers.TaskConfigSchemaRequest())
        jvm_options = task.spec.object.attributes["jvm_options"].attr
        assert (jvm_options.name, jvm_options.type) == ("jvm_options", "list(string)")

        answer = await driver.capabilities(drivers.CapabilitiesRequest())
        can = answer.capabilities
        assert can.send_signals and can.exec
        assert can.fs_isolation == 2
        assert can.network_isolation_modes == [0, 1, 3]  # host, group, none
        assert not can.disable_log_collection and not can.must_create_network

    start().call(talk)


AGENT = ("sh", "-c", '"$0" & read -r _')
"""Starts what follows as a child of its own, and ends with its standard input."""


def test_refused_plugin_ends_with_its_agent(start: Start) -> None:
    """An agent that ends since its options were refused leaves no process behind."""
    host = start(*AGENT)
    plugin = children(host.process.pid)[0]
    both = [identify(plugin), identify(children(plugin)[0])]
    assert all(map(lives, both))

    async def talk(channel: Channel) -> None:
        bad = msgspec.msgpack.encode({"log_overflow": "sideways"})
        with pytest.raises(GRPCError):
            await base.BasePluginStub(channel).set_config(base.SetConfigRequest(msgpack_config=bad))

    host.call(talk)
    _end_agent(host)
    wait_for("the end of both processes", lambda: not any(map(lives, both)))
    assert not Path(host.socket_path).exists()


def test_configured_plugin_outlives_its_agent(start: Start) -> None:
    """An agent that is killed may have left tasks: the next one connects to the same process."""
    host = start(*AGENT)
    plugin = children(host.process.pid)[0]

    async def configure(channel: Channel) -> None:
        await base.BasePluginStub(channel).set_config(base.SetConfigRequest())

    host.call(configure)
    _end_agent(host)
    try:
        assert [host.call(_ask_name) for _ in range(3)] == ["milo"] * 3
    finally:
        os.kill(plugin, signal.SIGKILL)


async def _ask_name(channel: Channel) -> str:
    info = await base.BasePluginStub(channel).plugin_info(base.PluginInfoRequest())
    return info.name


def _end_agent(host: Host) -> None:
    assert host.process.stdin is not None
    host.process.stdin.close()
    host.process.wait()


def test_set_config_takes_an_empty_block_and_refuses_a_bad_value(start: Start) -> None:
    """A value that is not valid is a clear error naming its key; the plugin serves on."""

    async def talk(channel: Channel) -> None:
        stub = base.BasePluginStub(channel)
        await stub.set_config(base.SetConfigRequest())
        unset = msgspec.msgpack.encode({"crun_path": None, "java_home": None})
        await stub.set_config(base.SetConfigRequest(msgpack_config=unset))
        bad = msgspec.msgpack.encode({"log_overflow": "burn"})
        with pytest.raises(GRPCError) as caught:
            await stub.set_config(base.SetConfigRequest(msgpack_config=bad))
        assert caught.value.status is Status.INVALID_ARGUMENT
        assert "log_overflow" in str(caught.value.message)
        await stub.plugin_info(base.PluginInfoRequest())

    start().call(talk)


def test_start_task_returns_a_handle_that_recovers(start: Start) -> None:
    """The handle holds the task and the state; RecoverTask works by the handle alone."""

    async def talk(channel: Channel) -> None:
        driver = drivers.DriverStub(channel)
        task = drivers.TaskConfig(id="a/b/c", name="app", env={"A": "ü"})
        started = await driver.start_task(drivers.StartTaskRequest(task=task))
        assert started.handle.config.to_dict() == task.to_dict()
        assert started.handle.version == 1
        assert started.handle.driver_state == b"state of a/b/c"
        await driver.recover_task(drivers.RecoverTaskRequest(handle=started.handle))
        started.handle.config.id = "other"
        with pytest.raises(GRPCError) as caught:
            await driver.recover_task(drivers.RecoverTaskRequest(handle=started.handle))
        assert caught.value.status is Status.NOT_FOUND

    start().call(talk)


@pytest.mark.parametrize(
    ("fail", "recoverable", "text"),
    [
        ("retry", True, "Error: crun was not found"),
        ("fatal", False, "Error: Artifact must be a .jar file, got: my-script.py"),
        ("group", False, "Error: inside of a nursery"),
    ],
)
def test_start_task_failure_is_a_status_that_nomad_understands(
    start: Start, fail: str, recoverable: bool, text: str
) -> None:
    """A failed start is an error status whose detail says whether a restart may help."""

    async def talk(channel: Channel) -> None:
        config = msgspec.msgpack.encode({"fail": fail})
        task = drivers.TaskConfig(id="x", msgpack_driver_config=config)
        with pytest.raises(GRPCError) as caught:
            await drivers.DriverStub(channel).start_task(drivers.StartTaskRequest(task=task))
        assert caught.value.status is Status.FAILED_PRECONDITION
        assert str(caught.value.message).startswith(text)
        assert isinstance(caught.value.details, RecoverableError)
        assert caught.value.details.recoverable is recoverable

    start().call(talk)


def test_unexpected_failure_is_logged_and_harms_no_other_call(start: Start) -> None:
    """A bug in one call is INTERNAL with a traceback in the log; a pending call goes on."""
    host = start()

    async def talk(channel: Channel) -> None:
        driver = drivers.DriverStub(channel)
        waiting = asyncio.create_task(driver.wait_task(drivers.WaitTaskRequest("forever")))
        task = drivers.TaskConfig(msgpack_driver_config=msgspec.msgpack.encode({"fail": "bug"}))
        with pytest.raises(GRPCError) as caught:
            await driver.start_task(drivers.StartTaskRequest(task=task))
        assert caught.value.status is Status.INTERNAL
        assert "ZeroDivisionError" in str(caught.value.message)
        answer = await driver.wait_task(drivers.WaitTaskRequest("other"))
        assert (answer.result.exit_code, answer.err) == (42, "")
        assert not waiting.done()
        waiting.cancel()

    host.call(talk)

    def logged() -> list[dict[str, str]]:
        whole, _, _ = host.logged().rpartition("\n")
        lines = [json.loads(line) for line in whole.splitlines()]
        return [line for line in lines if line["@level"] == "error"]

    errors = wait_for("the error in the log", logged)
    assert len(errors) == 1
    assert "Traceback" in errors[0]["@message"] and "ZeroDivisionError" in errors[0]["@message"]


def test_streams_and_the_rest_of_the_calls(start: Start) -> None:
    """Fingerprints, events and stats stream; stats and events carry their timestamp."""

    async def talk(channel: Channel) -> None:
        driver = drivers.DriverStub(channel)
        async for finger in driver.fingerprint(drivers.FingerprintRequest()):
            assert (finger.health, finger.health_description) == (2, "ready")
            assert finger.attributes["driver.milo"].bool_val is True
            break
        async for event in driver.task_events(drivers.TaskEventsRequest()):
            assert event.message == "hello"
            assert abs(event.timestamp.timestamp() - time.time()) < 10
            break
        wanted = drivers.TaskStatsRequest("x", timedelta(milliseconds=10))
        seen = 0
        async for sample in driver.task_stats(wanted):
            assert abs(sample.stats.timestamp.timestamp() - time.time()) < 10
            seen += 1
            if seen == 3:
                break
        status = await driver.inspect_task(drivers.InspectTaskRequest("x"))
        assert (status.task.id, status.task.state) == ("x", 1)
        stop = drivers.StopTaskRequest("x", timedelta(seconds=5), "SIGTERM")
        await driver.stop_task(stop)
        await driver.signal_task(drivers.SignalTaskRequest("x", "SIGHUP"))
        await driver.destroy_task(drivers.DestroyTaskRequest("x", True))
        await driver.init(drivers.InitRequest())
        with pytest.raises(GRPCError) as caught:
            await driver.exec_task(drivers.ExecTaskRequest("x", []))
        assert caught.value.status is Status.INVALID_ARGUMENT

    start().call(talk)


def test_a_stream_ends_when_its_client_goes(start: Start) -> None:
    """A lost connection closes what its streams were reading from, quietly."""
    host = start()

    async def talk(channel: Channel) -> None:
        async for _ in drivers.DriverStub(channel).fingerprint(drivers.FingerprintRequest()):
            return

    host.call(talk)
    wait_for("the stream to end", lambda: "stream ended" in host.logged())
    assert "error" not in host.logged()
    host.call(lambda channel: base.BasePluginStub(channel).plugin_info(base.PluginInfoRequest()))


def test_any_number_of_calls_may_be_pending(start: Start) -> None:
    """With the calls of 150 tasks pending on the agent's one connection, another is answered."""

    async def talk(channel: Channel) -> None:
        driver = drivers.DriverStub(channel)
        # A first answer, so that the connection's settings have arrived.
        await base.BasePluginStub(channel).plugin_info(base.PluginInfoRequest())
        waiting = [
            asyncio.create_task(driver.wait_task(drivers.WaitTaskRequest("forever")))
            for _ in range(300)
        ]
        await asyncio.sleep(0)
        info = await base.BasePluginStub(channel).plugin_info(base.PluginInfoRequest())
        assert info.name == "milo"
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()

    start().call(talk)


async def _pending(channel: Channel) -> list[asyncio.Task[object]]:
    """Calls that stay open as the agent's do: the broker, stdio, a fingerprint, a WaitTask."""

    async def drain(stream: object) -> None:
        async for _ in stream:  # type: ignore[attr-defined]
            opened.release()

    opened = asyncio.Semaphore(0)
    driver = drivers.DriverStub(channel)
    stdio = goplugin.GrpcStdioStub(channel).stream_stdio(goplugin.Empty())
    tasks: list[asyncio.Task[object]] = [
        asyncio.create_task(drain(stdio)),
        asyncio.create_task(drain(driver.fingerprint(drivers.FingerprintRequest()))),
        asyncio.create_task(driver.wait_task(drivers.WaitTaskRequest("forever"))),
    ]
    await opened.acquire()
    return tasks


@pytest.mark.alone
@pytest.mark.parametrize("way", ["controller", "driver", "sigterm"])
def test_shutdown_ends_within_a_second_and_answers_nothing_pending(start: Start, way: str) -> None:
    """Asked to end, the process is gone at once, its socket too, and no WaitTask was answered."""
    host = start()

    async def talk(channel: Channel) -> None:
        tasks = await _pending(channel)
        if way == "controller":
            await goplugin.GrpcControllerStub(channel).shutdown(goplugin.Empty())
        elif way == "driver":
            await drivers.DriverStub(channel).shutdown(drivers.ShutdownRequest())
        else:
            host.process.send_signal(signal.SIGTERM)
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(outcome, StreamTerminatedError), repr(outcome)

    began = time.monotonic()
    host.call(talk)
    assert host.process.wait(timeout=scaled(5)) == 0
    assert time.monotonic() - began < scaled(1.0)
    assert not Path(host.socket_path).parent.exists()


def test_sigint_is_ignored_and_not_inherited(start: Start) -> None:
    """Ctrl-C in the agent's terminal neither ends the plugin nor is ignored by its children."""
    host = start()
    host.call(lambda channel: base.BasePluginStub(channel).plugin_info(base.PluginInfoRequest()))
    host.process.send_signal(signal.SIGINT)
    info = host.call(
        lambda channel: base.BasePluginStub(channel).plugin_info(base.PluginInfoRequest())
    )
    assert info.name == "milo"
    status = Path(f"/proc/{host.process.pid}/status").read_text()
    ignored = int(status.split("SigIgn:")[1].split()[0], 16)
    assert not ignored & 1 << signal.SIGINT - 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may raise a priority")
def test_the_driver_comes_before_what_it_starts(start: Start) -> None:
    """It answers while many tasks start, which are forked by a process as ever."""
    host = start()

    host.call(lambda channel: base.BasePluginStub(channel).plugin_info(base.PluginInfoRequest()))
    # From then on it serves.
    (spawner,) = children(host.process.pid)
    assert os.getpriority(os.PRIO_PROCESS, host.process.pid) == -10
    assert os.getpriority(os.PRIO_PROCESS, spawner) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may raise a priority")
@pytest.mark.parametrize(("given", "driver", "child"), [(0, -10, 0), (5, 5, 5), (-3, -3, -3)])
def test_a_priority_that_somebody_has_chosen_stays(given: int, driver: int, child: int) -> None:
    """And what the driver starts never has more of it than without Milo."""
    code = (
        "import os, subprocess, sys\n"
        f"os.setpriority(os.PRIO_PROCESS, 0, {given})\n"
        "from milo.plugin.server import raise_priority\n"
        "raise_priority()\n"
        "words = [sys.executable, '-c', 'import os; print(os.getpriority(os.PRIO_PROCESS, 0))']\n"
        "child = subprocess.run(words, capture_output=True, text=True, check=True).stdout\n"
        "print(os.getpriority(os.PRIO_PROCESS, 0), child)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [str(driver), str(child)]


def test_the_plugin_survives_its_host(start: Start) -> None:
    """After the agent was killed, the next one connects to the same socket, without SetConfig."""
    host = start()
    assert host.process.stdout is not None
    host.process.stdout.close()
    for _ in range(2):
        info = host.call(
            lambda channel: base.BasePluginStub(channel).plugin_info(base.PluginInfoRequest())
        )
        assert info.name == "milo"


@pytest.mark.alone
def test_handshake_within_300_ms(start: Start) -> None:
    """From exec to the handshake line it takes at most 300 ms, median of 20.

    With the real spawner. Other work on the machine may spoil a round, so there are three.
    """
    medians = []
    for _ in range(3):
        times = []
        for _ in range(20):
            began = time.perf_counter()
            host = start()
            times.append(time.perf_counter() - began)
            host.process.terminate()
            host.process.wait()
        medians.append(statistics.median(times))
        print(f"handshake: {[round(t * 1000) for t in sorted(times)]} ms")
        if medians[-1] <= scaled(0.3):
            return
    raise AssertionError(f"medians of three rounds, in seconds: {medians}")
