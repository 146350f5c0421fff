"""The keys of the task's and of the plugin's configuration: type, description and example.

Defaults are not here but in `TaskOptions` and `PluginOptions` (`milo.core.launch`), which
these keys fill. ``tools/gen_reference.py`` writes docs/reference/ from both.
"""

from __future__ import annotations

from milo.core.config.reader import Attr, Block, Schema

TASK_SCHEMA: Schema = {
    "jar_path": Attr(
        "string",
        doc="The JAR to run, in the task's `local/`, `secrets/` or `/alloc/`: absolute in the "
        "container, as `${NOMAD_TASK_DIR}/app.jar` is, or relative to `work_dir` or to `/`.",
        unset="without `class`, the one JAR directly under `local/`",
        example='"local/app.jar"',
    ),
    "class": Attr(
        "string",
        doc="The class to run in place of the JAR's own Main-Class.",
        unset="the JAR's Main-Class",
        example='"com.example.Main"',
    ),
    "class_path": Attr(
        "string",
        doc="Class path for `class`, separated by colons; relative entries begin at `work_dir`, "
        "or at `/` without it, and the JAR of `jar_path` comes first.",
        unset="none",
        example='"local/app.jar:local/lib/*"',
    ),
    "args": Attr(
        "list(string)",
        doc="Arguments of the application.",
        unset="none",
        example='["--port", "8080"]',
    ),
    "jvm_options": Attr(
        "list(string)",
        doc="Options of the JVM, one for each element; they win over what Milo adds.",
        unset="none",
        example='["-XX:+UseG1GC", "-Dapp.mode=batch"]',
    ),
    "log_overflow": Attr(
        "string",
        doc='When nobody reads the log and all buffers are full: `"block"`, the application '
        'waits and nothing is lost, or `"drop"`, it never waits and what is dropped is counted.',
        example='"drop"',
    ),
    "log_block_timeout": Attr(
        "string",
        doc='With `log_overflow = "block"`: after so long without a byte moving, output is '
        'dropped until the reader is back; `"0s"` waits for ever.',
        example='"2m"',
    ),
    "cpu_hard_limit": Attr(
        "bool",
        doc="Hold the task to its `cpu`, instead of letting it use what is idle.",
        example="true",
    ),
    "rootfs": Attr(
        "string",
        doc='What the container sees of the host, read-only in any case: `"host"`, its `/usr` '
        'with all programs, or `"minimal"`, the Java runtime with what it needs, and no shell.',
        example='"minimal"',
    ),
    "work_dir": Attr(
        "string",
        doc="The application's working directory, absolute; below `/local`, `/alloc`, `/secrets` "
        "and `/tmp` it is made if it is missing.",
        unset='`"/"`, which is read-only',
        example='"/local"',
    ),
    "mounts": Block(
        {
            "source": Attr(
                "string",
                doc="An absolute path of the host.",
                unset="required",
                example='"/srv/data"',
            ),
            "target": Attr(
                "string",
                doc="An absolute path in the container.",
                unset="required",
                example='"/data"',
            ),
            "readonly": Attr("bool", doc="Whether the task may only read it.", example="false"),
            "propagation": Attr(
                "string",
                doc='Whether later mounts below it are passed on: `"private"` (no), '
                '`"host-to-task"` or `"bidirectional"`.',
                unset='`"private"`',
                example='"host-to-task"',
            ),
        },
        many=True,
        doc="Shows a file or directory of the host in the container, where the plugin's `volumes` "
        "permits it; the block may be repeated. A `volume` of Nomad's needs no such permission.",
    ),
    "cap_add": Attr(
        "list(string)",
        doc="Capabilities of the application, of those that the plugin's `allow_caps` holds; "
        '`"all"` is every one.',
        unset="none: an application has no capabilities",
        example='["net_bind_service"]',
    ),
    "cap_drop": Attr(
        "list(string)",
        doc='Capabilities to leave out of `cap_add = ["all"]`; without that it has no effect.',
        unset="none",
        example='["net_raw"]',
    ),
    "seccomp_profile": Attr(
        "string",
        doc='A seccomp profile (JSON) on the client by its absolute path, or `"unconfined"`; it '
        "has to be one that the plugin's configuration names.",
        unset="the plugin's",
        example='"/etc/milo/strict.json"',
    ),
    "ulimit": Attr(
        "list(map(string))",
        doc='Resource limits by the names of getrlimit(2) in lower case, as `"soft:hard"` or one '
        'number for both; `"unlimited"` or -1 is no limit.',
        unset="open files as high as the client may give, no core files",
        example='{"nofile": "65536", "core": "0:unlimited"}',
    ),
    "sysctl": Attr(
        "list(map(string))",
        doc="Kernel settings of the container's own namespaces: `kernel.msg*`, `kernel.sem`, "
        "`kernel.shm*` and `fs.mqueue.*`, and in a network that is not the host's `net.*`.",
        unset="the kernel's own",
        example='{"kernel.shmmax": "268435456"}',
    ),
    "shm_size": Attr(
        "string",
        doc="The size of `/dev/shm`, a number of bytes or with `k`, `m` or `g`; what is in it "
        "counts as the task's memory.",
        unset='`"64m"`',
        example='"256m"',
    ),
    "pids_limit": Attr(
        "number",
        doc="The most threads and processes at a time, up to the plugin's `pids_limit`.",
        unset="the plugin's",
        example="512",
    ),
    "pid_mode": Attr(
        "string",
        doc='`"private"`, or `"host"`: the task sees the host\'s processes.',
        example='"host"',
    ),
    "ipc_mode": Attr(
        "string",
        doc='`"private"`, or `"host"`: the task shares the host\'s System V IPC, message queues '
        "and `/dev/shm`.",
        example='"host"',
    ),
    "init": Attr(
        "bool",
        doc="Run the application under the client's catatonit or tini, which reaps the processes "
        "that it leaves behind; for applications that start other programs.",
        example="true",
    ),
    "heap_percent": Attr(
        "number",
        doc="The heap's share of the task's `memory`, 1 to 95; options such as `-Xmx` win.",
        unset="[a rule](../memory.md) that leaves room for the rest of the JVM",
        example="60",
    ),
    "heap_dump_on_oom": Attr(
        "bool",
        doc="Have the JVM write a dump to `/alloc/data` at its first OutOfMemoryError; an event "
        "names the file.",
        example="true",
    ),
    "java_version": Attr(
        "string",
        doc='Which Java of the client runs the task: `"17"`, `">= 17"`, `">= 17, < 22"` or '
        '`"21 || 25"`; the default Java is preferred, then the oldest.',
        unset="any that can run the main class",
        example='">= 17"',
    ),
    "java_home": Attr(
        "string",
        doc="A Java that Milo has found on the client, by its home, or one that came with the task "
        "in `local/`, `secrets/` or `/alloc/`.",
        unset="one of the client's, by `java_version`",
        example='"local/jdk-21"',
    ),
    "extra_hosts": Attr(
        "list(string)",
        doc='More lines of `/etc/hosts`, as `"name:address"`; `"name:host-gateway"` is the host.',
        unset="none",
        example='["db:10.0.0.5", "build:host-gateway"]',
    ),
    "hostname": Attr(
        "string",
        doc="The container's host name.",
        unset="the host's with the host's network, else `alloc-` with the beginning of the "
        "allocation's id",
        example='"web-1"',
    ),
}
"""The job's ``config`` block. No key has a default here: those that the job leaves out take
the plugin's value, or that of `TaskOptions`."""

