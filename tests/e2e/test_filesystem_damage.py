"""Damage that leaves the state unknown takes out one collection, and changes nothing of it."""

import hashlib

import numpy as np
import pytest

import dvecdb
from dvecdb.errors import DvecdbError


def digest_of(directory):
    return {
        path.relative_to(directory): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def damage(directory, what):
    """Leave it open which commits there are."""
    log = max((directory / "wal").iterdir())
    if what == "the middle of the log":
        data = bytearray(log.read_bytes())
        end = len(data.rstrip(b"\0"))
        data[end // 4 : end // 4 * 3] = bytes(end // 4 * 3 - end // 4)
        log.write_bytes(data)
    elif what == "all logs":
        for path in (directory / "wal").iterdir():
            path.unlink()
    elif what == "all manifests and logs":
        for path in [*(directory / "wal").iterdir(), *(directory / "manifests").iterdir()]:
            path.write_bytes(b"")


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("what", ["the middle of the log", "all logs", "all manifests and logs"])
def test_a_collection_of_unknown_state_is_set_aside_whole_and_the_others_serve(
    tmp_path, what, read_only
):
    path = tmp_path / "data"
    with dvecdb.open(path) as database:
        for name in ("good", "bad"):
            collection = database.create_collection(name, dimension=4)
            for number in range(20):
                collection.upsert(ids=[f"{number}"], vectors=np.full((1, 4), number + 1))
    bad = path / "collections" / "bad"
    damage(bad, what)
    before = digest_of(bad)
    for _ in range(2):
        with dvecdb.open(path, read_only=read_only) as database:
            assert database.collections() == ["good"]
            good = database.collection("good")
            assert good.count() == 20
            if not read_only:
                good.upsert(ids=["more"], vectors=np.ones((1, 4)))
                good.delete(["more"])
            with pytest.raises(DvecdbError) as refused:
                database.collection("bad")
            assert refused.value.code == "collection-damaged"
            assert {finding.collection for finding in database.findings()} == {"bad"}
            if not read_only:
                with pytest.raises(DvecdbError) as refused:
                    database.create_collection("bad", dimension=4)
                assert refused.value.code == "collection-exists"
    assert digest_of(bad) == before
