"""Every implementation of `Files` behaves as the operating system does."""

import contextlib
import errno
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from dvecdb.media.files import OsFiles, Stat
from dvecdb.testing.disk import MemoryDisk
from dvecdb.testing.faults import FailingFiles, SlowSync

GOOD_NAMES = st.sampled_from(["a", "b", "c", "d", "x" * 255, "é\udcff"])
NAMES = GOOD_NAMES | st.sampled_from(["x" * 256, ""])
OFFSETS = st.sampled_from([0, 1, 100, 511, 512, 4095, 5000, 9000, -2])
SIZES = st.sampled_from([0, 1, 100, 512, 4096, 5000, 10_000])
DATA = st.lists(st.binary(max_size=600), max_size=3) | st.just([b"z" * 5000, b"y" * 3])

CLOSED = 10_000  # a handle that nobody has


class Place:
    """One implementation and its top directory; the tree is read without it."""

    def __init__(self, files, path, tree):
        self.files, self.path, self.tree = files, path, tree


@contextlib.contextmanager
def os_place(wrap=lambda files: files):
    folder = tempfile.mkdtemp()

    def tree():
        found = {}
        for path in sorted(Path(folder).rglob("*")):
            data = None if path.is_dir() else path.read_bytes()
            found[path.relative_to(folder).as_posix()] = data
        return found

    try:
        yield Place(wrap(OsFiles()), folder, tree)
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def memory_place(wrap=lambda files: files):
    disk = MemoryDisk()
    yield Place(wrap(disk), "/", disk.tree)


PLACES = {
    "os": os_place,
    "memory": memory_place,
    "os, failing never": lambda: os_place(FailingFiles),
    "memory, failing never": lambda: memory_place(FailingFiles),
    "memory, no delay": lambda: memory_place(lambda files: SlowSync(files, 0)),
}


@pytest.fixture(params=PLACES)
def place(request):
    with PLACES[request.param]() as found:
        yield found


@pytest.fixture
def files(place):
    return place.files


@pytest.fixture
def top(place):
    return place.files.open_root(place.path, create=False)


def refused(code, call, *arguments, **options):
    with pytest.raises(OSError) as failed:
        call(*arguments, **options)
    assert errno.errorcode[failed.value.errno] == errno.errorcode[code]


def write(files, directory, name, data=b"data"):
    file = files.create(directory, name)
    files.write_at(file, [data], 0)
    return file


# --- examples --------------------------------------------------------------------------------


def test_buffers_are_written_one_after_the_other(files, top):
    file = files.create(top, "a")
    files.write_at(file, [b"one", bytearray(b"two"), memoryview(b"three"), b""], 2)
    assert files.read_at(file, 100, 0) == b"\0\0onetwothree"
    assert files.size(file) == 13
    files.write_at(file, [b"X"] * 1_000, 1)
    assert files.read_at(file, 2_000, 0) == b"\0" + b"X" * 1_000


def test_a_read_stops_at_the_end(files, top):
    file = write(files, top, "a", b"0123456789")
    assert files.read_at(file, 4, 8) == b"89"
    assert files.read_at(file, 4, 10) == b""
    assert files.read_at(file, 4, 99) == b""
    assert files.read_at(file, 0, 0) == b""
    refused(errno.EINVAL, files.read_at, file, 4, -1)


def test_an_existing_file_cannot_be_opened_for_writing(files, top):
    files.close(write(files, top, "a"))
    refused(errno.EEXIST, files.create, top, "a")
    file = files.open(top, "a")
    refused(errno.EBADF, files.write_at, file, [b"x"], 0)
    refused(errno.EBADF, files.allocate, file, 0, 10)
    refused(errno.EINVAL, files.truncate, file, 0)
    files.write_at(file, [b""], 0)  # nothing to write is nothing to refuse
    files.sync(file)
    assert files.read_at(file, 10, 0) == b"data"


def test_reserving_grows_the_file_with_zeros_and_touches_nothing(files, top):
    file = write(files, top, "a", b"data")
    files.allocate(file, 0, 2)
    assert files.read_at(file, 100, 0) == b"data"
    files.allocate(file, 2, 5)
    assert files.read_at(file, 100, 0) == b"data\0\0\0"
    files.allocate(file, 9_000, 1_000)
    assert files.size(file) == 10_000
    assert files.read_at(file, 4, 9_998) == b"\0\0"
    refused(errno.EINVAL, files.allocate, file, 0, 0)
    refused(errno.EINVAL, files.allocate, file, -1, 5)


