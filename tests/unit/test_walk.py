"""Paths that somebody else can change: what is followed, what is refused, what is never opened."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milo import walk
from milo.errors import PathError, Reason
from milo.walk import Held, Kind, follow, hold, hold_in_container


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    """Whatever a test does: no descriptor more or less afterwards."""
    before = descriptors()
    yield
    assert descriptors() == before


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A trusted directory, with a file in a directory of somebody else's."""
    (tmp_path / "top/theirs/inner").mkdir(parents=True)
    (tmp_path / "top/theirs/inner/file").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    return tmp_path / "top"


def refusal(call: Callable[[], Held]) -> PathError:
    """Return the error of a call that refuses."""
    with pytest.raises(PathError) as caught:
        call()
    return caught.value


# ---- hold: no symlink at all


def test_a_file_is_held_and_read(top: Path) -> None:
    """What lies below the trusted directory is found, and opened only by what is held."""
    with hold(f"{top}/theirs//inner/./file", beneath=f"{top}/", kind=Kind.FILE) as held:
        assert (held.kind, held.path) == (Kind.FILE, f"{top}/theirs/inner/file")
        (top / "theirs/inner/file").rename(top / "moved")
        (top / "theirs/inner/file").symlink_to("../../../secret")
        assert held.read(100) == b"inside"
        assert held.read(3) == b"ins"
        assert not os.get_inheritable(held.fd)


def test_no_symlink_is_followed_below_the_trusted_directory(top: Path) -> None:
    """Neither on the way nor at the end; above, the path is the operator's."""
    (top / "theirs/link").symlink_to("inner")
    (top / "theirs/inner/link").symlink_to("file")
    (top.parent / "data").symlink_to("top")
    on_the_way = refusal(lambda: hold(f"{top}/theirs/link/file", beneath=str(top)))
    assert on_the_way.reason is Reason.NOT_DIRECTORY
    assert (on_the_way.path, on_the_way.part) == (
        f"{top}/theirs/link/file",
        f"{top}/theirs/link",
    )
    at_the_end = refusal(lambda: hold(f"{top}/theirs/inner/link", beneath=str(top)))
    assert at_the_end.reason is Reason.SYMLINK
    data = top.parent / "data"
    with hold(f"{data}/theirs/inner/file", beneath=str(data)) as held:
        assert held.read(100) == b"inside"
    assert refusal(lambda: hold(f"{data}/theirs", beneath="/")).reason is Reason.NOT_DIRECTORY


@pytest.mark.parametrize("rest", ["/", "/.", "/..", "/theirs/../theirs", "/theirs/.."])
def test_only_plain_paths_are_looked_up(top: Path, rest: str) -> None:
    """What climbs, or names nothing, is refused before anything is looked up."""
    assert refusal(lambda: hold(f"{top}{rest}", beneath=str(top))).reason is Reason.NOT_PLAIN
    assert refusal(lambda: hold(f"{top}{rest}", beneath=f"{top}/")).reason is Reason.NOT_PLAIN
    assert refusal(lambda: hold("theirs/inner", beneath=str(top))).reason is Reason.NOT_PLAIN
    assert refusal(lambda: hold("/", beneath="")).reason is Reason.NOT_PLAIN


def test_a_path_elsewhere_is_looked_up_from_the_root(top: Path) -> None:
    """What only begins like the trusted directory does not lie below it."""
    (top.parent / "link").symlink_to("top")
    with hold(f"{top}/theirs", beneath=f"{top}/the") as held:
        assert held.path == f"{top}/theirs"
    with hold(str(top), beneath=str(top)) as held:
        assert held.path == str(top)
    found = refusal(lambda: hold(f"{top.parent}/link/theirs", beneath=str(top)))
    assert found.reason is Reason.NOT_DIRECTORY


