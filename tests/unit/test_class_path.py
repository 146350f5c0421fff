"""The Class-Path of a JAR: where its entries lead, and which are not there."""

from __future__ import annotations

import io
import subprocess
import zipfile
from pathlib import Path

import pytest

from milo.core.container.mounts import Bind
from milo.core.java.class_path import resolve
from milo.task.java import class_path
from milo.task.java.class_path import missing_sentence
from tests.support.jars import missing_tools
from tests.support.launches import make_launch


@pytest.mark.parametrize(
    ("entry", "path"),
    [
        ("lib/a.jar", "/local/app/lib/a.jar"),
        ("./lib//a.jar", "/local/app/lib/a.jar"),
        ("../a.jar", "/local/a.jar"),
        ("../../../../a.jar", "/a.jar"),
        ("/opt/a.jar", "/opt/a.jar"),
        ("classes/", "/local/app/classes/"),
        (".", "/local/app"),
        ("./", "/local/app/"),
        ("a%20b%C3%A9.jar", "/local/app/a bé.jar"),
        ("a+b.jar", "/local/app/a+b.jar"),
        ("a.jar#part", "/local/app/a.jar"),
        ("file:lib/a.jar", "/local/app/lib/a.jar"),
        ("file:/opt/a.jar", "/opt/a.jar"),
        ("FILE:///opt/a.jar", "/opt/a.jar"),
        ("file://localhost/opt/a.jar", "/opt/a.jar"),
        ("file://elsewhere/opt/a.jar", None),
        ("http://example.org/a.jar", None),
        ("https://example.org/a.jar", None),
        ("jar:file:/a.jar!/", None),
        ("a%00.jar", None),
        ("#", None),
    ],
)
def test_entries_are_urls_beside_the_jar(entry: str, path: str | None) -> None:
    """Decoded, without what is no local file."""
    assert resolve("/local/app/app.jar", entry) == path


