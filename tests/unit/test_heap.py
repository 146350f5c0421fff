"""How large the heap is made, which options of the user's decide it, and heap dumps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo import cgroup_files
from milo.core.config.task_options import TaskOptions
from milo.core.java.crash_report import crash_words
from milo.core.java.heap import (
    MIB,
    Tuning,
    default_heap_bytes,
    largest_heap_bytes,
    sees_no_limits,
    tune,
)
from milo.core.java.option_words import UserWords
from milo.core.launch import Application, JavaRuntime, Launch
from milo.task.java.jvm import (
    MAX_ARGFILE_BYTES,
    Jvm,
    dump_bytes,
    files_of,
    plan_jvm,
    plan_of_past,
    user_words,
)
from tests.support.launches import make_launch

FILES = "/alloc/data/app-1"
DUMP_PATH = f"-XX:HeapDumpPath={FILES}.hprof"
ERROR_FILE = f"-XX:ErrorFile={FILES}.hs_err.log"


@pytest.mark.parametrize(
    ("memory_mib", "heap_mib"),
    [(16, 4), (64, 16), (128, 40), (256, 145), (512, 355), (1024, 816), (4096, 3581)],
)
def test_default_heap(memory_mib: int, heap_mib: int) -> None:
    """The heap is what docs/memory.md says for tasks of every size."""
    assert default_heap_bytes(memory_mib * MIB) // MIB == heap_mib


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 40))
def test_more_memory_is_no_smaller_heap(memory_bytes: int, more_bytes: int) -> None:
    """The heap grows with the task, and always leaves something to the rest."""
    heap_bytes = default_heap_bytes(memory_bytes)
    assert 0 <= heap_bytes <= memory_bytes
    assert default_heap_bytes(memory_bytes + more_bytes) >= heap_bytes - 1


def test_heap_of_a_task() -> None:
    """The default and heap_percent both become an -Xmx, in whole MiB."""
    assert tune(UserWords(), memory_bytes=512 * MIB).arguments == ("-Xmx355m",)
    assert tune(UserWords(), memory_bytes=512 * MIB, heap_percent=75).arguments == ("-Xmx384m",)
    assert tune(UserWords(), memory_bytes=10 * MIB, heap_percent=1).arguments == ("-Xmx2m",)


@pytest.mark.parametrize(
    ("major", "lines", "unseen"),
    [
        (17, "cpuset 0 96 1;cpu 0 96 1;memory 0 96 1", False),
        (17, "cpu 0 1 1;cpuacct 0 1 1;pids 0 1 1", True),
        (21, "cpu 0 96 1;memory 0 96 1", True),
        (17, "cpuset 0 96 1;cpu 0 96 1;memory 0 96 0", True),
        (8, "", True),
        (25, "cpu 0 1 1;cpuacct 0 1 1;pids 0 1 1", False),
    ],
)
def test_a_jvm_that_sees_no_limits(tmp_path: Path, major: int, lines: str, unseen: bool) -> None:
    """A kernel that lists no memory for cgroup v1 hides that of v2 from releases before 25."""
    file = tmp_path / "cgroups"
    head = "#subsys_name hierarchy num_cgroups enabled"
    file.write_text("\n".join((head, *lines.split(";"))))
    controllers = cgroup_files.listed_controllers(str(file))
    assert sees_no_limits(major, controllers) is unseen
    assert not sees_no_limits(major, controllers, openj9=True)


def test_an_unseen_limit_is_told_to_the_jvm() -> None:
    """A share that the job asks for is one of the task's memory, not of the host's."""
    share = UserWords(("-XX:MaxRAMPercentage=60",))
    tuning = tune(share, memory_bytes=512 * MIB, unseen_bytes=600 * MIB)
    assert tuning.arguments == (f"-XX:MaxRAM={600 * MIB}",)
    assert tune(share, memory_bytes=512 * MIB).arguments == ()


def test_no_limit_is_no_heap_option() -> None:
    """Without a memory limit the JVM decides, and that is said."""
    tuning = tune(UserWords(), memory_bytes=0, heap_percent=50)
    assert tuning == Tuning(why="by the JVM, because the task has no memory limit")


@pytest.mark.parametrize(
    "word",
    [
        "-Xmx1g",
        "-mx200m",
        "-XX:MaxHeapSize=1g",
        "-XX:SoftMaxHeapSize=356m",
        "-XX:MaxRAM=1g",
        "-XX:MaxRAMPercentage=50.0",
        "-XX:MinRAMPercentage=50.0",
        "-XX:MaxRAMFraction=2",
        "-XX:MinRAMFraction=2",
        "-XX:+AggressiveHeap",
        "-XX:Flags=/local/flags",
        "-XX:VMOptionsFile=/local/options",
        "-Xoptionsfile=/local/options",
        "-Xms400m",
        "-Xms0x19000000",
        "-XX:InitialHeapSize=400m",
        "-XX:MinHeapSize=400M",
        "-ms419430400",
    ],
)
def test_users_heap_option_wins(word: str) -> None:
    """An option that sizes the heap, or may, keeps Milo from doing so, and is named."""
    tuning = tune(UserWords(("-Dx=y", word)), memory_bytes=512 * MIB, heap_percent=50)
    assert tuning.arguments == ()
    assert tuning.heap_bytes == 0
    assert word in tuning.why


@pytest.mark.parametrize(
    "word",
    [
        "-Xms100m",
        "-Xss1m",
        "-Xmn50m",
        "-XX:MaxRAMs",
        "-Dpath=-Xmx",
        "-XX:InitialRAMPercentage=90",
        "-XX:SoftMaxHeapSize=355m",
        "-XX:-UseContainerSupport",
        "-XX:MaxMetaspaceSize=1g",
    ],
)
def test_other_options_leave_it_to_milo(word: str) -> None:
    """What does not size the largest heap changes nothing."""
    assert tune(UserWords((word,)), memory_bytes=512 * MIB).arguments == ("-Xmx355m",)


def test_unread_file_leaves_the_heap_alone() -> None:
    """A file of options that could not be read may size the heap: Milo does not then."""
    tuning = tune(UserWords(("-Dx=y",), unread="@/etc/x"), memory_bytes=512 * MIB)
    assert tuning.arguments == ()
    assert "@/etc/x" in tuning.why


def test_heap_dump_arguments() -> None:
    """A dump that is asked for is switched on; it and a crash's report have paths of their own."""
    tuning = tune(UserWords(), memory_bytes=0, dump_on_oom=True, files=FILES)
    assert (tuning.dump_path, tuning.dump_expected) == (f"{FILES}.hprof", True)
    assert tuning.report_path == f"{FILES}.hs_err.log"
    assert tuning.arguments == ("-XX:+HeapDumpOnOutOfMemoryError", DUMP_PATH, ERROR_FILE)


