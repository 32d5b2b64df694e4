"""What searches answer at the ends of what they may be asked for."""

import numpy as np
import pytest

from dvecdb import Database, Settings
from dvecdb.engine.grouping import nearest_groups
from dvecdb.errors import HandleError, InvalidRequestError
from dvecdb.results import Hit, Hits
from dvecdb.search.wanted import Wanted

SETTINGS = Settings(ballast_bytes=0, low_water_bytes=0)


def test_the_last_page_that_may_be_asked_for_is_whole(tmp_path):
    rows = np.arange(20_010, dtype=np.float32)[:, None]
    with Database(str(tmp_path), background=False, settings=SETTINGS) as database:
        docs = database.create_collection("docs", dimension=1, metric="euclidean")
        docs.upsert([str(number) for number in range(len(rows))], rows)
        for limit in (3, 10_000):
            for offset in (9_999, 10_000):
                hits = docs.search([0.0], limit=limit, offset=offset, with_metadata=False)
                assert [hit.distance for hit in hits] == list(range(offset, offset + limit))


class Damaged:
    """Stands for what is searched in: the nearest first, one of them damaged."""

    VALUES = ("a", None, "a", "a", "a", "b", "c")

    def one(self, query, wanted, matching):
        near = list(enumerate(self.VALUES))[: wanted.limit]
        hits = [Hit(str(row), row, {"by": value}) for row, value in near if value]
        return Hits(hits, ["1"] if len(near) > 1 else [])


def test_groups_beyond_a_damaged_record_are_found():
    wanted = Wanted(limit=2, on_damage="exclude")
    groups = nearest_groups(Damaged(), None, wanted, ("by",), 1, None, lambda _: None)
    assert [group.value for group in groups] == ["a", "b"]


@pytest.mark.parametrize("read", ["count", "history"])
def test_a_database_that_closes_is_not_taken_for_an_empty_one(tmp_path, monkeypatch, read):
    with Database(str(tmp_path), background=False, settings=SETTINGS) as database:
        docs = database.create_collection("docs", dimension=2)
        docs.upsert(["a"], [[1, 0]])
        enter = docs._enter

        def enter_and_close():
            enter()
            monkeypatch.undo()
            database.close()

        monkeypatch.setattr(docs, "_enter", enter_and_close)
        with pytest.raises(HandleError):
            getattr(docs, read)()


@pytest.mark.parametrize("option", ["threshold", "recall"])
@pytest.mark.parametrize("value", [10**400, -(10**400), np.nan])
def test_numbers_that_are_none_are_refused(option, value):
    with pytest.raises(InvalidRequestError, match=option):
        Wanted(**{option: value})
