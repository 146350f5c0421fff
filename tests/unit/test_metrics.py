"""The page of figures, and who gets it."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from milo.core.config.plugin_options import Metrics, PluginOptions, parse_plugin_options
from milo.core.java.jvm_figures import figures
from milo.core.records import StreamCounters, TaskNames
from milo.errors import ConfigError
from milo.host.figures import TaskFigures
from milo.host.stats.sampling import Sample
from milo.plugin.calls import Calls
from milo.plugin.metrics import families, page, web
from milo.plugin.metrics.exporter import Exporter
from milo.plugin.metrics.families import FAMILIES
from tests.support.perf_data import G1, perf_data
from tests.support.scrapes import Scrape, parse

DOCS = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
LISTED = re.findall(r"^\| `(milo_\w+)` \|", DOCS, re.MULTILINE)
NAMES = TaskNames("app", "0f-0f", "web", "g", "web.g[0]")
TASK = TaskFigures(
    namespace="default",
    names=NAMES,
    sample=Sample(
        1,
        user_ns=2_000_000_000,
        system_ns=500_000_000,
        throttled_ns=0,
        memory={"usage": 100, "rss": 60},
    ),
    memory_limit_bytes=200,
    process_restarts=1,
    start_s={"create": 0.02},
    streams={"stdout": StreamCounters(10, 5, 1.5), "stderr": StreamCounters()},
    jvm=figures(perf_data(G1)),
)


async def shown(*tasks: TaskFigures, calls: Calls | None = None) -> Scrape:
    """Return the page about some tasks, as Prometheus reads it."""
    driver = page.Driver(calls or Calls(), spawner_restarts=3)
    return parse((await page.Renderer().render(page.OPEN_METRICS, tasks, driver)).decode())


async def test_every_figure_is_in_the_docs() -> None:
    """docs/metrics.md lists each name once, and no other."""
    calls = Calls()
    with calls.counted("StartTask", timed=True):
        pass
    assert sorted((await shown(TASK, calls=calls)).names) == sorted(LISTED)


async def test_values_and_labels() -> None:
    """A figure has its task's labels and its own; seconds are seconds."""
    found = await shown(TASK)
    assert found.labels("milo_jvm_gc_seconds_total", kind="full") == [
        {
            "namespace": "default",
            "job": "web",
            "task_group": "g",
            "task": "app",
            "alloc_id": "0f-0f",
            "collector": "G1",
            "kind": "full",
        }
    ]
    assert found.of("milo_jvm_gc_seconds_total", kind="full") == [0.019]
    assert found.of("milo_task_cpu_seconds_total", mode="user") == [2.0]
    assert found.of("milo_task_log_dropped_bytes_total", stream="stdout") == [5]
    assert found.of("milo_task_log_stalled_seconds_total", stream="stdout") == [1.5]
    assert found.of("milo_driver_spawner_restarts_total") == [3]
    assert found.of("milo_driver_tasks") == [1]


async def test_what_is_not_known_is_absent() -> None:
    """Without a JVM's data, an answer, or a counter of the kernel's there is no series."""
    silent = attrs.evolve(TASK, jvm=None, streams={}, sample=Sample(1), memory_limit_bytes=None)
    found = await shown(silent)
    of_tasks = {name for name in found.names if not name.startswith(("milo_driver", "milo_build"))}
    assert of_tasks == {"milo_task_process_restarts_total", "milo_task_start_seconds"}


async def test_a_gone_task_is_gone() -> None:
    """The page knows only what it is made of now."""
    assert (await shown(TASK)).of("milo_task_memory_bytes") == [100]
    assert (await shown()).of("milo_task_memory_bytes") == []


async def test_two_instances_are_one() -> None:
    """Two of the same labels would make Prometheus refuse a sample: the last one counts."""
    other = attrs.evolve(TASK, process_restarts=9)
    assert (await shown(TASK, other)).of("milo_task_process_restarts_total") == [9]


@given(st.text(max_size=300), st.text(max_size=40))
def test_any_names(job: str, group: str) -> None:
    """Whatever a job calls itself, the page is read as one series with a bounded name."""
    task = attrs.evolve(TASK, names=attrs.evolve(NAMES, job_name=job, group_name=group))
    found = trio.run(partial(shown, task))
    [labels] = found.labels("milo_task_memory_bytes")
    assert len(labels["job"]) <= 255 and labels["job"].isprintable()
    if job.isprintable() and len(job) <= 255:
        assert labels["job"] == job
    assert found.of("milo_task_memory_bytes") == [100]


async def test_plain_text() -> None:
    """The older format has the same samples."""
    text = await page.Renderer().render(page.PLAIN_TEXT, [TASK], page.Driver(Calls(), 0))
    assert b"# TYPE milo_jvm_gc_collections_total counter\n" in text
    assert b"# EOF" not in text


