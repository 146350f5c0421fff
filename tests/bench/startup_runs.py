"""One start of an application: as ``java -jar`` on the host, or as a task of a plugin process."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import select
import subprocess
import tempfile
import time
import uuid

import attrs

from tests.bench.plugin_host import PluginHost, Task
from tests.bench.startup_apps import (
    JVM_OPTIONS,
    READY_S,
    App,
    NotReadyError,
    free_port,
    wait_answer,
)
from tests.support.waiting import scaled

MEMORY_MB = 1024
SCRATCH = "/tmp/scratch"
"""In a task."""
STOP_S = 60.0
LOGGED_S = 3.0
USED, KEPT = "Starts with its ", "Kept for the next start"


def kept_job(app: App, home: str) -> str:
    """Return the job whose archive is there when its second starts are measured.

    A job of its own for each application and JDK: no more than a few archives of one are kept.
    """
    return f"kept-{app.directory.name}-{os.path.basename(home)}"


@attrs.frozen
class Start:
    """Seconds from the exec, or from StartTask's call."""

    first_byte_s: float
    ready_s: float


def alone(app: App, home: str) -> Start:
    """Start the application on the host, without a container, and end it."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="milo-bench-") as scratch:
        args, env = app.words(port, scratch)
        began = time.perf_counter()
        process = subprocess.Popen(
            [f"{home}/bin/java", *JVM_OPTIONS, "-jar", app.directory / app.jar, *args],
            env={**os.environ, **env},
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # As a container has: the kernel shares its processors out among sessions.
            start_new_session=True,
        )
        try:
            first, ready = _watch(process, app, port)
        finally:
            process.terminate()
            try:
                process.communicate(timeout=scaled(STOP_S))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
        return Start(first - began, ready - began)


def _watch(process: subprocess.Popen[bytes], app: App, port: int) -> tuple[float, float]:
    """Return when the process has printed its first byte, and when it was ready."""
    assert process.stdout is not None

    def ended() -> str:
        status = process.poll()
        return "" if status is None else f"java -jar has ended with {status}"

    def answered() -> float:
        wait_answer(port, app.answers, ended)
        return time.perf_counter()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        ready = pool.submit(answered) if app.answers else None
        select.select([process.stdout], [], [], scaled(READY_S))
        first = time.perf_counter()
        return first, first if ready is None else ready.result()


async def kept_start(host: PluginHost, app: App, home: str, options: tuple[str, ...] = ()) -> None:
    """Start the application, let it end by itself or stop it, so that there is an archive of it.

    Raises `NotReadyError` with what the log says when it is not.
    """
    _, task = await started(host, app, home, job=kept_job(app, home), cache="auto", options=options)
    try:
        if app.answers:
            await host.stop(task, timeout_s=STOP_S)
        await host.wait(task)
        await told(host, task, KEPT, USED)
    finally:
        await host.end(task, force=True)


async def first_start(host: PluginHost, app: App, home: str, cache: str = "auto") -> Start:
    """Start the application as a job of which there is no archive, and kill it when it is ready."""
    start, task = await started(host, app, home, job=uuid.uuid4().hex, cache=cache)
    await host.end(task, force=True)
    return start


async def second_start(host: PluginHost, app: App, home: str) -> Start:
    """Start the application from its archive, and kill it when it is ready.

    Raises `NotReadyError` with what the log says when there was none.
    """
    start, task = await started(host, app, home, job=kept_job(app, home), cache="auto")
    try:
        await told(host, task, USED)
    finally:
        await host.end(task, force=True)
    return start


async def started(
    host: PluginHost,
    app: App,
    home: str,
    *,
    job: str,
    cache: str,
    options: tuple[str, ...] = (),
) -> tuple[Start, Task]:
    """Start the application as a task, and wait until it is ready."""
    port = free_port()
    args, env = app.words(port, SCRATCH)
    task = host.lay_out(
        app.directory,
        args=args,
        jvm_options=[*JVM_OPTIONS, *options],
        memory_mb=MEMORY_MB,
        job=job,
        env=env,
        jar_path=f"local/{app.directory.name}/{app.jar}",
        java_home=home,
        startup_cache=cache,
    )
    began = time.perf_counter()
    await host.start(task, stats=False)

    def ended() -> str:
        if task.waiting is None or not task.waiting.done():
            return ""
        return f"the task has ended: {os.read(task.stderr, 4096)!r}"

    async def ready() -> float:
        await asyncio.to_thread(wait_answer, port, app.answers, ended)
        return time.perf_counter()

    try:
        if app.answers:
            first, then = await asyncio.gather(task.first_byte(), ready())
        else:
            first = then = await task.first_byte()
    except BaseException:
        await host.end(task, force=True)
        raise
    return Start(first - began, then - began), task


async def told(host: PluginHost, task: Task, *words: str) -> None:
    """Make sure that a task's log says one of these; raises `NotReadyError` with what it says."""
    deadline = time.monotonic() + scaled(LOGGED_S)
    while not any(word in (log := host.task_log(task)) for word in words):
        if time.monotonic() > deadline:
            raise NotReadyError(f"the task's log does not say {' or '.join(words)}: {log}")
        await asyncio.sleep(0.05)