PLUGIN_SCHEMA: Schema = {
    "java_home": Attr(
        "string",
        doc="The default Java, by its home; the others of the client are used as well.",
        unset="the first of `JAVA_HOME` of the agent, `/usr/lib/jvm` (`default-java` first), "
        "`/usr/local/openjdk*`, `/opt/java`, `/opt/*jdk*` and `java` on PATH",
        example='"/usr/lib/jvm/temurin-25-jdk-amd64"',
    ),
    "crun_path": Attr(
        "string",
        doc="crun, by a name to look for on PATH or by its absolute path.",
        example='"/usr/local/bin/crun"',
    ),
    "state_dir": Attr(
        "string",
        doc="Where bundles, control sockets and exit records are kept, by an absolute path of at "
        "most 77 bytes; it must not survive a reboot.",
        example='"/run/milo-test"',
    ),
    "allow_root": Attr(
        "bool", doc='Whether a job may run as root, with `user = "root"`.', example="true"
    ),
    "log_overflow": Attr("string", doc="For jobs that do not say.", example='"drop"'),
    "log_block_timeout": Attr("string", doc="For jobs that do not say.", example='"2m"'),
    "rootfs": Attr("string", doc="For jobs that do not say.", example='"minimal"'),
    "volumes": Block(
        {
            "enabled": Attr("bool", doc="Whether jobs may use `mounts` at all.", example="true"),
            "paths": Attr(
                "list(string)",
                doc="The host's directories that a source may be, or lie below, once its "
                "symlinks are resolved.",
                unset="none, so that every source is refused",
                example='["/srv/data"]',
            ),
        },
        doc="Which of the host's directories jobs may mount with `mounts`.",
    ),
    "allow_caps": Attr(
        "list(string)",
        doc='What a job\'s `cap_add` may ask for; `["all"]` permits every capability, `[]` none.',
        unset="none",
        example='["net_bind_service"]',
    ),
    "default_pid_mode": Attr(
        "string", doc="`pid_mode` for jobs that do not say.", example='"host"'
    ),
    "default_ipc_mode": Attr(
        "string", doc="`ipc_mode` for jobs that do not say.", example='"host"'
    ),
    "allow_host_namespaces": Attr(
        "bool",
        doc='Whether a job may set `pid_mode` and `ipc_mode` to `"host"`.',
        example="false",
    ),
    "seccomp_profile": Attr(
        "string",
        doc="A seccomp profile (JSON) for all jobs by its absolute path, used as it is, "
        'or `"unconfined"`.',
        unset="the containers project's profile, where it is installed, or a list of Milo's own, "
        "with [more refused](../security.md)",
        example='"/etc/milo/seccomp.json"',
    ),
    "allow_seccomp_profiles": Attr(
        "list(string)",
        doc="What a job's `seccomp_profile` may name.",
        unset="none",
        example='["/etc/milo/strict.json", "unconfined"]',
    ),
    "pids_limit": Attr(
        "number",
        doc="The most threads and processes that a job may ask for, and what it gets when it does "
        "not say.",
        example="1024",
    ),
    "userns": Attr(
        "bool",
        doc="Run each task in a user namespace, with ids of its own on the host; where crun or the "
        "kernel cannot, no task starts.",
        example="true",
    ),
}
"""The agent's ``plugin "milo" { config { … } }`` block; defaults are `PluginOptions`'s."""
