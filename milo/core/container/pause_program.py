"""The program of the pause process: an ELF file of half a kilobyte, for each machine. Pure.

A process that a task can look at and trace may not hold anything of the host's: no interpreter
as its executable, no memory of Milo's, no environment of the agent's. So the pause process
executes this, which does four system calls:

1. ``prctl(PR_SET_NAME, "milo-pause")``, since the kernel names what is executed by a descriptor
   after the number of that;
2. ``prctl(PR_SET_SECCOMP, ...)``: from here on only the next two calls are permitted, so that
   code which a task with ``sys_ptrace`` puts into it can do nothing either;
3. ``ppoll`` of its standard input, without a timeout: a pidfd of the application's, which
   becomes readable when that has ended;
4. ``exit_group``, with 0 if it has, and something else if it could not wait. The end of the
   first process is the end of the PID namespace.

The machine code was assembled from the lines beside it, with the numbers of each machine's
calls, and tried by its own kernel (x86_64) and under qemu-user (the others).
"""

from __future__ import annotations

import struct
from typing import Final

import attrs

NAME: Final = "milo-pause"

_BASE: Final = 0x400000
_NAME_AT: Final = 0x78
"""Behind the ELF header and one program header, 64 bits each."""
_FPROG_AT: Final = 0x88
_FILTER_AT: Final = 0x98
_CODE_AT: Final = 0xD0
_ALIGN: Final = 0x10000
"""The largest page that one of these machines has."""


@attrs.frozen
class _Machine:
    elf: int
    """``e_machine``; elf(5)."""
    audit: int
    """AUDIT_ARCH_...; linux/audit.h."""
    ppoll: int
    exit_group: int
    code: str
    """Hexadecimal. Refers to `_BASE` + `_NAME_AT` and + `_FPROG_AT`."""
    flags: int = 0
    order: str = "<"


