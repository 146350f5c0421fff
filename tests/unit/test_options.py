"""The configuration of task and plugin."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo.core.config.durations import parse_duration
from milo.core.config.options import Option, option, options_of, read_block
from milo.core.config.plugin_options import (
    MAX_STATE_DIR_BYTES,
    Metrics,
    PluginOptions,
    Volumes,
    parse_plugin_options,
)
from milo.core.config.task_options import JobMount, TaskOptions
from milo.core.config.values import (
    MAX_ARGUMENT_BYTES,
    block,
    blocks,
    directory,
    duration,
    flag,
    one_of,
    pairs,
    size,
    texts,
    whole_number,
)
from milo.errors import ConfigError
from tests.support.configs import accepted

PLUGIN = PluginOptions()
TASK_KEYS = options_of(TaskOptions)
PLUGIN_KEYS = options_of(PluginOptions)


def refused(config: dict[str, object], plugin: PluginOptions = PLUGIN) -> ConfigError:
    """Return the error for a job's config."""
    with pytest.raises(ConfigError) as caught:
        accepted(config, plugin)
    return caught.value


def refused_plugin(config: dict[str, object]) -> ConfigError:
    """Return the error for the plugin's config."""
    with pytest.raises(ConfigError) as caught:
        parse_plugin_options(config)
    return caught.value


def test_keys_that_are_not_given_have_their_defaults() -> None:
    """Nomad sends null for each key of the schema that the job does not give."""
    assert accepted(dict.fromkeys(TASK_KEYS), PLUGIN) == TaskOptions()
    assert accepted({}, PLUGIN) == TaskOptions()
    assert parse_plugin_options(dict.fromkeys(PLUGIN_KEYS)) == PluginOptions()


def test_every_key_of_the_task_reaches_its_field() -> None:
    """A job that gives every key gets every value."""
    config = {
        "jar_path": "local/app.jar",
        "class": "com.example.Main$Inner",
        "class_path": "local/lib/*",
        "args": ["--port", "8080", ""],
        "jvm_options": ["-Xmx64m", "@/local/jvm.args"],
        "log_overflow": "block",
        "log_block_timeout": "1m30s",
        "cpu_hard_limit": True,
        "rootfs": "minimal",
        "work_dir": "/local/work",
        "mounts": [{"source": "/srv//data", "target": "/data"}],
        "cap_add": ["net_bind_service"],
        "cap_drop": ["all"],
        "seccomp_profile": "unconfined",
        "ulimit": [{"nofile": "2048:4096"}],
        "sysctl": [{"net.core.somaxconn": "16384"}],
        "shm_size": "256m",
        "pids_limit": 100,
        "pid_mode": "host",
        "ipc_mode": "private",
        "init": True,
        "heap_percent": 70,
        "heap_dump_on_oom": True,
        "dump_on_kill": False,
        "flight_recorder": True,
        "java_version": ">= 17",
        "java_home": "local/jdk",
        "extra_hosts": ["db:192.0.2.7"],
        "hostname": "web",
        "startup_cache": "auto",
    }
    assert set(config) == set(TASK_KEYS)
    plugin = PluginOptions(
        allow_seccomp_profiles=("unconfined",),
        default_ipc_mode="host",
        allow_host_namespaces=True,
        allow_caps_with_host_namespaces=("net_bind_service",),
        volumes=Volumes(enabled=True),
    )
    assert accepted(config, plugin) == TaskOptions(
        jar_path="local/app.jar",
        main_class="com.example.Main$Inner",
        class_path="local/lib/*",
        args=("--port", "8080", ""),
        jvm_options=("-Xmx64m", "@/local/jvm.args"),
        log_block_timeout_s=90.0,
        cpu_hard_limit=True,
        rootfs="minimal",
        work_dir="/local/work",
        mounts=(JobMount("/srv/data", "/data"),),
        cap_add=("net_bind_service",),
        cap_drop=("all",),
        seccomp_profile="unconfined",
        ulimit={"RLIMIT_NOFILE": (2048, 4096)},
        sysctl={"net.core.somaxconn": "16384"},
        shm_size_bytes=256 * 1024 * 1024,
        pids_limit=100,
        pid_mode="host",
        ipc_mode="private",
        init=True,
        heap_percent=70,
        startup_cache="auto",
        heap_dump_on_oom=True,
        dump_on_kill=False,
        flight_recorder=True,
        java_version=">= 17",
        java_home="local/jdk",
        extra_hosts=("db:192.0.2.7",),
        hostname="web",
    )


