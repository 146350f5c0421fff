"""What the spawner does before its first fork is not done again by each task process."""

from __future__ import annotations

import subprocess
import sys

import pytest

LEAVES_NOTHING = """
import os, signal, threading
from milo.proc import open_descriptors
from milo.task.rehearsal import rehearse

signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as in the spawner

def state():
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    return open_descriptors(), handlers, threading.active_count()

before = state()
rehearse()
assert state() == before, (state(), before)
assert signal.set_wakeup_fd(-1) == -1
"""

MADE_BEFORE = """
import sys
from milo.core import records
from milo.core.container import seccomp
from milo.errors import ConfigError
from milo.proc import thermal_throttle_directories
from milo.core.config.plugin_options import PluginOptions
from milo.core.launch import Launch
from milo.task.rehearsal import rehearse

launch = Launch("id", "app", "alloc", "/alloc", "/out", "/err", state_dir="/state",
                crun_path="/crun", javas=(), plugin=PluginOptions())
data = records.encode(launch)
if "rehearsed" in sys.argv:
    rehearse()
calls = []
sys.setprofile(lambda frame, event, _: calls.append(frame.f_code) if event == "call" else None)
read = records.decode(data, Launch, where="here")
with open("/dev/null", encoding="ascii") as file:
    file.read()
try:
    seccomp.convert(b"[]", "", (), seccomp.Machine("", ()))
except ConfigError:
    pass
thermal_throttle_directories()
sys.setprofile(None)
assert read == launch
print(*sorted({"/".join(code.co_filename.split("/")[-2:]) for code in calls}))
"""


FEWER_COPIES = """
import os, resource, sys
import trio
from milo.core.config.plugin_options import PluginOptions
from milo.core.config.task_options import parse_task_options
from milo.core.launch import Launch
from milo.proc import open_descriptors
from milo.task import rehearsal
from milo.task.oci import privileges
from milo.task.root import rootfs

launch = Launch("id", "app", "alloc", "/alloc", "/out", "/err", state_dir="/state",
                crun_path="/crun", javas=(), plugin=PluginOptions())
rehearsal.rehearse()

def confine():
    privileges.confine(launch, parse_task_options({}, launch.plugin))

def view():
    rootfs.view_host((), recursive=True)

def use():
    trio.run(rehearsal._use_trio)

def copies(work, rehearse):
    reader, writer = os.pipe()
    if os.fork() == 0:
        before = open_descriptors()
        if rehearse is not None:
            rehearse()
        assert open_descriptors() == before
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        work()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        os.write(writer, str(faults).encode())
        os._exit(0)
    os.close(writer)
    return int(os.read(reader, 100))

work = {"confine": confine, "view": view, "use": use}[sys.argv[1]]
rehearse = getattr(rehearsal, sys.argv[2])
copies(work, None)
print(copies(work, None), copies(work, rehearse))
"""


def run(code: str, *arguments: str) -> str:
    """Run ``code`` in an interpreter that has done nothing yet, and return what it prints."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_it_leaves_nothing() -> None:
    """No descriptor, no signal handler, no thread: what it is done in, is forked from then on."""
    run(LEAVES_NOTHING)


def test_a_task_process_need_not_look_at_types_and_codecs() -> None:
    """Reading the first record makes a program of every annotation, unless that was done before."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    first = {"msgspec/_utils.py", f"{version}/typing.py", "encodings/__init__.py", "<string>"}
    first |= {"re/_compiler.py"}
    assert first <= set(run(MADE_BEFORE).split())
    assert not first & set(run(MADE_BEFORE, "rehearsed").split())


@pytest.mark.parametrize(
    ("work", "rehearsal"),
    [
        ("confine", "rehearse_preparation"),
        ("view", "rehearse_preparation"),
        ("use", "rehearse_task"),
    ],
)
def test_who_waits_for_a_task_copies_pages_ahead(work: str, rehearsal: str) -> None:
    """What it does for its task then writes to few that are the spawner's still."""
    cold, rehearsed = map(int, run(FEWER_COPIES, work, rehearsal).split())
    assert rehearsed < cold / 2
