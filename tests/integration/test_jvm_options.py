"""What Milo understands of the options that reach a JVM is what each JDK at hand says of itself."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import attrs
import pytest

from milo.core.java.heap import MIB, tune
from milo.core.java.jvm_view import Limits, expected_collector, processors
from milo.core.java.option_words import UserWords, gather
from milo.core.java.versions import parse_version
from tests.support import jdks
from tests.support.java_homes import all_homes

OWN = all_homes()
JAVAS = [*(os.path.basename(home) for home in OWN), *jdks.RELEASES]
TASK_BYTES = 512 * MIB
HEAP_STEP = 2 * MIB
"""A JVM rounds its heap up to a multiple of this."""
COLLECTORS = ("Serial", "Parallel", "G1", "Z", "Shenandoah", "Epsilon")


@pytest.fixture(params=JAVAS)
def home(request: pytest.FixtureRequest) -> Path:
    """The home of one Java: the machine's own, and those of a package."""
    name = request.param
    for path in OWN:
        if os.path.basename(path) == name:
            return Path(path)
    return jdks.fetch(name)


@attrs.frozen
class Told:
    """What a JVM says of itself."""

    properties: dict[str, str]
    flags: dict[str, str]
    set_by: dict[str, str]
    """Flag to who set it: ``command line``, ``default``, ``ergonomic`` ..."""

    @property
    def heap_bytes(self) -> int:
        return int(self.flags["MaxHeapSize"])

    @property
    def collector(self) -> str:
        used = [name for name in COLLECTORS if self.flags.get(f"Use{name}GC") == "true"]
        return {"Z": "ZGC"}.get(used[0], used[0]) if used else ""


def ask(home: Path, env: dict[str, str], options: list[str]) -> Told | None:
    """Run this Java with these options, and return what it then says; None when it refuses."""
    done = subprocess.run(
        [
            *(str(home / "bin/java"), *options),
            *("-XshowSettings:properties", "-XX:+PrintFlagsFinal", "-version"),
        ],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **env},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return None
    properties = re.findall(r"^    (\S+) = (.*)$", done.stderr, re.MULTILINE)
    flags = re.findall(r"^ *\w+ (\w+) +:?= (\S*) .*\{([\w ,]+)\}$", done.stdout, re.MULTILINE)
    return Told(
        dict(properties),
        {name: value for name, value, _ in flags},
        {name: origin for name, _, origin in flags},
    )


def understood(home: Path, env: dict[str, str], options: list[str]) -> UserWords:
    """Return what Milo makes of the same options."""

    def read(path: str) -> str | None:
        return Path(path).read_text() if os.path.isfile(path) else None

    return gather(env, options, major(home), read)


def major(home: Path) -> int:
    """Return a Java's feature release."""
    version = re.search(r'JAVA_VERSION="([^"]+)"', (home / "release").read_text())
    assert version
    return parse_version(version[1]).major


TEXTS: dict[str, bool] = {
    "-Dpw=abc#123 -Dafter=1": False,
    "-Da=#1 -Dafter=1": False,
    r"-Da=\d\\n -Db=C:\x\"y z\"": False,
    "-Da='b \"c' -Db=\"d 'e'\"f": False,
    r"-Da='b\' -Dafter=1": False,
    "\t-Da=1\n\n-Db=2 \f-Dc=3\r\n": False,
    "-Da=1\v-Db=2": False,
    "'-Da=1 2' -D'b=3 4'": False,
    "-Da=b#c -Dafter=1\n-Dnext=1": False,
    "'-Da=1'#x -Dno=1\n=d -Dafter=1": True,
    '-Da="1\\\n   2" -Dafter=1': False,
    '"-Da=1\\t\\\\2" -Dafter=1': False,
    '-Da="1\n-Dafter=1"': False,
    "-Da='1' # -Dno=1": True,
    "# -Dno=1\n-Da=1": True,
    "-Da=1 #": True,
}
"""Texts that the two ways of reading split differently, and whether a JVM refuses a variable
that holds one."""


