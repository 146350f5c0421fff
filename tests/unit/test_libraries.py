"""Which libraries a JDK gets of its host, and what a minimal root is made of."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
import pytest

from milo.core.launch import JavaRuntime
from milo.errors import ConfigError, PathError
from milo.task.root import libraries, minimal_root
from milo.task.root.libraries import host_libraries
from tests.support.elf_files import elf
from tests.support.opens import watched


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose only library directory is ``lib``."""
    system = tmp_path / "lib"
    system.mkdir()
    monkeypatch.setattr(libraries, "LD_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setattr(libraries, "DEFAULT_DIRS", (str(system),))
    monkeypatch.setattr(libraries, "SYSTEM_DIRS", (str(system),))
    return tmp_path


@pytest.fixture
def java(host: Path) -> JavaRuntime:
    """A JDK whose launcher wants a linker of the host."""
    home = host / "jdk"
    put(host / "lib/ld.so", elf(soname="ld.so"))
    put(
        home / "bin/java", elf("libjli.so", rpath="$ORIGIN/../lib", interpreter=f"{host}/lib/ld.so")
    )
    put(home / "lib/libjli.so", elf("libc.so.6"))
    return JavaRuntime(home=str(home), version="21", major=21, source="test")


def put(path: Path, data: bytes, mode: int = 0o644) -> Path:
    """Write a file with the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    return path


def names(host: Path, java: JavaRuntime) -> list[str]:
    """Return what is found, relative to the host's root."""
    return sorted(os.path.relpath(path, host) for path in host_libraries(java))


def test_libraries_of_libraries_are_found(host: Path, java: JavaRuntime) -> None:
    """What the JDK's files need is found, and what that needs; the JDK's own is not listed."""
    put(Path(java.home, "lib/server/libjvm.so"), elf("libm.so.6", "libjli.so", "libx.so.1"))
    put(host / "lib/libx.so.1", elf("liby.so.2", "libx.so.1"))
    for name in ("libc.so.6", "libm.so.6", "liby.so.2", "libother.so.1"):
        put(host / "lib" / name, elf(soname=name))
    assert names(host, java) == [
        "lib/ld.so",
        "lib/libc.so.6",
        "lib/libm.so.6",
        "lib/libx.so.1",
        "lib/liby.so.2",
    ]


def test_musl(host: Path, java: JavaRuntime) -> None:
    """As Alpine's packages have it: the linker is the C library, under two names, and no cache."""
    put(host / "lib/ld-musl-x86_64.so.1", elf(soname="libc.musl-x86_64.so.1"))
    (host / "lib/libc.musl-x86_64.so.1").symlink_to("ld-musl-x86_64.so.1")
    linker = f"{host}/lib/ld-musl-x86_64.so.1"
    put(Path(java.home, "bin/java"), elf("libjli.so", rpath="$ORIGIN/../lib", interpreter=linker))
    put(Path(java.home, "lib/libjli.so"), elf("libz.so.1", "libc.musl-x86_64.so.1"))
    put(host / "lib/libz.so.1", elf("libc.musl-x86_64.so.1"))
    assert names(host, java) == [
        "lib/ld-musl-x86_64.so.1",
        "lib/libc.musl-x86_64.so.1",
        "lib/libz.so.1",
    ]


def test_another_machines_library_is_passed_over(host: Path, java: JavaRuntime) -> None:
    """As the loader does, a library for another machine, or none at all, is not taken."""
    put(host / "lib/libc.so.6", elf(machine=183))
    put(Path(java.home, "lib/libzip.so"), elf("libz.so.1"))
    put(host / "lib/libz.so.1", b"no library")
    assert names(host, java) == ["lib/ld.so"]


def test_what_root_alone_may_read_is_not_shown(host: Path, java: JavaRuntime) -> None:
    """A library that others may not read stays hidden."""
    put(host / "lib/libc.so.6", elf(), mode=0o600)
    assert names(host, java) == ["lib/ld.so"]


@pytest.mark.parametrize("key", ["rpath", "runpath"])
@pytest.mark.parametrize("trusted", [True, False])
def test_paths_of_a_jdk_are_followed_if_root_wrote_it(
    host: Path, java: JavaRuntime, key: str, trusted: bool
) -> None:
    """A JDK that others can write may name no directory, file or linker of the host."""
    put(host / "secret/libs.so.1", elf())
    put(host / "secret/libt.so", elf())
    own, other = (f"{host}/secret", "") if key == "rpath" else ("", f"{host}/secret")
    put(Path(java.home, "lib/liba.so"), elf("libs.so.1", rpath=own, runpath=other))
    put(Path(java.home, "lib/libb.so"), elf(f"{host}/secret/libt.so"))
    found = names(host, attrs.evolve(java, trusted=trusted))
    assert ("secret/libs.so.1" in found, "secret/libt.so" in found) == (trusted, trusted)


def test_linker_of_an_untrusted_jdk_is_one_of_the_systems(host: Path, java: JavaRuntime) -> None:
    """The linker that a tenant's JDK names is shown only from the system's directories."""
    put(host / "secret/ld.so", elf())
    put(Path(java.home, "bin/java"), elf(interpreter=f"{host}/secret/ld.so"))
    assert names(host, attrs.evolve(java, trusted=False)) == []
    (host / "lib/ld2.so").symlink_to("../secret/ld.so")
    put(Path(java.home, "bin/java"), elf(interpreter=f"{host}/lib/ld2.so"))
    assert names(host, attrs.evolve(java, trusted=False)) == []


def test_symlinks_of_an_untrusted_jdk_are_not_opened(host: Path, java: JavaRuntime) -> None:
    """Neither a symlink to elsewhere nor a FIFO among a JDK's files is read."""
    os.mkfifo(f"{java.home}/lib/libfifo.so")
    Path(java.home, "lib/libpipe.so").symlink_to("libfifo.so")
    put(host / "elsewhere.so", elf("libsecret.so"))
    Path(java.home, "lib/liblink.so").symlink_to(host / "elsewhere.so")
    put(host / "lib/libsecret.so", elf())
    assert names(host, attrs.evolve(java, trusted=False)) == ["lib/ld.so"]
    assert names(host, java) == ["lib/ld.so", "lib/libsecret.so"]


def test_no_symlink_leads_out_of_an_untrusted_jdk(host: Path, java: JavaRuntime) -> None:
    """Neither its launcher nor its directory of libraries may be something of the host's."""
    tenants = attrs.evolve(java, trusted=False)
    put(host / "elsewhere/liba.so", elf("libsecret.so"))
    put(host / "lib/libsecret.so", elf())
    put(host / "other/java", elf("libsecret.so", interpreter=f"{host}/lib/ld.so"))
    Path(java.home, "lib").rename(f"{java.home}/jre")
    Path(java.home, "lib").symlink_to(host / "elsewhere")
    with watched(host / "elsewhere/liba.so", host / "other/java") as opened:
        assert names(host, tenants) == ["lib/ld.so"]
        Path(java.home, "bin/java").unlink()
        Path(java.home, "bin/java").symlink_to(host / "other/java")
        with pytest.raises(PathError):
            host_libraries(tenants)
        assert not opened()
    assert names(host, java) == ["lib/ld.so", "lib/libsecret.so"]


def test_symlinks_within_an_untrusted_jdk_are_followed(host: Path, java: JavaRuntime) -> None:
    """The launcher of a JDK 8 is a symlink to that of its JRE."""
    put(Path(java.home, "jre/lib/liba.so"), elf("libc.so.6"))
    put(host / "lib/libc.so.6", elf())
    Path(java.home, "bin/java").rename(f"{java.home}/jre/java")
    Path(java.home, "bin/java").symlink_to("../jre/java")
    assert names(host, attrs.evolve(java, trusted=False)) == ["lib/ld.so", "lib/libc.so.6"]


def test_an_untrusted_jdk_that_was_exchanged(host: Path, java: JavaRuntime) -> None:
    """A home that has become a symlink since it was found is not followed."""
    Path(java.home).rename(host / "moved")
    Path(java.home).symlink_to("moved")
    with pytest.raises(PathError, match="symlink"):
        host_libraries(attrs.evolve(java, trusted=False))
    assert names(host, java) == ["lib/ld.so"]


def test_nothing_outside_of_the_systems_directories_is_opened_for_a_tenant(
    host: Path, java: JavaRuntime
) -> None:
    """Whatever a tenant's file names: not the file, nor what a symlink in the system's leads to."""
    secret = put(host / "secret/ld.so", elf())
    (host / "lib/out.so").symlink_to(secret)
    put(Path(java.home, "lib/liba.so"), elf("out.so", f"{host}/secret/ld.so", "../secret/ld.so"))
    for interpreter in (secret, host / "lib/out.so", host / "lib/../secret/ld.so"):
        put(Path(java.home, "bin/java"), elf(interpreter=str(interpreter)))
        with watched(secret) as opened:
            assert names(host, attrs.evolve(java, trusted=False)) == []
            assert not opened()
        assert names(host, java)


def test_circle_of_libraries_ends(host: Path, java: JavaRuntime) -> None:
    """Libraries that need each other are found once."""
    put(host / "lib/libc.so.6", elf("libd.so"))
    put(host / "lib/libd.so", elf("libc.so.6"))
    assert names(host, java) == ["lib/ld.so", "lib/libc.so.6", "lib/libd.so"]


@pytest.mark.parametrize("data", [None, b"#!/bin/sh\n"])
def test_launcher_that_is_none_is_told(host: Path, java: JavaRuntime, data: bytes | None) -> None:
    """A JDK without a launcher that this machine can run is the configuration's error."""
    launcher = Path(java.home, "bin/java")
    launcher.unlink()
    if data is not None:
        launcher.write_bytes(data)
    with pytest.raises(ConfigError, match="bin/java"):
        minimal_root.view_minimal(java, [java.home], recursive=True)


def test_symlinks_are_made_again(host: Path, java: JavaRuntime) -> None:
    """A library is bound where it really is, and every symlink that leads there is repeated."""
    put(host / "real/libc-2.36.so", elf())
    (host / "alias").symlink_to("real")
    (host / "lib/libc.so.6").symlink_to(host / "alias/libc-2.36.so")
    view = minimal_root.view_minimal(java, [java.home], recursive=True)
    bound = {bind.destination: bind for bind in view.binds}
    real = bound[f"{host}/real/libc-2.36.so"]
    assert (real.source, real.readonly, real.directory) == (real.destination, True, False)
    assert view.links[f"{host}/lib/libc.so.6"] == f"{host}/alias/libc-2.36.so"
    assert view.links[f"{host}/alias"] == "real"
    assert bound[java.home].directory


def test_minimal_root_shows_no_program(host: Path, java: JavaRuntime) -> None:
    """No directory of programs, and no directory that holds one, is bound."""
    view = minimal_root.view_minimal(java, [java.home], recursive=True)
    for bind in view.binds:
        for place in (
            "/bin",
            "/sbin",
            "/usr/bin",
            "/usr/sbin",
            "/usr/local/bin",
            "/etc/alternatives",
        ):
            assert not f"{place}/".startswith(f"{bind.destination}/"), bind


def test_what_lies_in_a_shown_directory_is_not_bound_twice(host: Path, java: JavaRuntime) -> None:
    """A directory comes in place of what it holds, whichever was first."""
    inner = Path(java.home, "conf")
    inner.mkdir()
    (Path(java.home) / "link").symlink_to("conf")
    view = minimal_root.view_minimal(
        java, [java.home, f"{java.home}/conf", f"{java.home}/link"], recursive=True
    )
    inside = [bind for bind in view.binds if bind.destination.startswith(f"{host}/jdk")]
    assert [bind.destination for bind in inside] == [java.home]
    assert not [link for link in view.links if link.startswith(java.home)]


@pytest.mark.parametrize("target", ["loop", "/", "../nowhere"])
def test_path_that_leads_nowhere_is_refused(host: Path, java: JavaRuntime, target: str) -> None:
    """A circle of symlinks, the root itself and a missing file are errors that name the path."""
    (host / "loop").symlink_to(target)
    with pytest.raises(ConfigError, match="loop"):
        minimal_root.view_minimal(java, [f"{host}/loop"], recursive=True)