@given(st.text(max_size=50), st.text(max_size=50), st.booleans())
def test_it_is_what_prometheus_client_renders(job: str, other: str, is_open: bool) -> None:
    """Put together of parts that are kept, a page is what prometheus_client makes of the same."""
    format = page.OPEN_METRICS if is_open else page.PLAIN_TEXT
    renderer = page.Renderer()

    async def render(*tasks: TaskFigures) -> str:
        return (await renderer.render(format, tasks, page.Driver(Calls(), 0))).decode()

    first = attrs.evolve(TASK, names=attrs.evolve(NAMES, job_name=job))
    second = attrs.evolve(TASK, names=attrs.evolve(NAMES, alloc_id=other), jvm=None)
    for tasks in ((first,), (first, second), (second,), ()):
        text = trio.run(render, *tasks)
        known = {families.task_labels(task): task for task in tasks}
        expected = "".join(page.rendered(format, one) for one in page._of_tasks(known))
        assert text.endswith(expected + ("# EOF\n" if is_open else ""))


def test_calls_are_counted() -> None:
    """A failure is a call too; what lasts as long as a task takes no time."""
    calls = Calls()
    with pytest.raises(ValueError), calls.counted("StopTask", timed=True):
        raise ValueError
    with calls.counted("WaitTask", timed=False):
        pass
    assert (calls.by_name["StopTask"].count, calls.by_name["StopTask"].failures) == (1, 1)
    assert calls.by_name["StopTask"].seconds > 0
    assert (calls.by_name["WaitTask"].failures, calls.by_name["WaitTask"].seconds) == (0, 0)


def test_names_follow_the_rules() -> None:
    """A figure with a unit ends with it, and help texts are sentences."""
    for family in FAMILIES:
        assert family.help.endswith("."), family.name
        assert not family.name.endswith("_total"), family.name
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


# ---- the configuration ------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1:9464", "[::1]:1", "127.1.2.3:65535"])
def test_the_hosts_own_addresses(address: str) -> None:
    """Loopback addresses need no further permission."""
    assert parse_plugin_options({"metrics": [{"address": address}]}).metrics.address == address


@pytest.mark.parametrize("address", ["0.0.0.0:9464", "[::]:9464", "10.1.2.3:9464"])
def test_other_hosts_need_a_permission(address: str) -> None:
    """What others reach is served only where the operator says so in a second key."""
    with pytest.raises(ConfigError, match="allow_other_hosts is not set"):
        parse_plugin_options({"metrics": {"address": address}})
    allowed = {"metrics": {"address": address, "allow_other_hosts": True}}
    assert parse_plugin_options(allowed).metrics == Metrics(address, True)


