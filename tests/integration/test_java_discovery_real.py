"""Java discovery and JAR inspection against the JDKs of this host."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

import pytest
import trio

from milo.core.java.jar import Jar
from milo.core.launch import JavaRuntime
from milo.errors import ArtifactError
from milo.host.java.finder import JavaFinder

MAIN = 'public class Main { public static void main(String[] a) { System.out.print("ran"); } }'


@pytest.fixture(scope="module")
def javas() -> tuple[JavaRuntime, ...]:
    """The host's runtimes; without any, a test does not apply."""
    found = trio.run(JavaFinder().find, "", {"PATH": os.environ["PATH"]})
    if not found:
        pytest.skip("this host has no Java")
    return found


@pytest.fixture(scope="module")
def jdk(javas: tuple[JavaRuntime, ...]) -> JavaRuntime:
    """The first runtime with a compiler."""
    found = next((java for java in javas if os.path.exists(f"{java.home}/bin/javac")), None)
    if found is None:
        pytest.skip("this host has no Java compiler")
    return found


def test_the_hosts_runtimes_are_found_with_their_versions(javas: tuple[JavaRuntime, ...]) -> None:
    """Each runtime's version is the one that it prints, and each is found once."""
    assert len({java.home for java in javas}) == len(javas)
    for java in javas:
        printed = subprocess.run(
            [f"{java.home}/bin/java", "-version"], capture_output=True, text=True, check=True
        ).stderr
        assert f'"{java.version}"' in printed
        assert java.home == os.path.realpath(java.home)
        assert str(java.major) in java.version


async def test_a_second_look_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finder knows its runtimes, so that a second look starts no process."""
    finder = JavaFinder()
    first = await finder.find("", {})

    async def refuse(home: str, timeout_s: float) -> str:
        raise AssertionError(f"{home} was run again")

    monkeypatch.setattr("milo.host.java.finder._run", refuse)
    assert await finder.find("", {}) == first


def test_every_link_of_a_trusted_runtime_is_within_it_or_bound(
    javas: tuple[JavaRuntime, ...],
) -> None:
    """In a container that has the home and the binds, no link to configuration is dead."""
    for java in javas:
        places = (java.home, *java.binds)
        for directory, _, names in os.walk(java.home):
            for path in (os.path.join(directory, name) for name in names):
                target = os.path.realpath(path)
                if os.path.exists(target) and target.startswith("/etc/"):
                    assert target.startswith(tuple(f"{place}/" for place in places)), path


def test_javas_own_jar_tool_and_this_reader_agree(jdk: JavaRuntime, tmp_path: Path) -> None:
    """A JAR made by the JDK's jar command is read, and runs when its version fits."""
    (tmp_path / "Main.java").write_text(MAIN)
    bin_dir = f"{jdk.home}/bin"
    subprocess.run([f"{bin_dir}/javac", "--release", "17", "Main.java"], cwd=tmp_path, check=True)
    subprocess.run(
        [f"{bin_dir}/jar", "cfe", "app.jar", "Main", "Main.class"], cwd=tmp_path, check=True
    )
    with open(tmp_path / "app.jar", "rb") as file:
        jar = Jar(file, "app.jar")
        assert jar.inspect().main_class == "Main"
        assert jar.class_version("Main") == 61


MANIFESTS = {
    "plain": b"Main-Class: Main\n",
    "cr": b"Main-Class: Main\r",
    "folded": b"Main-Class: \r\n Ma\r\n in\r\n",
    "unterminated": b"Manifest-Version: 1.0\nMain-Class: Main",
    "no space": b"Main-Class:Main\n",
    "byte order mark": b"\xef\xbb\xbfMain-Class: Main\n",
    "twice": b"Main-Class: Other\nMain-Class: Main\n",
    "longest": b"X: " + b"y" * 508 + b"\nMain-Class: Main\n",
    "too long": b"X: " + b"y" * 509 + b"\nMain-Class: Main\n",
    "blank first": b"\nMain-Class: Main\n",
}


def test_java_and_this_reader_agree_on_manifests(jdk: JavaRuntime, tmp_path: Path) -> None:
    """What Java runs is accepted, what it does not run is not."""
    (tmp_path / "Main.java").write_text(MAIN)
    subprocess.run([f"{jdk.home}/bin/javac", "Main.java"], cwd=tmp_path, check=True)
    for case, manifest in MANIFESTS.items():
        path = tmp_path / "case.jar"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("META-INF/MANIFEST.MF", manifest)
            archive.write(tmp_path / "Main.class", "Main.class")
        ran = subprocess.run(
            [f"{jdk.home}/bin/java", "-jar", str(path)], capture_output=True, text=True
        )
        assert (ran.stdout == "ran") == _accepted(path), case


def test_java_and_this_reader_agree_on_archives(jdk: JavaRuntime, tmp_path: Path) -> None:
    """Whatever stands before and behind the archive, and however large it is."""
    (tmp_path / "Main.java").write_text(MAIN)
    subprocess.run([f"{jdk.home}/bin/javac", "Main.java"], cwd=tmp_path, check=True)
    path = tmp_path / "case.jar"
    empty = b"PK\5\6" + bytes(18)
    for case, (front, entries, comment) in {
        "script in front": (b"#!/bin/sh\n", 0, b""),
        "empty end in comment": (b"", 0, b"x" + empty + b"y"),
        "empty end ends comment": (b"", 0, b"x" + empty),
        "70000 entries": (b"", 70_000, b""),
        "70000 entries behind a script": (b"#!/bin/sh\n", 70_000, b"comment"),
    }.items():
        with open(path, "wb") as file:
            file.write(front)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("META-INF/MANIFEST.MF", "Main-Class: Main\n")
            archive.write(tmp_path / "Main.class", "Main.class")
            for number in range(entries):
                archive.writestr(f"{number}", b"")
            archive.comment = comment
        ran = subprocess.run(
            [f"{jdk.home}/bin/java", "-jar", str(path)], capture_output=True, text=True
        )
        assert (ran.stdout == "ran") == _accepted(path), case


def _accepted(path: Path) -> bool:
    with open(path, "rb") as file:
        try:
            return Jar(file, "case.jar").inspect().main_class == "Main"
        except ArtifactError:
            return False
