"""OpenJ9 and GraalVM, by what they print and what lies in their homes: no package here has them.

Sources: what users of Semeru 8 to 25 and of GraalVM show of ``java -version`` and ``release`` in
their reports; OpenJ9's documentation of its options; its gcmemoryparameters and omrsysinfo.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

import pytest

from milo.core.config.task_options import TaskOptions
from milo.core.describe import exit_sentence
from milo.core.java.heap import MIB, tune
from milo.core.java.jvm_view import Limits, describe, processors
from milo.core.java.option_words import UserWords, gather
from milo.core.java.versions import version_from_output, version_from_release
from milo.core.launch import Application, JavaRuntime
from milo.core.records import ExitRecord
from milo.host.java.finder import JavaFinder
from milo.host.java.survey import Rules
from milo.proc import trusted_users
from milo.task.java.jvm import Jvm, plan_jvm
from milo.task.java.task_java import find_task_java
from tests.support.launches import make_launch

SEMERU_8 = """\
openjdk version "1.8.0_392"
IBM Semeru Runtime Open Edition (build 1.8.0_392-b08)
Eclipse OpenJ9 VM (build openj9-0.41.0, JRE 1.8.0 Linux amd64-64-Bit Compressed References \
20231020_792 (JIT enabled, AOT enabled)
OpenJ9   - 461bf3c70
OMR      - 5eee6ad9d
JCL      - 3699725139c based on jdk8u392-b08)
"""
SEMERU_25 = """\
Property settings:
    java.home = /opt/semeru
    java.version = 25
    java.vm.name = Eclipse OpenJ9 VM
    java.vm.version = 25+36-openj9-0.55.0

