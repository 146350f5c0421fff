"""Which application a task runs, found in directories that the task may have prepared."""

from __future__ import annotations

import os
import shlex
import socket
import struct
import zipfile
from pathlib import Path

import attrs
import pytest

from milo.core.config.plugin_options import PluginOptions
from milo.core.config.task_options import TaskOptions, parse_task_options
from milo.core.java.application import (
    MAX_LISTED,
    Found,
    absolute_class_path,
    choose_jar,
    java_arguments,
)
from milo.core.launch import Application, JavaRuntime, Mount
from milo.errors import ArtifactError, ConfigError, JavaError, NoJavaError
from milo.task.java.application import resolve_application
from tests.support.launches import make_launch

JAVA_17 = JavaRuntime("/usr/lib/jvm/java-17", "17.0.15", 17, "/usr/lib/jvm")
JAVA_21 = JavaRuntime("/opt/jdk-21", "21.0.2", 21, "/opt")
JAVA_25 = JavaRuntime("/opt/jdk-25", "25.0.1+8", 25, "/opt")
MANIFEST = "Manifest-Version: 1.0\nMain-Class: com.example.Main\n"


class Task:
    """An allocation's directories, and what is resolved in them."""

    def __init__(self, alloc: Path) -> None:
        self.local = alloc / "web" / "local"
        self.secrets = alloc / "web" / "secrets"
        self.shared = alloc / "alloc"
        for directory in (self.local, self.secrets, self.shared):
            directory.mkdir(parents=True)
        self.launch = make_launch(
            task_id="alloc/web/1",
            task_name="web",
            alloc_id="alloc",
            alloc_dir=str(alloc),
            stdout_path="/dev/null",
            stderr_path="/dev/null",
            state_dir=str(alloc / "state"),
            crun_path="/usr/bin/crun",
            javas=(JAVA_17,),
        )

    def resolve(self, *javas: JavaRuntime, **options: str) -> Application:
        """Resolve the application of a job with these options."""
        launch = attrs.evolve(self.launch, javas=javas or (JAVA_17,))
        config = {"class" if key == "main_class" else key: text for key, text in options.items()}
        return resolve_application(launch, parse_task_options(config, launch.plugin))

    def refused(self, **options: str) -> str:
        """Return the text of the ArtifactError for a job with these options."""
        before = os.listdir("/proc/self/fd")
        with pytest.raises(ArtifactError) as caught:
            self.resolve(**options)
        assert os.listdir("/proc/self/fd") == before
        return str(caught.value)


