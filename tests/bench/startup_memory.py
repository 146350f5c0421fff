"""The memory of several instances of one application, with and without a startup archive."""

from __future__ import annotations

import asyncio

from tests.bench import memory_bench
from tests.bench.plugin_host import PluginHost, Task
from tests.bench.startup_apps import App
from tests.bench.startup_runs import USED, kept_job, kept_start, started, told

APP = "WireMock"
JAVAS = ("17", "25")
STAYS = ("-XX:+UnlockDiagnosticVMOptions", "-XX:ArchiveRelocationMode=0")
"""An archive's pages are shared only where it lies where it was made for. From 17 on a JVM moves
it."""
WAYS = {
    "no archive": ("off", ()),
    "archive": ("auto", ()),
    "archive, not moved": ("auto", STAYS),
}
"""By its name, whether there is an archive, and more options of the JVM."""
AT_ONCE = 2
IDLE_S = 3.0


async def instances(
    host: PluginHost, app: App, home: str, way: str, count: int
) -> dict[str, float]:
    """Start ``count`` instances, and return the bytes of their JVMs together (``jvms_pss``).

    Proportional memory counts each page once, however many processes share it.
    """
    cache, options = WAYS[way]
    if cache == "auto":
        await kept_start(host, app, home, options=options)
    tasks: list[Task] = []
    try:
        for first in range(0, count, AT_ONCE):
            several = range(first, min(count, first + AT_ONCE))
            found = await asyncio.gather(
                *(
                    started(host, app, home, job=kept_job(app, home), cache=cache, options=options)
                    for _ in several
                )
            )
            tasks += [task for _, task in found]
        for task in tasks if cache == "auto" else ():
            await told(host, task, USED)
        await asyncio.sleep(IDLE_S)
        jvms = memory_bench.jvms(host.process.popen.pid)
        assert len(jvms) == count, (jvms, count)
        memory = [memory_bench.rollup(pid) for pid in jvms]
        return {"instances": count, "jvms_pss": sum(one["Pss"] for one in memory)}
    finally:
        await asyncio.gather(*(host.end(task, force=True) for task in tasks))