def test_what_is_wrong_is_told_as_data(top: Path) -> None:
    """Missing, no directory, another kind, and what no path can hold, each with the part."""
    cases = {
        "theirs/none/file": (Reason.MISSING, "theirs/none", "it does not exist"),
        "theirs/inner/file/x": (
            Reason.NOT_DIRECTORY,
            "theirs/inner/file",
            "it is not a directory but a regular file",
        ),
        "theirs/inner": (Reason.KIND, "theirs/inner", "it is not a FIFO but a directory"),
        "theirs/\0": (Reason.NOT_PLAIN, "theirs/\0", "it holds what no path can hold"),
        "theirs/" + "x" * 300: (Reason.REFUSED, "theirs/" + "x" * 300, "File name too long"),
    }
    for rest, (reason, part, words) in cases.items():
        found = refusal(lambda rest=rest: hold(f"{top}/{rest}", beneath=str(top), kind=Kind.FIFO))  # type: ignore[misc]
        assert (found.reason, found.part, found.words) == (reason, f"{top}/{part}", words)
        assert found.path == f"{top}/{rest}"
    gone = refusal(lambda: hold(f"{top}/none/file", beneath=f"{top}/none"))
    assert (gone.reason, gone.part, gone.errno) == (Reason.MISSING, f"{top}/none", errno.ENOENT)
    file = f"{top}/theirs/inner/file"
    assert refusal(lambda: hold(f"{file}/x", beneath=file)).reason is Reason.NOT_DIRECTORY


def test_permission_denied_names_the_user() -> None:
    """A directory that this user may not search is refused with the user that may not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o600)
        uid = os.geteuid()
        if uid == 0:
            os.seteuid(65534)
        try:
            found = refusal(lambda: hold(f"{name}/x"))
            assert found.words == f"permission denied for user id {os.geteuid()}"
            assert found.errno == errno.EACCES
        finally:
            os.seteuid(uid)


# ---- what is never opened


def test_a_fifo_is_held_without_a_reader_noticing(top: Path) -> None:
    """To hold a FIFO is no open; to open it never blocks; without a reader there is no writer."""
    os.mkfifo(top / "theirs/fifo")
    with hold(f"{top}/theirs/fifo", beneath=str(top), kind=Kind.FIFO) as held:
        with pytest.raises(PathError) as caught:
            held.open(os.O_WRONLY)
        assert (caught.value.reason, caught.value.errno) == (Reason.REFUSED, errno.ENXIO)
        with pytest.raises(PathError, match="not a regular file but a FIFO"):
            held.read(1)
        reader = held.open()
        writer = held.open(os.O_WRONLY)
        assert not os.get_inheritable(writer) and not os.get_blocking(writer)
        os.close(writer)
        os.close(reader)


def test_devices_and_sockets_are_never_opened(tmp_path: Path) -> None:
    """Each is told for what it is."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        for path, kind in (("/dev/zero", "a character device"), (f"{tmp_path}/s", "a socket")):
            with hold(path) as held, pytest.raises(PathError, match=f"it is {kind}"):
                held.open()


def test_every_kind_has_a_word() -> None:
    """Whatever a file system can hold has a kind, and what none holds has one of its own."""
    names = ("IFREG", "IFDIR", "IFLNK", "IFIFO", "IFSOCK", "IFCHR", "IFBLK")
    found = {walk._KINDS[getattr(stat, f"S_{name}")] for name in names}
    assert found == {*Kind} - {Kind.NO_FILE}
    assert len(found) == 7


# ---- in a container


def test_symlinks_lead_as_in_the_container(top: Path) -> None:
    """An absolute one begins at the container's root, and ``..`` stays there."""
    places = {"local": str(top / "theirs"), "alloc": str(top / "alloc")}
    (top / "alloc").mkdir()
    (top / "alloc/far").symlink_to("../../../local/./absolute")
    (top / "theirs/absolute").symlink_to("/local/current/file")
    (top / "theirs/current").symlink_to("inner")
    with hold_in_container(places, "/alloc/far", Kind.FILE) as held:
        assert held.read(100) == b"inside"
        assert held.path == f"{top}/theirs/inner/file"
    with hold_in_container(places, "local/inner/../current", Kind.DIRECTORY) as held:
        assert held.path == f"{top}/theirs/inner"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("local/out", "a symlink leads out of them"),
        ("local/host/inner/file", "a symlink leads out of them"),
        ("/etc/passwd", "it is elsewhere"),
        ("local/../../local/inner/file", 'it leads out by ".."'),
    ],
)
def test_no_symlink_leads_out_of_the_container(top: Path, path: str, words: str) -> None:
    """Not even one that is right on the host."""
    (top / "theirs/out").symlink_to("/etc/passwd")
    (top / "theirs/host").symlink_to(top / "theirs")
    found = refusal(lambda: hold_in_container({"local": str(top / "theirs")}, path))
    assert (found.reason, found.words, found.path) == (Reason.OUTSIDE, words, path)


