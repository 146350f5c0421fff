"""What the bench of first and second starts starts: small and large applications, and JDKs.

Each application is a directory with an executable JAR, as an artifact would bring it. It tells that
it is ready by its first output, or by the first answer to an HTTP request.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs

from tests.support import debian_jdks, jars, maven
from tests.support.waiting import scaled

APPS = Path(__file__).parents[1] / "apps"
JVM_OPTIONS = ("-XX:+UseSerialGC", "-Xmx512m")
"""Given to all, since a JVM chooses its collector by the memory and processors it sees."""
JDKS = {"17": "java-17-openjdk-amd64", "25": "temurin-25-jdk-amd64"}
"""Of this host; others are downloaded."""
JRUBY = ("org.jruby", "jruby-complete", "9.4.8.0")
WIREMOCK = ("org.wiremock", "wiremock-standalone", "3.9.1")
READY_S = 60.0
"""A large one beside much other work takes 30 s."""
LOOK_S = 0.005
"""From one look at a port until the next."""


class NotReadyError(Exception):
    """An application has not answered in time, or has ended; says what it knows."""


@attrs.frozen
class App:
    """An application. ``{port}`` and ``{scratch}`` in its words stand for a port and a directory
    that it may write to."""

    name: str
    directory: Path
    jar: str
    """Its executable JAR, in that directory."""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = attrs.field(factory=dict)
    answers: str = ""
    """The HTTP path at which it answers when it is ready. One that has none says that by its first
    line; its second one is the time, in milliseconds since the epoch, and it ends by itself."""

    def words(self, port: int, scratch: str) -> tuple[list[str], dict[str, str]]:
        """Return its arguments and its environment."""

        def filled(text: str) -> str:
            return text.replace("{port}", str(port)).replace("{scratch}", scratch)

        return list(map(filled, self.args)), {key: filled(self.env[key]) for key in self.env}


def _hello(place: Path) -> App:
    jars.build(place / "hello", [jars.SOURCES / "HelloWorld.java"])
    return App("hello world", place / "hello", "hello-world.jar")


def _jruby(place: Path) -> App:
    program = 'puts "hello world", (Time.now.to_f * 1000).to_i'
    return App("JRuby", _alone(place / "jruby", maven.fetch(*JRUBY)), "app.jar", ("-e", program))


def _wiremock(place: Path) -> App:
    words = ("--port", "{port}", "--bind-address", "127.0.0.1", "--root-dir", "{scratch}")
    directory = _alone(place / "wiremock", maven.fetch(*WIREMOCK))
    return App("WireMock", directory, "app.jar", words, answers="/__admin/mappings")


def _quarkus(place: Path) -> App:
    built = maven.build(APPS / "quarkus", "package")
    shutil.copytree(built / "target/quarkus-app", place / "quarkus")
    env = {"QUARKUS_HTTP_HOST": "127.0.0.1", "QUARKUS_HTTP_PORT": "{port}"}
    return App("Quarkus", place / "quarkus", "quarkus-run.jar", env=env, answers="/")


def _spring(place: Path) -> App:
    built = maven.build(APPS / "spring-boot", "package")
    words = ["-Djarmode=tools", "-jar", "shop.jar", "extract", "--destination"]
    subprocess.run(
        ["java", *words, str(place / "spring")],
        cwd=built / "target",
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    env = {
        "SERVER_ADDRESS": "127.0.0.1",
        "SERVER_PORT": "{port}",
        "SERVER_TOMCAT_BASEDIR": "{scratch}/tomcat",
    }
    return App("Spring Boot", place / "spring", "shop.jar", env=env, answers="/")


MAKERS: Mapping[str, Callable[[Path], App]] = {
    "hello world": _hello,
    "JRuby": _jruby,
    "WireMock": _wiremock,
    "Quarkus": _quarkus,
    "Spring Boot": _spring,
}
"""By the application's name. Each makes its directory in the one that it is given."""


def make(names: list[str], place: Path, notes: list[str]) -> list[App]:
    """Return the applications; ``notes`` get a sentence for each that is not to be had."""
    place.mkdir(mode=0o755)
    found = []
    for name in names:
        try:
            found.append(MAKERS[name](place))
        except (maven.NotObtainableError, AssertionError, subprocess.CalledProcessError) as error:
            notes.append(f"{name}: {str(error)[:300]}")
    return found


def java_homes(releases: list[str], notes: list[str]) -> dict[str, str]:
    """Return the homes of JDKs by feature release; ``notes`` get a sentence for each other."""
    found = {}
    for release in releases:
        here = Path("/usr/lib/jvm", JDKS.get(release, "-"))
        try:
            home = here if here.exists() else debian_jdks.fetch(release)
        except (KeyError, RuntimeError) as error:
            notes.append(f"Java {release}: {str(error)[:300]}")
            continue
        if not (home / "lib/server/classes.jsa").exists():
            # A package's own script would make it, without which there is no archive.
            subprocess.run(
                [home / "bin/java", "-Xshare:dump"], check=True, stdout=subprocess.DEVNULL
            )
        found[release] = str(home)
    return found


def java_version(home: str) -> str:
    """Return the version that a JDK says it has, with who has built it."""
    words = [f"{home}/bin/java", "-XshowSettings:properties", "-version"]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stderr
    lines = (line.partition(" = ") for line in told.splitlines())
    found = {key.strip(): value for key, _, value in lines}
    return f"{found['java.version']} ({found['java.vendor']})"


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def wait_answer(port: int, path: str, ended: Callable[[], str]) -> None:
    """Wait until a request for ``path`` at the port is answered well.

    Args:
        port: of the loopback interface.
        path: what is asked for.
        ended: says why there will be no answer, or nothing.

    Raises:
        NotReadyError: it has ended, or does not answer within `READY_S`.
    """
    deadline = time.monotonic() + scaled(READY_S)
    answer = b""
    while time.monotonic() < deadline:
        if why := ended():
            raise NotReadyError(why)
        try:
            with socket.create_connection(("127.0.0.1", port), scaled(READY_S)) as connection:
                connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
                answer = connection.recv(4096)
        except OSError:
            answer = b""
        if answer.split(b" ")[1:2] == [b"200"]:
            return
        time.sleep(LOOK_S)
    raise NotReadyError(f"no answer at port {port} in {READY_S:g} s; the last one: {answer!r}")


def _alone(directory: Path, jar: Path) -> Path:
    directory.mkdir()
    shutil.copy(jar, directory / "app.jar")
    return directory
