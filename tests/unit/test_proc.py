"""What /proc says, read within bounds, whatever bytes tenants have put into it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo import cgroup_files, proc, process_signals, unix_sockets
from milo.core.cgroup import Hierarchy, Mode
from milo.core.records import ProcessId
from tests.support.log_rig import descriptors
from tests.support.waiting import wait_for

LINE_ENDS = "\x0b\x0c\x1c\x85\u2028"
"""Where str.splitlines() ends a line, and the kernel does not."""


# ---- files


def test_a_file_is_read_within_bounds(tmp_path: Path) -> None:
    """What is longer than the bound is cut after the last line that fits, and nothing leaks."""
    path = tmp_path / "cgroup.procs"
    path.write_text("100\n2345\n")
    before = descriptors()
    assert proc.read(str(path)) == b"100\n2345\n"
    assert proc.read(str(path), 9) == b"100\n2345\n"
    assert proc.read(str(path), 8) == b"100\n"
    assert proc.read(str(path), 3) == b""
    path.write_text("12345\n" * 100_000)
    assert len(proc.read(str(path), 300_000) or b"") == 300_000
    assert descriptors() == before


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    """A missing file, a directory and a process that has ended are all nothing, and no error."""
    before = descriptors()
    assert proc.read(str(tmp_path / "missing")) is None
    assert proc.read(str(tmp_path)) is None
    child = subprocess.Popen(["/bin/true"])
    child.wait()
    assert proc.read(f"/proc/{child.pid}/status") is None
    assert proc.lines(None) == proc.lines(b"") == []
    assert descriptors() == before


def test_lines_end_at_line_feeds_alone() -> None:
    """Other characters that end a line elsewhere are a part of the line here."""
    odd = f"a{LINE_ENDS}b".encode()
    assert proc.lines(odd + b"\nc\n") == [odd, b"c"]


# ---- processes


def test_a_process_has_a_start_time_until_it_has_ended() -> None:
    """A running process has one, whatever its name; a zombie and a free number have none."""
    assert proc.start_ticks(os.getpid()) == proc.start_ticks(os.getpid())
    assert proc.start_ticks(2**22) is None
    child = subprocess.Popen(["/bin/sleep", "100"])
    identity = proc.identify(child.pid)
    assert identity is not None and proc.lives(identity)
    assert not proc.lives(ProcessId(child.pid, identity.start_ticks + 1))
    assert proc.parent(child.pid) == os.getpid()
    assert child.pid in proc.children(os.getpid())
    child.kill()
    wait_for("the zombie", lambda: proc.start_ticks(child.pid) is None)
    assert not proc.lives(identity) and proc.identify(child.pid) is None
    child.wait()
    assert proc.parent(child.pid) is None
    assert not proc.lives(None)


def test_who_catches_a_signal_is_told_from_who_does_not() -> None:
    """Only a handler counts: what is ignored or left as it is would end or not reach a process."""
    code = "import signal, sys; {}; print(flush=True); sys.stdin.read()"
    for setting, catches in (
        ("signal.signal(signal.SIGQUIT, print)", True),
        ("signal.signal(signal.SIGQUIT, signal.SIG_IGN)", False),
        ("signal.signal(signal.SIGTERM, print)", False),
    ):
        words = [sys.executable, "-c", code.format(setting)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            assert process_signals.catches(child.pid, signal.SIGQUIT) is catches
            assert not process_signals.is_halted(child.pid)
            child.send_signal(signal.SIGSTOP)
            wait_for("the halt", partial(process_signals.is_halted, child.pid))
            child.kill()
    assert not process_signals.catches(child.pid, signal.SIGQUIT) and not process_signals.is_halted(
        child.pid
    )


def test_a_signal_reaches_the_process_that_was_meant() -> None:
    """Never a later one with the same number, and none that has ended."""
    child = subprocess.Popen(["/bin/sleep", "100"])
    identity = proc.identify(child.pid)
    assert identity is not None
    later = ProcessId(child.pid, identity.start_ticks + 1)
    assert not process_signals.signal_process(later, signal.SIGKILL)
    assert child.poll() is None
    assert process_signals.signal_process(identity, signal.SIGTERM)
    assert child.wait() == -signal.SIGTERM
    assert not process_signals.signal_process(identity, signal.SIGTERM)


@pytest.mark.parametrize("name", [") R 1 (", "a\n1 (b) R 1\n", "\u2028", "\udcff x"])
def test_names_of_processes_do_not_confuse(name: str) -> None:
    """The second field of /proc/<pid>/stat may hold anything, and so may the name itself."""
    code = (
        "import os, sys; sys.path.insert(0, '.'); from milo import proc;"
        f"proc.prctl(proc.PR_SET_NAME, {os.fsencode(name)!r}); proc.become_subreaper();"
        "print(proc.start_ticks(os.getpid()), proc.parent(os.getpid()));"
        "print(proc.comm(os.getpid())); print(proc.effective_capabilities())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    numbers, comm, capabilities = done.stdout.splitlines()
    ticks, parent = numbers.split()
    assert int(ticks) > 0 and int(parent) == os.getpid()
    assert comm == repr(os.fsencode(name))
    assert int(capabilities) == proc.effective_capabilities()
    with pytest.raises(OSError, match="Invalid"):
        proc.prctl(-1, 0)


def test_threads_and_what_is_mapped() -> None:
    """A process has a thread of its own name at least, and the C library; one that is gone none."""
    assert proc.comm(os.getpid()) in set(proc.thread_names(os.getpid()))
    assert b"libc" in proc.mapped_files(os.getpid())
    assert list(proc.thread_names(2**22)) == [] and proc.mapped_files(2**22) == b""


def test_capabilities_are_those_of_this_process() -> None:
    """Root has all that its bounding set has; nobody has what it does not hold."""
    bounding = proc.bounding_capabilities()
    assert proc.effective_capabilities() | bounding == bounding
    assert proc.has_capability(0) == bool(proc.effective_capabilities() & 1)


# ---- sockets


def test_a_socket_is_known_by_its_own_address(tmp_path: Path) -> None:
    """The path is told byte for byte, also when the file is gone; an abstract name is no path.

    In /proc/net/unix the second socket's name makes a line of its own, which says that the first
    one is bound to another path.
    """
    odd = os.fsencode(tmp_path) + "/ä\u2028 ".encode() + b"\xff\n.sock"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as bound,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as forged,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as unbound,
    ):
        bound.bind(odd)
        inode = os.fstat(bound.fileno()).st_ino
        line = f"0: 00000002 00000000 00010000 0005 01 {inode} /run/milo/forged"
        forged.bind(f"\0\n{line}")
        assert os.fsencode(unix_sockets.socket_path(inode)) == odd
        os.unlink(odd)
        assert os.fsencode(unix_sockets.socket_path(inode)) == odd
        for other in (forged, unbound):
            assert unix_sockets.socket_path(os.fstat(other.fileno()).st_ino) == ""
    assert unix_sockets.socket_path(inode) == ""


# ---- mounts


@pytest.mark.parametrize(
    ("escaped", "point"),
    [
        (r"/ä\040b".encode(), "/ä b"),
        (rb"/tab\011line\012back\134slash\043", "/tab\tline\nback\\slash#"),
        (rb"/\134040", r"/\040"),
        (rb"/\x41\999", r"/\x41\999"),
        (f"/a{LINE_ENDS}b".encode(), f"/a{LINE_ENDS}b"),
        (b"/\xff\\040\xe4", "/\udcff \udce4"),
    ],
)
def test_mount_points_are_freed_of_the_kernels_escapes(escaped: bytes, point: str) -> None:
    """A blank, a tab, a line feed and a backslash are escaped; all other bytes stay as they are."""
    line = b"31 23 0:28 /top\\040of " + escaped + b" rw,relatime shared:9 - tmpfs none rw,size=1k\n"
    (mount,) = proc.parse_mountinfo(line)
    assert mount == proc.Mount(
        "0:28", "/top of", point, ("rw", "relatime"), "tmpfs", ("rw", "size=1k")
    )


@pytest.mark.parametrize("optional", [b"", b"shared:1 ", b"shared:1 master:2 unbindable "])
@pytest.mark.parametrize("source", [b"", b"/dev/sda1", b"-"])
def test_a_mount_has_optional_fields_and_any_source(optional: bytes, source: bytes) -> None:
    """What stands before the hyphen varies in number, and the source may be empty."""
    line = b"22 1 8:1 / /- rw " + optional + b"- ext4 " + source + b" rw,quota\n"
    (mount,) = proc.parse_mountinfo(line)
    assert (mount.point, mount.kind, mount.super_options) == ("/-", "ext4", ("rw", "quota"))


@given(st.binary())
def test_any_mount_table_can_be_read(data: bytes) -> None:
    """No bytes make the parser fail, and it finds no more mounts than there are line feeds."""
    assert len(proc.parse_mountinfo(data)) <= data.count(b"\n") + 1
    cgroup_files.hierarchy_in(proc.parse_mountinfo(data))


def test_the_mounts_of_this_process() -> None:
    """The root is mounted, and /proc; a process that is not there has no mounts."""
    kinds = {mount.point: mount.kind for mount in proc.mounts()}
    assert "/" in kinds and kinds["/proc"] == "proc"
    assert proc.mounts(0) == []


# ---- the host


def test_core_speed_is_the_base_frequency(tmp_path: Path) -> None:
    """The base frequency is preferred, then the highest, then what /proc/cpuinfo says."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\ncpu MHz\t\t: 2596.144\nprocessor\t: 1\ncpu MHz\t\t: 2600\n")
    sysfs = tmp_path / "cpu"
    assert proc.core_mhz(str(sysfs), str(cpuinfo)) == pytest.approx(2598.072)
    for file, khz in (
        ("cpu0/cpufreq/cpuinfo_max_freq", 3_000_000),
        ("cpu1/cpufreq/cpuinfo_max_freq", 9),
        ("cpu1/cpufreq/base_frequency", 2_000_000),
        ("cpuidle/cpufreq/base_frequency", 1),
    ):
        (sysfs / file).parent.mkdir(parents=True, exist_ok=True)
        (sysfs / file).write_text(f"{khz}\n")
    assert proc.core_mhz(str(sysfs), str(cpuinfo)) == pytest.approx(2500)
    assert proc.core_mhz("/no", "/no") == 0