def test_a_file_is_cut_and_grown_with_zeros(files, top):
    file = write(files, top, "a", b"0123456789")
    files.truncate(file, 4)
    files.truncate(file, 6)
    assert files.read_at(file, 100, 0) == b"0123\0\0"
    refused(errno.EINVAL, files.truncate, file, -1)


def test_a_map_is_read_only_and_outlives_name_and_handle(files, top):
    file = write(files, top, "a", b"0123456789")
    view = files.map(file, 4)
    assert view.readonly
    assert bytes(view) == b"0123"
    files.close(file)
    files.remove(top, "a")
    assert bytes(view) == b"0123"
    with pytest.raises(TypeError):
        view[0] = 1


def test_a_map_of_nothing_is_empty(files, top):
    assert bytes(files.map(write(files, top, "a", b""), 0)) == b""


def test_a_map_shows_a_later_write_and_survives_growth(files, top):
    file = write(files, top, "a", b"0123456789")
    view = files.map(file, 10)
    files.write_at(file, [b"AB"], 2)
    assert bytes(view) == b"01AB456789"
    files.allocate(file, 0, 100_000)
    files.write_at(file, [b"end"], 50_000)
    assert bytes(view) == b"01AB456789"


def test_an_open_file_outlives_its_name(files, top):
    file = write(files, top, "a")
    files.remove(top, "a")
    assert files.list_names(top) == []
    assert files.file_stat(file).link_count == 0
    files.write_at(file, [b"more"], 4)
    assert files.read_at(file, 100, 0) == b"datamore"
    files.sync(file)
    files.close(file)


def test_the_inode_follows_the_file_whatever_its_name(files, top):
    file = write(files, top, "a")
    first = files.stat(top, "a")
    assert first == files.file_stat(file)
    files.rename(top, "a", top, "b")
    files.link(top, "b", top, "c")
    assert files.stat(top, "b").inode == files.stat(top, "c").inode == first.inode
    assert files.stat(top, "b").link_count == 2
    files.remove(top, "b")
    assert files.stat(top, "c").link_count == 1
    assert files.stat(top, "a") is None
    assert write(files, top, "a") != file
    assert files.stat(top, "a").inode != first.inode


def test_a_rename_replaces_nothing(files, top):
    write(files, top, "a", b"1")
    write(files, top, "b", b"2")
    files.make_directory(top, "d")
    for target in ("a", "b", "d"):
        refused(errno.EEXIST, files.rename, top, "a", top, target)
    refused(errno.ENOENT, files.rename, top, "none", top, "new")
    assert files.list_names(top) == ["a", "b", "d"]


def test_a_renamed_directory_takes_its_files_along(files, top):
    for name in ("one", "two"):
        files.make_directory(top, name)
    one, two = (files.open_directory(top, name) for name in ("one", "two"))
    write(files, one, "a")
    files.rename(top, "one", two, "moved")
    moved = files.open_directory(two, "moved")
    assert files.list_names(moved) == files.list_names(one) == ["a"]
    refused(errno.EINVAL, files.rename, top, "two", moved, "inside-itself")
    write(files, one, "b")  # the handle still means the directory
    assert files.list_names(moved) == ["a", "b"]


def test_only_an_empty_directory_is_removed(files, top):
    files.make_directory(top, "d")
    inside = files.open_directory(top, "d")
    write(files, inside, "a")
    refused(errno.ENOTEMPTY, files.remove_directory, top, "d")
    refused(errno.EISDIR, files.remove, top, "d")
    refused(errno.ENOTDIR, files.remove_directory, inside, "a")
    refused(errno.EPERM, files.link, top, "d", top, "e")
    files.remove(inside, "a")
    files.remove_directory(top, "d")
    refused(errno.ENOENT, files.remove_directory, top, "d")
    assert files.list_names(inside) == []
    assert files.stat(inside, "a") is None
    refused(errno.ENOENT, files.create, inside, "a")
    refused(errno.ENOENT, files.make_directory, inside, "a")
    files.sync_directory(inside)
    files.close_directory(inside)


