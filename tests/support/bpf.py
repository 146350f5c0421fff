"""What a seccomp filter answers to a system call: an interpreter of the program that crun loads.

Instructions and their numbers: linux/filter.h and linux/bpf_common.h; struct seccomp_data and the
returned words: linux/seccomp.h.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Iterable

ALLOW = 0x7FFF0000
ERRNO = 0x00050000
KILL = (0x80000000, 0x00000000)
AUDIT_ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""linux/audit.h."""

_INSTRUCTION = struct.Struct("=HBBI")
_DATA = struct.Struct("=iIQ6Q")


def answer(program: bytes, arch: int, number: int, args: Iterable[int] = ()) -> int:
    """Return the filter's word for one call; ``args`` may be fewer than six."""
    values = [*args]
    data = _DATA.pack(number, arch, 0, *values, *[0] * (6 - len(values)))
    code = list(_INSTRUCTION.iter_unpack(program))
    accumulator, at = 0, 0
    memory = [0] * 16
    while True:
        operation, yes, no, k = code[at]
        at += 1
        match operation:
            case 0x20:  # load a word of the data
                accumulator = struct.unpack_from("=I", data, k)[0]
            case 0x60:
                accumulator = memory[k]
            case 0x02:
                memory[k] = accumulator
            case 0x54:
                accumulator &= k
            case 0x05:
                at += k
            case 0x15:
                at += yes if accumulator == k else no
            case 0x25:
                at += yes if accumulator > k else no
            case 0x35:
                at += yes if accumulator >= k else no
            case 0x45:
                at += yes if accumulator & k else no
            case 0x06:
                return int(k)
            case _:
                raise AssertionError(
                    f"an instruction that this interpreter has not: {operation:#x}"
                )


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_char_p
    library.seccomp_syscall_resolve_num_arch.argtypes = [ctypes.c_uint32, ctypes.c_int]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    return library


def name_of(arch: int, number: int) -> str:
    """Return the name that the installed libseccomp has for a number; empty when it has none."""
    found = _library().seccomp_syscall_resolve_num_arch(arch, number)
    return found.decode() if found else ""


def is_known(name: str) -> bool:
    """Tell whether the installed libseccomp knows a name, for whatever architecture."""
    return bool(_library().seccomp_syscall_resolve_name(name.encode()) != -1)