def write_jar(
    path: Path, manifest: str = MANIFEST, *, release: int = 17, name: str = "com/example/Main"
) -> Path:
    """Write a JAR whose class was compiled for a Java release."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", manifest)
        archive.writestr(f"{name}.class", struct.pack(">LHH", 0xCAFEBABE, 0, release + 44))
    return path


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """A task with empty directories."""
    return Task(tmp_path / "alloc-1")


# the one JAR


def test_without_jar_path_and_class_the_one_jar_is_run(task: Task) -> None:
    """Exactly one JAR directly under local/ is the application, whatever else lies there."""
    write_jar(task.local / "app.jar")
    (task.local / "app.yaml").touch()
    (task.local / "more.jar").mkdir()
    application = task.resolve()
    assert application.jar == "/local/app.jar"
    assert (application.main_class, application.class_path) == ("", "")
    assert application.java == JAVA_17
    assert "Java 17.0.15" in application.notes[0]


def test_a_script_as_the_only_artifact_is_refused(task: Task) -> None:
    """The text is the one that the issue asks for."""
    (task.local / "my-script.py").write_text("print()")
    assert task.refused() == "Error: Artifact must be a .jar file, got: my-script.py"


@pytest.mark.parametrize("path", ["my-script.py", "local/my-script.py", "/local/my-script.py"])
def test_a_jar_path_that_names_no_jar_is_refused(task: Task, path: str) -> None:
    """The text names the file, whether it exists or not, and says what jar_path has to be."""
    text = task.refused(jar_path=path)
    assert text.startswith("Error: Artifact must be a .jar file, got: my-script.py. ")
    assert "jar_path that ends in .jar or .war" in text and "rename the file" in text


@pytest.mark.parametrize("path", [".jar", "/", "local/", "..", "local/app.jar.py"])
def test_other_paths_that_name_no_jar_are_refused(task: Task, path: str) -> None:
    """A name that is nothing but a suffix, or a directory, is no JAR."""
    assert "must be a .jar file" in task.refused(jar_path=path)


def test_an_empty_local_says_what_is_missing(task: Task) -> None:
    """Without any file, the error names the place and the two ways out."""
    text = task.refused()
    assert "local/ is empty" in text
    assert "artifact block" in text
    task.local.rmdir()
    assert "local/ is empty" in task.refused()


def test_several_jars_are_listed(task: Task) -> None:
    """The error says how many there are, names ten at most, and shows the line to write."""
    for index in range(12):
        write_jar(task.local / f"app-{index:02}.jar")
    text = task.refused()
    assert "found 12: app-00.jar, app-01.jar" in text
    assert "and 2 more" in text
    assert "app-11" not in text
    assert 'jar_path = "local/app-00.jar"' in text


def test_directories_without_jar_are_listed(task: Task) -> None:
    """An unpacked archive has its JAR deeper, where jar_path must name it."""
    (task.local / "app-1.0").mkdir()
    (task.local / "README").touch()
    text = task.refused()
    assert "app-1.0/, README" in text
    assert "Set jar_path" in text


def test_a_very_large_local_is_read_in_part(task: Task) -> None:
    """More entries than the limit are an error, not a search without end."""
    for index in range(MAX_LISTED + 1):
        (task.local / f"{index}").touch()
    assert f"more than {MAX_LISTED} entries" in task.refused()


def test_names_are_made_safe_to_print(task: Task) -> None:
    """Control characters and bytes that are no UTF-8 do not reach a log or a record."""
    (task.local / "a\n\x1b[31m").touch()
    assert task.refused().endswith(r"got: a\n\x1b[31m")
    (task.local / "a\n\x1b[31m").unlink()
    write_jar(task.local / "a").rename(os.fsdecode(os.fsencode(task.local) + b"/\xff.jar"))
    assert "not valid UTF-8" in task.refused()


def test_a_name_may_not_be_both_a_jar_and_a_directory() -> None:
    """A directory named like a JAR does not count."""
    found = [Found("a.jar", is_directory=True), Found("b.JAR")]
    assert choose_jar(found, complete=True) == "b.JAR"


# jar_path


@pytest.mark.parametrize(
    ("path", "resolved"),
    [
        ("local/app.jar", "/local/app.jar"),
        ("./local//app.jar", "/local/app.jar"),
        ("/local/app.jar", "/local/app.jar"),
        ("/local/../local/app.jar", "/local/../local/app.jar"),
        ("/alloc/lib/shared.jar", "/alloc/lib/shared.jar"),
        ("alloc/lib/shared.jar", "/alloc/lib/shared.jar"),
        ("${NOMAD_SECRETS_DIR}/s.jar", "/secrets/s.jar"),
    ],
)
def test_a_jar_path_is_one_of_the_container(task: Task, path: str, resolved: str) -> None:
    """Relative paths begin at the container's root; the task's three directories count."""
    (task.shared / "lib").mkdir()
    for file in (task.local / "app.jar", task.shared / "lib/shared.jar", task.secrets / "s.jar"):
        write_jar(file)
    path = path.replace("${NOMAD_SECRETS_DIR}", "/secrets")
    assert task.resolve(jar_path=path).jar == resolved


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/etc/app.jar", "it is elsewhere"),
        ("app.jar", "set jar_path to that"),
        ("local/../../app.jar", 'by ".."'),
        ("../app.jar", 'by ".."'),
        ("local/../app.jar", "it is elsewhere"),
        ("../../local/app.jar", 'by ".."'),
    ],
)
def test_a_jar_path_may_not_leave_the_directories(task: Task, path: str, words: str) -> None:
    """The error names the path and the directories that are allowed."""
    write_jar(task.local / "app.jar")
    text = task.refused(jar_path=path)
    assert words in text
    assert path in text
    assert "local/, secrets/ or /alloc/" in text


def test_a_host_path_is_no_path_of_the_task(task: Task) -> None:
    """What the host calls the file means nothing in the container."""
    path = str(write_jar(task.local / "app.jar"))
    assert "it is elsewhere" in task.refused(jar_path=path)


def test_a_jar_that_does_not_exist_says_what_there_is(task: Task) -> None:
    """The error lists what lies in local/ instead."""
    write_jar(task.local / "other.jar")
    text = task.refused(jar_path="local/app.jar")
    assert "local/app.jar does not exist" in text
    assert "other.jar" in text


def test_symlinks_are_followed_as_in_the_container(task: Task) -> None:
    """An absolute symlink begins at the container's root, and .. does not leave it."""
    (task.local / "v1").mkdir()
    write_jar(task.local / "v1/real.jar")
    (task.local / "absolute.jar").symlink_to("/local/current/real.jar")
    (task.local / "current").symlink_to("v1")
    (task.shared / "far.jar").symlink_to("../../../../../local/./absolute.jar")
    for path in ("local/absolute.jar", "/alloc/far.jar", "local/current/real.jar"):
        assert task.resolve(jar_path=path).jar == "/" + path.removeprefix("/")


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../etc/passwd", "/proc/self/exe"])
def test_a_symlink_may_not_leave_the_directories(task: Task, target: str) -> None:
    """A symlink to what the container has elsewhere, or has not, is refused."""
    (task.local / "app.jar").symlink_to(target)
    assert "a symlink leads out of them" in task.refused()
    (task.local / "lib").symlink_to(os.path.dirname(target))
    assert "a symlink leads out of them" in task.refused(jar_path="local/lib/x.jar")


