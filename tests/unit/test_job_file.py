"""`milo job`: the file that it prints, and what it finds in a JAR."""

from __future__ import annotations

from pathlib import Path

import pytest

from milo.cli.job_file import JobPlan, write_job
from milo.cli.main import run_command
from milo.errors import ConfigError
from tests.support.jars import pack

EXPECTED = """\
job "shop" {
  type = "service"

  group "app" {
    count = 2

    task "app" {
      driver = "milo"

      artifact {
        # Nomad fetches over the network alone, no file of the client's. Serve this one there:
        #   python3 -m http.server 8000 --bind 127.0.0.1 --directory '/srv/my jars'
        # or put it where every client can fetch it, and say here where that is.
        source = "http://127.0.0.1:8000/shop%201.jar"
      }

      config {
        # com.example.Main is compiled for Java 17.
        jar_path     = "local/shop 1.jar"
        java_version = ">= 17"
      }

      # MHz and MiB. The JVM sizes itself by the memory.
      resources {
        cpu    = 500
        memory = 1024
      }
    }
  }
}
"""


def test_a_local_jar() -> None:
    """Nomad cannot fetch it from a path, so the file says what does work."""
    plan = JobPlan(
        "/srv/my jars/shop 1.jar",
        name="shop",
        service=True,
        count=2,
        memory_mib=1024,
        main_class="com.example.Main",
        java_release=17,
    )
    assert write_job(plan) == EXPECTED


def test_a_jar_of_the_network() -> None:
    """It is fetched as it is called; one that is not called .jar gets such a name."""
    text = write_job(JobPlan("https://repo.example/a/app-1.2.jar"))
    assert 'source = "https://repo.example/a/app-1.2.jar"\n' in text
    assert 'job "app-1.2"' in text and 'jar_path = "local/app-1.2.jar"' in text
    assert "#" not in text.split("# MHz")[0] and "count" not in text and "java_version" not in text
    text = write_job(JobPlan("https://repo.example/get/17?token=a"))
    assert 'destination = "local/app.jar"' in text and 'mode        = "file"' in text
    assert 'jar_path = "local/app.jar"' in text


def test_nothing_in_a_name_is_hcl() -> None:
    """Quotes, backslashes, interpolations and line ends are characters."""
    text = write_job(JobPlan('/srv/a"b\\${x}%{y}\n.jar', main_class="A\nevil = 1", java_release=8))
    assert 'jar_path     = "local/a\\"b\\\\$${x}%%{y}\\u000a.jar"' in text
    assert "\nevil" not in text and "# A?evil = 1 is compiled for Java 8." in text
    assert 'job "a-b-x-y"' in text


@pytest.mark.parametrize(
    ("jar", "name", "words"),
    [
        ("/srv/app.war", "", "the path of a .jar file"),
        ("https://host/", "", "does not name a file"),
        ("https:///app.jar", "", "does not name a file"),
        ("https://[x/app.jar", "", "a URL such as"),
        ("/srv/app.jar", "my app", "without blanks"),
    ],
)
def test_what_cannot_be_a_job(jar: str, name: str, words: str) -> None:
    """It is said before anything is printed."""
    with pytest.raises(ConfigError, match=words):
        write_job(JobPlan(jar, name=name))


def class_file(major: int) -> bytes:
    """Return the beginning of a class."""
    return b"\xca\xfe\xba\xbe\x00\x00" + major.to_bytes(2, "big")


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run the command; return status, stdout and stderr."""
    status = run_command(["job", *words])
    return status, *capsys.readouterr()


def test_the_jar_is_looked_into(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its Main-Class and class file version give the Java."""
    jar = tmp_path / "app.jar"
    pack(jar, {"a/Main.class": class_file(65)}, main_class="a.Main")
    status, out, _ = printed(capsys, str(jar), "--memory", "64", "--cpu", "100")
    assert status == 0
    assert "a.Main is compiled for Java 21." in out and 'java_version = ">= 21"' in out
    assert "cpu    = 100" in out and "memory = 64" in out
    pack(jar, {}, main_class="a.Main")
    status, out, err = printed(capsys, str(jar))
    assert (status, out) == (1, "") and "a.Main, its Main-Class, is not in" in err
    pack(jar, {}, main_class=None)
    assert "no Main-Class" in printed(capsys, str(jar))[2]
    assert "cannot be read: it does not exist" in printed(capsys, str(tmp_path / "no.jar"))[2]


def test_spring_boots_launcher_does_not_decide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is compiled for an older Java than the application that it starts."""
    jar = tmp_path / "boot.jar"
    main = "b.Launcher\r\nStart-Class: a.App\r\nSpring-Boot-Classes: BOOT-INF/classes/"
    entries = {"b/Launcher.class": class_file(61), "BOOT-INF/classes/a/App.class": class_file(65)}
    pack(jar, entries, main_class=main)
    assert "a.App is compiled for Java 21." in printed(capsys, str(jar))[1]


@pytest.mark.parametrize("option", ["--cpu", "--count"])
def test_numbers_are_positive(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nomad would refuse them later."""
    status, out, err = printed(capsys, "https://host/app.jar", option, "0")
    assert (status, out) == (2, "") and f"{option}: got 0" in err


def test_arguments_memory_and_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What comes after -- is the application's; memory has a unit, or counts MiB."""
    jar = tmp_path / "app.jar"
    pack(jar, {"a/Main.class": class_file(61)}, main_class=None)
    words = ("--class", "a.Main", "--memory", "1g", "--", "--port", "80 80", 'a"b${c}')
    status, out, err = printed(capsys, str(jar), *words)
    assert status == 0, err
    assert 'args         = ["--port", "80 80", "a\\"b$${c}"]' in out
    assert 'class        = "a.Main"' in out and "memory = 1024" in out
    assert 'java_version = ">= 17"' in out
    assert "--memory" in printed(capsys, str(jar), "--class", "a.Main", "--memory", "0")[2]
    status, _, err = printed(capsys, str(jar), "--class", "b.Main")
    assert status == 1 and "b.Main" in err


def test_arguments_without_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    """Where they stand is said, since `milo run` takes them right after the JAR."""
    for words in (("a", "b"), ("--port", "80")):
        status, out, err = printed(capsys, "https://host/app.jar", *words)
        assert (status, out) == (2, "") and "stand after --" in err
