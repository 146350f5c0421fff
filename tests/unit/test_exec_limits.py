"""What execve(2) passes on: the kernel's own answer, on both sides of each limit."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator

import pytest

from milo.core.config.task_options import TaskOptions
from milo.core.container import exec_limits
from milo.core.java.application import argument_names, compose, java_arguments
from milo.core.launch import JavaRuntime
from milo.errors import ConfigError

TRUE = "/bin/true"
MIB = 1 << 20


@pytest.fixture(params=[256 << 10, 2 * MIB, 8 * MIB, 64 * MIB])
def stack_bytes(request: pytest.FixtureRequest) -> Iterator[int]:
    """A soft limit of the stack, which the programs have that are executed."""
    before = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (request.param, before[1]))
    yield request.param
    resource.setrlimit(resource.RLIMIT_STACK, before)


def is_passed_on(args: list[str], env: dict[str, str]) -> bool:
    """Ask the kernel."""
    try:
        pid = os.posix_spawn(TRUE, args, env)
    except OSError as exc:
        assert exc.errno == errno.E2BIG
        return False
    assert os.waitpid(pid, 0)[1] == 0
    return True


def is_permitted(args: list[str], env: dict[str, str], stack_bytes: int) -> bool:
    named = [(f"args[{number}]", text) for number, text in enumerate(args)]
    named += [exec_limits.variable(f"{name}={value}") for name, value in env.items()]
    try:
        exec_limits.check(TRUE, named, stack_bytes)
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("over", [0, 1])
def test_one_string(over: int) -> None:
    """An argument and a variable, with its name, may each have as many bytes as the kernel says."""
    text = "x" * (exec_limits.MAX_STRING_BYTES + over)
    for args, env in (([TRUE, text], {}), ([TRUE], {"A": text[2:]})):
        assert is_passed_on(args, env) is is_permitted(args, env, 8 * MIB) is not over


@pytest.mark.parametrize("over", [0, 1])
def test_all_together(stack_bytes: int, over: int) -> None:
    """Strings and pointers, down to the byte."""
    env = {f"V{number}": "é" * 100 for number in range(20)}
    args = [TRUE]
    pointers = exec_limits.POINTER_BYTES
    left = exec_limits.total_bytes(stack_bytes) + over - len(TRUE) - 1
    left -= sum(len(f"{name}={value}".encode()) + 1 + pointers for name, value in env.items())
    left -= len(TRUE) + 1 + pointers
    while left:
        size = min(left, 100_000)
        size -= size < left < size + 20 and 20  # what is left has to have room for a pointer
        args.append("x" * (size - 1 - pointers))
        left -= size
    assert is_passed_on(args, env) is is_permitted(args, env, stack_bytes) is not over


def test_the_name_and_the_size_are_told() -> None:
    """Of what the job calls it, with what to do."""
    options = TaskOptions(args=("a", "x" * 200_000), jvm_options=("-Da=b",))
    java = JavaRuntime(home="/jdk", version="21", major=21, source="")
    argv = java_arguments(compose(java, options, "/local/a.jar", [], str), options, ["-Xmx1g"])
    names = argument_names(argv, options)
    assert names[argv.index("-Da=b")] == "jvm_options[0]"
    with pytest.raises(ConfigError, match=r"args\[1\]: it has 200000 bytes.*at most 131071.*file"):
        exec_limits.check(argv[0], list(zip(names, argv, strict=True)), 8 * MIB)
    with pytest.raises(ConfigError, match="the variable BIG: it has 200004 bytes"):
        exec_limits.check("/x", [exec_limits.variable("BIG=" + "x" * 200_000)], 8 * MIB)
    many = [(f"args[{number}]", "x" * (100_000 + number)) for number in range(30)]
    with pytest.raises(
        ConfigError, match=r"3000\d+ bytes in all.*at most 2097152 here.*args\[29\] with 100029"
    ):
        exec_limits.check("/x", many, 8 * MIB)


def test_a_path_may_hold_any_byte() -> None:
    """As a file system's does; who cannot write it down says so."""
    exec_limits.check("/jdk-\udcff/bin/java", [("args[0]", "\udcff")], 8 * MIB)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"args": ["x"] * 3 + ["x" * (40 * MIB)]}, r"args\[3\]"),
        ({"args": ["x" * 100_000] * 400}, "args and env"),
        ({"class_path": "x" * 200_000}, "class_path"),
        ({"mounts": [{"source": "x" * 200_000}]}, r"mounts\[0\].source"),
    ],
)
def test_a_request_without_bound(config: dict[str, object], name: str) -> None:
    """40 MB of arguments are refused before anything is made of them."""
    with pytest.raises(ConfigError, match=f"Invalid value for {name}:"):
        exec_limits.check_request(config, {})
    exec_limits.check_request({"args": ["x" * 1000] * 1000, "n": 1, "b": True}, {"A": "b"})