def test_a_symlink_with_the_host_path_is_refused(task: Task, tmp_path: Path) -> None:
    """A symlink that works on the host alone would not work in the container."""
    write_jar(tmp_path / "outside.jar")
    (task.local / "app.jar").symlink_to(tmp_path / "outside.jar")
    assert "a symlink leads out of them" in task.refused(jar_path="local/app.jar")


def test_a_ring_of_symlinks_ends(task: Task) -> None:
    """After 40 symlinks the path is refused, also when each makes it longer."""
    (task.local / "app.jar").symlink_to("app.jar")
    assert "more than 40 symlinks" in task.refused()
    (task.local / "a").symlink_to("a/" * 1000 + "a")
    assert "more than 40 symlinks" in task.refused(jar_path="local/a/x.jar")
    for index in range(40):
        (task.local / f"l{index}").symlink_to(f"l{index + 1}")
    write_jar(task.local / "l40")
    (task.local / "forty.jar").symlink_to("l1")
    assert task.resolve(jar_path="local/forty.jar")


def test_what_is_no_regular_file_is_never_opened(task: Task, tmp_path: Path) -> None:
    """A FIFO, a socket and a directory are refused without blocking."""
    os.mkfifo(task.local / "fifo.jar")
    assert "it is not a regular file but a FIFO" in task.refused(jar_path="local/fifo.jar")
    (task.local / "dir.jar").mkdir()
    assert "it is not a regular file but a directory" in task.refused(jar_path="local/dir.jar")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        os.rename(tmp_path / "s", task.local / "socket.jar")
    assert "it is not a regular file but a socket" in task.refused(jar_path="local/socket.jar")
    write_jar(task.local / "app.jar")
    assert "not a directory" in task.refused(jar_path="local/app.jar/x.jar")


def test_very_long_and_deep_paths_are_refused(task: Task) -> None:
    """Neither a long name nor a path of many directories takes descriptors without bound."""
    assert "File name too long" in task.refused(jar_path="local/" + "x" * 300 + ".jar")
    deep = task.local
    for _ in range(130):
        deep = deep / "d"
        deep.mkdir()
    assert "directories deep" in task.refused(jar_path="local/" + "d/" * 130 + "x.jar")


# what is in the JAR


def test_a_host_without_java_is_told(task: Task) -> None:
    """The text is the one that the issue asks for."""
    write_jar(task.local / "app.jar")
    with pytest.raises(NoJavaError) as caught:
        resolve_application(attrs.evolve(task.launch, javas=()), TaskOptions())
    assert str(caught.value) == (
        "Error: No Java runtime found on host. Please install Java to use Milo driver."
    )


