"""Programs that no one here wrote do under Milo what they do with plain ``java`` on the host."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import attrs
import pytest

from tests.support import artifacts, maven
from tests.support.jobs import job_file
from tests.support.nomad import Nomad


@attrs.frozen
class Program:
    """A program, what it is asked to do, and what both runs print."""

    jars: tuple[tuple[str, ...], ...]
    """Maven coordinates; the first one is run by ``-jar`` unless there is a class."""
    expected: str
    """A regular expression that the output holds, so that two equal failures are none."""
    args: tuple[str, ...] = ()
    """``{script}`` is the path of the program's input."""
    main_class: str = ""
    jvm_options: tuple[str, ...] = ()
    script: str = ""
    script_name: str = "input.txt"
    """In the working directory of the host's run, and in the task's local/."""
    memory: int = 256
    changing: str = ""
    """What differs from run to run, such as times."""


JDK_INTERNALS = tuple(
    f"--add-exports=jdk.compiler/com.sun.tools.javac.{name}=ALL-UNNAMED"
    for name in ("api", "code", "file", "parser", "tree", "util")
)

PROGRAMS = {
    # A language's interpreter of 27 MB, which compiles while it runs.
    "jruby": Program(
        (("org.jruby", "jruby-complete", "9.4.8.0"),),
        "^6\nlinux",
        args=("-e", "puts [1, 2, 3].sum; puts RbConfig::CONFIG['host_os']"),
        memory=512,
    ),
    # One that keeps a cache of what it found in its JARs.
    "jython": Program(
        (("org.python", "jython-standalone", "2.7.4"),),
        "^42",
        args=("-c", "print(6 * 7)"),
        memory=512,
    ),
    # A compiler that reads a file of the job's.
    "closure-compiler": Program(
        (("com.google.javascript", "closure-compiler", "v20240317"),),
        "console.log",
        args=("--js", "{script}"),
        script="var answer = 6 * 7; console.log(answer);",
        memory=512,
    ),
    # One that needs the JDK's internals, by options of the JVM.
    "google-java-format": Program(
        (("com.google.googlejavaformat", "google-java-format", "1.22.0", "all-deps"),),
        r"class A \{",
        args=("{script}",),
        jvm_options=JDK_INTERNALS,
        script="class   A{int x ;}",
        script_name="A.java",
    ),
    # Graphics without a screen.
    "plantuml": Program(
        (("net.sourceforge.plantuml", "plantuml", "1.2024.6"),),
        "PlantUML version 1.2024.6",
        args=("-version",),
        jvm_options=("-Djava.awt.headless=true",),
        changing=r"(Processor count|Max Memory|Free Memory|Used Memory|Total Memory"
        r"|Default Encoding|Language|Country|Thread Active Count|PLANTUML_LIMIT_SIZE"
        r"|Dot executable|Dot Graph|Installation|Local Host|Java Home|Command).*\n",
    ),
    # A database that makes its files in the working directory.
    "h2": Program(
        (("com.h2database", "h2", "2.2.224"),),
        "42",
        args=(
            *("-url", "jdbc:h2:./answers", "-user", "sa"),
            *("-sql", "create table t as select 6 * 7 as x; select x from t"),
        ),
        main_class="org.h2.tools.Shell",
        changing=r"\(?\d+ rows?, \d+ ms\)|\(Update count.*\)",
    ),
    # Native code, unpacked to the directory for temporary files and loaded from there.
    "jna": Program((("net.java.dev.jna", "jna", "5.14.0"),), "5.14.0"),
    # Another database, with its shell in a second JAR.
    "hsqldb": Program(
        (("org.hsqldb", "sqltool", "2.7.3"), ("org.hsqldb", "hsqldb", "2.7.3")),
        "42",
        args=(
            "--inlineRc=url=jdbc:hsqldb:file:./answers,user=SA,password=",
            "--sql=VALUES 6 * 7;",
        ),
        main_class="org.hsqldb.cmdline.SqlTool",
    ),
    # A class path of several JARs, with resources in one of them.
    "saxon": Program(
        (
            ("net.sf.saxon", "Saxon-HE", "12.4"),
            ("org.xmlresolver", "xmlresolver", "5.2.2"),
            ("org.xmlresolver", "xmlresolver", "5.2.2", "data"),
        ),
        "^42",
        args=("-qs:6 * 7", "!method=text"),
        main_class="net.sf.saxon.Query",
    ),
    # A build tool that starts another program and collects its output.
    "ant": Program(
        (("org.apache.ant", "ant", "1.10.14"), ("org.apache.ant", "ant-launcher", "1.10.14")),
        r"\[exec\] forty-two",
        args=("-f", "{script}"),
        main_class="org.apache.tools.ant.Main",
        script='<project default="x"><target name="x">'
        '<exec executable="java" failonerror="true" outputproperty="v" errorproperty="w">'
        '<arg value="-version"/></exec>'
        '<exec executable="/bin/echo" failonerror="true"><arg value="forty-two"/></exec>'
        "</target></project>",
        memory=384,
        changing=r"Total time: .*",
    ),
    # A language that compiles to classes which it loads at once.
    "clojure": Program(
        (
            ("org.clojure", "clojure", "1.11.3"),
            ("org.clojure", "spec.alpha", "0.3.218"),
            ("org.clojure", "core.specs.alpha", "0.2.62"),
        ),
        "^42",
        args=("-e", "(* 6 7)"),
        main_class="clojure.main",
    ),
    # A decompiler that reads classes of the JDK's own.
    "cfr": Program(
        (("org.benf", "cfr", "0.152"),), "interface Runnable", args=("java.lang.Runnable",)
    ),
}