def test_paths_are_given_where_no_dump_is_asked_for() -> None:
    """An application may switch dumps on where Milo does not see it, and a JVM may crash."""
    tuning = tune(UserWords(), memory_bytes=0, files=FILES)
    assert tuning.arguments == (DUMP_PATH, ERROR_FILE)
    assert not tuning.dump_expected


@pytest.mark.parametrize(
    ("word", "arguments", "expected"),
    [
        ("-XX:-HeapDumpOnOutOfMemoryError", (DUMP_PATH, ERROR_FILE), False),
        ("-XX:HeapDumpPath=/local", ("-XX:+HeapDumpOnOutOfMemoryError", ERROR_FILE), False),
        ("-XX:+HeapDumpOnOutOfMemoryError", (DUMP_PATH, ERROR_FILE), True),
    ],
)
def test_users_dump_options_win(word: str, arguments: tuple[str, ...], expected: bool) -> None:
    """Of the two options of a heap dump Milo sets only what the user did not."""
    tuning = tune(UserWords((word,)), memory_bytes=0, dump_on_oom=True, files=FILES)
    assert tuning.arguments == arguments
    assert tuning.dump_expected is expected
    assert tune(UserWords((word,)), memory_bytes=0, files=FILES).dump_expected is expected


def test_users_error_file_wins() -> None:
    """A path of the user's for a crash's report is left alone, and looked at."""
    user = UserWords(("-XX:ErrorFile=/tmp/a", "-XX:ErrorFile=/alloc/b%p.log"))
    tuning = tune(user, memory_bytes=0, files=FILES)
    assert tuning.arguments == (DUMP_PATH,)
    assert tuning.report_path == "/alloc/b%p.log"


def test_last_of_several_sizes_counts() -> None:
    """An initial heap that a later option makes smaller again stands in nobody's way."""
    smaller = UserWords(("-Xms400m", "-Xms40m"))
    assert tune(smaller, memory_bytes=512 * MIB).arguments == ("-Xmx355m",)
    smaller = UserWords(("-XX:MinHeapSize=400m", "-Xms40m"))
    assert tune(smaller, memory_bytes=512 * MIB).arguments == ("-Xmx355m",)