def test_a_broken_jar_is_told_by_its_path(task: Task) -> None:
    """The text calls the JAR as the job does."""
    (task.local / "app.jar").write_text("<html>404")
    text = task.refused(jar_path="local/app.jar")
    assert text.startswith("Error: local/app.jar is not a JAR. Expected a ZIP file, got an HTML")
    assert task.refused().startswith("Error: local/app.jar is not a JAR.")


def test_a_jar_without_main_class_runs_with_class_alone(task: Task) -> None:
    """Without Main-Class the job has to name the class, which the JAR must hold."""
    write_jar(task.local / "app.jar", "Manifest-Version: 1.0\n")
    assert "has no Main-Class" in task.refused(jar_path="local/app.jar")
    application = task.resolve(jar_path="local/app.jar", main_class="com.example.Main")
    assert application.class_path == "/local/app.jar"
    text = task.refused(jar_path="local/app.jar", main_class="com.example.Mian")
    assert "com.example.Mian, the class of the job's config, is not in local/app.jar" in text
    assert "com/example/Mian.class" in text


def test_a_main_class_that_is_not_in_the_jar_is_refused(task: Task) -> None:
    """Unless the manifest's Class-Path or the job's class_path may hold it."""
    write_jar(task.local / "app.jar", name="com/example/Other")
    assert "its Main-Class, is not in local/app.jar" in task.refused()
    write_jar(task.local / "app.jar", MANIFEST + "Class-Path: lib/a.jar\n", name="Other")
    assert "may be on its class path" in task.resolve().notes[1]
    application = task.resolve(jar_path="local/app.jar", main_class="A", class_path="local/lib/*")
    assert application.class_path == "/local/app.jar:/local/lib/*"


def test_a_class_for_a_newer_java_is_refused(task: Task) -> None:
    """The text says which Java it needs, which was chosen, and which others there are."""
    write_jar(task.local / "app.jar", release=21)
    with pytest.raises(JavaError) as caught:
        task.resolve(JAVA_17, JAVA_21, java_version="17")
    text = str(caught.value)
    assert text.startswith("Error: local/app.jar needs Java 21 or newer")
    assert "/opt/jdk-21" in text
    assert task.resolve(JAVA_21, JAVA_17).java == JAVA_21


def test_the_default_java_is_used_where_it_can_be(task: Task) -> None:
    """Without a wish of the job's: the default, or else the oldest that runs the main class."""
    write_jar(task.local / "app.jar", release=17)
    assert task.resolve(JAVA_21, JAVA_25, JAVA_17).java == JAVA_21
    write_jar(task.local / "app.jar", release=21)
    chosen = task.resolve(JAVA_17, JAVA_25, JAVA_21)
    assert chosen.java == JAVA_21
    assert chosen.notes[0] == (
        "Runs on Java 21.0.2 (/opt/jdk-21), because the default, Java 17.0.15 "
        "(/usr/lib/jvm/java-17), is too old for the application"
    )


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("17", JAVA_17),
        (">= 17", JAVA_25),
        (">=17, <22", JAVA_17),
        ("< 22 >= 18", JAVA_21),
        ("21 || 25", JAVA_25),
        ("11||21.0", JAVA_21),
        ("= 17.0.15", JAVA_17),
        ("> 17", JAVA_25),
        ("> 17.0.14 < 21", JAVA_17),
    ],
)
def test_java_version_chooses(task: Task, wanted: str, chosen: JavaRuntime) -> None:
    """The default is preferred among those that are allowed, then the oldest."""
    write_jar(task.local / "app.jar", release=8)
    found = task.resolve(JAVA_25, JAVA_17, JAVA_21, java_version=wanted)
    assert found.java == chosen
    assert f'java_version = "{wanted}"' in found.notes[0]
    by_class = task.resolve(JAVA_25, JAVA_17, JAVA_21, java_version=wanted, main_class="M")
    assert by_class.java == chosen


def test_a_java_version_that_is_not_there_is_refused(task: Task) -> None:
    """The text names what there is, and the attribute to constrain the job by."""
    write_jar(task.local / "app.jar", release=8)
    with pytest.raises(JavaError, match=r"21\.0\.2.*driver\.milo\.java\.versions"):
        task.resolve(JAVA_21, JAVA_17, java_version="11")
    with pytest.raises(NoJavaError):
        resolve_application(attrs.evolve(task.launch, javas=()), TaskOptions())


