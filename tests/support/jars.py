"""The test programs in ``tests/jars/*.java``, compiled and packed into executable JARs.

As a program: ``python -m tests.support.jars PATH/streaming-test.jar`` makes that one JAR,
if it is not there or older than its source.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "jars"
RELEASE = "11"
"""The class files' Java release: the oldest one that every JDK since 11 can still write."""

SHORT_RUN = ("-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC")
"""For the compiler's own JVM: it takes 2 s of processor time in place of 4, most of it compiling
itself."""


def jar_name(source: Path) -> str:
    """Return the JAR's file name for a Java source: StreamingTest.java → streaming-test.jar."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", source.stem).lower() + ".jar"


def missing_tools() -> str | None:
    """Return why JARs cannot be built here, or None."""
    return None if shutil.which("javac") else "there is no javac on PATH (./dev setup installs it)"


def build_all(directory: Path) -> None:
    """Compile every test program in one go and pack each as ``directory/<name>.jar``."""
    build(directory, sorted(SOURCES.glob("*.java")))


def build(directory: Path, sources: list[Path], release: str = RELEASE) -> None:
    """Compile ``sources`` together, and pack each with its nested classes into a JAR.

    Raises CalledProcessError with javac's words in its output when one does not compile.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as classes:
        subprocess.run(
            ["javac", *SHORT_RUN, "-nowarn", "--release", release, "-d", classes]
            + [str(source) for source in sources],
            check=True,
            stdin=subprocess.DEVNULL,
        )
        for source in sources:
            found = [
                path
                for path in sorted(Path(classes).glob("*.class"))
                if path.stem.split("$")[0] == source.stem
            ]
            pack(
                directory / jar_name(source),
                {path.name: path.read_bytes() for path in found},
                main_class=source.stem,
            )


def pack(target: Path, entries: dict[str, bytes], *, main_class: str | None) -> None:
    """Write a JAR whose bytes depend on its content alone: fixed order, times and modes.

    Without ``main_class`` the manifest names none, and ``java -jar`` refuses the JAR.
    """
    manifest = "Manifest-Version: 1.0\r\n"
    if main_class is not None:
        manifest += f"Main-Class: {main_class}\r\n"
    everything = {"META-INF/MANIFEST.MF": f"{manifest}\r\n".encode(), **entries}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as jar:
        for name, content in everything.items():
            jar.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), content)


def main() -> None:
    """Make the one JAR that the command line names."""
    target = Path(sys.argv[1])
    source = next(path for path in SOURCES.glob("*.java") if jar_name(path) == target.name)
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        build(target.parent, [source])


if __name__ == "__main__":
    main()