# ---- files of options -------------------------------------------------------------------


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """A task with its directories."""
    alloc = tmp_path / "alloc"
    for path in ("alloc/data", "web/local", "web/secrets", "web/tmp"):
        (alloc / path).mkdir(parents=True)
    return make_launch(
        task_id="a1/we b/12ab",
        task_name="web",
        alloc_id="a1",
        alloc_dir=str(alloc),
        stdout_path="/dev/null",
        stderr_path="/dev/null",
        state_dir="",
        crun_path="",
        javas=(),
    )


@pytest.mark.parametrize("path", ["/local/options", "local/options", "/alloc/../local/options"])
def test_argfile_is_read(launch: Launch, path: str) -> None:
    """A file of options in the task's directories is read as the container has it."""
    Path(launch.task_dir, "local/options").write_text('# x\n-Xmx99m "-Da=b c"\n')
    options = TaskOptions(jvm_options=(f"@{path}", "-Dlast"))
    found = user_words(launch, options, 17)
    assert found == UserWords(("-Xmx99m", "-Da=b c", "-Dlast"))


def test_argfile_of_the_launchers_variable(launch: Launch) -> None:
    """A file that JDK_JAVA_OPTIONS names is read too, in releases that have the variable."""
    Path(launch.task_dir, "local/options").write_text("-Xmx99m")
    launch.env["JDK_JAVA_OPTIONS"] = "@/local/options"
    assert "-Xmx99m" in user_words(launch, TaskOptions(), 17).words
    assert user_words(launch, TaskOptions(), 8).words == ()


@pytest.mark.parametrize("what", ["missing", "outside", "symlink", "fifo", "large"])
def test_argfile_that_is_not_read(launch: Launch, what: str) -> None:
    """What is missing, elsewhere, no file or too large is not read, which is known."""
    path = Path(launch.task_dir, "local/options")
    name = "@/etc/passwd" if what == "outside" else "@/local/options"
    if what == "symlink":
        path.symlink_to("/etc/passwd")
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "large":
        path.write_bytes(b"x" * (MAX_ARGFILE_BYTES + 1))
    found = user_words(launch, TaskOptions(jvm_options=(name,)), 17)
    assert found == UserWords((name,), unread=name)


# ---- dumps ------------------------------------------------------------------------------


def test_each_start_has_files_of_its_own(launch: Launch) -> None:
    """Their paths have the task's name and the start's id, and no character with a meaning."""
    assert files_of(launch) == "/alloc/data/web-12ab"
    odd = make_launch(
        task_id="a1/%p of x/34 %",
        task_name="%p of x" + "y" * 100,
        alloc_id="a1",
        alloc_dir="",
        stdout_path="",
        stderr_path="",
        state_dir="",
        crun_path="",
        javas=(),
    )
    path = files_of(odd)
    assert path.startswith("/alloc/data/_p_of_xyyy")
    assert path.endswith("-34__")
    assert len(path) < 160


def test_dump_is_a_regular_file(launch: Launch) -> None:
    """Only a regular file in the allocation's directory is taken for a dump."""
    path = Path(launch.shared_dir, "data/web-12ab.hprof")
    inside = f"{files_of(launch)}.hprof"
    assert dump_bytes(launch, inside) == 0
    path.symlink_to("/etc/passwd")
    assert dump_bytes(launch, inside) == 0
    path.unlink()
    path.write_bytes(b"x" * 100)
    assert dump_bytes(launch, inside) == 100


def test_a_dump_is_as_large_as_what_it_occupies(launch: Launch) -> None:
    """A task can make a file of any length without a byte in it."""
    path = Path(launch.shared_dir, "data/web-12ab.hprof")
    with path.open("wb") as file:
        file.write(b"x" * 8192)
        file.truncate(1 << 40)
    assert 8192 <= dump_bytes(launch, f"{files_of(launch)}.hprof") <= 1 << 20


# ---- crashes ----------------------------------------------------------------------------

APP = Application(JavaRuntime("/jdk", "17.0.15", 17, "a test"))
REPORT = b"""#
# A fatal error has been detected by the Java Runtime Environment:
#
#  SIGSEGV (0xb) at pc=0x00007f33872d2f94, pid=2, tid=3
#
# JRE version: OpenJDK Runtime Environment (17.0.15+6) (build 17.0.15+6)
# Problematic frame:
# C  [libx.so+0xf94]  Java_X_crash+0x124
#
"""