@pytest.mark.parametrize("wanted", ["x", ">=", "17 ||", "|| 17", ">> 17", "17,,18", "9" * 201])
def test_a_java_version_that_makes_no_sense_is_refused(task: Task, wanted: str) -> None:
    """It is told before anything else is looked at."""
    with pytest.raises(ConfigError, match="java_version"):
        task.resolve(java_version=wanted)


def write_jdk(home: Path, release: str | None = 'JAVA_VERSION="21.0.4"\n') -> Path:
    """Write what is looked at of a JDK."""
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "java").write_text("never run on the host")
    if release is not None:
        (home / "release").write_text(release)
    return home


@pytest.mark.parametrize("home", ["local/jdk", "/local/jdk/", "local/link"])
def test_java_home_in_the_task(task: Task, home: str) -> None:
    """A JDK that came as an artifact is used; of the host's, none need be there."""
    write_jar(task.local / "app.jar", release=21)
    write_jdk(task.local / "jdk")
    (task.local / "link").symlink_to("/local/jdk")
    launch = attrs.evolve(task.launch, javas=())
    options = parse_task_options({"java_home": home}, launch.plugin)
    java = resolve_application(launch, options).java
    assert (java.version, java.major, java.trusted) == ("21.0.4", 21, False)
    assert Path(java.home).parent == task.local


def test_java_home_behind_a_symlink_of_the_tasks(task: Task, tmp_path: Path) -> None:
    """The home is told as it is without symlinks, which lead elsewhere on the host."""
    write_jar(task.local / "app.jar")
    write_jdk(task.shared / "jdk")
    (task.local / "jdk").symlink_to("/alloc/jdk")
    chosen = task.resolve(java_home="/local/jdk")
    assert chosen.java.home == str(task.shared / "jdk")
    assert chosen.java_home == "/alloc/jdk"


@pytest.mark.parametrize(
    ("home", "words"),
    [
        ("local/none", "/local/none: it does not exist"),
        ("local/old", "/local/old/release: it does not exist"),
        ("local/jdk/../../secrets", "is not followed"),
        ("local/out", "symlink"),
    ],
)
def test_java_home_in_the_task_that_is_no_jdk(task: Task, home: str, words: str) -> None:
    """The text says what is missing, and nothing outside of the task is looked at."""
    write_jar(task.local / "app.jar", release=8)
    write_jdk(task.local / "jdk")
    write_jdk(task.local / "old", None)
    (task.local / "out").symlink_to("/usr/lib/jvm")
    with pytest.raises(JavaError, match=words):
        task.resolve(java_home=home)


def test_java_home_of_the_host(task: Task, tmp_path: Path) -> None:
    """Only a Java that Milo has found is taken, through whatever symlink it is named."""
    write_jar(task.local / "app.jar", release=8)
    home = write_jdk(tmp_path / "jdk")
    (tmp_path / "default").symlink_to(home)
    java = JavaRuntime(str(home), "21.0.4", 21, "/opt")
    chosen = task.resolve(JAVA_17, java, java_home=str(tmp_path / "default"))
    assert chosen.java == java
    assert "the job's java_home" in chosen.notes[0]
    with pytest.raises(JavaError, match=r"neither a Java that Milo has found.*17\.0\.15"):
        task.resolve(JAVA_17, java_home="/etc")
    with pytest.raises(JavaError, match="is not java_version"):
        task.resolve(JAVA_17, java, java_home=str(home), java_version="17")


def test_the_application_behind_a_spring_boot_launcher_is_checked_too(task: Task) -> None:
    """The launcher is built for an old Java; the application's own class may not be."""
    manifest = "Main-Class: L\nStart-Class: App\nSpring-Boot-Classes: BOOT-INF/classes/\n"
    write_jar(task.local / "app.jar", manifest, release=8, name="L")
    with zipfile.ZipFile(task.local / "app.jar", "a") as archive:
        archive.writestr("BOOT-INF/classes/App.class", struct.pack(">LHH", 0xCAFEBABE, 0, 65))
    with pytest.raises(JavaError, match="its class App has class file version 65"):
        task.resolve()
    assert task.resolve(JAVA_21).jar == "/local/app.jar"


