"""The virtual machine: the command that boots it, and a run that ends whatever happens inside.

There are two engines. ``emulated``: qemu with a processor in software, by virtme-ng's command.
``user``: a kernel in user mode (User-Mode Linux), an ordinary program of the host's that runs the
code of its processes natively.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import attrs

from tests.vm import user_mode
from tests.vm.kernel import EMULATED, USER, CannotRunError, Kernel
from tests.vm.kernel import run as run_command

HERE = Path(__file__).parent
GRACE_S = 120
"""Between pytest's own end inside, at its limit, and that of the machine from outside."""
BOOT_S = 60
SCRATCH_BYTES = 8 << 30
"""Of which the host keeps what is written."""
QUIET_S = 300
"""How much longer than a test may take nothing may be printed."""
CONSOLE = "console.log"
LOG = "qemu.log"
"""What qemu, or the kernel in user mode, says itself."""
LAST_LINES = 40
"""Of these, how many are shown where a machine broke."""
LOGIN = "serial-getty@ttyS0.service"
SERIAL = "serial.log"
"""What the kernel and systemd print, where systemd is started."""
TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mksquashfs": "squashfs-tools",
    "depmod": "kmod",
    "busybox": "busybox-static",
    "apt-get": "apt",
}
"""The programs that the machine and its images need, and Debian's packages that have them."""


USER_TOOLS = {
    "unshare": "util-linux",
    "mksquashfs": "squashfs-tools",
    "modprobe": "kmod",
    "busybox": "busybox-static",
    "apt-get": "apt",
    "cc": "gcc",
    "mkfs.ext4": "e2fsprogs",
}
"""The same for a kernel in user mode."""
USER_ROOT = """
set -eu
preload=$4
mount() { busybox mount "$@"; }
mount -o bind / "$1"
mount -o remount,bind,ro "$1"
mount -o bind "$2" "$1/mnt"
for file in "$3"/*; do mount -o bind "$file" "/lib/x86_64-linux-gnu/${file##*/}"; done
shift 4
export LD_PRELOAD="$preload"
exec "$@"
"""
"""Makes what a kernel in user mode has as its root: the host's, without what is mounted on it,
read-only but for the exchange. The kernel itself gets a C library of its own."""


@attrs.frozen
class Machine:
    """What a machine is made of."""

    kernel: Kernel
    disks: tuple[Path, ...]
    exchange: Path
    """The host's directory for `guest.sh`, its plan and what comes out; the guest writes here."""
    memory_mib: int
    initial: Path | None = None
    """An initial file system that starts systemd (`tests.vm.systemd`); None: virtme-ng's own init
    runs over the host's root file system."""


def missing(engine: str = EMULATED) -> str | None:
    """Return why no machine can be run here, or None."""
    if os.geteuid() != 0:
        return "the virtual machine reads the host's own root file system, which needs root"
    virtme = Path(sys.executable).with_name("virtme-run")
    if engine == EMULATED and not virtme.exists():
        return "virtme-ng is not installed (the dependency group vm)"
    tools = TOOLS if engine == EMULATED else USER_TOOLS
    if absent := [package for name, package in tools.items() if shutil.which(name) is None]:
        return f"packages are missing: {' '.join(absent)} (./dev test installs them as root)"
    return None


def memory_mib() -> int:
    """Return how much memory to give: 6 GiB, or what the host can spare.

    Raises `CannotRunError` under 3 GiB, which an agent, JVMs and their files in memory need.
    """
    with open("/proc/meminfo", encoding="ascii") as file:
        fields = dict(line.split(":") for line in file)
    spare = int(fields["MemAvailable"].split()[0]) // 1024 * 3 // 4
    if spare < 3072:
        raise CannotRunError(f"the machine needs 3 GiB of memory, and {spare} MiB are to spare")
    return min(spare, 6144)


def command(machine: Machine) -> list[str]:
    """Return the words that boot ``machine`` and run the tests in it."""
    if machine.kernel.engine == USER:
        return _user(machine)
    words = _virtme(machine) if machine.initial is None else _qemu(machine, machine.initial)
    # Always by software, even where there is a /dev/kvm: inside of a virtual machine it may be
    # there and not work, and bounds on time would mean something else on each host.
    words += ["-accel", "tcg,thread=multi,tb-size=1024"]
    for disk in machine.disks:
        words += ["-drive", f"file={disk},format=raw,if=virtio,readonly=on"]
    return words + _shared("milo.out", machine.exchange, "")


def _user(machine: Machine) -> list[str]:
    root = machine.exchange.with_name("root")
    root.mkdir(exist_ok=True)
    private = ("unshare", "--mount", "--propagation", "private", "--")
    return [
        *(*private, "busybox", "sh", "-c", USER_ROOT, "sh"),
        *(str(root), str(machine.exchange), str(user_mode.libraries(machine.kernel))),
        str(user_mode.preloaded(machine.kernel)),
        *(str(machine.kernel.image), f"mem={machine.memory_mib}M"),
        *("rootfstype=hostfs", "rootflags=/", f"hostfs={root}", "ro", "init=/bin/sh"),
        # Not locked (c): a machine of another kernel may have the same.
        *(f"ubd{number}rc={disk}" for number, disk in enumerate(machine.disks)),
        f"ubd{len(machine.disks)}={_scratch(machine)}",
        *(f"uml_dir={machine.exchange}/", "umid=uml", "panic=-1"),
        *("con=null", "con0=null,fd:2", "console=tty0", "--", "/mnt/user.sh"),
    ]


