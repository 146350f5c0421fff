"""What cannot work is told before the application starts, in words of the job's."""

from __future__ import annotations

import os
import resource
import zipfile
from pathlib import Path

import pytest
import trio

from milo.core.container.exec_limits import MAX_STRING_BYTES
from milo.errors import ConfigError, TaskStartError
from tests.support import jars
from tests.support.driver_rig import open_rig
from tests.support.waiting import fail_after

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

SOURCE = """
public class Count {
    public static void main(String[] args) {
        long all = 0;
        for (String arg : args) {
            all += arg.length();
        }
        String value = System.getenv("BIG");
        System.out.println(args.length + " " + all + " " + (value == null ? 0 : value.length()));
        System.err.println("counted");
    }
}
"""


@pytest.fixture(scope="module")
def count_jar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JAR that counts its arguments, and what is in BIG."""
    if reason := jars.missing_tools():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("count")
    (directory / "Count.java").write_text(SOURCE)
    jars.build(directory, [directory / "Count.java"])
    return directory / "count.jar"


async def test_as_much_as_the_kernel_passes_on_arrives(count_jar: Path) -> None:
    """One argument and one variable of the largest size, and 1.5 MiB in all."""
    assert resource.getrlimit(resource.RLIMIT_STACK)[0] in (8 << 20, resource.RLIM_INFINITY)
    args = ["x" * MAX_STRING_BYTES] + ["y" * 100_000] * 14
    async with open_rig() as rig:
        with fail_after(60):
            task = rig.task(count_jar, args=args)
            task.request.env["BIG"] = "z" * (MAX_STRING_BYTES - len("BIG="))
            await rig.registry.start(task.request)
            result = await rig.registry.wait(task.id)
            await trio.to_thread.run_sync(task.out.wait_end)
    assert result.exit_code == 0, task.err.text
    total = sum(map(len, args))
    assert task.out.text == f"15 {total} {MAX_STRING_BYTES - 4}\n".encode()


@pytest.mark.parametrize(
    ("args", "value", "error", "text"),
    [
        ([], "z" * 200_000, ConfigError, "the variable BIG: it has 200004 bytes"),
        (["a", "x" * 200_000], "", ConfigError, r"args\[1\]: it has 200000 bytes"),
        (["x" * (40 << 20)], "", ConfigError, r"args\[0\]: it has 41943040 bytes"),
        (["x" * 100_000] * 400, "", ConfigError, "they have 400000.. bytes in all"),
        (["x" * 100_000] * 25, "", TaskStartError, "passes on at most 2097152 here"),
    ],
)
async def test_what_the_kernel_does_not_pass_on(
    count_jar: Path, args: list[str], value: str, error: type[Exception], text: str
) -> None:
    """It is an error of the start, with name and size."""
    async with open_rig() as rig:
        with fail_after(60):
            task = rig.task(count_jar, args=args, ulimit={"stack": "8388608"})
            if value:
                task.request.env["BIG"] = value
            with pytest.raises(error, match=text):
                await rig.registry.start(task.request)


async def test_a_jar_that_the_tasks_user_cannot_read(count_jar: Path) -> None:
    """Refused; and run as root, who owns it and has no capability."""
    async with open_rig() as rig:
        with fail_after(60):
            task = rig.task(count_jar)
            (task.local / "count.jar").chmod(0o600)
            with pytest.raises(TaskStartError, match=r"cannot read the JAR.* mode 0600 .*chown"):
                await rig.registry.start(task.request)


async def test_what_a_class_path_names_and_is_not_there(count_jar: Path, tmp_path: Path) -> None:
    """An event, and the first line on stderr; the application runs all the same."""
    thin = tmp_path / "thin.jar"
    with zipfile.ZipFile(count_jar) as full, zipfile.ZipFile(thin, "w") as file:
        file.writestr("Count.class", full.read("Count.class"))
        manifest = "Manifest-Version: 1.0\nMain-Class: Count\nClass-Path: lib/a.jar thin.jar\n\n"
        file.writestr("META-INF/MANIFEST.MF", manifest)
    async with open_rig() as rig:
        with fail_after(60):
            task = rig.task(thin)
            await rig.registry.start(task.request)
            assert (await rig.registry.wait(task.id)).exit_code == 0
            await trio.to_thread.run_sync(task.err.wait_end)
            first, *rest = task.err.text.decode().splitlines()
            assert first.startswith(
                "The Class-Path of /local/thin.jar names what is not there: lib/a.jar."
            )
            assert rest == ["counted"]
            await rig.until_event(task, "Class-Path")
            assert [text for text in rig.texts(task) if "Class-Path" in text] == [first]