def test_class_alone_takes_the_class_path_as_it_is(task: Task) -> None:
    """Without jar_path nothing is looked for, and Java's own default is the directory /."""
    application = task.resolve(main_class="Main", class_path="local/classes:/alloc/lib/*")
    assert (application.jar, application.class_path) == ("", "/local/classes:/alloc/lib/*")
    assert task.resolve(main_class="Main").class_path == ""


# the command line


@pytest.mark.parametrize(
    ("application", "expected"),
    [
        (Application(JAVA_17, jar="/local/a.jar"), "-Xmx64m -jar /local/a.jar one two"),
        (
            Application(JAVA_17, jar="/local/a.jar", main_class="M", class_path="/local/a.jar:/x"),
            "-Xmx64m -cp /local/a.jar:/x M one two",
        ),
        (Application(JAVA_17, main_class="M", class_path="/x"), "-Xmx64m -cp /x M one two"),
        (Application(JAVA_17, main_class="M"), "-Xmx64m M one two"),
    ],
)
def test_the_command_line_has_the_order_of_nomads_java_driver(
    application: Application, expected: str
) -> None:
    """Launcher, JVM options, class path, JAR or class, arguments."""
    options = TaskOptions(jvm_options=("-Xmx64m",), args=("one", "two"))
    arguments = java_arguments(application, options)
    assert arguments == ("/usr/lib/jvm/java-17/bin/java", *shlex.split(expected))


def test_a_class_path_is_made_absolute() -> None:
    """What is relative begins at the working directory, as it does to Java."""
    assert absolute_class_path("lib/*:/x:./y::.", lambda path: f"<{path}>") == (
        "<lib/*>:/x:<y>:<>:<.>"
    )


def test_what_is_relative_is_found_in_the_tasks_directory(task: Task) -> None:
    """As from the root of Nomad's java driver; what the root has too is told from there."""
    for name in ("lib", "private"):
        Path(task.launch.task_dir, name).mkdir()
    write_jar(Path(task.launch.task_dir, "lib/app.jar"))
    write_jar(Path(task.launch.task_dir, "top.jar"))
    write_jar(Path(task.launch.task_dir, "private/app.jar"))
    for path, found in {
        "lib/app.jar": "/task/lib/app.jar",
        "./top.jar": "/task/top.jar",
        "/lib/app.jar": "/lib/app.jar",
        "/task/lib/app.jar": "/task/lib/app.jar",
    }.items():
        assert task.resolve(jar_path=path).jar == found
    class_path = "lib/*:local/x:data/x::.:*:/etc"
    main = {"class": "com.example.Main", "class_path": class_path}
    expected = "/task/lib/*:/local/x:/data/x:/task:/task:/task/*:/etc"
    assert task.resolve(**main).class_path == expected
    assert task.resolve(**main, work_dir="/local/").class_path.split(":")[0] == "/local/lib/*"
    (task.local / "out.jar").symlink_to("/task/private/app.jar")
    for path in ("/task/private/app.jar", "private/app.jar", "local/out.jar"):
        task.refused(jar_path=path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"jar_path": "local/app.jar", "class_path": "local/lib/*"}, ["class_path"]),
        ({"cap_drop": ["all"]}, ["cap_drop"]),
        ({"cap_drop": ["chown"], "cap_add": ["all"]}, []),
        ({"class": "com.example.Main", "class_path": "local/lib/*"}, []),
        ({}, []),
    ],
)
def test_a_key_without_effect_is_told_of(
    task: Task, options: dict[str, object], words: list[str]
) -> None:
    """What Nomad's java driver would take and that changes nothing here is in an event."""
    write_jar(task.local / "app.jar")
    plugin = PluginOptions(allow_caps=("all",))
    launch = attrs.evolve(task.launch, javas=(JAVA_17,), plugin=plugin)
    notes = resolve_application(launch, parse_task_options(options, plugin)).notes[1:]
    assert [note.split()[0] for note in notes] == words
    assert all("has no effect" in note for note in notes)


def test_a_relative_jar_path_begins_at_work_dir(task: Task) -> None:
    """As with Nomad's java driver; where there is no such JAR, it begins at the root."""
    (task.local / "sub").mkdir()
    write_jar(task.local / "sub/app.jar")
    assert task.resolve(jar_path="app.jar", work_dir="/local/sub").jar == "/local/sub/app.jar"
    assert task.resolve(jar_path="local/sub/app.jar", work_dir="/local").jar == "/local/sub/app.jar"
    assert "There is" not in task.refused(jar_path="app.jar")
    assert "does not exist" in task.refused(jar_path="local/app.jar", work_dir="/local")


