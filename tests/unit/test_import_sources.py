"""What an import through the server may read: decided by text, and never more than what is said."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb.api.import_sources import absolute, find_source, refuse_in_use
from dvecdb.errors import Code, ConflictError

PARTS = st.sampled_from(
    ["data", "old", "collections", "books", "books2", ".deleted", ".backups", "snapshots",
     ".server", "LOCK", "wal", "vectors.bin", "books_20250101_000000", "x_20250101_000000",
     ".partial-1", "datax", "..."]
)  # fmt: skip
PATHS = st.lists(PARTS, max_size=5).map(lambda parts: "/" + "/".join(parts))
ROOTS = st.lists(PATHS, max_size=3)


def is_inside(path, directory):
    """The oracle: what the paths of the standard library say."""
    return PurePosixPath(path).is_relative_to(PurePosixPath(directory))


def is_refused(path, data_dir, live):
    try:
        refuse_in_use(path, data_dir, live)
    except ConflictError as error:
        return error.code == Code.SOURCE_IN_USE
    return False


@given(PATHS, PATHS, ROOTS)
def test_a_source_is_inside_the_data_directory_or_a_root(path, data_dir, roots):
    found = find_source(path, data_dir, roots)
    places = (data_dir, *roots)
    read = str(PurePosixPath(path).parent) if path.endswith(("/wal", "/vectors.bin")) else path
    assert (found is not None) == any(is_inside(read, item) for item in places)
    if found is not None:
        assert (found.path, found.directory) == (path, read)
        above = PurePosixPath(read).parent
        if found.log_beside and above.name not in {".deleted", ".backups", "snapshots"}:
            assert any(is_inside(above, item) for item in places)
        if any(is_inside(above.parent, item) for item in places):
            assert found.log_beside


@given(PATHS, PATHS, ROOTS)
def test_a_source_outside_the_data_directory_is_nobodys(path, data_dir, roots):
    found = find_source(path, data_dir, roots)
    if found is not None and not is_inside(path, data_dir):
        assert found.collection is None


@given(PATHS, PATHS, st.sets(st.sampled_from(["books", "old"])))
def test_nothing_of_a_collection_that_is_served_is_a_source(path, data_dir, live):
    refused = is_refused(path, data_dir, live)
    if path.endswith("/wal"):  # with it, all that its directory holds is looked at
        path = str(PurePosixPath(path).parent)
    if refused:
        assert is_inside(path, data_dir) or is_inside(data_dir, path)
        return
    for name in live:
        collection = f"{data_dir.rstrip('/')}/collections/{name}"
        assert not is_inside(path, collection)
        assert not is_inside(collection, path)
    for name in (".server", "LOCK"):
        assert not is_inside(path, f"{data_dir.rstrip('/')}/{name}")


@given(PATHS, st.lists(st.sampled_from(["a", ".", "..", "", "b"]), max_size=6), st.booleans())
def test_a_path_is_absolute_and_has_no_dots(data_dir, parts, is_absolute):
    text = "/" * is_absolute + "/".join(parts)
    found = absolute(text, data_dir)
    assert found.startswith("/")
    assert not found.startswith("//")
    assert not {".", ".."} & set(found.split("/"))
    if not text.startswith("/") and ".." not in parts:
        assert is_inside(found, data_dir)


@pytest.mark.parametrize(
    ("path", "collection"),
    [
        (".deleted/books_20250101_000000", "books"),
        (".deleted/books_20250101_000000/vectors.bin", "books"),
        (".backups/a_20240101_000000_20250101_000000", "a_20240101_000000"),
        ("collections/books/vectors.bin", "books"),
        ("collections", None),
        (".deleted", None),
        (".deleted/books", None),
        ("books_20250101_000000", None),
        ("stray/.deleted/books_20250101_000000", None),
        ("", None),
    ],
)
def test_whose_files_they_are(path, collection):
    assert find_source(f"/data/{path}".rstrip("/"), "/data", []).collection == collection
