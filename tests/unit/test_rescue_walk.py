"""What lies in a directory tree is found, whatever its depth and name, and nothing is followed."""

import errno
import os
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dvecdb.errors import NotFoundError
from dvecdb.formats import names
from dvecdb.media.files import OsFiles
from dvecdb.rescue import walk
from dvecdb.rescue.naming import LENGTH_MAX, is_usable, usable_name
from dvecdb.rescue.walk import begins_with_record, find

STAMP = "20251029_074542"
SECONDS = "1762700000"
RAW = struct.pack("<Q16sQ3fB", 16, bytes(range(16)), 3, 1, 2, 3, 0)
PREFIXED = struct.pack("<I", len(RAW)) + RAW


def plant(directory, data=RAW, name="vectors.bin"):
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, name), "wb") as file:
        file.write(data)


def seen(found):
    return {(item.kind, item.name, item.stamp) for item in found.collections}


# What a legacy server takes as a name, less what a file system refuses.
part = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12
).filter(lambda text: text not in {".", "..", "wal", ".deleted", ".backups", "snapshots"}
         and not text.startswith((".partial-", "vectors.bin", "index.bin"))
         and not text.endswith(".bin"))  # fmt: skip
collection_name = st.lists(part, min_size=1, max_size=4).map("/".join)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sets(collection_name, min_size=1, max_size=5), st.sets(part, max_size=2),
    st.sets(part, max_size=2), st.booleans(), st.lists(part, max_size=3),
)  # fmt: skip
def test_every_collection_is_found_under_its_name(
    tmp_path_factory, live, deleted, copied, has_nameless, above
):
    top = tmp_path_factory.mktemp("tree")
    root = os.path.join(top, *above)
    plant(root, b"", "wal")
    expected = {("collection", name, None) for name in live}
    for name in live:
        plant(os.path.join(root, name))
    for name in deleted:
        plant(os.path.join(root, ".deleted", f"{name}_{STAMP}"))
        expected.add(("deleted", name, STAMP))
    for name in copied:
        plant(os.path.join(root, ".backups", f"{name}_{STAMP}"))
        plant(os.path.join(root, "snapshots", f"{name}_{SECONDS}"))
        expected |= {("backup", name, STAMP), ("snapshot", name, SECONDS)}
    if has_nameless:
        plant(root)
        expected.add(("collection", "", None))
    found = find(str(top))
    assert seen(found) == expected
    assert len(found.collections) == len(expected)
    assert {item.data_dir for item in found.collections} == {root}
    assert [log.path for log in found.logs] == [os.path.join(root, "wal")]
    assert (found.unreadable, found.is_cut) == ([], False)


@given(st.text(max_size=80), st.sets(st.text("abc-2", max_size=4)))
def test_any_name_becomes_one_that_a_collection_may_have(name, taken):
    found = usable_name(name, taken)
    assert is_usable(found)
    assert found.lower() not in taken
    if is_usable(name) and name.lower() not in taken:
        assert found == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("my notes", "my-notes"), ("a/b", "a-b"), ("", "collection"), (None, "collection"),
        ("deleted", "deleted-collection"), ("..", "collection"), (".hidden", "hidden"),
        ("ärzte", "rzte"), ("x" * 70, "x" * LENGTH_MAX),
    ],
)  # fmt: skip
def test_names_are_mapped_to_near_ones(name, expected):
    assert usable_name(name) == expected


def test_a_taken_name_gets_a_number():
    assert usable_name("docs", {"docs", "docs-2"}) == "docs-3"
    assert len(usable_name("x" * 64, {"x" * 64})) == LENGTH_MAX


def test_copies_that_a_migration_left_are_found_beside_their_collection(tmp_path):
    plant(tmp_path / "docs")
    plant(tmp_path / "docs", RAW, "vectors.bin.backup")
    plant(tmp_path / "docs", PREFIXED, "vectors.bin.new")
    plant(tmp_path / "docs", bytes(1024), "index.bin")
    plant(tmp_path / "lone", RAW, "vectors.bin.backup")
    found = {os.path.relpath(item.path, tmp_path): item for item in find(str(tmp_path)).collections}
    assert {path: item.stray for path, item in found.items()} == {
        "docs": False, "docs/vectors.bin.backup": True, "docs/vectors.bin.new": True,
        "lone/vectors.bin.backup": False,
    }  # fmt: skip
    assert {item.name for item in found.values()} == {"docs", "lone"}


@pytest.mark.parametrize("data", [RAW, PREFIXED])
def test_vectors_under_another_name_are_known_by_their_first_record(tmp_path, data):
    plant(tmp_path, data, "saved.bin")
    plant(tmp_path, bytes(100), "firmware.bin")
    assert [item.name for item in find(str(tmp_path)).collections] == ["saved"]