def fetched(program: Program) -> list[Path]:
    """Return the program's JARs; skips where they cannot be had."""
    try:
        return [maven.fetch(*coordinates) for coordinates in program.jars]
    except maven.NotObtainableError as error:
        pytest.skip(str(error))


def on_the_host(program: Program, jars: list[Path], directory: Path) -> tuple[int, str]:
    """Run the program with the host's ``java``; return its exit code and output."""
    script = directory / program.script_name
    script.write_text(program.script)
    command = ["java", *program.jvm_options]
    if program.main_class:
        command += ["-cp", ":".join(map(str, jars)), program.main_class]
    else:
        command += ["-jar", str(jars[0])]
    command += [argument.replace("{script}", str(script)) for argument in program.args]
    done = subprocess.run(
        command, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=120
    )
    return done.returncode, done.stdout.decode()


def under_milo(
    program: Program, jars: list[Path], nomad: Nomad, url: str, java_version: str
) -> tuple[int, str]:
    """Run the program as a job; return its exit code and output."""
    paths = [f"local/{jar.name}" for jar in jars]
    config: dict[str, object] = {
        "args": [
            argument.replace("{script}", f"${{NOMAD_TASK_DIR}}/{program.script_name}")
            for argument in program.args
        ],
        "java_version": java_version,
    }
    if program.jvm_options:
        config["jvm_options"] = list(program.jvm_options)
    if program.main_class:
        config |= {"class": program.main_class, "class_path": ":".join(paths)}
    else:
        config["jar_path"] = paths[0]
    blocks = [f'artifact {{\nsource = "{url}/{jar.name}"\n}}' for jar in jars]
    if program.script:
        blocks.append(
            f"template {{\ndata = <<END\n{program.script}\nEND\n"
            f'destination = "local/{program.script_name}"\n}}'
        )
    job = nomad.run(job_file(config=config, task="\n".join(blocks), memory=program.memory))
    job.wait_state("dead")
    code = job.exit_code()
    assert code == 0, (job.events(), job.logs("-stderr").decode()[-2000:])
    return code, job.logs().decode()


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str, nomad: Nomad, tmp_path: Path) -> None:
    """It ends with the same exit code, and prints the same, as on the host."""
    program = PROGRAMS[name]
    jars = fetched(program)
    told = subprocess.run(["java", "-version"], capture_output=True, text=True).stderr
    major = re.search(r'version "(?:1\.)?(\d+)', told)
    assert major is not None, told
    expected_code, expected = on_the_host(program, jars, tmp_path)
    with artifacts.serve(maven.CACHE) as url:
        code, output = under_milo(program, jars, nomad, url, major[1])
    assert re.search(program.expected, output, re.MULTILINE), output

    def lasting(text: str) -> str:
        text = re.sub(program.changing, "", text) if program.changing else text
        return text.replace(os.fspath(tmp_path), "/local")

    assert (code, lasting(output)) == (expected_code, lasting(expected))