@pytest.mark.parametrize("way", ["JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "file"])
def test_words(home: Path, way: str, tmp_path: Path) -> None:
    """Each system property has the value that Milo reads, and Milo reads no more of them."""
    for text, refused in TEXTS.items():
        (tmp_path / "options").write_text(text)
        file = way == "file"
        env, options = ({}, [f"@{tmp_path}/options"]) if file else ({way: text}, [])
        told = ask(home, env, options)
        words = understood(home, env, options).words
        if told is None:
            assert way != "file" and refused, text
            continue
        given = (word[2:].partition("=") for word in words if word.startswith("-D"))
        # A JVM prints the lines of a value under each other; the first is enough.
        read = {name: value.partition("\n")[0].rstrip() for name, _, value in given}
        assert read == {name: told.properties.get(name, "") for name in read}, text
        mine = {"a", "b", "c", "pw", "after", "next", "no"}
        assert mine & read.keys() == mine & told.properties.keys(), text


TOOL = "JAVA_TOOL_OPTIONS"


def since(release: int) -> range:
    """Return all releases from this one on."""
    return range(release, 100)


SIZES: list[tuple[dict[str, str], list[str], range]] = [
    ({}, [], since(8)),
    ({}, ["-Xmx100m"], since(8)),
    ({}, ["-mx100m"], since(8)),
    ({}, ["-XX:MaxHeapSize=100m"], since(8)),
    ({TOOL: "-Dpw=abc#123 -Xmx64m"}, [], since(8)),
    ({"JDK_JAVA_OPTIONS": "-Dpw=abc#123 -Xmx64m"}, [], since(9)),
    ({"_JAVA_OPTIONS": "-Dpw=abc#123 -Xmx64m"}, ["-Xmx100m"], since(8)),
    ({TOOL: "-Dpw='#'#", "JAVA_OPTS": "-Xmx100m"}, ["-Dx=-Xmx100m"], since(8)),
    ({}, ["-Xmx100m", "-Xms50m"], since(8)),
    ({}, ["-XX:SoftMaxHeapSize=100m"], since(13)),
    ({}, ["-XX:SoftMaxHeapSize=500m"], since(13)),
    ({}, ["-Xms400m"], since(8)),
    ({}, ["-Xms400m", "-Xms40m"], since(8)),
    ({}, ["-XX:MinHeapSize=400m", "-Xms40m"], since(14)),
    ({}, ["-Xms0x19000000"], since(12)),
    ({TOOL: "-Xms400M"}, [], since(8)),
    ({}, ["-XX:MinHeapSize=400m"], since(14)),
    ({}, ["-XX:InitialHeapSize=400m"], since(8)),
    ({}, ["-XX:InitialRAMPercentage=99"], since(10)),
    ({}, ["-XX:MaxRAM=300m"], since(8)),
    ({}, ["-XX:MaxRAMPercentage=7"], since(10)),
    ({}, ["-XX:MaxRAMFraction=7"], range(8, 25)),
    ({}, ["-Xmn300m"], since(8)),
    ({}, ["-XX:NewSize=400m"], since(8)),
    ({}, ["-XX:MaxNewSize=400m"], since(8)),
    ({}, ["-XX:-UseContainerSupport"], since(10)),
    ({}, ["-XX:+PerfDisableSharedMem", "-XX:+UseSerialGC"], since(8)),
    ({}, ["-XX:Flags={tmp}/flags"], since(8)),
    ({}, ["-XX:VMOptionsFile={tmp}/options"], since(9)),
    ({}, ["@{tmp}/options"], since(9)),
    ({}, ["--disable-@files", "-Dx=y"], since(18)),
]
"""Environment, ``jvm_options``, and the releases whose JVM takes them."""


def test_heap(home: Path, tmp_path: Path) -> None:
    """Milo sets the heap just where the user's words do not, and a JVM that started, starts."""
    (tmp_path / "flags").write_text("# of the application\nMaxHeapSize=100m\n")
    (tmp_path / "options").write_text("-XX:MaxHeapSize=100m\n")
    plain = ask(home, {}, [])
    assert plain is not None
    for env, given, takers in SIZES:
        options = [word.format(tmp=tmp_path) for word in given]
        tuning = tune(understood(home, env, options), memory_bytes=TASK_BYTES)
        alone = ask(home, env, options)
        row = (env, options, tuning)
        if alone is None:
            assert major(home) not in takers, row
            continue
        told = ask(home, env, [*tuning.arguments, *options])
        assert told is not None, row
        if tuning.heap_bytes:
            assert told.heap_bytes == tuning.heap_bytes // HEAP_STEP * HEAP_STEP + (
                HEAP_STEP if tuning.heap_bytes % HEAP_STEP else 0
            ), row
            assert alone.heap_bytes == plain.heap_bytes, row
        else:
            # Either the words size it, or with Milo's word too the JVM would refuse to start.
            forced = ask(home, env, ["-Xmx355m", *options])
            assert alone.heap_bytes != plain.heap_bytes or forced is None, row


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-XX:ActiveProcessorCount=3"],
        ["-XX:ActiveProcessorCount=3", "-XX:ActiveProcessorCount=1"],
        ["-XX:+UseSerialGC"],
        ["-XX:+UseParallelGC", "-XX:ActiveProcessorCount=2"],
        ["-XX:+UseG1GC", "-Dx=-XX:+UseSerialGC"],
    ],
    ids=" ".join,
)
def test_processors_and_collector(home: Path, options: list[str]) -> None:
    """What the event would say of both without the JVM's word is what the JVM says."""
    told = ask(home, {}, options)
    assert told is not None
    words = understood(home, {}, options).words
    limits = Limits(memory_bytes=0, cpus=len(os.sched_getaffinity(0)))
    count = processors(limits, (home / "release").read_text(), words)
    assert int(told.flags["ActiveProcessorCount"]) in (-1, count)
    assert expected_collector(limits, count, major(home), words) == told.collector