def test_a_header_with_an_impossible_dimension_is_none():
    assert begins_with_record(RAW)
    assert begins_with_record(PREFIXED)
    for dimension in (0, 2**40):
        assert not begins_with_record(struct.pack("<Q16sQ", 16, bytes(16), dimension) + bytes(8))
    assert not begins_with_record(RAW[:20])


def test_a_single_file_and_a_directory_inside_a_data_directory_are_taken_as_they_are(tmp_path):
    plant(tmp_path / "docs")
    plant(tmp_path / ".deleted" / f"old_{STAMP}")
    plant(tmp_path, b"x", "wal")
    assert [item.path for item in find(str(tmp_path / "docs" / "vectors.bin")).collections] == [
        str(tmp_path / "docs" / "vectors.bin")
    ]
    assert seen(find(str(tmp_path / ".deleted"))) == {("deleted", "old", STAMP)}
    assert seen(find(str(tmp_path / ".deleted" / f"old_{STAMP}"))) == {("deleted", "old", STAMP)}
    assert seen(find(str(tmp_path / "docs"))) == {("collection", "docs", None)}
    assert [log.path for log in find(str(tmp_path / "wal")).logs] == [str(tmp_path / "wal")]
    with pytest.raises(NotFoundError) as error:
        find(str(tmp_path / "none"))
    assert error.value.code == "source-not-found"


def test_links_and_pipes_are_named_and_not_followed(tmp_path):
    plant(tmp_path / "elsewhere" / "docs")
    tree = tmp_path / "tree"
    (tree / "pipe").mkdir(parents=True)
    (tree / "linked").mkdir()
    os.symlink(tmp_path / "elsewhere", tree / "out")
    os.symlink(tmp_path / "elsewhere" / "docs" / "vectors.bin", tree / "linked" / "vectors.bin")
    os.symlink(tree, tree / "round")
    os.mkfifo(tree / "pipe" / "vectors.bin")
    os.mkfifo(tree / "wal")
    found = find(str(tree))
    assert (found.collections, found.logs) == ([], [])
    assert {os.path.relpath(item.file, tree) for item in found.unreadable} == {
        "linked/vectors.bin", "pipe/vectors.bin", "wal",
    }  # fmt: skip


class Refusing(OsFiles):
    """A system that does not let us look into `private`, whoever we are."""

    def open_directory(self, parent, name):
        if name == "private":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return super().open_directory(parent, name)


def test_what_may_not_be_read_is_named_and_the_rest_is_found(tmp_path):
    plant(tmp_path / "docs")
    plant(tmp_path / "private")
    found = find(str(tmp_path), files=Refusing())
    assert seen(found) == {("collection", "docs", None)}
    assert [item.file for item in found.unreadable] == [str(tmp_path / "private")]
    assert found.unreadable[0].why == "Permission denied"


def test_a_name_that_is_no_text_does_no_harm(tmp_path):
    plant(os.path.join(os.fsencode(tmp_path), b"caf\xe9").decode("utf-8", "surrogateescape"))
    (item,) = find(str(tmp_path)).collections
    assert walk.printable(item.path).endswith("caf\\xe9")


def test_too_deep_and_too_many_are_said(tmp_path, monkeypatch):
    deep = tmp_path
    for _ in range(walk.DEPTH_MAX + 1):
        deep /= "d"
    plant(deep)
    plant(tmp_path / "docs")
    found = find(str(tmp_path))
    assert (seen(found), found.is_cut) == ({("collection", "docs", None)}, True)
    monkeypatch.setattr(walk, "ENTRIES_MAX", 3)
    assert find(str(tmp_path)).is_cut


def test_own_segments_are_no_legacy_collections(tmp_path):
    segment = names.segment_name(0, 5, "0" * 32)
    own = tmp_path / "data" / "collections" / "docs"
    plant(own / "segments" / segment)
    plant(own / "segments" / segment, b"", "records.bin")
    (own / "manifests").mkdir()
    plant(tmp_path / "data" / "collections" / ".partial-x" / "segments" / segment)
    plant(tmp_path / "lone" / segment)
    plant(tmp_path / "lone" / segment, b"", "records.bin")
    plant(tmp_path / "data" / ".backups" / f"docs_{STAMP}" / "manifests", b"", "000000000001.json")
    found = find(str(tmp_path))
    assert all(item.own for item in found.collections)
    assert seen(found) == {
        ("collection", "docs", None), ("collection", None, None), ("backup", "docs", STAMP),
    }  # fmt: skip
