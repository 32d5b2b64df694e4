"""Imports through every door: the same call, the same collection, the same report."""

import inspect
import shutil
from pathlib import Path

import msgspec
import pytest
from tests.api.orphans import orphan
from tests.contract.test_database import refused
from tests.contract.test_recovery import contents

import dvecdb
from dvecdb.client.aio import AsyncDatabase
from dvecdb.client.connection import RemoteDatabase
from dvecdb.errors import Code, ConflictError, InvalidRequestError, NotFoundError
from dvecdb.reports import Imported, ImportReport
from dvecdb.rescue.database import Database
from dvecdb.testing.serving import serving


@pytest.fixture
def old(door):
    """An orphaned directory of 50 records in the data directory; and what is in it."""
    path = Path(door.path) / "old"
    return path, orphan(path, 50)


@pytest.mark.parametrize("name", ["import_legacy", "examine_legacy"])
def test_the_same_calls_take_the_same_arguments(name):
    expected = list(inspect.signature(getattr(Database, name)).parameters.values())[1:]
    for other in (RemoteDatabase, AsyncDatabase):
        found = list(inspect.signature(getattr(other, name)).parameters.values())[1:]
        assert [(item.name, item.kind, item.default) for item in found] == [
            (item.name, item.kind, item.default) for item in expected
        ]
        assert getattr(other, name).__doc__


def test_what_others_left_becomes_a_collection(door, old):
    path, held = old
    seen = []
    made = door.database.import_legacy(
        str(path), "docs", dimension=2, metric="euclidean",
        progress=lambda done, total: seen.append((done, total)), actor="ann", reason="found",
    )  # fmt: skip
    assert isinstance(made, Imported)
    assert (made.name, made.replaced) == ("docs", None)
    assert (made.report.imported, made.report.exact, made.report.dimension) == (50, 50, 2)
    assert contents(door.database.collection("docs")) == held
    assert all(0 <= done <= total for done, total in seen)
    assert seen == sorted(seen)
    report = door.engine.examine_legacy(str(path))
    assert msgspec.structs.replace(made.report, name=report.name) == report


def test_a_trial_says_the_same_and_makes_nothing(door, old):
    path, _ = old
    report = door.database.examine_legacy(str(path), collection=None, use_log=False)
    assert isinstance(report, ImportReport)
    assert report == door.engine.examine_legacy(str(path), use_log=False)
    assert door.database.collections() == []


def test_what_had_the_name_goes_to_the_trash_if_it_is_to_be_replaced(door, old):
    path, held = old
    door.database.create_collection("docs", dimension=1)

    def once():
        return door.database.import_legacy(str(path), "docs")

    refused(once, Code.COLLECTION_EXISTS, ConflictError)
    made = door.database.import_legacy(str(path), "docs", replace=True)
    (entry,) = door.database.trash()
    assert made.replaced == entry.name
    assert contents(door.database.collection("docs")) == held


def test_what_cannot_be_imported_is_the_same_error_everywhere(door, old):
    path, _ = old
    database = door.database

    def importing(source, name="docs", **options):
        return lambda: database.import_legacy(str(source), name, **options)

    refused(importing(path, dimension=3), Code.SOURCE_CONTRADICTS, InvalidRequestError)
    refused(importing(path, dimension=0), Code.SOURCE_CONTRADICTS, InvalidRequestError)
    refused(importing(path, metric="far"), Code.INVALID_ARGUMENT, InvalidRequestError)
    refused(importing(path, name="../x"), Code.INVALID_NAME, InvalidRequestError)
    refused(importing(path / "nowhere"), Code.SOURCE_NOT_FOUND, NotFoundError)
    refused(importing(door.path), Code.SOURCE_IN_USE, ConflictError)
    (path / "metadata.json").unlink()
    (path / "vectors.bin").write_bytes(bytes(4096))
    error = refused(importing(path), Code.NOTHING_RECOVERABLE, NotFoundError)
    assert msgspec.convert(error.details["report"], ImportReport).imported == 0
    assert database.collections() == []


def test_a_server_says_what_would_allow_a_source_elsewhere(tmp_path):
    held = orphan(tmp_path / "elsewhere")
    source = str(tmp_path / "elsewhere")
    with serving(str(tmp_path / "data")) as served, dvecdb.connect(served.url) as database:
        error = refused(
            lambda: database.import_legacy(source, "docs"),
            Code.SOURCE_NOT_ALLOWED, InvalidRequestError,
        )  # fmt: skip
        assert error.details["flag"] == f"--import-root {source}"
        assert "dvecdb import" in error.details["command"]
    with (
        serving(str(tmp_path / "data"), import_roots=(str(tmp_path),)) as served,
        dvecdb.connect(served.url) as database,
    ):
        assert database.import_legacy(source, "docs").report.imported == len(held)
        assert contents(database.collection("docs")) == held


def test_a_relative_source_is_in_the_data_directory_of_the_server(tmp_path):
    with serving(str(tmp_path / "data")) as served, dvecdb.connect(served.url) as database:
        orphan(tmp_path / "data" / ".deleted" / "docs_20250101_000000", name="docs")
        made = database.import_legacy(".deleted/docs_20250101_000000", "docs")
        assert made.report.imported == 3
        shutil.rmtree(tmp_path / "data" / ".deleted" / "docs_20250101_000000")
        assert database.collection("docs").count() == 3