def _scratch(machine: Machine) -> Path:
    """Return the disk that has /tmp where there is one."""
    return machine.exchange.with_name("scratch.img")


def _make_scratch(disk: Path) -> None:
    """Make it anew, empty.

    With /tmp in memory, what a task writes there counts as its memory: a heap dump killed it.
    """
    with disk.open("wb") as file:
        file.truncate(SCRATCH_BYTES)
    run_command("mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", str(disk))


def _qemu(machine: Machine, initial: Path) -> list[str]:
    return [
        *("qemu-system-x86_64", "-name", "milo-vm", "-cpu", "max", "-smp", "2"),
        *("-m", f"{machine.memory_mib}M", "-display", "none", "-no-reboot", "-net", "none"),
        *("-kernel", str(machine.kernel.image), "-initrd", str(initial)),
        *("-serial", f"file:{machine.exchange / SERIAL}"),
        # There is no udev, for whose word on a terminal a login on it would wait.
        *("-append", f"console=ttyS0 panic=-1 systemd.unit=milo.target systemd.mask={LOGIN}"),
    ]


def _virtme(machine: Machine) -> list[str]:
    share = "trans=virtio,version=9p2000.L,msize=524288"
    script = (
        "mkdir -p /run/milo-vm/out"
        f" && mount -t 9p -o {share} milo.out /run/milo-vm/out"
        f" && exec sh /run/milo-vm/out/guest.sh >/run/milo-vm/out/{CONSOLE} 2>&1"
    )
    words = [str(Path(sys.executable).with_name("virtme-run"))]
    words += ["--kimg", str(machine.kernel.image), "--mods", "auto", "--name", "milo-vm"]
    words += ["--force-9p", "--cpus", "2", "--memory", f"{machine.memory_mib}M"]
    words += ["--disable-kvm", "--script-sh", script, "--qemu-opts"]
    return words + _shared("milo.usr", Path("/usr"), ",readonly=on,multidevs=remap")


def _shared(tag: str, path: Path, options: str) -> list[str]:
    name = tag.replace(".", "-")
    return [
        *("-fsdev", f"local,id={name},path={path},security_model=none{options}"),
        *("-device", f"virtio-9p-pci,fsdev={name},mount_tag={tag}"),
    ]


def run(machine: Machine, plan: dict[str, str], paths: list[Path], words: list[str]) -> int | None:
    """Run pytest with ``words`` in a machine; return its exit status, None if there is none.

    ``plan`` has what `guest.sh` asks for, with the limits in seconds of all tests and of one as
    ``limit_s`` and ``test_s``. What is printed inside goes to this process's stdout, and to
    ``console.log`` in the exchange. The machine is ended when pytest has had its limit and some
    seconds, when nothing was printed for longer than a test may take, and when this process is
    interrupted.
    """
    exchange = machine.exchange
    shutil.rmtree(exchange, ignore_errors=True)
    exchange.mkdir(parents=True)
    for name in ("guest.sh", "pytest.sh", "user.sh"):
        shutil.copy(HERE / name, exchange)
    _write(exchange / "plan", [f"{key}={shlex.quote(value)}" for key, value in plan.items()])
    _write(exchange / "paths", [str(path) for path in paths])
    _write(exchange / "words", words)
    console = exchange / CONSOLE
    console.touch()
    if machine.kernel.engine == USER:
        _make_scratch(_scratch(machine))
    # Not this process's own stderr: qemu would open it anew, and empty it where it is a file.
    with (exchange / LOG).open("wb") as log:
        process = subprocess.Popen(
            command(machine),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
    began = shown = time.monotonic()
    deadline = began + int(plan["limit_s"]) + BOOT_S + GRACE_S
    quiet_s = int(plan["test_s"]) + QUIET_S
    try:
        with console.open(errors="replace") as output:
            while process.poll() is None and time.monotonic() < min(deadline, shown + quiet_s):
                if _show(output):
                    shown = time.monotonic()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
            _show(output)
        if process.poll() is None:
            print("vm: the machine did not end in time", flush=True)
    finally:
        _end(process)
        _scratch(machine).unlink(missing_ok=True)
    with suppress(OSError, ValueError):
        return int((exchange / "status").read_text())
    last = (exchange / LOG).read_text(errors="replace").splitlines()[-LAST_LINES:]
    print("\n".join(("vm: the machine left no status; its last words:", *last)), flush=True)
    return None


def _show(output: TextIO) -> bool:
    """Pass on what was printed inside, and say whether there was anything."""
    text = output.read()
    sys.stdout.write(text)
    sys.stdout.flush()
    return bool(text)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End virtme-run and its qemu, or the kernel in user mode: a session of their own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError(f"processes of session {process.pid} did not end")


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))
