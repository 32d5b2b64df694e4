"""LOCK says where a server of the directory listens, and a writer that says so keeps its right."""

import pytest

import dvecdb
from dvecdb.errors import DirectoryError, HandleError

ADDRESS = "http://127.0.0.1:3030"


def refusal(path):
    """Return the error of opening a directory that is in use."""
    with pytest.raises(DirectoryError) as caught:
        dvecdb.open(path)
    assert caught.value.code == "directory-in-use"
    return caught.value.details


def test_a_directory_in_use_names_the_address_that_was_announced(tmp_path):
    with dvecdb.open(tmp_path) as database:
        assert refusal(tmp_path)["address"] is None
        database.announce(ADDRESS)
        found = refusal(tmp_path)
        assert found["address"] == ADDRESS
        assert found["host"]
    with dvecdb.open(tmp_path):  # the next one is no server
        assert refusal(tmp_path)["address"] is None


def test_a_writer_goes_on_writing_after_it_announced_itself(tmp_path):
    with dvecdb.open(tmp_path) as database:
        docs = database.create_collection("docs", dimension=1)
        database.announce(ADDRESS)
        docs.upsert(["a"], [[1]])
    with dvecdb.open(tmp_path) as database:
        assert database.collection("docs").count() == 1


def test_who_lost_the_directory_announces_nothing(tmp_path):
    with dvecdb.open(tmp_path) as database:
        (tmp_path / "LOCK").rename(tmp_path / "LOCK.old")
        (tmp_path / "LOCK").write_bytes((tmp_path / "LOCK.old").read_bytes())
        with pytest.raises(HandleError) as caught:
            database.announce(ADDRESS)
        assert caught.value.code == "fenced"
        assert ADDRESS.encode() not in (tmp_path / "LOCK").read_bytes()


def test_a_reader_has_nothing_to_announce(tmp_path):
    dvecdb.open(tmp_path).close()
    before = (tmp_path / "LOCK").read_bytes()
    with dvecdb.open(tmp_path, read_only=True) as database:
        database.announce(ADDRESS)
    assert (tmp_path / "LOCK").read_bytes() == before