openjdk version "25" 2025-09-16
IBM Semeru Runtime Open Edition 25.0.0.0 (build 25+36)
Eclipse OpenJ9 VM 25.0.0.0 (build 25+36-openj9-0.55.0, JRE 25 Linux amd64-64-Bit Compressed \
References 20250916_62 (JIT enabled, AOT enabled)
"""
IBM_8 = """\
java version "1.8.0_391"
Java(TM) SE Runtime Environment (build 8.0.8.15 - pxa6480sr8fp15-20231006_01(SR8 FP15))
IBM J9 VM (build 2.9, JRE 1.8.0 Linux amd64-64-Bit Compressed References 20231006 (JIT enabled)
"""
GRAALVM_21 = """\
Property settings:
    java.home = /opt/openj9-was-here
    java.version = 21.0.1
    java.vm.name = Java HotSpot(TM) 64-Bit Server VM

java version "21.0.1" 2023-10-17
Java(TM) SE Runtime Environment Oracle GraalVM 21.0.1+12.1 (build 21.0.1+12-jvmci-23.1-b19)
Java HotSpot(TM) 64-Bit Server VM Oracle GraalVM 21.0.1+12.1 (build 21.0.1+12-jvmci-23.1-b19)
"""
SEMERU_RELEASE = """\
IMPLEMENTOR="IBM Corporation"
JAVA_RUNTIME_VERSION="17.0.9+9"
JAVA_VERSION="17.0.9"
SOURCE="OpenJDK:6ed7b7a8 OpenJ9:461bf3c70 OMR:5eee6ad9d"
JVM_VARIANT="Openj9"
JVM_VERSION="openj9-0.41.0"
IMAGE_TYPE="JDK"
"""
OWN_BUILD_RELEASE = (
    'JAVA_VERSION="17.0.9"\nSOURCE="OpenJDK:6ed7b7a8 OpenJ9:461bf3c70 OMR:5eee6ad9d"\n'
)
GRAALVM_RELEASE = """\
IMPLEMENTOR="Oracle Corporation"
JAVA_RUNTIME_VERSION="21.0.1+12-jvmci-23.1-b19"
JAVA_VERSION="21.0.1"
GRAALVM_VERSION="23.1.1"
SOURCE=".:git:bbd9f7ef8b4e openj9"
"""
OPENJ9_FILES = ("lib/default/libj9vm29.so", "lib/j9vm/libjvm.so", "lib/server/libjvm.so")
HOTSPOT = JavaRuntime("/opt/jdk", "17.0.9", 17, "/opt")
OPENJ9 = JavaRuntime("/opt/semeru", "17.0.9", 17, "/opt", openj9=True)
FILES = "/alloc/data/app-1"
DUMPS = "-XX:HeapDumpPath=/alloc/data"


@pytest.mark.parametrize(
    ("output", "text", "openj9"),
    [
        (SEMERU_8, "1.8.0_392", True),
        (SEMERU_25, "25", True),
        (IBM_8, "1.8.0_391", True),
        (GRAALVM_21, "21.0.1", False),
    ],
)
def test_what_a_runtime_prints(output: str, text: str, openj9: bool) -> None:
    """The release is found in the words of every maker, and the JVM told from HotSpot."""
    found = version_from_output(output)
    assert (found.text, found.openj9) == (text, openj9)


@pytest.mark.parametrize(
    ("content", "text", "openj9"),
    [
        (SEMERU_RELEASE, "17.0.9", True),
        (OWN_BUILD_RELEASE, "17.0.9", True),
        (GRAALVM_RELEASE, "21.0.1", False),
    ],
)
def test_what_a_release_file_says(content: str, text: str, openj9: bool) -> None:
    """As in the output; a path or a remark that holds the word is no sign."""
    found = version_from_release(content)
    assert (found.text, found.openj9) == (text, openj9)


def home(path: Path, output: str, release: str, files: Iterable[str] = ()) -> Path:
    """Make a runtime that prints ``output``."""
    for name in ("bin/java", "lib/modules", *files):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).touch()
    (path / "bin/java").write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{output}END\n")
    (path / "bin/java").chmod(0o755)
    (path / "release").write_text(release)
    for directory in (path, *(entry for entry in path.rglob("*") if entry.is_dir())):
        directory.chmod(stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
    return path


@pytest.mark.parametrize("runs", [True, False])
async def test_they_are_found(tmp_path: Path, runs: bool) -> None:
    """Both are runtimes of the host like any other, whether asked or read about."""
    home(tmp_path / "opt/ibm-semeru-17", SEMERU_25, SEMERU_RELEASE, OPENJ9_FILES)
    home(tmp_path / "opt/graalvm-jdk-21", GRAALVM_21, GRAALVM_RELEASE)
    rules = Rules(owners=trusted_users(), top=str(tmp_path))
    finder = JavaFinder(((str(tmp_path / "opt"), "*"),), rules, runs=runs)
    found = await finder.find("", {})
    assert [(java.major, java.openj9) for java in found] == (
        [(25, True), (21, False)] if runs else [(21, False), (17, True)]
    )
    assert finder.problems == ()


def test_one_that_came_with_the_task_is_known(tmp_path: Path) -> None:
    """Its release file says it, as it is not run."""
    home(tmp_path / "local/jdk", "", SEMERU_RELEASE, OPENJ9_FILES)
    found = find_task_java({"local": str(tmp_path / "local")}, "local/jdk")
    assert (found.major, found.openj9) == (17, True)


def test_openj9_gets_no_option_that_it_may_refuse() -> None:
    """To OpenJ9 a dump's path is a directory, and of an error's report it knows nothing.

    It does not start with an unknown ``-XX`` option and -XX:-IgnoreUnrecognizedXXColonOptions.
    """
    tuning = tune(UserWords(), memory_bytes=512 * MIB, files=FILES, openj9=True)
    assert tuning.arguments == ("-Xmx355m", DUMPS)
    assert (tuning.dump_path, tuning.dump_expected, tuning.report_path) == ("", False, "")
    tuning = tune(UserWords(), memory_bytes=0, dump_on_oom=True, files=FILES, openj9=True)
    assert tuning.arguments == ("-XX:+HeapDumpOnOutOfMemoryError", DUMPS)


@pytest.mark.parametrize(
    "word", ["-Xdump:directory=/local", "-Xdump:none", "-XX:HeapDumpPath=/local"]
)
def test_the_users_own_dumps_of_openj9_are_left_alone(word: str) -> None:
    """What the user says of dumps in OpenJ9's words, or in HotSpot's, is not overruled."""
    tuning = tune(UserWords((word,)), memory_bytes=0, files=FILES, openj9=True)
    assert tuning.arguments == ()


@pytest.mark.parametrize("word", ["-Xsoftmx400m", "-Xmn400m", "-Xmnx400m", "-Xmos400m", "-Xmox1g"])
def test_openj9_refuses_parts_that_are_larger_than_its_heap(word: str) -> None:
    """Beside one of these Milo sets no heap, as the JVM would not start; HotSpot only warns."""
    assert tune(UserWords((word,)), memory_bytes=512 * MIB, openj9=True).arguments == ()
    assert tune(UserWords((word,)), memory_bytes=512 * MIB).arguments == ("-Xmx355m",)


@pytest.mark.parametrize("word", ["-Xsoftmx40m", "-Xmn40m", "-Xmoi400m", "-Xmso400m", "-Xmcrs1g"])
def test_other_sizes_of_openj9_are_no_matter(word: str) -> None:
    """Smaller parts of the heap, its steps and sizes of other things go with Milo's heap."""
    assert tune(UserWords((word,)), memory_bytes=512 * MIB, openj9=True).arguments == ("-Xmx355m",)


def test_openj9s_own_variables_are_read() -> None:
    """Its two names of one variable, of which the older one is still read; HotSpot knows none."""
    for name in ("OPENJ9_JAVA_OPTIONS", "IBM_JAVA_OPTIONS"):
        env = {name: "-Xmx1g"}
        assert gather(env, [], 17, lambda _: None, openj9=True).words == ("-Xmx1g",)
        assert gather(env, [], 17, lambda _: None).words == ()


@pytest.mark.parametrize(
    ("quota_us", "shares", "expected"), [(0, 1, 4), (149_000, 1, 1), (150_000, 1, 2), (1000, 1, 1)]
)
def test_processors_of_openj9(quota_us: int, shares: int, expected: int) -> None:
    """The quota is rounded to the next whole processor, not up, and shares are not looked at."""
    limits = Limits(cpus=4, quota_us=quota_us, period_us=100_000, shares=shares)
    assert processors(limits, "1.8.0_100", (), openj9=True) == expected


@pytest.mark.parametrize(
    ("words", "collector"),
    [
        ((), "gencon"),
        (("-XX:+UseG1GC",), "gencon"),
        (("-Xgcpolicy:balanced", "-Xgcpolicy:optthruput"), "optthruput"),
    ],
)
def test_the_event_names_openj9s_collector(words: tuple[str, ...], collector: str) -> None:
    """OpenJ9 has collectors of its own, and knows no option that chooses one of HotSpot's."""
    user = UserWords(words)
    tuning = tune(user, memory_bytes=512 * MIB, openj9=True)
    limits = Limits(memory_bytes=512 * MIB, cpus=4)
    text = describe("Runs on it", None, tuning, limits, 17, user, openj9=True)
    assert f"collector {collector}; 4 processors. The JVM did not report" in text
    assert "Serial" not in text


def test_the_plan_of_a_task_on_openj9(tmp_path: Path) -> None:
    """The runtime that was chosen decides; a crash is not looked for in HotSpot's report."""
    for path in ("alloc/data", "web/tmp"):
        (tmp_path / path).mkdir(parents=True)
    launch = make_launch(
        task_id="a1/web/12ab",
        task_name="web",
        alloc_id="a1",
        alloc_dir=str(tmp_path),
        stdout_path="/dev/null",
        stderr_path="/dev/null",
        state_dir="",
        crun_path="",
        javas=(),
    )
    options = TaskOptions(jvm_options=("-Xgcpolicy:balanced", "-XX:+UseG1GC"))
    plan = plan_jvm(launch, options, Application(OPENJ9))
    assert plan.openj9 and "-XX:ErrorFile" not in " ".join(plan.tuning.arguments)
    assert "-Xgcpolicy:balanced" in plan.words.words
    assert Jvm(launch, plan).crash(77) == ""


@pytest.mark.parametrize(
    ("java", "stdout", "words", "asked", "files"),
    [
        (OPENJ9, "/dev/null", (), True, "/alloc/data/javacore.*.txt"),
        (OPENJ9, "/dev/null", ("-Xdump:directory=/local",), True, ""),
        (OPENJ9, "/dev/null", ("-Xrs",), False, "/alloc/data/javacore.*.txt"),
        (HOTSPOT, "/dev/null", (), False, ""),
        (HOTSPOT, "/nowhere/fifo", (), True, ""),
    ],
)
def test_a_jvm_is_asked_for_its_threads_where_somebody_finds_them(
    java: JavaRuntime, stdout: str, words: tuple[str, ...], asked: bool, files: str
) -> None:
    """HotSpot prints them, which nobody sees without a log; OpenJ9 writes a file."""
    plan = plan_jvm(
        make_launch(stdout_path=stdout), TaskOptions(jvm_options=words), Application(java)
    )
    assert (plan.dump_on_kill, plan.tuning.thread_dump_files) == (asked, files)


@pytest.mark.parametrize(("files", "where"), [("", "its log"), ("/alloc/data/javacore.*.txt",) * 2])
def test_the_exit_message_says_where_the_threads_are(files: str, where: str) -> None:
    """Of a task that was killed after it had been asked for them."""
    record = ExitRecord(0, 9, stop_killed=True, thread_dump=True, thread_dump_files=files)
    assert exit_sentence(record, stopped=True).endswith(
        f"; what its threads were doing then is in {where}"
    )