def test_interfaces_may_have_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name outside of ASCII, of which the kernel permits nearly all, is a name."""
    table = "fe80" + "0" * 28 + " 02 40 20 80     ä\u2028\n"
    monkeypatch.setattr(proc, "read", lambda path: table.encode())
    assert proc.network_table("if_inet6")[0][5] == "ä\u2028".encode()
    monkeypatch.setattr(proc, "read", lambda path: None)
    assert proc.network_table("if_inet6") == []


# ---- cgroups


def test_values_and_keyed_files() -> None:
    """Numbers are read; "max", a negative number and what is no number are left out."""
    assert cgroup_files.parse_number(b"4096\n") == 4096
    for other in (b"max\n", b"-1\n", b"", None):
        assert cgroup_files.parse_number(other) is None
    text = b"anon 12\nfile 0\nbroken\nodd x\n"
    assert cgroup_files.parse_keyed(text) == {"anon": 12, "file": 0}


@given(st.binary())
def test_parsers_take_any_bytes(data: bytes) -> None:
    """No bytes make a parser fail."""
    cgroup_files.parse_keyed(data)
    cgroup_files.parse_number(data)


def test_processes_of_a_group(tmp_path: Path) -> None:
    """Those of all controllers together, without the host's own group and without number 0.

    0 stands for a process outside of this PID namespace; a signal to 0 ends Milo's own group.
    """
    hierarchy = Hierarchy(Mode.V1, {"cpu": f"{tmp_path}/cpu", "memory": f"{tmp_path}/memory"})
    for controller, pids in (("cpu", "12\n0\n"), ("memory", "12\n345\n")):
        group = tmp_path / controller / "milo-1"
        group.mkdir(parents=True)
        (group / "cgroup.procs").write_text(pids)
    assert cgroup_files.processes("/milo-1", hierarchy) == {12, 345}
    assert cgroup_files.processes("/milo-2", hierarchy) == set()
    assert cgroup_files.processes("/", hierarchy) == set()


@pytest.mark.parametrize(
    ("mode", "table", "written"),
    [
        (Mode.V2, "0::/nomad.slice/own\n", "nomad.slice/own"),
        (Mode.V1, "9:name=systemd:/else\n4:cpu,memory:/a:b/own\n1:pids:/else\n", "a:b/own"),
        (Mode.V1, "0::/\n4:memory:/own\n", "own"),
        (Mode.V1, "1:pids:/own\n", None),
        (Mode.NONE, "", None),
    ],
)
def test_the_next_move_to_a_group_is_hastened_by_one_to_where_a_process_is(
    mode: Mode, table: str, written: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group is the process's own, in the first hierarchy that is mounted, if there is any."""
    root = str(tmp_path)
    mounts = {Mode.V2: {"": root}, Mode.V1: {"memory": root}, Mode.NONE: {}}[mode]
    monkeypatch.setattr(cgroup_files, "detect", lambda: Hierarchy(mode, mounts))
    monkeypatch.setattr(proc, "read", lambda path: table.encode())
    for name in ("own", "a:b/own", "nomad.slice/own", "else"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "cgroup.procs").touch()
    cgroup_files.hasten_moves()
    found = {file.parent: file.read_text() for file in tmp_path.rglob("cgroup.procs")}
    expected = set() if written is None else {tmp_path / written}
    assert {group for group, text in found.items() if text == "0"} == expected
    assert {text for group, text in found.items() if group not in expected} == {""}