def test_a_root_is_made_with_its_parents(place, files):
    path = place.path.rstrip("/") + "/some/where"
    refused(errno.ENOENT, files.open_root, path, create=False)
    files.close_directory(files.open_root(path, create=True))
    root = files.open_root(path, create=True)
    files.close(write(files, root, "a", b"1"))
    assert place.tree() == {"some": None, "some/where": None, "some/where/a": b"1"}
    refused(errno.ENOTDIR, files.open_root, path + "/a", create=False)
    refused(errno.ENOTDIR, files.open_root, path + "/a", create=True)
    refused(errno.ENOTDIR, files.open_root, path + "/a/b", create=False)


def test_the_lock_belongs_to_the_handle(files, top):
    first = files.open_lock(top, "LOCK")
    second = files.open_lock(top, "LOCK")
    assert files.try_lock(first)
    assert files.try_lock(first)
    assert not files.try_lock(second)
    files.write_at(first, [b"owner"], 0)
    files.truncate(first, 3)
    assert files.read_at(second, 10, 0) == b"own"
    files.close(first)
    assert files.try_lock(second)
    files.remove(top, "LOCK")
    third = files.open_lock(top, "LOCK")  # another file of the same name
    assert files.try_lock(third)
    reader = files.open(top, "LOCK")
    assert not files.try_lock(reader)
    files.make_directory(top, "d")
    refused(errno.EISDIR, files.open_lock, top, "d")


def test_what_is_no_file_or_no_directory_is_refused(files, top):
    file = write(files, top, "a")
    refused(errno.ENOTDIR, files.open_directory, top, "a")
    refused(errno.ENOENT, files.open_directory, top, "none")
    refused(errno.ENOENT, files.open, top, "none")
    refused(errno.ENOENT, files.remove, top, "none")
    refused(errno.ENOENT, files.link, top, "none", top, "new")
    refused(errno.EEXIST, files.link, top, "a", top, "a")
    refused(errno.EEXIST, files.make_directory, top, "a")
    refused(errno.ENOTDIR, files.create, file, "b")
    refused(errno.ENOTDIR, files.list_names, file)


def test_a_closed_handle_is_refused(files, top):
    for call in (files.close, files.size, files.sync, files.seal, files.file_stat, files.try_lock):
        refused(errno.EBADF, call, CLOSED)
    refused(errno.EBADF, files.read_at, CLOSED, 1, 0)
    refused(errno.EBADF, files.write_at, CLOSED, [b"x"], 0)
    for call in (files.close_directory, files.list_names, files.sync_directory, files.free_bytes):
        refused(errno.EBADF, call, CLOSED)


def test_a_sealed_file_is_still_read(files, top):
    file = write(files, top, "a")
    files.seal(file)
    files.close(file)
    assert files.read_at(files.open(top, "a"), 10, 0) == b"data"


def test_there_is_room(files, top):
    assert files.free_bytes(top) > 0
    assert files.total_bytes(top) >= files.free_bytes(top)


# --- any sequence of calls, on both ----------------------------------------------------------


class Handle:
    """Stands for the handle that each place has of the same thing."""

    def __init__(self, pair, closing):
        self.pair, self.closing = pair, closing


CLOSING = {
    "create": "close",
    "open": "close",
    "open_lock": "close",
    "open_root": "close_directory",
    "open_directory": "close_directory",
}


