"""What boots the machine of the tests on cgroup v2, and where its results are kept."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import jdks
from tests.vm import images, machine, results, user_mode
from tests.vm.kernel import EMULATED, USER, CannotRunError, Kernel
from tests.vm.results import Result

KERNELS_ROOM = 2696
"""Bytes that kernels up to 6.12 in user mode have for extended registers."""


def _machine(kernel: Kernel, tmp_path: Path) -> machine.Machine:
    return machine.Machine(kernel, (Path("/a"), Path("/b")), tmp_path / "exchange", 4096)


def test_a_kernel_in_user_mode_has_the_hosts_files_read_only(tmp_path: Path) -> None:
    """The exchange and the disk for /tmp can be written; the disks come in the order of mounts."""
    kernel = Kernel("6.1.176", tmp_path / "boot/linux", USER)
    words = machine.command(_machine(kernel, tmp_path))
    root = tmp_path / "root"
    assert words[: words.index("busybox")] == [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "--",
    ]
    assert 'remount,bind,ro "$1"' in machine.USER_ROOT
    assert [f"hostfs={root}", "ro"] == words[(at := words.index(f"hostfs={root}")) : at + 2]
    disks = ["ubd0rc=/a", "ubd1rc=/b", f"ubd2={tmp_path}/scratch.img"]
    assert [word for word in words if word.startswith("ubd")] == disks


def test_a_machine_that_breaks_tells_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no exit status of pytest's, and what the engine said is shown."""
    words = ["sh", "-c", "echo no lock to be had >&2; exit 1"]
    monkeypatch.setattr(machine, "command", lambda _: words)
    one = _machine(Kernel("6.1", Path("/boot/vmlinuz"), EMULATED), tmp_path)
    assert machine.run(one, {"limit_s": "60", "test_s": "60"}, [], []) is None
    assert "left no status" in (said := capsys.readouterr().out) and "no lock to be had" in said


def test_names_of_kernels() -> None:
    """A result says whether its kernel ran in user mode."""
    image = Path("/boot/vmlinuz")
    assert Kernel("6.1.0-1-amd64", image, EMULATED).name == "6.1.0-1-amd64"
    assert Kernel("6.1.176", image, USER).name == "6.1.176 in user mode"


def test_the_engines_share_their_series(tmp_path: Path) -> None:
    """What was unpacked is taken; a series of no release of Debian's is refused."""
    image = tmp_path / "user-mode-linux-6.12.113/boot/linux"
    image.parent.mkdir(parents=True)
    assert user_mode.obtain(tmp_path, "6.12") == Kernel("6.12.113", image, USER)
    with pytest.raises(CannotRunError, match=r"kernel 5\.4 in user mode"):
        user_mode.obtain(tmp_path, "5.4")


def test_the_machine_has_the_jdks_that_were_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no network inside: without them the tests that need one would not run."""
    monkeypatch.setattr(jdks, "CACHE", tmp_path)
    for name in ("21.0.8.2", "debian-8"):
        java = tmp_path / name / "bin/java"
        java.parent.mkdir(parents=True)
        java.touch()
    (tmp_path / "tmp-half-made").mkdir()
    assert [path for path in images.base_paths([]) if tmp_path in path.parents] == [
        tmp_path / "21.0.8.2",
        tmp_path / "debian-8",
    ]


def test_results_are_kept_for_each_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later result replaces an earlier one, others stay; each test has a line of its own."""
    file = tmp_path / "results.json"
    monkeypatch.setattr(results, "FILE", file)
    old = Result("failed", 2.5, 'said "no"', "abc1234", "2026-11-26")
    new = Result("passed", 1.0, "", "abc1235", "2026-11-27")
    results.store("6.1", {"tests/a.py::one": old, "tests/a.py::two[a::b]": old})
    results.store("6.12", {"tests/a.py::one": old})
    results.count("6.1", 920)
    results.store("6.1", {"tests/a.py::one": new})
    assert results.counts() == {"6.1": 920}
    assert results.load() == {
        "6.1": {"tests/a.py::one": new, "tests/a.py::two[a::b]": old},
        "6.12": {"tests/a.py::one": old},
    }
    assert sum('"2026-11-2' in line for line in file.read_text().splitlines()) == 3
    assert json.loads(file.read_text())


def test_a_kernel_in_user_mode_has_room_for_all_registers(tmp_path: Path) -> None:
    """The library it is started with keeps what a register set has beyond the kernel's room.

    The probe reads a set that is cut, as these kernels do, and writes it back: without the library
    a host with AMX refuses that.
    """
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler (cc) here")
    kernel = Kernel("6.1", tmp_path / "boot/linux", USER)
    user_mode.compile_preloaded(kernel)
    probe = f"""
import ctypes, os, signal
libc = ctypes.CDLL({str(user_mode.preloaded(kernel))!r}, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 2 + [ctypes.c_void_p] * 2
libc.ptrace.restype = ctypes.c_long
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
pid = os.fork()
if pid == 0:
    libc.ptrace(0, 0, None, None)
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(7)
os.waitpid(pid, 0)
room = ctypes.create_string_buffer({KERNELS_ROOM})
vector = Vector(ctypes.addressof(room), len(room))
assert libc.ptrace(0x4204, pid, 0x202, ctypes.addressof(vector)) == 0
assert 512 < vector.length <= len(room), vector.length
assert libc.ptrace(0x4205, pid, 0x202, ctypes.addressof(vector)) == 0, ctypes.get_errno()
assert libc.ptrace(7, pid, None, None) == 0
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
