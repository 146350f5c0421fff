"""Writes the seeds: ``python -m tests.fuzz.seeds``. One file for each kind of good input."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import msgspec

from milo.core import control, records
from milo.core.records import ExitRecord, ProcessId, StreamCounters
from tests.fuzz.targets import DATA
from tests.support.perf_data import G1, SERIAL, perf_data

V1 = Path(__file__).parents[1] / "data/v1"
ME = ProcessId(1, 2)
MAIN = b"Manifest-Version: 1.0\r\nMain-Class: com.example.Main\r\n"
CLASS = b"\xca\xfe\xba\xbe\x00\x00\x00\x3d" + bytes(40)


def seeds() -> dict[str, list[bytes]]:
    """Return the seeds of each target."""
    task = {
        "jar_path": "local/app.jar",
        "class": "com.example.Main",
        "class_path": "local/lib/*",
        "args": ["a", "ü"],
        "jvm_options": ["-Xmx64m", "-Dx=y"],
        "log_overflow": "block",
        "log_block_timeout": "1m30.5s",
        "cpu_hard_limit": True,
    }
    plugin = {
        "java_home": "/usr/lib/jvm/java-17",
        "crun_path": "crun",
        "state_dir": "/run/milo",
        "allow_root": False,
        "log_overflow": "drop",
        "log_block_timeout": None,
    }
    requests: list[control.Message] = [
        control.Hello(version=1, role="driver", keepers=True),
        control.GetStatus(seq=1),
        control.Stop(seq=2, signal=15, timeout_s=5.5),
        control.Kill(seq=3, signal=3),
        control.GetDescriptors(seq=4),
        control.Keep(seq=5, pid=4711),
    ]
    none = StreamCounters()
    notices: list[control.Message] = [
        control.Welcome(version=1, supervisor=ME, keeper=4711),
        control.Started(container=ME, container_id="milo-x", cgroup_path="/x", started_at_s=1.5),
        control.StartFailed(text="Error: no", recoverable=True),
        control.Exited(record=ExitRecord(exit_code=1, signal=9, oom_killed=True)),
        control.DescriptorsChanged(),
        control.Event(text="said", at_s=1.0),
        control.Log(level="info", text="said", fields={"a": "b"}),
        control.Status(seq=1, phase="running", stdout=none, stderr=none),
        control.Descriptors(seq=1, names=("stdout.pipe",)),
        control.Done(seq=1, error="no"),
    ]
    return {
        "handle": [_placed("handle.json")],
        "task_record": [_placed("task.json")],
        "exit_record": [_placed("exit.json")],
        "launch": [_placed("launch.json")],
        "request": [control.encode(message) for message in requests],
        "notice": [control.encode(message) for message in notices],
        "task_config": [msgspec.msgpack.encode(task), b"\xc0", b"\x80"],
        "plugin_config": [msgspec.msgpack.encode(plugin)],
        "jar": [
            _zip({"META-INF/MANIFEST.MF": MAIN, "com/example/Main.class": CLASS}),
            _zip({"META-INF/MANIFEST.MF": MAIN}, zipfile.ZIP_DEFLATED),
            _zip({"a": b""}) + b"#!/bin/sh\n",
            b"#!/bin/sh\n" + _zip({"META-INF/MANIFEST.MF": MAIN + b"Multi-Release: true\r\n"}),
            b"<html>not found</html>",
            b"PK\x03\x04",
        ],
        "jar_manifest": [
            MAIN,
            b"Main-Class: Main\nStart-Class: a.B\nSpring-Boot-Classes: BOOT-INF/classes/\n\n",
            b"Main-Class: Ma\n in\nClass-Path: lib/a.jar lib/b.jar\n\nName: x\n",
            b"Main-Class: Main",
        ],
        "perf_data": [perf_data(G1), perf_data(SERIAL), perf_data(G1, accessible=0)],
    }


def _placed(name: str) -> bytes:
    text = (V1 / name).read_text()
    process = json.dumps({"pid": 4242, "start_ticks": 123456})
    for placeholder in ('"@SUPERVISOR@"', '"@CONTAINER@"'):
        text = text.replace(placeholder, process)
    for placeholder in ("@STATE@", "@ALLOC@", "@CRUN@"):
        text = text.replace(placeholder, "/run/milo")
    return records.encode(json.loads(text))


def _zip(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return file.getvalue()


if __name__ == "__main__":
    for target, found in seeds().items():
        directory = DATA / target
        directory.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(found):
            (directory / f"seed-{number}").write_bytes(data)
