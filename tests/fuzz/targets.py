"""What is fuzzed: each target reads some bytes, and may end in an error of Milo's only.

The text of such an error goes to Nomad's users, so that it must fit a message and be text.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

from milo.core import control, records
from milo.core.config.plugin_options import PluginOptions, parse_plugin_options
from milo.core.config.rules import Asked, check_task
from milo.core.config.task_options import TaskOptions, parse_task_options
from milo.core.describe import exit_sentence
from milo.core.java import hsperf
from milo.core.java.jar import Jar, require_main_class
from milo.core.java.jvm_figures import figures
from milo.core.launch import JavaRuntime, Launch
from milo.errors import MiloError
from milo.plugin import convert
from milo.task.java.application import _first_that_runs

DATA = Path(__file__).parents[1] / "data/fuzz"
JAVA = JavaRuntime("/usr/lib/jvm/java-17", "17.0.1", 17, "/usr/lib/jvm")


def handle(data: bytes) -> None:
    """Nomad's task handle."""
    records.encode(records.decode(data, records.Handle, where="the task handle"))


def task_record(data: bytes) -> None:
    """``task.json``."""
    records.encode(records.decode(data, records.TaskRecord, where="/task.json"))


def exit_record(data: bytes) -> None:
    """``exit.json``, and what is said of it."""
    record = records.decode(data, records.ExitRecord, where="/exit.json")
    control.encode(control.Event(text=control.cut(exit_sentence(record)), at_s=0))
    records.encode(record)


def launch(data: bytes) -> None:
    """``launch.json``, and the job's config in it."""
    found = records.decode(data, Launch, where="/launch.json")
    records.encode(found)
    check_task(Asked(parse_task_options(found.config, found.plugin), found.plugin))


def request(data: bytes) -> None:
    """What a client says on the control socket."""
    control.encode(control.decode_request(data))


def notice(data: bytes) -> None:
    """What a task process says on the control socket."""
    control.encode(control.decode_notice(data))


def task_config(data: bytes) -> None:
    """The job's ``config`` block, in MessagePack."""
    plugin = PluginOptions()
    check_task(Asked(parse_task_options(convert.decode_config(data, "config"), plugin), plugin))


def plugin_config(data: bytes) -> None:
    """The agent's ``plugin`` block, in MessagePack."""
    parse_plugin_options(convert.decode_config(data, "config"))


def jar(data: bytes) -> None:
    """A JAR, as all that is known of it is found out."""
    jar = Jar(io.BytesIO(data), "local/app.jar")
    jar.class_version(require_main_class(jar.inspect(), jar.name), java_major=21)
    _first_that_runs(jar, TaskOptions(), (JAVA,), (JAVA,))


def jar_manifest(data: bytes) -> None:
    """A JAR's manifest, in a JAR that is in order: random bytes rarely have a checksum."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", data)
        archive.writestr("Main.class", b"\xca\xfe\xba\xbe\0\0\0\x3d")
    _first_that_runs(Jar(file, "local/app.jar"), TaskOptions(), (JAVA,), (JAVA,))


def perf_data(data: bytes) -> None:
    """A JVM's performance data: whatever it says reaches the driver as it was understood."""
    hsperf.self_told(data)
    none = records.StreamCounters()
    status = control.Status(seq=1, phase="running", stdout=none, stderr=none, jvm=figures(data))
    assert control.decode_notice(control.encode(status)) == status


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        handle,
        task_record,
        exit_record,
        launch,
        request,
        notice,
        task_config,
        plugin_config,
        jar,
        jar_manifest,
        perf_data,
    )
}


def run(target: str, data: bytes) -> MiloError | None:
    """Give ``data`` to a target; return the error of Milo's that it ended in, if in one."""
    try:
        TARGETS[target](data)
    except MiloError as error:
        control.encode(control.StartFailed(text=control.cut(str(error)), recoverable=False))
        return error
    return None