def jar(path: Path, *entries: str) -> None:
    """Write a JAR that names ``entries`` in its Class-Path."""
    data = io.BytesIO()
    line = f"Class-Path: {' '.join(entries)}"
    folded = "\n ".join(line[at : at + 70] for at in range(0, len(line), 70))
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("META-INF/MANIFEST.MF", f"Manifest-Version: 1.0\n{folded}\n\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.getvalue())


LAUNCH = make_launch()
"""Whose directories are not there: all that is known is in the binds."""


@pytest.fixture
def binds(tmp_path: Path) -> tuple[Bind, ...]:
    for name in ("local", "volume", "usr"):
        (tmp_path / name).mkdir()
    return (
        Bind(str(tmp_path / "usr"), "/usr"),
        Bind(str(tmp_path / "local"), "/local", origin="task"),
        Bind(str(tmp_path / "volume"), "/local/lib", origin="job"),
    )


def named(text: str) -> list[str]:
    """Return what a sentence says is not there."""
    return text.partition("is not there: ")[2].partition(". Java")[0].split(", ") if text else []


def test_what_is_not_there_is_named(tmp_path: Path, binds: tuple[Bind, ...]) -> None:
    """And nothing that is: beside the JAR, in a volume, of the host, a directory, a symlink."""
    there = ["local/a.jar", "volume/v.jar", "local/a b.jar", "usr/share/h.jar", "local/dir/x.jar"]
    for path in there:
        jar(tmp_path / path)
    (tmp_path / "local/link.jar").symlink_to("dir/x.jar")
    (tmp_path / "local/absolute.jar").symlink_to("/local/a.jar")
    jar(
        tmp_path / "local/app.jar",
        *("a.jar", "lib/v.jar", "a%20b.jar", "/usr/share/h.jar", "dir/", "dir", "link.jar"),
        *("absolute.jar", "http://x/y.jar", "file:a.jar", "./a.jar"),
        *("missing.jar", "lib/missing.jar", "/usr/share/missing.jar", "missing/", "a.jar/x.jar"),
        *("../missing.jar", "file:/local/missing2.jar", "missing.jar"),
    )
    assert named(missing_sentence(LAUNCH, "/local/app.jar", binds)) == [
        *("missing.jar", "lib/missing.jar", "/usr/share/missing.jar", "missing/", "a.jar/x.jar"),
        *("../missing.jar", "file:/local/missing2.jar"),
    ]


def test_without_a_gap_nothing_is_said(tmp_path: Path, binds: tuple[Bind, ...]) -> None:
    """Nor of a JAR without Class-Path, nor of what is none."""
    jar(tmp_path / "local/app.jar", "app.jar")
    assert missing_sentence(LAUNCH, "/local/app.jar", binds) == ""
    (tmp_path / "local/app.jar").write_bytes(b"nothing")
    assert missing_sentence(LAUNCH, "/local/app.jar", binds) == ""


def test_what_the_task_cannot_see_is_missing(tmp_path: Path, binds: tuple[Bind, ...]) -> None:
    """Of the host, whether it is there or not; and no JAR of the host tells what it names."""
    jar(tmp_path / "secret.jar", "secret-name.jar")
    jar(tmp_path / "usr/share/h.jar")
    (tmp_path / "lib").symlink_to("usr")
    (tmp_path / "volume/host.jar").symlink_to(tmp_path / "secret.jar")
    entries = (f"{tmp_path}/secret.jar", f"{tmp_path}/nothing.jar")
    jar(tmp_path / "local/app.jar", *entries, f"{tmp_path}/lib/share/h.jar", "lib/host.jar")
    assert len(named(missing_sentence(LAUNCH, "/local/app.jar", binds))) == 2
    file = Bind(str(tmp_path / "local/one.jar"), "/opt/one.jar", directory=False, origin="job")
    (tmp_path / "local/one.jar").symlink_to(tmp_path / "secret.jar")  # since it was checked
    jar(tmp_path / "local/app.jar", "/opt/one.jar")
    assert "secret-name" not in missing_sentence(LAUNCH, "/local/app.jar", (*binds, file))


def test_the_jars_that_it_names_have_their_own(tmp_path: Path, binds: tuple[Bind, ...]) -> None:
    """Each relative to where it lies; also in a circle."""
    jar(tmp_path / "local/app.jar", "sub/one.jar")
    jar(tmp_path / "local/sub/one.jar", "two.jar", "three.jar", "../app.jar")
    jar(tmp_path / "local/sub/two.jar", "../sub/one.jar", "x%2Fy.jar")
    found = named(missing_sentence(LAUNCH, "/local/app.jar", binds))
    assert found == ["three.jar (of one.jar)", "x%2Fy.jar (of two.jar)"]


def test_the_text_and_the_work_have_bounds(
    tmp_path: Path, binds: tuple[Bind, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten names, and a number."""
    jar(tmp_path / "local/app.jar", *(f"{'x' * 200}{number}.jar" for number in range(3000)))
    text = missing_sentence(LAUNCH, "/local/app.jar", binds)
    assert len(text) < 2000 and "and 1990 more" in text
    monkeypatch.setattr(class_path, "MAX_JARS", 3)
    for number in range(6):
        jar(tmp_path / f"local/{number}.jar", f"{number + 1}.jar", f"missing{number}.jar")
    assert len(named(missing_sentence(LAUNCH, "/local/0.jar", binds))) == 3


@pytest.mark.skipif(bool(missing_tools()), reason="there is no javac")
@pytest.mark.parametrize(
    "entry",
    [
        "lib/a.jar",
        "a%20b.jar",
        "file:lib/a.jar",
        "./lib/../lib/a.jar",
        "a.jar#x",
        "lib/",
        "c+d.jar",
    ],
)
def test_java_finds_what_is_found_here(tmp_path: Path, entry: str) -> None:
    """A class that lies only where an entry leads to."""
    (tmp_path / "Main.java").write_text(
        "public class Main { public static void main(String[] a) { System.out.print(Lib.X); } }"
    )
    (tmp_path / "Lib.java").write_text(
        'public class Lib { static String X = "" + new int[1].length; }'
    )
    subprocess.run(["javac", "-d", ".", "Main.java", "Lib.java"], cwd=tmp_path, check=True)
    path = resolve(f"{tmp_path}/app.jar", entry)
    assert path is not None
    target = Path(path)
    if path.endswith("/"):
        target.mkdir()
        (target / "Lib.class").write_bytes((tmp_path / "Lib.class").read_bytes())
    else:
        target.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(target, "w") as file:
            file.write(tmp_path / "Lib.class", "Lib.class")
    with zipfile.ZipFile(tmp_path / "app.jar", "w") as file:
        file.writestr(
            "META-INF/MANIFEST.MF",
            f"Manifest-Version: 1.0\nMain-Class: Main\nClass-Path: {entry}\n\n",
        )
        file.write(tmp_path / "Main.class", "Main.class")
    ran = subprocess.run(["java", "-jar", tmp_path / "app.jar"], capture_output=True)
    assert ran.stdout == b"1", ran.stderr