def test_every_key_of_the_plugin_reaches_its_field() -> None:
    """An agent that gives every key gets every value, directories without needless slashes."""
    config = {
        "java_home": "/opt//jdk-21/",
        "crun_path": "/usr/local/bin/crun",
        "state_dir": "/var/lib/milo",
        "allow_root": True,
        "log_overflow": "drop",
        "log_block_timeout": "0s",
        "rootfs": "minimal",
        "volumes": [{"enabled": True, "paths": ["/srv//data/"]}],
        "allow_caps": [],
        "allow_caps_with_host_namespaces": ["all"],
        "default_pid_mode": "private",
        "default_ipc_mode": "private",
        "allow_host_namespaces": True,
        "allow_host_ipc": True,
        "allow_users_with_host_namespaces": ["root", "app:app"],
        "insecure_java_driver_privileges": True,
        "seccomp_profile": "/etc/milo/seccomp.json",
        "allow_seccomp_profiles": ["unconfined"],
        "pids_limit": 100,
        "startup_cache": "auto",
        "cache_dir": "/srv//cache",
        "cache_size": "2g",
        "userns": True,
        "metrics": {"address": "0.0.0.0:9464", "allow_other_hosts": True},
    }
    assert set(config) == set(PLUGIN_KEYS)
    assert parse_plugin_options(config) == PluginOptions(
        java_home="/opt/jdk-21",
        crun_path="/usr/local/bin/crun",
        state_dir="/var/lib/milo",
        allow_root=True,
        log_overflow="drop",
        log_block_timeout_s=0.0,
        rootfs="minimal",
        volumes=Volumes(enabled=True, paths=("/srv/data",)),
        allow_caps=(),
        allow_caps_with_host_namespaces=("all",),
        default_pid_mode="private",
        default_ipc_mode="private",
        allow_host_namespaces=True,
        allow_host_ipc=True,
        allow_users_with_host_namespaces=("root", "app:app"),
        insecure_java_driver_privileges=True,
        seccomp_profile="/etc/milo/seccomp.json",
        allow_seccomp_profiles=("unconfined",),
        pids_limit=100,
        startup_cache="auto",
        cache_dir="/srv/cache",
        cache_size_bytes=2 << 30,
        userns=True,
        metrics=Metrics("0.0.0.0:9464", True),
    )


def test_the_plugin_gives_the_log_defaults_of_its_tasks() -> None:
    """A job that says nothing about overflow takes the plugin's; one that does has its own."""
    plugin = PluginOptions(log_overflow="drop", log_block_timeout_s=5.0)
    assert accepted({}, plugin).log_overflow == "drop"
    own = accepted({"log_overflow": "block"}, plugin)
    assert (own.log_overflow, own.log_block_timeout_s) == ("block", 5.0)


