"""Searches by our own endpoints: their messages in JSON and in MessagePack."""

import msgspec
import numpy as np
import pytest

C = "/collections/books"


def octets(numbers):
    return np.array(numbers, "<f4").tobytes()


def packed(server, path, body):
    """Call with MessagePack both ways; return what it answers."""
    headers = {"content-type": "application/msgpack", "accept": "application/msgpack"}
    found = server("POST", path, msgspec.msgpack.encode(body), headers=headers)
    assert (found.status, found.headers["content-type"]) == (200, "application/msgpack")
    return found.msgpack["data"]


def test_a_query_takes_every_option(books):
    body = {
        "vector": [0, 0], "limit": 1, "offset": 1, "threshold": 2.5, "recall": 1, "where": {},
        "as_of": 1, "with_metadata": False, "with_vectors": True, "on_damage": "exclude",
        "explain": True,
    }  # fmt: skip
    found = books("POST", f"{C}/query", body).data
    assert list(found) == ["hits", "excluded", "lsn", "explain"]
    assert found["hits"] == [{"id": "b", "distance": 2.0, "metadata": None, "vector": [2, 0]}]
    explained = found["explain"]
    assert (explained["plan"], explained["rows_live"], explained["rows_measured"]) == (
        "exact", 3, 3,
    )  # fmt: skip
    assert all(seconds >= 0 for seconds in explained["seconds"].values())
    assert [
        hit["id"] for hit in books("POST", f"{C}/query", {**body, "offset": 2}).data["hits"]
    ] == []
    plain = books("POST", f"{C}/query", {"vector": [0, 0], "limit": 1, "ef_search": 1000}).data
    assert plain == {
        "hits": [{"id": "a", "distance": 1.0, "metadata": {"n": 1}}], "excluded": [], "lsn": 1,
    }  # fmt: skip


def test_vectors_of_hits_are_bytes_in_binary(books):
    body = {"vector": octets([0, 0]), "limit": 1, "with_vectors": True}
    hit = {"id": "a", "distance": 1.0, "metadata": {"n": 1}, "vector": octets([1, 0])}
    assert packed(books, f"{C}/query", body)["hits"] == [hit]
    assert packed(books, f"{C}/search", body) == [hit]
    groups = packed(books, f"{C}/search/groups", {**body, "by": "n"})["groups"]
    assert groups == [{"value": 1, "hits": [hit]}]


def test_several_queries_have_their_answers_in_order(books):
    shared = {"limit": 1, "explain": True}
    in_lists = {"vectors": [[3, 0], [1, 0]], **shared}
    for body in (in_lists, {"vectors": octets([[3, 0], [1, 0]]), **shared}):
        found = packed(books, f"{C}/search/batch", body)
        assert (list(found), found["lsn"]) == (["answers", "lsn"], 1)
        assert [item["hits"][0]["id"] for item in found["answers"]] == ["c", "a"]
        assert found["answers"][0]["explain"]["plan"] == "exact"
    found = books("POST", f"{C}/search/batch", {"vectors": [[2, 0]], "limit": 1}).data
    hit = {"id": "b", "distance": 0.0, "metadata": {"n": 2}}
    assert found == {"answers": [{"hits": [hit], "excluded": []}], "lsn": 1}
    assert books("POST", f"{C}/search/batch", {"vectors": []}).data == {"answers": [], "lsn": 1}


def test_groups_and_facets(books):
    rows = [{"id": f"x{n}", "data": [9 + n, 0], "metadata": {"n": 1 + n % 2}} for n in range(4)]
    books("POST", f"{C}/vectors/batch", {"vectors": rows})
    body = {"vector": [0, 0], "by": "n", "group_size": 2, "limit": 2, "with_metadata": False}
    found = books("POST", f"{C}/search/groups", body).data
    assert found["lsn"] == 2
    ids = {group["value"]: [hit["id"] for hit in group["hits"]] for group in found["groups"]}
    assert ids == {1: ["a", "x0"], 2: ["b", "x1"]}
    assert {hit["metadata"] for group in found["groups"] for hit in group["hits"]} == {None}
    assert books("POST", f"{C}/facet", {"by": "n", "where": {"n": 2}}).data == {
        "values": [{"value": 2, "count": 3}], "lsn": 2,
    }  # fmt: skip
    assert books("POST", f"{C}/facet", {"by": "n", "as_of": 1, "limit": 1}).data == {
        "values": [{"value": 1, "count": 1}], "lsn": 1,
    }  # fmt: skip


@pytest.mark.parametrize("where", ["trash", "backups"])
def test_what_was_deleted_and_backups_are_searched_too(books, where):
    if where == "trash":
        books("DELETE", C)
    else:
        books("POST", f"{C}/backup", {})
    name = books("GET", f"/{where}").data[where if where == "backups" else "entries"][0]["name"]
    found = books("POST", f"/{where}/{name}/search/batch", {"vectors": [[0, 0]], "limit": 1}).data
    assert found["answers"][0]["hits"][0]["id"] == "a"
    body = {"vector": [0, 0], "by": "n"}
    assert len(books("POST", f"/{where}/{name}/search/groups", body).data["groups"]) == 2
    assert len(books("POST", f"/{where}/{name}/facet", {"by": "n"}).data["values"]) == 2


def test_figures_say_how_far_the_index_is(start):
    server = start(engine={"index_rows_min": 64})
    server("POST", "/collections", {"name": "books", "dimension": 2})
    assert server("GET", f"{C}/info").data["index"] == {
        "state": "none", "rows_done": 0, "rows_to_do": 0, "seconds_left": None, "lists": 0,
        "size_bytes": 0,
    }  # fmt: skip
    assert server("GET", f"{C}/stats").data["index_size"] == 0
    rows = np.random.default_rng(1).normal(size=(100, 2))
    server("POST", f"{C}/write", {"upserts": {"vectors": rows.tolist()}})
    server.database.collection("books").wait_for_index()
    index = server("GET", f"{C}/info").data["index"]
    assert (index["state"], index["rows_done"], index["rows_to_do"]) == ("ready", 100, 0)
    assert index["size_bytes"] == server("GET", f"{C}/stats").data["index_size"] > 0