def test_a_place_is_a_directory_and_no_symlink(top: Path) -> None:
    """The place itself is no file, and what took its place is not followed."""
    (top / "link").symlink_to("theirs")
    places = {"local": str(top / "link"), "root": str(top)}
    assert refusal(lambda: hold_in_container(places, "/local/inner")).reason is (
        Reason.NOT_DIRECTORY
    )
    for path in ("/root/..", "/", "root/../root/.."):
        assert refusal(lambda path=path: hold_in_container(places, path)).reason is Reason.KIND  # type: ignore[misc]
    assert refusal(lambda: hold_in_container(places, "/root/theirs/inner/file/")).reason is (
        Reason.NOT_DIRECTORY
    )


def test_symlinks_and_directories_have_an_end(top: Path) -> None:
    """After 40 symlinks, and below 128 directories, a path is refused."""
    places = {"local": str(top)}
    (top / "ring").symlink_to("ring")
    (top / "long").symlink_to("long/" * 800 + "long")
    for name in ("ring", "long"):
        found = refusal(lambda name=name: hold_in_container(places, f"local/{name}/x"))  # type: ignore[misc]
        assert found.reason is Reason.TOO_LONG and "more than 40 symlinks" in found.words
    for index in range(40):
        (top / f"l{index}").symlink_to(f"l{index + 1}")
    (top / "l40").touch()
    hold_in_container(places, "local/l0").close()
    (top / "forty").symlink_to("l0")
    assert refusal(lambda: hold_in_container(places, "local/forty")).reason is Reason.TOO_LONG
    deep = top
    for _ in range(130):
        deep = deep / "d"
        deep.mkdir()
    found = refusal(lambda: hold_in_container(places, "local/" + "d/" * 130 + "x"))
    assert "more than 128 directories deep" in found.words


def test_a_symlink_may_be_met_more_than_once(top: Path) -> None:
    """A path that goes through one symlink twice is no ring."""
    (top / "theirs/up").symlink_to("..")
    with hold_in_container({"local": str(top)}, "local/theirs/up/theirs/up/theirs") as held:
        assert held.path == f"{top}/theirs"