def test_an_unknown_key_is_refused_with_the_known_ones() -> None:
    """The error names the key and lists all that there are."""
    error = refused({"jarpath": "x.jar"})
    assert error.key == "jarpath"
    assert all(key in str(error) for key in TASK_KEYS)
    assert refused_plugin({"javahome": "/x"}).key == "javahome"


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"jar_path": 7}, "jar_path"),
        ({"jar_path": b"local/app.jar"}, "jar_path"),
        ({"jar_path": ["local/app.jar"]}, "jar_path"),
        ({"args": "one"}, "args"),
        ({"args": {"a": "b"}}, "args"),
        ({"args": ["a", None]}, "args[1]"),
        ({"args": ["a", 1]}, "args[1]"),
        ({"jvm_options": [True]}, "jvm_options[0]"),
        ({"cpu_hard_limit": 1}, "cpu_hard_limit"),
        ({"cpu_hard_limit": "true"}, "cpu_hard_limit"),
        ({"log_block_timeout": 30}, "log_block_timeout"),
        ({"log_overflow": False}, "log_overflow"),
        ({3: "x"}, "3"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(config: dict[str, object], key: str) -> None:
    """What only hand-made msgpack can hold is an error that names the key."""
    assert refused(config).key == key


def texts_of(keys: Mapping[str, Option]) -> dict[str, object]:
    """Return an empty text for each key that holds one."""
    return {key: "" for key, option in keys.items() if option.value.hcl == "string"}


def test_an_empty_text_is_a_key_that_is_not_set() -> None:
    """That is what a variable without a value gives; so it is under Nomad's java driver."""
    assert len(texts_of(TASK_KEYS)) > 12
    plugin = PluginOptions(rootfs="minimal", log_overflow="drop", pids_limit=7)
    assert accepted(texts_of(TASK_KEYS), plugin) == accepted({}, plugin)
    assert parse_plugin_options(texts_of(PLUGIN_KEYS)) == PluginOptions()


def test_what_is_empty_in_lists_and_blocks_is_not_set_either() -> None:
    """But for the application's arguments, where an empty one is one."""
    config: dict[str, object] = {
        "args": ["", "x", ""],
        "cap_add": ["", "net_bind_service"],
        "cap_drop": [""],
        "extra_hosts": ["", "db:10.0.0.5"],
        "ulimit": [{"nofile": "", "core": "0"}],
        "sysctl": [{"kernel.sem": ""}],
        "mounts": [{"source": "/a", "target": "/b", "propagation": ""}],
    }
    plugin = PluginOptions(volumes=Volumes(enabled=True))
    assert accepted(config, plugin) == TaskOptions(
        args=("", "x", ""),
        cap_add=("net_bind_service",),
        extra_hosts=("db:10.0.0.5",),
        ulimit={"RLIMIT_CORE": (0, 0)},
        mounts=(JobMount("/a", "/b"),),
    )
    assert refused({"mounts": [{"source": "/a", "target": ""}]}).key == "mounts[0].target"
    plugin = parse_plugin_options(
        {"allow_caps": [""], "allow_seccomp_profiles": [""], "volumes": {"paths": ["", "/srv"]}}
    )
    assert plugin == PluginOptions(allow_caps=(), volumes=Volumes(paths=("/srv",)))


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"mounts": [{"source": "/a"}]}, "mounts[0].target"),
        ({"mounts": [{"source": "/a", "target": "/b"}, {"target": "/b"}]}, "mounts[1].source"),
        ({"mounts": [{"source": "a", "target": "/b"}]}, "mounts[0].source"),
        ({"mounts": [{"source": 1, "target": "/b"}]}, "mounts[0].source"),
        ({"mounts": [{"source": "/a", "target": "/b", "readonly": 1}]}, "mounts[0].readonly"),
        ({"mounts": [{"source": "/", "propagation": "x", "target": "/b"}]}, "mounts[0].source"),
        (
            {"mounts": [{"source": "/a", "target": "/b", "propagation": "x"}]},
            "mounts[0].propagation",
        ),
        ({"mounts": [{"source": "/a", "target": "/b", "x": "y"}]}, "mounts[0].x"),
        ({"mounts": ["x"]}, "mounts[0]"),
        ({"mounts": "x"}, "mounts"),
        ({"ulimit": ["x"]}, "ulimit"),
        ({"ulimit": [{"nofile": 1}]}, "ulimit.nofile"),
        ({"sysctl": [{"kernel.sem": "1"}, {"kernel.sem": "2"}]}, "sysctl.kernel.sem"),
        ({"cap_add": ["chown", 7]}, "cap_add[1]"),
        ({"extra_hosts": ["a:::1", "b"]}, "extra_hosts[1]"),
        ({"heap_percent": 96}, "heap_percent"),
        ({"heap_percent": "60"}, "heap_percent"),
    ],
)
def test_an_error_of_a_job_names_the_whole_key(config: dict[str, object], key: str) -> None:
    """Wherever in a block or list the value stands."""
    assert refused(config).key == key


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"volumes": {"paths": ["a"]}}, "volumes.paths[0]"),
        ({"volumes": {"paths": ["/a", 1]}}, "volumes.paths[1]"),
        ({"volumes": {"paths": "/a"}}, "volumes.paths"),
        ({"volumes": {"enabled": "yes"}}, "volumes.enabled"),
        ({"volumes": {"x": 1}}, "volumes.x"),
        ({"volumes": [{}, {}]}, "volumes"),
        ({"volumes": 1}, "volumes"),
        ({"allow_caps": ["fly"]}, "allow_caps[0]"),
        ({"pids_limit": 0}, "pids_limit"),
        ({"pids_limit": True}, "pids_limit"),
        ({"rootfs": "own"}, "rootfs"),
    ],
)
def test_an_error_of_the_plugin_names_the_whole_key(config: dict[str, object], key: str) -> None:
    """In its block too."""
    assert refused_plugin(config).key == key