def test_a_move_that_is_refused_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the right to move itself a process waits later."""
    hierarchy = Hierarchy(Mode.V2, {"": str(tmp_path)})
    monkeypatch.setattr(cgroup_files, "detect", lambda: hierarchy)
    before = descriptors()
    cgroup_files.hasten_moves()
    assert descriptors() == before


@pytest.mark.parametrize("mode", [Mode.V1, Mode.V2])
def test_a_groups_limits(mode: Mode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quota and kills are read in the words of both hierarchies; what is not there is 0."""
    v2 = mode is Mode.V2
    mounts = {name: str(tmp_path) for name in (("",) if v2 else ("cpu", "memory"))}
    monkeypatch.setattr(cgroup_files, "detect", lambda: Hierarchy(mode, mounts))
    assert cgroup_files.cpu_quota("/one") == (0, 0)
    assert cgroup_files.oom_kills("/one") == 0
    group = tmp_path / "one"
    group.mkdir()
    if v2:
        (group / "memory.events").write_text("oom 2\noom_kill 3\n")
        (group / "cpu.max").write_text("max 100000\n")
        assert cgroup_files.cpu_quota("/one") == (0, 100_000)
        (group / "cpu.max").write_text("50000 100000\n")
    else:
        (group / "memory.oom_control").write_text("oom_kill_disable 0\noom_kill 3\n")
        (group / "cpu.cfs_period_us").write_text("100000\n")
        (group / "cpu.cfs_quota_us").write_text("-1\n")
        assert cgroup_files.cpu_quota("/one") == (0, 100_000)
        (group / "cpu.cfs_quota_us").write_text("50000\n")
    assert cgroup_files.cpu_quota("/one") == (50_000, 100_000)
    assert cgroup_files.oom_kills("/one") == 3


def test_a_child_closes_what_is_not_its_own() -> None:
    """All below a number, but for some, wherever these lie; nothing that is not below it."""
    code = (
        "import os; from milo import unix_sockets; "
        "null = os.open(os.devnull, os.O_RDWR); "
        "fds = [os.dup2(null, number) for number in (10, 11, 12, 20, 29, 30)]; "
        "unix_sockets.close_all_but((0, 11, 1, 2, 20), below=30); "
        "print(*(fd for fd in range(9, 40) if os.path.exists(f'/proc/self/fd/{fd}')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["11", "20", "30"]