def test_a_crash_is_told_from_its_report(launch: Launch) -> None:
    """Signal, frame and the report's place are told; of what is no file or no report nothing."""
    jvm = Jvm(launch, plan_of_past(launch))
    path = Path(launch.shared_dir, "data/web-12ab.hs_err.log")
    assert jvm.crash(77) == ""
    path.symlink_to("/etc/passwd")
    assert jvm.crash(77) == ""
    path.unlink()
    path.write_bytes(b"all is well")
    assert jvm.crash(77) == ""
    path.write_bytes(REPORT + b"x" * 100_000)
    assert jvm.crash(77) == (
        "the JVM crashed: SIGSEGV (0xb) in frame C [libx.so+0xf94] Java_X_crash+0x124; "
        "its report is /alloc/data/web-12ab.hs_err.log"
    )


@pytest.mark.parametrize(("mode", "number"), [("private", 2), ("host", 77)])
def test_a_report_at_the_users_path_is_found(launch: Launch, mode: str, number: int) -> None:
    """``%p`` in the user's path stands for the JVM's process id as the JVM sees it."""
    options = TaskOptions(jvm_options=("-XX:ErrorFile=a%p.log",), work_dir="/local", pid_mode=mode)
    Path(launch.task_dir, f"local/a{number}.log").write_bytes(REPORT)
    jvm = Jvm(launch, plan_jvm(launch, options, APP))
    assert jvm.crash(77).endswith(f"; its report is a{number}.log")
    outside = TaskOptions(jvm_options=("-XX:ErrorFile=/etc/passwd",))
    assert Jvm(launch, plan_jvm(launch, outside, APP)).crash(77) == ""


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            "#  Internal Error (debug.cpp:362), pid=4, tid=5\n"
            "#  fatal error: OutOfMemory encountered: Java heap space\n#",
            "Internal Error (debug.cpp:362), fatal error: OutOfMemory encountered: Java heap space",
        ),
        (
            "# There is insufficient memory for the Java Runtime Environment to continue.\n"
            "# Native memory allocation (mmap) failed to map 16384 bytes.\n# Possible reasons:",
            "out of memory (Native memory allocation (mmap) failed to map 16384 bytes)",
        ),
        ("#  SIGBUS (0x7) at pc=0x1, pid=4, tid=5\n# Problematic frame:", "SIGBUS (0x7)"),
        # JDK 8, and what later ones say of a signal that somebody has sent.
        (
            "#  SIGSEGV (0xb) at pc=0x00007f6ca3c40efc, pid=2, tid=0x00007f6ca3ba2b80",
            "SIGSEGV (0xb)",
        ),
        (
            "#  SIGSEGV (0xb) at pc=0x00007fa21ac275aa (sent by kill), pid=2, tid=3",
            "SIGSEGV (0xb) (sent by kill)",
        ),
    ],
)
def test_other_causes(lines: str, words: str) -> None:
    """An error of the JVM's own and a lack of memory are told as the report does."""
    assert (
        crash_words(f"#\n{lines}".encode(), "/x") == f"the JVM crashed: {words}; its report is /x"
    )


@given(
    st.binary()
    | st.lists(st.sampled_from([*REPORT.split(b"\n"), b"#  \x1b, pid=1, tid=1"])).map(b"\n".join)
)
def test_any_report_is_told_in_one_bounded_line(data: bytes) -> None:
    """A task may write whatever it likes there."""
    words = crash_words(data, "/x")
    assert len(words) < 500
    assert words.isprintable()


@pytest.mark.parametrize(
    ("words", "heap_mib"),
    [
        ((), 355),
        (("-Xmx16m",), 16),
        (("-Xmx16m", "-XX:MaxHeapSize=64m"), 64),
        (("-XX:MaxRAMPercentage=75.0",), 384),
        (("-XX:MaxRAMPercentage=junk",), 128),
        (("-XX:MaxRAMPercentage=900",), 512),
        (("-XX:+AggressiveHeap",), 128),
        (("-Xmxjunk",), 128),
    ],
)
def test_largest_heap_of_a_task(words: tuple[str, ...], heap_mib: int) -> None:
    """What the job's options say of it, else what Milo or the JVM would choose."""
    user = UserWords(words)
    tuning = tune(user, memory_bytes=512 * MIB)
    assert largest_heap_bytes(user, tuning, 512 * MIB) == heap_mib * MIB