_MACHINES: Final = {
    # mov $15,%edi; mov $name,%esi; mov $157,%eax; syscall
    # mov $22,%edi; mov $2,%esi; mov $fprog,%edx; mov $157,%eax; syscall
    # mov $1<<32,%rax; push %rax  (struct pollfd: descriptor 0, POLLIN)
    # mov %rsp,%rdi; mov $1,%esi; xor %edx,%edx; xor %r10d,%r10d; xor %r8d,%r8d
    # mov $271,%eax; syscall; lea -1(%rax),%edi; mov $231,%eax; syscall
    "x86_64": _Machine(
        elf=62,
        audit=0xC000003E,
        ppoll=271,
        exit_group=231,
        code="bf0f000000be78004000b89d0000000f05bf16000000be02000000ba88004000b89d0000000f05"
        "48b80000000001000000504889e7be0100000031d24531d24531c0b80f0100000f058d78ffb8e70000000f05",
    ),
    # mov x0,#15; movz x1,#0x40,lsl #16; movk x1,#0x78; mov x8,#167; svc #0
    # mov x0,#22; mov x1,#2; movz x2,#0x40,lsl #16; movk x2,#0x88; mov x8,#167; svc #0
    # movz x9,#1,lsl #32; str x9,[sp,#-16]!
    # mov x0,sp; mov x1,#1; mov x2,#0; mov x3,#0; mov x4,#0; mov x8,#73; svc #0
    # sub w0,w0,#1; mov x8,#94; svc #0
    "aarch64": _Machine(
        elf=183,
        audit=0xC00000B7,
        ppoll=73,
        exit_group=94,
        code="e00180d20108a0d2010f80f2e81480d2010000d4c00280d2410080d20208a0d2021180f2e81480d2"
        "010000d42900c0d2e90f1ff8e0030091210080d2020080d2030080d2040080d2280980d2010000d400040051"
        "c80b80d2010000d4",
    ),
    # li a0,15; li a1,name; li a7,167; ecall
    # li a0,22; li a1,2; li a2,fprog; li a7,167; ecall
    # li t0,1; slli t0,t0,32; addi sp,sp,-16; sd t0,0(sp)
    # mv a0,sp; li a1,1; li a2,0; li a3,0; li a4,0; li a7,73; ecall
    # addi a0,a0,-1; li a7,94; ecall
    "riscv64": _Machine(
        elf=243,
        audit=0xC00000F3,
        ppoll=73,
        exit_group=94,
        code="1305f000b70540009b8585079308700a730000001305600193052000370640001b0686089308700a"
        "730000009302100093920202130101ff2330510013050100930510001306000093060000130700009308900"
        "4730000001305f5ff9308e00573000000",
    ),
    # li 3,15; lis 4,0x40; ori 4,4,0x78; li 0,171; sc
    # li 3,22; li 4,2; lis 5,0x40; ori 5,5,0x88; li 0,171; sc
    # li 9,1; sldi 9,9,32; stdu 9,-16(1)
    # mr 3,1; li 4,1; li 5,0; li 6,0; li 7,0; li 0,281; sc
    # addi 3,3,-1; li 0,234; sc
    "ppc64le": _Machine(
        elf=21,
        audit=0xC0000015,
        ppoll=281,
        exit_group=234,
        code="0f0060384000803c78008460ab0000380200004416006038020080384000a03c8800a560ab000038"
        "0200004401002039c6072979f1ff21f9780b237c010080380000a0380000c0380000e0381901003802000044"
        "ffff6338ea00003802000044",
        flags=2,
    ),
    # lghi %r2,15; llilf %r3,name; svc 172
    # lghi %r2,22; lghi %r3,2; llilf %r4,fprog; svc 172
    # lghi %r0,0; aghi %r15,-16; stg %r0,0(%r15); mvhhi 4(%r15),1
    # lgr %r2,%r15; lghi %r3,1; lghi %r4,0; lghi %r5,0; lghi %r6,0; lghi %r1,302; svc 0
    # aghi %r2,-1; svc 248
    "s390x": _Machine(
        elf=22,
        audit=0x80000016,
        ppoll=302,
        exit_group=248,
        code="a729000fc03f004000780aaca7290016a7390002c04f004000880aaca7090000a7fbfff0e300f000"
        "0024e544f0040001b904002fa7390001a7490000a7590000a7690000a719012e0a00a72bffff0af8",
        order=">",
    ),
}
MACHINES: Final = tuple(_MACHINES)
"""As uname(2) names them."""

_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
"""SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS; seccomp(2)."""


def program(machine: str) -> bytes:
    """Return the executable for a machine of `MACHINES`."""
    found = _MACHINES[machine]
    bpf = _filter(found)
    order = found.order
    code = bytes.fromhex(found.code)
    size = _CODE_AT + len(code)
    header = struct.pack(
        f"{order}16sHHIQQQIHHHHHH",
        b"\x7fELF\x02" + (b"\x01" if order == "<" else b"\x02") + b"\x01",
        *(2, found.elf, 1, _BASE + _CODE_AT, 64, 0, found.flags, 64, 56, 1, 0, 0, 0),
    )
    # One segment, to be read and executed: the file as it is.
    segment = struct.pack(f"{order}IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, _ALIGN)
    name = NAME.encode().ljust(_FPROG_AT - _NAME_AT, b"\0")
    fprog = struct.pack(f"{order}H6xQ", len(bpf) // 8, _BASE + _FILTER_AT)
    return header + segment + name + fprog + bpf.ljust(_CODE_AT - _FILTER_AT, b"\0") + code


def _filter(machine: _Machine) -> bytes:
    """Return the seccomp filter: `ppoll` and `exit_group` pass, all else ends the process."""
    load, equal, answer = 0x20, 0x15, 0x06
    lines = (
        (load, 0, 0, 4),  # seccomp_data.arch
        (equal, 0, 3, machine.audit),
        (load, 0, 0, 0),  # seccomp_data.nr
        (equal, 2, 0, machine.ppoll),
        (equal, 1, 0, machine.exit_group),
        (answer, 0, 0, _KILL),
        (answer, 0, 0, _ALLOW),
    )
    return b"".join(struct.pack(f"{machine.order}HBBI", *line) for line in lines)