@pytest.mark.parametrize("work_dir", ["/local/is/there", "/local/is/made"])
def test_a_relative_jar_path_may_leave_work_dir(task: Task, work_dir: str) -> None:
    """Also one that is not there yet, which Milo makes; and no higher than the root."""
    (task.local / "is/there").mkdir(parents=True)
    write_jar(task.local / "app.jar")
    for path in ("../../app.jar", ".././../app.jar", "../../../../../local/app.jar"):
        assert task.resolve(jar_path=path, work_dir=work_dir).jar == "/local/app.jar"
    assert "../app.jar does not exist" in task.refused(jar_path="../app.jar", work_dir=work_dir)
    assert "it is elsewhere" in task.refused(jar_path="../../../app.jar", work_dir=work_dir)


def test_a_jar_may_lie_in_a_volume(task: Task, tmp_path: Path) -> None:
    """jar_path may lead into a volume that Nomad mounts, but not out of it by a symlink."""
    (tmp_path / "host").mkdir()
    write_jar(tmp_path / "host/app.jar")
    (tmp_path / "host/out.jar").symlink_to("/etc/passwd")
    mounts = (Mount(str(tmp_path / "host"), "srv/apps/"), Mount("/none", "/srv"))
    task.launch = attrs.evolve(task.launch, mounts=mounts)
    assert task.resolve(jar_path="/srv/apps/app.jar").jar == "/srv/apps/app.jar"
    assert "symlink leads out" in task.refused(jar_path="/srv/apps/out.jar")
    assert "does not exist" in task.refused(jar_path="/srv/apps/none.jar")


@pytest.mark.parametrize(
    ("destination", "path"),
    [
        *((destination, "local/app.jar") for destination in ("/local", "/", ".", "local/")),
        *((destination, "/task/local/app.jar") for destination in ("/task", "/task/local", "/")),
    ],
)
def test_a_jar_below_a_volume_is_not_advised(
    task: Task, tmp_path: Path, destination: str, path: str
) -> None:
    """A JAR that a volume hides is not named as the one to set: the volume is the reason."""
    (tmp_path / "host").mkdir()
    write_jar(task.local / "app.jar")
    mounts = (Mount(str(tmp_path / "host"), destination),)
    task.launch = attrs.evolve(task.launch, mounts=mounts)
    text = task.refused(jar_path=path)
    assert "set jar_path to that" not in text
    assert "which hides the task's own directory" in text


def test_a_jar_in_no_volume_is_told_with_it(task: Task, tmp_path: Path) -> None:
    """The text says in which volume the JAR was looked for, and what local/ holds."""
    (tmp_path / "host").mkdir()
    write_jar(task.local / "app.jar")
    mounts = (Mount(str(tmp_path / "host"), "/srv"),)
    task.launch = attrs.evolve(task.launch, mounts=mounts)
    text = task.refused(jar_path="/srv/app.jar")
    assert "in the volume at /srv. There is a local/app.jar: set jar_path to that." in text


@pytest.mark.parametrize(
    ("target", "words"),
    [("/etc/shadow", "symlink leads out"), ("absent.jar", "a symlink to what is not there")],
)
def test_a_jar_that_is_a_symlink_is_not_advised(task: Task, target: str, words: str) -> None:
    """The path that was refused is not the one to set; the text says what is wrong with it."""
    (task.local / "app.jar").symlink_to(target)
    for path in ("local/app.jar", "/local/app.jar", "/task/local/app.jar"):
        text = task.refused(jar_path=path)
        assert words in text and "set jar_path" not in text


def test_an_executable_war_is_run(task: Task) -> None:
    """`java -jar` runs WARs too, if jar_path names one."""
    write_jar(task.local / "app.war")
    assert task.resolve(jar_path="local/app.war").jar == "/local/app.war"
    assert "app.war" in task.refused()


def test_a_path_of_very_many_parts_is_refused(task: Task) -> None:
    """The error for a path of thousands of components is as short as any other."""
    assert len(task.refused(jar_path="local/" + "a/" * 3000 + "x.jar")) < 500