@given(st.lists(st.sampled_from(["..", ".", "", "a", "up", "root", "local", "etc"]), max_size=12))
def test_no_path_leads_out(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    """Whatever a path is made of, only the marked file in the place is ever found."""
    root = tmp_path_factory.getbasetemp() / "walk"
    if not root.exists():
        (root / "place/a").mkdir(parents=True)
        (root / "place/a/file").write_text("inside")
        (root / "file").write_text("outside")
        (root / "place/up").symlink_to("../..")
        (root / "place/root").symlink_to("/")
    path = "/".join([*parts, "file"])
    with hold(str(root / "place")) as place:
        finds: list[Callable[[], Held]] = [
            lambda: hold_in_container({"local": place.path}, path),
            lambda: place.within(path),
        ]
        for find in finds:
            try:
                held = find()
            except PathError:
                continue
            with held:
                assert held.read(100) == b"inside"


# ---- within a directory


def test_within_a_directory_symlinks_stay(top: Path) -> None:
    """A relative one that stays is followed, and one that leads out is not, nor an absolute one."""
    (top / "theirs/stays").symlink_to("inner/../inner/file")
    (top / "theirs/climbs").symlink_to("../../secret")
    (top / "theirs/absolute").symlink_to(top / "theirs/inner/file")
    with hold(str(top / "theirs")) as theirs:
        with theirs.within("./inner/../stays", Kind.FILE) as held:
            assert held.read(100) == b"inside"
            assert held.path == f"{top}/theirs/inner/file"
        for path in ("climbs", "absolute", "..", "inner/../../theirs"):
            found = refusal(lambda path=path: theirs.within(path))  # type: ignore[misc]
            assert found.reason is Reason.OUTSIDE
        with theirs.within("inner/..") as held:
            assert held.is_same(theirs)


def test_enter_takes_one_name(top: Path) -> None:
    """Nothing that the kernel would take for more than one part of a path."""
    (top / "theirs/link").symlink_to("inner")
    with hold(str(top / "theirs")) as theirs:
        for name in ("", ".", "..", "inner/file", "/etc"):
            found = refusal(lambda name=name: theirs.enter(name))  # type: ignore[misc]
            assert found.reason is Reason.NOT_PLAIN
        assert refusal(lambda: theirs.enter("link")).reason is Reason.SYMLINK
        theirs.enter("inner", Kind.DIRECTORY).close()


# ---- on the host


def test_the_hosts_symlinks_are_told(top: Path) -> None:
    """Where a path leads on the host, and every symlink that led there, by its own place."""
    (top / "one").symlink_to("two/inner")
    (top / "two").symlink_to(f"/..{top}/theirs")
    with follow(f"{top}/one/file") as held:
        assert held.path == f"{top}/theirs/inner/file"
        assert held.links == {f"{top}/one": "two/inner", f"{top}/two": f"/..{top}/theirs"}
        assert held.read(100) == b"inside"
    with follow("/") as held:
        assert (held.path, held.kind, held.links) == ("/", Kind.DIRECTORY, {})
    assert refusal(lambda: follow(f"{top}/one", Kind.FILE)).reason is Reason.KIND


def test_real_paths_go_as_far_as_there_is_anything(top: Path) -> None:
    """What is missing is taken as it stands, as os.path.realpath has it."""
    (top / "link").symlink_to("theirs")
    (top / "dangling").symlink_to("none/here")
    (top / "ring").symlink_to("ring")
    for rest in ("link/inner", "link/none/x/../y", "dangling/x", "link/inner/file", ""):
        path = f"{top}/{rest}"
        assert walk.real_path(path) == os.path.realpath(path)
    assert walk.real_path(f"{top}/ring").endswith("/ring")


def test_who_may_write_is_told(top: Path) -> None:
    """The file, each directory on the way, and the same of every symlink's target."""
    me = os.geteuid()
    for path in (top, top / "theirs", top / "theirs/inner"):
        path.chmod(0o755)
    (top / "theirs/inner/file").chmod(0o644)
    (top / "other").mkdir(mode=0o755)
    (top / "other/link").symlink_to("../theirs/inner/file")
    find = f"{top}/other/link"
    assert walk.writable_by_others(find, owners=(me,), top=str(top)) == ""
    assert walk.writable_by_others(find, owners=(me + 1,), top=str(top)) == (
        f"{top} belongs to the user {me}"
    )
    (top / "theirs/inner/file").chmod(0o664)
    assert walk.writable_by_others(find, owners=(me,), top=str(top)) == (
        f"{top}/theirs/inner/file can be written by others (mode 664)"
    )
    (top / "theirs").chmod(0o777)
    assert "theirs can be written" in walk.writable_by_others(find, owners=(me,), top=str(top))
    assert walk.writable_by_others(find, owners=(me,), top=f"{top}/the") == ""
    gone = walk.writable_by_others(f"{top}/other/none", owners=(me,), top=str(top))
    assert gone == f"{top}/other/none cannot be followed: it does not exist"


def test_who_may_write_below_a_sticky_directory(top: Path) -> None:
    """As in /tmp, nobody can exchange what is the owner's; but anybody can add to the directory."""
    me = os.geteuid()
    (top / "theirs/inner/file").chmod(0o644)
    (top / "theirs/inner").chmod(0o755)
    (top / "theirs").chmod(0o1777)
    find = f"{top}/theirs/inner/file"
    assert walk.writable_by_others(find, owners=(me,), top=f"{top}/theirs") == ""
    assert "theirs can be written" in walk.writable_by_others(
        f"{top}/theirs", owners=(me,), top=f"{top}/theirs"
    )
    assert walk.writable_by_others(find, owners=(me + 1,), top=f"{top}/theirs/inner") == (
        f"{top}/theirs/inner belongs to the user {me}"
    )


# ---- what is in a directory


def test_names_are_bounded(top: Path) -> None:
    """No more entries are read than asked for, and it is told whether these are all."""
    (top / "theirs/link").symlink_to("inner")
    with hold(str(top / "theirs")) as theirs:
        names, complete = theirs.names(10)
        assert (sorted(names), complete) == ([("inner", True), ("link", False)], True)
        assert (len(theirs.names(2)[0]), theirs.names(2)[1]) == (2, True)
        assert (len(theirs.names(1)[0]), theirs.names(1)[1]) == (1, False)
        with theirs.within("inner/file") as file, pytest.raises(PathError, match="not a directory"):
            file.names(1)


def test_a_tree_is_looked_through_without_its_symlinks(top: Path) -> None:
    """Everything below a directory, once, within limits; what is wrong is told."""
    (top / "theirs/link").symlink_to("..")
    (top / "theirs/inner/deep").mkdir()
    problems: list[PathError] = []
    with hold(str(top)) as held:
        found = {entry.path: entry.kind for entry in held.tree(100, 10, problems.append)}
        assert found == {
            f"{top}/theirs": Kind.DIRECTORY,
            f"{top}/theirs/link": Kind.SYMLINK,
            f"{top}/theirs/inner": Kind.DIRECTORY,
            f"{top}/theirs/inner/file": Kind.FILE,
            f"{top}/theirs/inner/deep": Kind.DIRECTORY,
        }
        texts = {e.target() for e in held.tree(9, 9, problems.append) if e.kind is Kind.SYMLINK}
        assert texts == {".."}
        assert not problems
        assert len(list(held.tree(3, 10, problems.append))) == 3
        assert len(list(held.tree(100, 0, problems.append))) == 1
        assert [problem.reason for problem in problems] == [Reason.TOO_LONG] * 2
        assert next(held.tree(100, 10, problems.append)).path == f"{top}/theirs"  # and no more


def test_a_tree_with_a_directory_that_cannot_be_read(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told, and the rest is looked through; closing twice does nothing."""
    (top / "z").mkdir()
    real, problems = os.scandir, list[PathError]()

    def scandir(fd: int) -> Any:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("/theirs"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(fd)

    monkeypatch.setattr(os, "scandir", scandir)
    held = hold(str(top))
    found = {entry.path for entry in held.tree(100, 10, problems.append)}
    held.close()
    held.close()
    assert found == {f"{top}/theirs", f"{top}/z"}
    assert [(problem.part, problem.errno) for problem in problems] == [
        (f"{top}/theirs", errno.EACCES)
    ]


def test_a_tree_that_changes_meanwhile(top: Path) -> None:
    """What is removed is left out; a directory that becomes a symlink is not entered."""
    problems: list[PathError] = []
    for name in "abcdefgh":
        (top / name).mkdir()
    with hold(str(top)) as held:
        entries = held.tree(100, 10, problems.append)
        first = next(entries)
        for path in top.iterdir():
            if str(path) != first.path and path.name != "theirs":
                path.rmdir()
        Path(first.path).rename(top.parent / "away")
        Path(first.path).symlink_to("../secret")
        assert {Path(entry.path).name for entry in entries} <= {"theirs", "inner", "file"}
    assert not problems


# ---- changes


def test_directories_are_made_as_they_are_to_be(top: Path) -> None:
    """With the mode that was asked for, whatever the umask, and with another's owner."""
    before = os.umask(0o077)
    try:
        with hold(str(top)) as held:
            owner = (65534, 65534) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
            with held.make_directory("new", 0o750, owner) as made:
                assert made.path == f"{top}/new"
            found = (top / "new").stat()
            assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o750, *owner)
            held.make_directory("own", 0o777).close()
            assert stat.S_IMODE((top / "own").stat().st_mode) == 0o777
            assert refusal(lambda: held.make_directory("own", 0o700)).errno == errno.EEXIST
    finally:
        os.umask(before)


def test_what_takes_a_new_directorys_place_is_left_alone(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory of somebody else's, moved to where one was made, does not change hands."""
    (top / "planted").mkdir()
    (top / "planted").chmod(0o711)
    real = os.mkdir

    def swapped(name: str, *args: Any, **more: Any) -> None:
        real(name, *args, **more)
        (top / "new").rmdir()
        (top / "planted").rename(top / "new")

    monkeypatch.setattr(os, "mkdir", swapped)
    with hold(str(top)) as held:
        found = refusal(lambda: held.make_directory("new", 0o777, (1, 1)))
    assert found.words == "something else took its place"
    assert stat.S_IMODE((top / "new").stat().st_mode) == 0o711


def test_files_are_made_and_removed(top: Path) -> None:
    """A new file alone, never one that is there, and never through a symlink."""
    (top / "theirs/link").symlink_to("none")
    with hold(str(top / "theirs")) as held:
        fd = held.make_file("new", 0o640)
        os.write(fd, b"x")
        os.close(fd)
        for name in ("new", "link"):
            with pytest.raises(PathError) as caught:
                held.make_file(name, 0o600)
            assert caught.value.errno == errno.EEXIST
        held.remove("link")
        held.remove("new")
        with pytest.raises(PathError, match="does not exist"):
            held.remove("new")
    assert not (top / "theirs/none").exists()


@pytest.mark.parametrize("depth", [1, 3000])
def test_trees_are_removed_however_deep(top: Path, depth: int) -> None:
    """No symlink in them is followed, and nothing beside them is touched."""
    (top / "tree/sub").mkdir(parents=True)
    (top / "tree/sub/link").symlink_to("../../theirs")
    (top / "tree/link").symlink_to(top / "theirs")
    os.mkfifo(top / "tree/sub/fifo")
    at = os.open(top / "tree", os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=at)
        inner = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    with hold(str(top)) as held:
        held.remove_tree("tree")
        for name in ("tree", "theirs/inner", ".."):
            with pytest.raises(PathError):
                held.remove_tree(name)
    assert [path.name for path in top.iterdir()] == ["theirs"]
    assert (top / "theirs/inner/file").read_text() == "inside"


# ---- of other processes, and under attack


def test_open_files_of_a_process(top: Path) -> None:
    """Each is held by itself, whatever its path leads to by now; a gone process has none."""
    os.mkfifo(top / "fifo")
    fd = os.open(top / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    inode = os.fstat(fd).st_ino
    (top / "fifo").unlink()
    found = [held.kind for held in walk.open_files(os.getpid()) if held.status.st_ino == inode]
    assert found == [Kind.FIFO]
    os.close(fd)
    assert list(walk.open_files(2**22 + 1)) == []


def test_open_files_that_are_none() -> None:
    """What the kernel gives no file to, an epoll or a pidfd, has a kind as well."""
    with select.epoll():
        kinds = {held.path: held.kind for held in walk.open_files(os.getpid())}
    assert kinds["anon_inode:[eventpoll]"] is Kind.NO_FILE


def test_a_path_that_is_exchanged_all_the_time(top: Path) -> None:
    """While a directory and a symlink change places, the file outside is never read."""
    libc = ctypes.CDLL(None, use_errno=True)
    (top.parent / "inner").mkdir()
    (top.parent / "inner/file").write_text("outside")
    (top / "link").symlink_to("../inner")
    pair = os.fsencode(top / "theirs/inner"), os.fsencode(top / "link")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            libc.renameat2(-100, pair[0], -100, pair[1], 2)  # RENAME_EXCHANGE

    thread = threading.Thread(target=swap)
    thread.start()
    reads = 0
    try:
        for _ in range(2000):
            try:
                with hold(f"{top}/theirs/inner/file", beneath=str(top)) as held:
                    assert held.read(100) == b"inside"
                    reads += 1
            except PathError as exc:
                assert exc.reason in (Reason.NOT_DIRECTORY, Reason.MISSING)
    finally:
        stop.set()
        thread.join()
    assert reads > 0


CALLS: dict[str, Callable[[Path], object]] = {
    "hold": lambda top: hold(f"{top}/theirs/inner/file", beneath=str(top), kind=Kind.FIFO),
    "read": lambda top: _with(follow(f"{top}/link/inner/file"), lambda held: held.read(100)),
    "names": lambda top: _with(hold(str(top)), lambda held: held.names(100)),
    "within": lambda top: _with(hold(str(top)), lambda held: held.within("link").close()),
    "container": lambda top: hold_in_container({"a": str(top)}, "a/link/inner/file").close(),
    "make": lambda top: _with(hold(str(top)), lambda held: held.make_directory("x", 0o755).close()),
    "tree": lambda top: _with(
        hold(str(top)), lambda held: [entry.path for entry in held.tree(9, 9, _raise)]
    ),
    "remove": lambda top: _with(hold(str(top.parent)), lambda held: held.remove_tree("top")),
    "writable": lambda top: walk.writable_by_others(f"{top}/link/inner/file", owners=()),
}


def _with(held: Held, use: Callable[[Held], object]) -> object:
    with held:
        return use(held)


def _raise(problem: PathError) -> None:
    raise problem


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "failing", ["open", "fstat", "scandir", "readlink", "dup", "read", "mkdir", "fchmod"]
)
def test_whatever_fails_nothing_stays_open(
    top: Path, monkeypatch: pytest.MonkeyPatch, name: str, failing: str
) -> None:
    """Each call of the kernel may fail, the first or a later one: an error, and no descriptor."""
    (top / "link").symlink_to("theirs")
    real = getattr(os, failing)
    for count in range(14):
        calls = 0

        def fails(*args: Any, count: int = count, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > count:
                raise OSError(errno.EIO, "Input/output error")
            return real(*args, **more)

        before = descriptors()
        with monkeypatch.context() as patch:
            patch.setattr(os, failing, fails)
            try:
                CALLS[name](top)
            except PathError as exc:
                assert exc.reason in (Reason.REFUSED, Reason.KIND, Reason.MISSING)
        assert descriptors() == before
        if (top / "x").exists():
            (top / "x").rmdir()