@pytest.mark.parametrize(
    "address",
    [
        *("9464", "localhost:9464", ":9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "::1:9464"),
        *("127.0.0.1:65536", "127.0.0.1:²", "[127.0.0.1]:1", "unix:/x", "[::1%lo]:1x", "1" * 5000),
    ],
)
def test_no_addresses(address: str) -> None:
    """What is no IP address with a port is refused, with an example of one."""
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:494"):
        parse_plugin_options({"metrics": {"address": address}})


def test_off_by_default() -> None:
    """Without the block nothing is served."""
    assert PluginOptions().metrics.address == ""


def test_nothing_is_loaded_for_who_wants_none() -> None:
    """A driver without the block does without prometheus_client's 40 ms and 2 MiB."""
    code = "import sys, milo.plugin.server; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# ---- the web server ---------------------------------------------------------------------


@asynccontextmanager
async def served(make: web.Page | None = None) -> AsyncIterator[tuple[web.WebServer, int]]:
    """Serve a page; yield the server and its port."""

    async def small(accept: str) -> web.Body:
        return web.Body("text/plain", f"accept={accept}\n".encode())

    server = web.WebServer(make or small)
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, listener)
        yield server, listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def ask(port: int, request: bytes) -> bytes:
    """Return all that is answered to some bytes."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request)
        answer = b""
        with trio.fail_after(20):
            async for data in stream:
                answer += data
        return answer


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: a/b\r\n\r\n", b"200 OK"),
        (b"GET /metrics?x=y HTTP/1.0\r\n\r\n", b"200 OK"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200 OK"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"GET /metrics/../x HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405 Method Not Allowed"),
        (b"PRI * HTTP/2.0\r\n\r\n", b"405 Method Not Allowed"),
        (b"\xff\x00\r\n\r\n", b"405 Method Not Allowed"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 9000, b"431 Request Header Fields Too Large"),
    ],
)
async def test_answers(request_: bytes, status: bytes) -> None:
    """One page, one method; anything else has a status of its own."""
    async with served() as (_, port):
        answer = await ask(port, request_)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert b"Connection: close" in head
    length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
    assert len(body) == (0 if request_.startswith(b"HEAD") else length)
    if b"Accept" in request_:
        assert body == b"accept=a/b\n"


async def test_who_says_nothing_has_no_place(autojump_clock: trio.testing.MockClock) -> None:
    """A full house of idle clients keeps nobody out: the longest waiting one is ended."""
    async with served() as (server, port):
        silent = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(web.MAX_CLIENTS)]
        await trio.testing.wait_all_tasks_blocked(0.01)
        for stream in silent[:3]:
            assert (await ask(port, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            assert (await stream.receive_some(100)).startswith(b"HTTP/1.1 408 ")
            silent.append(await trio.open_tcp_stream("127.0.0.1", port))
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert server._clients == web.MAX_CLIENTS
        await trio.sleep(web.REQUEST_S + 1)
        assert server._clients == 0
        for stream in silent:
            await stream.aclose()


async def test_who_reads_nothing_has_no_place() -> None:
    """Nor do those who ask, and take no answer."""
    size = [50_000_000]

    async def large(_: str) -> web.Body:
        return web.Body("text/plain", bytes(size[0]))

    async with served(large) as (_, port):
        streams = []
        for _ in range(web.MAX_CLIENTS):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert await stream.receive_some(10) == b"HTTP/1.1 2"
            streams.append(stream)
        size[0] = 10
        assert (await ask(port, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        for stream in streams:
            await trio.aclose_forcefully(stream)


async def test_clients_are_bounded() -> None:
    """Where none of them is waited for, one more is refused."""
    go_on = trio.Event()

    async def slow(_: str) -> web.Body:
        await go_on.wait()
        return web.Body("text/plain", b"fine")

    async with served(slow) as (_, port), trio.open_nursery() as nursery:
        request = b"GET /metrics HTTP/1.1\r\n\r\n"
        for _ in range(web.MAX_CLIENTS):
            nursery.start_soon(ask, port, request)
        while go_on.statistics().tasks_waiting < web.MAX_CLIENTS:
            await trio.lowlevel.checkpoint()
        assert (await ask(port, request)).startswith(b"HTTP/1.1 503 ")
        go_on.set()


async def test_a_client_that_does_not_read(autojump_clock: trio.testing.MockClock) -> None:
    """It has the time of one answer, and then its connection is cut."""

    async def large(_: str) -> web.Body:
        return web.Body("text/plain", bytes(50_000_000))

    async with (
        served(large) as (server, port),
        await trio.open_tcp_stream("127.0.0.1", port) as stream,
    ):
        await stream.send_all(b"GET /metrics HTTP/1.1\r\n\r\n")
        await trio.sleep(web.REQUEST_S + web.ANSWER_S + 1)
        assert server._clients == 0


async def test_a_failure_ends_one_request(caplog: pytest.LogCaptureFixture) -> None:
    """What goes wrong with a page is logged, and the next client is served."""
    failing = [True]

    async def broken(_: str) -> web.Body:
        if failing.pop():
            failing.append(False)
            raise RuntimeError("oops")
        return web.Body("text/plain", b"fine")

    async with served(broken) as (_, port):
        assert await ask(port, b"GET /metrics HTTP/1.1\r\n\r\n") == b""
        assert (await ask(port, b"GET /metrics HTTP/1.1\r\n\r\n")).endswith(b"fine")
    assert "a request for figures failed" in caplog.text


# ---- the exporter


class Asked:
    """`milo.host.registry.Registry`, as far as it is asked here."""

    spawner_restarts = 0

    def __init__(self) -> None:
        self.times = 0

    async def figures(self) -> list[TaskFigures]:
        self.times += 1
        return [TASK]


async def test_tasks_are_asked_once_a_second_at_most(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Whoever asks, and for whichever format."""
    registry: Any = Asked()
    exporter = Exporter(registry, Calls())
    pages = {
        kind: await exporter._page(kind) for kind in ("application/openmetrics-text", "", "x/y")
    }
    assert registry.times == 1
    assert pages[""].data == pages["x/y"].data != pages["application/openmetrics-text"].data
    await trio.sleep(2)
    await exporter._page("")
    await exporter._page("application/openmetrics-text")
    assert registry.times == 2


async def test_a_port_that_another_has_is_told_again(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Once a minute: a task may have it, and Prometheus then reads what that says."""
    registry: Any = Asked()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        exporter = Exporter(registry, Calls())
        exporter.configure(Metrics(f"127.0.0.1:{taken.getsockname()[1]}"))
        with trio.move_on_after(200):
            await exporter.run()
    told = [record for record in caplog.records if "cannot be served" in record.message]
    assert 3 <= len(told) <= 4