@attrs.frozen
class Inner:
    """A block of every kind of value."""

    words: tuple[str, ...] = attrs.field(default=(), metadata=option(texts(), doc="."))
    word: str = attrs.field(default="", metadata=option(one_of("a", "b"), doc="."))
    yes: bool = attrs.field(default=False, metadata=option(flag(), doc="."))
    number: int = attrs.field(default=1, metadata=option(whole_number(1, 2), doc="."))
    named: dict[str, str] = attrs.field(factory=dict, metadata=option(pairs(), doc="."))
    wait_s: float = attrs.field(default=0.0, metadata=option(duration("a time"), doc="."))
    room: int = attrs.field(default=1, metadata=option(size("a size"), doc="."))
    place: str = attrs.field(default="", metadata=option(directory("a place"), doc="."))


@attrs.frozen
class Outer:
    """A block with others in it."""

    one: Inner = attrs.field(factory=Inner, metadata=option(block(Inner), doc="."))
    many: tuple[Inner, ...] = attrs.field(default=(), metadata=option(blocks(Inner), doc="."))


@pytest.mark.parametrize(
    ("key", "value", "at"),
    [
        *(("words", "x", ""), ("words", [7], "[0]"), ("word", "c", ""), ("word", 7, "")),
        *(("yes", 1, ""), ("number", 3, ""), ("number", "1", ""), ("named", 7, "")),
        *(("named", {"a": 7}, ".a"), ("wait_s", "soon", ""), ("wait_s", "-1s", "")),
        *(("room", "much", ""), ("room", "0", ""), ("place", "x", ""), ("place", "/..", "")),
        *(("word", "\0", ""), ("place", "\ud800", ""), ("other", "x", "")),
    ],
)
def test_every_kind_of_value_names_the_whole_key(key: str, value: object, at: str) -> None:
    """A block's name, and its number where there may be several, stand before a key in it."""
    for config, name in (({"one": {key: value}}, "one"), ({"many": [{}, {key: value}]}, "many[1]")):
        with pytest.raises(ConfigError) as caught:
            read_block(Outer, config)
        assert caught.value.key == f"{name}.{key}{at}"


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"jar_path": "a\0.jar"}, "jar_path"),
        ({"args": ["fine", "a\0b"]}, "args[1]"),
        ({"jvm_options": ["-Da=\0"]}, "jvm_options[0]"),
    ],
)
def test_a_nul_is_refused(config: dict[str, object], key: str) -> None:
    """No command line can hold a NUL."""
    error = refused(config)
    assert error.key == key
    assert "NUL" in str(error)