class SameBehaviour(RuleBasedStateMachine):
    """Runs each call on the operating system and in memory; everything must be equal."""

    directories = Bundle("directories")
    handles = Bundle("handles")

    def __init__(self):
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.places = [
            self.stack.enter_context(os_place()),
            self.stack.enter_context(memory_place(FailingFiles)),
        ]
        self.opened = []

    def both(self, name, *arguments, **options):
        """Call both, each with its own handles; compare, and return a handle if it opened one."""
        outcomes = []
        for number, place in enumerate(self.places):
            own = [a.pair[number] if isinstance(a, Handle) else a for a in arguments]
            try:
                outcomes.append((getattr(place.files, name)(*own, **options), None))
            except OSError as error:
                outcomes.append((None, errno.errorcode[error.errno]))
        (real, real_error), (memory, memory_error) = outcomes
        assert real_error == memory_error, f"{name}: {real_error}, in memory {memory_error}"
        if real_error is None and name in CLOSING:
            self.opened.append(Handle((real, memory), CLOSING[name]))
            return self.opened[-1]
        assert comparable(real) == comparable(memory), name
        return None

    def close_both(self, handle):
        self.opened.remove(handle)
        self.both(handle.closing, handle)

    @initialize(target=directories)
    def open_top(self):
        pair = [place.files.open_root(place.path, create=False) for place in self.places]
        self.opened.append(Handle(tuple(pair), "close_directory"))
        return self.opened[-1]

    @rule(parent=directories, name=NAMES)
    def make_directory(self, parent, name):
        self.both("make_directory", parent, name)

    @rule(target=directories, parent=directories, name=NAMES)
    def open_directory(self, parent, name):
        return self.both("open_directory", parent, name) or parent

    @rule(target=handles, directory=directories, name=NAMES)
    def create(self, directory, name):
        return opened(self.both("create", directory, name))

    @rule(target=handles, directory=directories, name=NAMES)
    def open_lock(self, directory, name):
        return opened(self.both("open_lock", directory, name))

    @rule(target=handles, directory=directories, name=NAMES)
    def open(self, directory, name):
        handle = self.both("open", directory, name)
        if handle is not None:
            self.both("file_stat", handle)
            if self.places[0].files.file_stat(handle.pair[0]).is_directory:
                self.both("read_at", handle, 1, 0)
                self.close_both(handle)
                return multiple()
        return opened(handle)

    @rule(file=handles, buffers=DATA, offset=OFFSETS)
    def write_at(self, file, buffers, offset):
        self.both("write_at", file, buffers, offset)

    @rule(file=handles, offset=OFFSETS, size=SIZES)
    def allocate(self, file, offset, size):
        self.both("allocate", file, offset, size)

    @rule(file=handles, size=SIZES | st.just(-1))
    def truncate(self, file, size):
        self.both("truncate", file, size)

    @rule(file=handles, size=SIZES, offset=OFFSETS)
    def read(self, file, size, offset):
        self.both("read_at", file, size, offset)
        self.both("size", file)
        self.both("file_stat", file)

    @rule(file=handles)
    def map(self, file):
        size = self.places[0].files.size(file.pair[0])
        views = [p.files.map(h, size) for p, h in zip(self.places, file.pair, strict=True)]
        assert bytes(views[0]) == bytes(views[1])

    @rule(file=handles)
    def lock(self, file):
        self.both("try_lock", file)

    @rule(file=handles)
    def seal(self, file):
        self.both("seal", file)

    @rule(file=handles)
    def sync(self, file):
        self.both("sync", file)

    @rule(directory=directories)
    def sync_directory(self, directory):
        self.both("sync_directory", directory)

    @rule(file=consumes(handles))
    def close(self, file):
        self.close_both(file)

    @rule(source=directories, name=GOOD_NAMES, into=directories, new_name=NAMES)
    def rename(self, source, name, into, new_name):
        self.both("rename", source, name, into, new_name)

    @rule(source=directories, name=GOOD_NAMES, into=directories, new_name=NAMES)
    def link(self, source, name, into, new_name):
        self.both("link", source, name, into, new_name)

    @rule(directory=directories, name=NAMES)
    def remove(self, directory, name):
        self.both("remove", directory, name)

    @rule(directory=directories, name=NAMES)
    def remove_directory(self, directory, name):
        self.both("remove_directory", directory, name)

    @rule(directory=directories, name=NAMES)
    def look(self, directory, name):
        self.both("list_names", directory)
        self.both("stat", directory, name)

    @rule(path=st.sampled_from(["a", "a/b", "c/", "d//a", "a/b/c"]), create=st.booleans())
    def open_root(self, path, create):
        outcomes = []
        for place in self.places:
            try:
                root = place.files.open_root(f"{place.path.rstrip('/')}/{path}", create=create)
                place.files.close_directory(root)
                outcomes.append("opened")
            except OSError as error:
                outcomes.append(errno.errorcode[error.errno])
        assert outcomes[0] == outcomes[1]

    @invariant()
    def trees_are_equal(self):
        assert self.places[0].tree() == self.places[1].tree()

    def teardown(self):
        with self.stack:
            for handle in self.opened.copy():
                self.close_both(handle)


def opened(handle):
    return multiple() if handle is None else handle


def comparable(value):
    if isinstance(value, Stat):
        return "directory" if value.is_directory else (value.size_bytes, value.link_count)
    return value


TestSameBehaviour = SameBehaviour.TestCase
TestSameBehaviour.settings = settings(stateful_step_count=40)
