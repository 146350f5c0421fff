"""How ``milo run`` spells the keys of a job's config, and what is said of them. Pure.

What prepares and runs a task speaks to the author of a job. A person who has typed ``milo run`` has
no job, and no client with an operator: here is all that such a person is told in other words. A
test holds every message to it.
"""

from __future__ import annotations

import functools
import os
import re
from typing import Final

from milo.core.config.options import options_of
from milo.core.config.task_options import TaskOptions
from milo.errors import ConfigError, MiloError

SPELT_OTHERWISE: Final = {
    "jar_path": "APP.JAR",
    "args": "ARGUMENT",
    "class": "--class",
    "jvm_options": "--jvm-option",
    "mounts": "--volume",
    "cpu_hard_limit": "--cpus",
}
"""Keys that ``milo run`` has arguments of its own for, and these."""
ALSO: Final = {
    "work_dir": ("-w", "--workdir"),
    "pid_mode": ("--pid",),
    "ipc_mode": ("--ipc",),
    "extra_hosts": ("--add-host",),
}
"""As docker and podman spell the options of some keys."""

SHOWN: Final = {"java_version": "--java", "java_home": "--java"}
"""Keys that another option stands for, too, which is the one to tell of."""
PHRASES: Final = (
    # Of errors.
    (" (a checksum in the job's artifact block finds this early)", ""),
    (
        "Set class and class_path in the job's config, with which no JAR is looked into, or split "
        "it",
        "Split it",
    ),
    (
        "Set class in the job's config to the class to run",
        "Name the class to run, as in --class com.example.App",
    ),
    ("the class of the job's config", "the class of --class"),
    ("name that place in class_path", "name that place with --class-path"),
    (
        "Expected a jar_path that ends in .jar or .war: name the JAR there, or rename the file, "
        "for example by the artifact's destination",
        "Give the path of a JAR, or rename the file",
    ),
    (
        "Change java_version, constrain the job to clients that have it (attribute "
        "driver.milo.java.versions), or install it on the host",
        "Give another version with --java, or install it on this host",
    ),
    ("java_home is ", "--java-home is "),
    ("Change one of the two", "Leave one of the two out"),
    (
        "with java_version or java_home, or remove both from the job's config",
        "with --java, or leave --java out",
    ),
    (
        " nor a path in the task's local/, secrets/ or /alloc/. The operator of the client adds "
        "one by installing it below /usr/lib/jvm or /opt",
        ". Give a version, or the directory of a complete JDK",
    ),
    (" is neither a Java that", " is no Java that"),
    (", in the task's local/, secrets/ or /alloc/, where an artifact block unpacks it to", ""),
    ("the job's java_home", "as --java says"),
    (", where an artifact block downloads it to", ""),
    ("what the job brings", "what it is to run"),
    ("is more than Nomad's agent on this client may give", "is more than you may give here"),
    ("other capabilities, or a client that has it", "other capabilities"),
    ('a network block with mode = "bridge" or "none" in the group', "--network none"),
    ("or set the task's user to another", "or name another with --user"),
    ("another path for one of the job's mounts", "another path for one of the volumes"),
    ("mount of the job", "of the volumes"),
    ("or by another artifact block", "say"),
    (
        "class_path has no effect beside jar_path alone",
        "--class-path has no effect without --class",
    ),
    (
        "class_path only together with class, the class to run",
        "--class-path only together with --class",
    ),
    ("the key class_path for that", "--class-path for that"),
    ("the keys jar_path and class for that", "the path of the JAR, and --class, for that"),
    (
        'words that begin with "-" (or "@", for a file of options), one for each element of the '
        "list; arguments of the application belong into args",
        'a word that begins with "-" (or "@", for a file of options), as in --jvm-option -Xss1m; '
        "arguments of the application stand after the JAR",
    ),
    ("its value as the next element", "its value by another --jvm-option"),
    ("an element for each", "--jvm-option for each"),
    ("two elements", "--jvm-option for each"),
    ("heap of the JVM, not the task's memory limit", "heap of the JVM, not --memory"),
    (", or set crun_path in the plugin's configuration", ""),
    ("Free space there, or set state_dir", "Free space there"),
    # Of options.
    ("Class path for class,", "Class path for --class,"),
    ("the JAR of jar_path", "APP.JAR"),
    (", of those that the plugin's allow_caps holds", ""),
    ('cap_add = ["all"]', "--cap-add all"),
    ("; it has to be one that the plugin's configuration names", ""),
    (", up to the plugin's pids_limit", ""),
    (", or one that came with the task in local/, secrets/ or /alloc/", ""),
    ("an event names the file", "the file is kept, and named at the end"),
    # Of both.
    ("local/, secrets/ or /alloc/", "a directory that you may read"),
    ("a profile on the client", "a profile"),
    ("(JSON) on the client", "(JSON)"),
    ("the task's memory", "--memory"),
    ("the task's user", "--user"),
    ("of the client", "of this host"),
    ("on the client", "on this host"),
    ("this client", "this host"),
)
"""What the author of a job is told, and what a person who has typed options."""

_KEY: Final = re.compile(r"([a-z_]+)(?:\[[0-9]+\])?(?:\.(.*))?", re.DOTALL)


def option_of(key: str) -> str:
    """Return the argument that stands for a key of a job."""
    return SPELT_OTHERWISE.get(key) or "--" + key.replace("_", "-")


def in_options(error: MiloError, jar: str = "") -> str:
    """Return an error's text for who has typed options: it names these in place of keys.

    ``jar`` is the JAR's path in the container, which only Milo has chosen.
    """
    return words_in_options(
        str(option_error(error) if isinstance(error, ConfigError) else error), jar
    )


def option_error(error: ConfigError) -> ConfigError:
    """Return the error of an option for that of a key."""
    problem, expected = words_in_options(error.problem), words_in_options(error.expected)
    return ConfigError(_shown_key(error.key), problem, expected)


def _shown_key(key: str) -> str:
    if key == "mount destination":
        return SPELT_OTHERWISE["mounts"]
    match = _KEY.fullmatch(key)
    if match is None or match[1] not in options_of(TaskOptions):
        return key
    name = SHOWN.get(match[1]) or option_of(match[1])
    return f"{name} {match[2]}" if match[2] and match[1] != "mounts" else name


@functools.cache
def _keys() -> re.Pattern[str]:
    """Return what finds the keys in a text: with a value, or where no other word is like them."""
    keys = "|".join(options_of(TaskOptions))
    long_keys = "|".join(key for key in options_of(TaskOptions) if "_" in key)
    return re.compile(rf'\b({keys}) = (?=["0-9a-z])|(?<![\w-])({long_keys})\b')


def _option_in_place(found: re.Match[str]) -> str:
    key = found[1] or found[2]
    return (SHOWN.get(key) or option_of(key)) + (" " if found[1] else "")


def words_in_options(text: str, jar: str = "") -> str:
    """Return a sentence that names options in place of keys; see `in_options`."""
    for told, typed in PHRASES:
        text = text.replace(told, typed)
    text = _keys().sub(_option_in_place, text)
    if jar:
        text = re.sub(
            rf"(?<![\w/])/?{re.escape(jar)}", os.path.basename(jar).replace("\\", r"\\"), text
        )
    return text