def test_an_argument_has_the_length_that_linux_allows() -> None:
    """The longest possible argument passes and one more byte is refused."""
    accepted({"args": ["ü" * (MAX_ARGUMENT_BYTES // 2)]}, PLUGIN)
    assert refused({"args": ["ü" * (MAX_ARGUMENT_BYTES // 2 + 1)]}).key == "args[0]"
    assert "Unicode" in str(refused({"args": ["\ud800"]}))


def test_a_class_path_alone_is_refused() -> None:
    """Nothing would use it; beside jar_path it is taken, as by Nomad's java driver."""
    error = refused({"class_path": "local/lib/*"})
    assert error.key == "class_path"
    assert "class_path only together with class" in str(error)
    accepted({"jar_path": "local/a.jar", "class_path": "local/lib/*"}, PLUGIN)


@pytest.mark.parametrize("words", [["-cp", "lib/*"], ["-classpath", "x"], ["--class-path=x"]])
def test_options_may_set_the_class_path_where_no_key_does(words: list[str]) -> None:
    """With class alone the launcher takes it from there, as with Nomad's java driver."""
    options = accepted({"class": "Main", "jvm_options": [*words, "-ea"]}, PLUGIN)
    assert options.jvm_options == (*words, "-ea")
    for key in ("class_path", "jar_path"):
        with_key: dict[str, object] = {"class": "Main", "jvm_options": words}
        assert refused(with_key | {key: "local/a.jar"}).key == "jvm_options[0]"
    assert refused({"class": "Main", "jvm_options": ["-cp"]}).key == "jvm_options[0]"


def test_a_timeout_for_logs_that_never_wait_is_refused() -> None:
    """log_overflow "drop" and log_block_timeout exclude each other, whoever chose "drop"."""
    assert refused({"log_overflow": "drop", "log_block_timeout": "5s"}).key == "log_block_timeout"
    dropping = PluginOptions(log_overflow="drop")
    assert refused({"log_block_timeout": "5s"}, dropping).key == "log_block_timeout"
    accepted({"log_overflow": "block", "log_block_timeout": "5s"}, dropping)


@pytest.mark.parametrize("value", ["Block", "ignore", "block "])
def test_log_overflow_has_two_values(value: str) -> None:
    """Anything else names both."""
    assert '"block" or "drop"' in str(refused({"log_overflow": value}))
    assert refused_plugin({"log_overflow": value}).key == "log_overflow"


@pytest.mark.parametrize(
    "value", ["30", "-1s", "1 s", "s", "1d", "soon", "1m30", "1.2.3s", "9" * 300]
)
def test_a_timeout_that_is_no_duration_is_refused(value: str) -> None:
    """The error names the key and shows what a duration looks like."""
    error = refused({"log_block_timeout": value})
    assert error.key == "log_block_timeout"
    assert '"1m30s"' in str(error)
    assert len(str(error)) < 400


@pytest.mark.parametrize(
    "options",
    [
        ["-Xmx64m", "-Dkey=some value", "-XX:+UseSerialGC"],
        ["--add-opens", "java.base/java.lang=ALL-UNNAMED", "-ea"],
        ["--add-modules=jdk.httpserver", "-p", "/local/mods"],
        ["@/local/jvm.args"],
    ],
)
def test_options_of_the_jvm_pass(options: list[str]) -> None:
    """Options begin with a dash or an at sign; some take the element after them."""
    assert accepted({"jvm_options": options}, PLUGIN).jvm_options == tuple(options)


@pytest.mark.parametrize(
    ("options", "index", "words"),
    [
        (["-Xmx64m", "Main"], 1, "main class"),
        ([""], 0, "main class"),
        (["-"], 0, "main class"),
        (["-Xmx64m", " -ea"], 1, "main class"),
        (["-ea", "value"], 1, "main class"),
        (["-cp", "/local"], 0, "class_path"),
        (["--class-path=/local"], 0, "class_path"),
        (["-jar", "/local/x.jar"], 0, "jar_path"),
        (["-m", "mod/Main"], 0, "jar_path"),
        (["--module=mod/Main"], 0, "jar_path"),
        (["--add-opens"], 0, "needs a value"),
    ],
)
def test_what_java_would_misread_is_refused(options: list[str], index: int, words: str) -> None:
    """An element that is no option, or one that chooses what runs, says what to do instead."""
    error = refused({"jvm_options": options})
    assert error.key == f"jvm_options[{index}]"
    assert words in str(error)


@pytest.mark.parametrize(
    ("option", "elements"),
    [
        ("-Xmx1g -Xms1g", '"-Xmx1g", "-Xms1g"'),
        ("-Xmx1g\n-Xms1g\n", '"-Xmx1g", "-Xms1g"'),
        ("-XX:+UseG1GC  -XX:MaxRAMPercentage=70 -ea", '"-XX:MaxRAMPercentage=70", "-ea"'),
        ("-ea -Dmode=batch", '"-ea", "-Dmode=batch"'),
        ("-Dmode -Xmx1g", '"-Dmode", "-Xmx1g"'),
        ("-XX:HeapDumpPath=/alloc/data -Xmx1g", '"-XX:HeapDumpPath=/alloc/data", "-Xmx1g"'),
        ("-Xlog:gc:file=/tmp/gc.log -verbose:gc", '"-verbose:gc"'),
        ("-javaagent:/local/a.jar -Dx=y", '"-javaagent:/local/a.jar", "-Dx=y"'),
        ("-Xms1g @/local/jvm.args", '"-Xms1g", "@/local/jvm.args"'),
        ("@/local/jvm.args -Xmx1g", '"@/local/jvm.args", "-Xmx1g"'),
        ("-Xmx1g --enable-preview", '"-Xmx1g", "--enable-preview"'),
        ("-XX:+ExitOnOutOfMemoryError -javaagent:/a.jar=x", '"-javaagent:/a.jar=x"'),
        ("--add-opens java.base/java.lang=ALL-UNNAMED", '"--add-opens", "java.base/java.lang=ALL'),
        ("-cp /local/lib/*", '"-cp", "/local/lib/*"'),
        ("-jar /local/x.jar", '"-jar", "/local/x.jar"'),
    ],
)
def test_two_options_in_one_element_are_refused(option: str, elements: str) -> None:
    """The JVM would take them for one; the error shows how they are written."""
    error = refused({"jvm_options": ["-Xss1m", option]})
    assert error.key == "jvm_options[1]"
    assert elements in error.expected
    value: dict[str, object] = {"jvm_options": ["--add-opens", "a/b=c --add-opens d/e=f"]}
    assert refused(value).key == "jvm_options[1]"


@pytest.mark.parametrize(
    "options",
    [
        ["-Dname=a b"],
        ["-Dname=a -b"],
        ["-Dmaven.args=-Xmx1g -Dx=y -ea"],
        ["-XX:OnOutOfMemoryError=kill -9 %p"],
        ["-XX:OnError=gcore -o /alloc/data/core %p; java -Xmx1g -cp x Y"],
        ["-XX:CompileCommand=exclude java/lang/String indexOf"],
        ["-XX:HeapDumpPath=/alloc/data/my dumps"],
        ["-XX:HeapDumpPath=/alloc/data/a -b"],
        ["-Xlog:gc*:file=/alloc/data/my gc.log"],
        ["-javaagent:/local/agent.jar=out=/tmp/a -Xmx1g"],
        ["-agentlib:hprof=file=/tmp/a b"],
        ["@/local/my jvm.args"],
        ["--add-opens", "java.base/java.lang=ALL-UNNAMED"],
        ["--module-path", "/local/my mods"],
        ["-Xmx1g "],
    ],
)
def test_a_blank_in_a_value_is_the_values(options: list[str]) -> None:
    """Free text, commands and paths hold what they hold."""
    assert accepted({"jvm_options": options}).jvm_options == tuple(options)


def test_a_class_path_with_a_blank_is_one() -> None:
    """As the next element it is whatever it is."""
    config: dict[str, object] = {"class": "Main", "jvm_options": ["-cp", "/local/a b.jar", "-ea"]}
    assert accepted(config).jvm_options[1] == "/local/a b.jar"


@pytest.mark.parametrize(
    "name", ["-jar", "Main.class", "src/Main.java", "a/B", "a..B", "a b", ".A"]
)
def test_what_names_no_class_is_refused(name: str) -> None:
    """A file, an option or a path in the key class is an error that shows a right one."""
    error = refused({"class": name})
    assert error.key == "class"
    assert "com.example.Main" in str(error)


@pytest.mark.parametrize("name", ["Main", "com.example.Main", "com.example.Outer$Inner", "ü.Größe"])
def test_class_names_pass(name: str) -> None:
    """Names of classes, nested ones and those beyond ASCII are taken as they are."""
    assert accepted({"class": name}, PLUGIN).main_class == name


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"java_home": "jdk"}, "relative"),
        ({"java_home": "/opt/../root"}, '".."'),
        ({"state_dir": "run/milo"}, "relative"),
        ({"state_dir": "/"}, "root directory"),
        ({"state_dir": "/x\0"}, "NUL"),
        ({"crun_path": "bin/crun"}, "relative"),
        ({"allow_root": "yes"}, "true or false"),
        ({"log_block_timeout": "-1s"}, "negative"),
    ],
)
def test_a_wrong_value_of_the_plugin_is_refused(config: dict[str, object], words: str) -> None:
    """The error names the key and the problem."""
    error = refused_plugin(config)
    assert error.key == next(iter(config))
    assert words in str(error)


def test_the_state_directory_leaves_room_for_its_sockets() -> None:
    """The longest directory gives a socket path of 107 bytes; one more byte is refused."""
    longest = "/" + "s" * (MAX_STATE_DIR_BYTES - 1)
    state_dir = parse_plugin_options({"state_dir": longest}).state_dir
    assert len(f"{state_dir}/{'x' * 16}/control.sock") == 107
    assert "108" in str(refused_plugin({"state_dir": longest + "s"}))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0), ("0s", 0), ("30s", 30), ("1m30s", 90), ("1.5h", 5400), (".5s", 0.5), ("5.s", 5),
        ("100ms", 0.1), ("1us", 1e-6), ("1µs", 1e-6), ("1μs", 1e-6), ("7ns", 7e-9),
        ("-1m", -60), ("+2s", 2), ("1h1m1s", 3661), ("0.0000000001s", 0),
        ("2540400h10m10s", 9145440610),
    ],
)  # fmt: skip
def test_durations_are_those_of_go(text: str, seconds: float) -> None:
    """Numbers with units add up, as in Go's time.ParseDuration."""
    assert parse_duration(text) == pytest.approx(seconds, abs=0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "+",
        "3",
        ".",
        ".s",
        "1",
        "1x",
        "1s2",
        "--1s",
        "1 s",
        "1S",
        "2562048h",
        "٣s",
        "1e3s",
        "0x1s",
    ],
)
def test_what_go_does_not_parse_is_refused(text: str) -> None:
    """Missing units, unknown ones and values beyond 64 bits are errors."""
    with pytest.raises(ValueError):
        parse_duration(text)


@given(st.text(alphabet="0123456789.hmsuµn+- x", max_size=30))
def test_no_text_breaks_the_duration_parser(text: str) -> None:
    """Any text is either a duration of at most 292 years or a ValueError."""
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert abs(seconds) <= 2**63 / 1e9


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(list(TASK_KEYS)), JSON))
def test_no_value_breaks_the_check_of_a_job(config: dict[str, object]) -> None:
    """Whatever is decoded is either accepted or a ConfigError."""
    try:
        accepted(config, PLUGIN)
    except ConfigError as error:
        assert str(error).startswith("Error: Invalid value for ")
