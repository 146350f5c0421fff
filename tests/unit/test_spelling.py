"""What `milo run` calls the keys of a job, in its options and in its messages."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from milo.cli.parser import build_parser
from milo.cli.parsing import commands_of, option_strings
from milo.core.config.options import options_of
from milo.core.config.spelling import PHRASES, in_options, option_of, words_in_options
from milo.core.config.task_options import TaskOptions
from milo.core.container.sysctls import check_network
from milo.core.java.application import check_jar_name
from milo.core.java.choice import candidates, parse_requirement
from milo.core.java.jar import JarInfo, missing_class, require_main_class
from milo.core.java.jvm_options import check_jvm_options
from milo.errors import ConfigError, CrunMissingError, MiloError
from tests.support import messages

ROOT = Path(__file__).parents[2]
JAR = "local/app.jar"


def test_every_key_has_an_argument() -> None:
    """An option, but for the JAR and the application's arguments."""
    known = {*option_strings(commands_of(build_parser())["run"]), "APP.JAR", "ARGUMENT"}
    assert {option_of(key) for key in options_of(TaskOptions)} <= known


@pytest.mark.parametrize(
    ("key", "problem", "expected"),
    [
        ("shm_size", 'with ipc_mode = "host" it is', '--shm-size: with --ipc-mode "host" it is'),
        ("mounts[0].source", "it is relative", "--volume: it is relative"),
        ("ulimit.nofile", "got 'x'", "--ulimit nofile: got 'x'"),
        ("jvm_options[1]", "two options", "--jvm-option: two options"),
        ("mount destination", "as it was", "--volume: as it was"),
        ("java_version", "'x' is none", "--java: 'x' is none"),
        ("--env", "as it was", "--env: as it was"),
    ],
)
def test_messages_name_options(key: str, problem: str, expected: str) -> None:
    """Where an option stands for the key; all else is as it was."""
    assert f"Invalid value for {expected}. Expected x" in in_options(ConfigError(key, problem, "x"))


JOBS_WORDS = re.compile(
    r"\b(jobs?|(?-i:artifact)|template|(?<!JMX )clients?|agent|operator|the plugin"
    r"|task's (user|memory)|element|set class|class in|[a-z]+_[a-z_]+)\b|(local|secrets)/",
    re.IGNORECASE,
)
"""Which nobody has typed, and a developer may never have heard."""
NEVER_TOLD = (
    # What the plugin's configuration forbids or has, and a driver alone calls.
    *("plugin's", "this host does not let jobs", "the client ", "user namespace"),
    *("propagation_mode", "of an artifact or template", "there is no such key"),
    *("The client has gone", "agent's working directory", "metrics.address"),
    # Milo has chosen the JAR's path.
    *("local/", "volume at", "APP.JAR …"),
    # The names are the kernel's, Maven's and the JDK's.
    *("oom_score_adj", "max_user_namespaces", "JAVA_VERSION", "is not permitted on"),
)


def test_no_message_names_what_a_job_has() -> None:
    """Of all that prepares and runs a task: who has typed options is told of these."""
    told = {
        words_in_options(message.pattern)
        for message in messages.collect()
        if message.module.startswith(("milo.task", "milo.core", "milo.errors"))
    }
    assert len(told) > 200
    found = [
        text
        for text in told
        if JOBS_WORDS.search(text) and not any(words in text for words in NEVER_TOLD)
    ]
    assert not found, "\n".join(found)


def test_each_phrase_is_told() -> None:
    """The words that are replaced stand in the code, and not only in the table."""
    code = "".join(
        ast.unparse(ast.parse(path.read_text()))
        for path in (ROOT / "milo").rglob("*.py")
        if path.name != "spelling.py"
    )
    texts = {code, *(message.pattern for message in messages.collect())}
    docs = {option.doc.replace("`", "") for option in options_of(TaskOptions).values()}
    stale = [told for told, _ in PHRASES if not any(told in text for text in texts | docs)]
    assert not stale


def test_help_names_no_keys_of_a_job() -> None:
    """All that ``milo run`` says of its options is said of options."""
    text = commands_of(build_parser())["run"].format_help().partition("further options")
    about, rest = " ".join(text[0].split()), " ".join(text[2].split())
    assert not JOBS_WORDS.search(about)
    rest = rest.partition("here all are permitted.")[2]
    # These are directories of the container, and the kernel's own names.
    for words in ("/local,", "/alloc/data,", "/secrets"):
        rest = rest.replace(words, "")
    assert JOBS_WORDS.findall(rest) == []


@pytest.mark.parametrize(
    ("told", "typed"),
    [
        (lambda: require_main_class(JarInfo(), JAR), "no Main-Class. Name the class to run, as in"),
        (lambda: missing_class(JAR, "Nope", by_manifest=False), "Nope, the class of --class, is"),
        (lambda: check_jar_name("local/App.class"), "got: App.class. Give the path of a JAR"),
        (lambda: check_jvm_options(["Xss1m"]), "stand after the JAR"),
        (lambda: check_jvm_options(["-Xss1m -Xmx1m"]), "Expected --jvm-option for each"),
        (lambda: check_jvm_options(["-jar"]), "the path of the JAR, and --class"),
        (lambda: check_jvm_options(["-cp"]), "Expected --class-path for that"),
        (lambda: candidates((), parse_requirement("99")), "Give another version with --java"),
        (lambda: CrunMissingError("/x"), "Install the package crun."),
        (lambda: check_network({"net.x": "1"}, "host"), "Expected --network none"),
    ],
)
def test_what_to_do_is_said_in_options(told: Callable[[], object], typed: str) -> None:
    """Instead of what the author of a job would do, and with the JAR's own name."""
    try:
        error = told()
    except MiloError as exc:
        error = exc
    assert isinstance(error, MiloError)
    text = in_options(error, JAR)
    assert typed in text and "local/" not in text and not JOBS_WORDS.search(text)


def test_help_loads_little() -> None:
    """Neither the event loop nor what prints tables: it is there at once."""
    code = (
        "import sys; from milo.cli.main import run_command; run_command(['--help']); "
        "sys.exit(bool({'trio', 'rich', 'difflib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0
