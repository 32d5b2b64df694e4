"""The calls kept from before: their answers to the key, and what they forgive."""

import uuid

import numpy as np
import pytest

C = "/collections/books"
INDEX = {"max_connections": 16, "ef_construction": 200, "ef_search": 50, "max_layer": 16}


# --- health and figures ---


def test_health(server):
    assert server("GET", "/health").body == b'{"success":true,"data":"OK","error":null}'
    live = server("GET", "/health/live").json
    assert list(live) == ["alive", "timestamp"]
    for path in ("/ready", "/health/ready"):
        ready = server("GET", path).json
        assert (list(ready), ready["ready"]) == (["ready", "timestamp", "checks"], True)
    check = server("GET", "/health/check").json
    assert list(check) == ["status", "timestamp", "version", "uptime_seconds", "components"]
    assert check["status"] == "healthy"


def test_a_closed_database_is_not_ready(server):
    server.database.close()
    assert server("GET", "/health/live").status == 200
    for path in ("/ready", "/health/ready", "/health/check"):
        assert server("GET", path).status == 503
    assert server("GET", "/health/ready").json["ready"] is False
    refused = server("GET", "/collections")
    assert (refused.status, refused.code) == (503, "handle-closed")


def test_figures_of_the_server(books):
    data = books("GET", "/stats").data
    keys = ["total_vectors", "total_collections", "memory_usage", "disk_usage", "uptime_seconds"]
    assert list(data) == keys
    assert (data["total_vectors"], data["total_collections"]) == (3, 1)
    assert all(type(value) is int and value >= 0 for value in data.values())


# --- collections ---


def test_a_collection_from_creation_to_deletion(server):
    body = {"name": "books", "dimension": 3, "distance_metric": "Cosine", "vector_type": "Float32",
            "index_config": None}  # fmt: skip
    created = server("POST", "/collections", body)
    assert created.body == (
        b'{"success":true,"data":{"name":"books","message":"Collection created successfully"},'
        b'"error":null}'
    )
    assert created.lsn == 0
    assert server("GET", "/collections").data == ["books"]
    config, stats = server("GET", C).data
    assert config == {
        "name": "books", "dimension": 3, "distance_metric": "Cosine", "vector_type": "Float32",
        "index_config": INDEX,
    }  # fmt: skip
    assert list(stats) == ["name", "vector_count", "dimension", "index_size", "memory_usage"]
    assert server("GET", f"{C}/stats").data == stats
    deleted = server("DELETE", C)
    assert deleted.data == {"name": "books", "message": "Collection deleted successfully"}
    assert server("GET", "/collections").data == []
    assert server("GET", C).code == "collection-not-found"


@pytest.mark.parametrize(
    ("metric", "shown"),
    [("dot_product", "DotProduct"), ("euclidean", "Euclidean"), ("MANHATTAN", "Manhattan"),
     ("DotProduct", "DotProduct")],
)  # fmt: skip
def test_creation_forgives(server, metric, shown):
    body = {"name": "books", "dimension": 3, "distance_metric": metric, "whatever": [1],
            "index_config": {"ef_search": 7, "unknown": 1}}  # fmt: skip
    assert server("POST", "/collections", body).data["name"] == "books"
    server.reopen()
    config, _ = server("GET", C).data
    assert (config["distance_metric"], config["vector_type"]) == (shown, "Float32")
    assert config["index_config"] == {**INDEX, "ef_search": 7}


# --- records ---


def test_a_record_from_insertion_to_deletion(books):
    inserted = books("POST", f"{C}/vectors", {"id": "d", "data": [4, 0.5], "metadata": {"x": [1]}})
    assert inserted.body == b'{"success":true,"data":"d","error":null}'
    assert inserted.lsn == 2
    assert books("GET", f"{C}/vectors/d").body == (
        b'{"success":true,"data":{"id":"d","data":[4.0,0.5],"metadata":{"x":[1]}},"error":null}'
    )
    assert books("GET", f"{C}/vectors/c").data["metadata"] is None
    put = books("PUT", f"{C}/vectors/d", {"id": "ignored", "data": [5, 5], "metadata": None})
    assert put.data == {"id": "d", "message": "Vector updated successfully"}
    assert put.lsn == 3
    assert books("GET", f"{C}/vectors/d").data == {"id": "d", "data": [5, 5], "metadata": None}
    assert books("PUT", f"{C}/vectors/new", {"data": [6, 6]}).data["id"] == "new"
    deleted = books("DELETE", f"{C}/vectors/d")
    assert deleted.body == b'{"success":true,"data":true,"error":null}'
    assert deleted.lsn == 5
    again = books("DELETE", f"{C}/vectors/d")
    assert again.data is False
    missing = books("GET", f"{C}/vectors/d")
    assert (missing.status, missing.code) == (404, "id-not-found")


def test_ids_are_made_where_there_are_none(books):
    one = books("POST", f"{C}/vectors", {"data": [1, 1]}).data
    assert uuid.UUID(one).version == 4
    body = {"vectors": [{"data": [1, 1]}, {"id": "mine", "data": [1, 1]}, {"data": [1, 1]}]}
    first, mine, last = books("POST", f"{C}/vectors/batch", body).data
    assert mine == "mine"
    assert len({first, last, one}) == 3
    assert books("POST", f"{C}/vectors/batch", {"vectors": [{"data": [1, 1]}] * 2}).data


def test_uuids_are_taken_in_every_form(books):
    made = uuid.uuid4()
    forms = [made.hex, str(made).upper(), f"{{{made}}}", made.urn]
    for form in forms:
        books("DELETE", f"{C}/vectors/{made}")
        assert books("POST", f"{C}/vectors", {"id": form, "data": [1, 1]}).data == str(made)
        assert books("GET", f"{C}/vectors/{form}").data["id"] == str(made)


def test_an_empty_batch_is_empty_wherever_it_goes(server):
    assert server("POST", "/collections/none/vectors/batch", {"vectors": []}).data == []
    body = {"ids": []}
    assert server("POST", "/collections/none/vectors/batch-delete", body).data == {
        "deleted_count": 0}  # fmt: skip
    body = {"vectors": []}
    assert server("POST", "/collections/none/vectors/upsert", body).data == {
        "upserted_count": 0, "ids": []}  # fmt: skip


def test_upsert_and_batch_delete(books):
    body = {"vectors": [{"id": "a", "data": [9, 9]}, {"id": "z", "data": [8, 8]}]}
    upserted = books("POST", f"{C}/vectors/upsert", body)
    assert upserted.data == {"upserted_count": 2, "ids": ["a", "z"]}
    assert books("GET", f"{C}/vectors/a").data["data"] == [9, 9]
    deleted = books("POST", f"{C}/vectors/batch-delete", {"ids": ["a", "none", "z"]})
    assert deleted.data == {"deleted_count": 2}
    assert deleted.lsn == upserted.lsn + 1


def test_a_cursor_is_committed_with_its_vectors(books):
    cursor = {"namespace": "jobs", "key": "cursor", "value": 1}
    body = {"vectors": [{"id": "j1", "data": [1, 1]}], "documents": [cursor],
            "expect": [{**cursor, "value": None}]}  # fmt: skip
    assert books("POST", f"{C}/vectors/upsert", body).data["upserted_count"] == 1
    refused = books("POST", f"{C}/vectors/upsert", body)
    assert (refused.status, refused.code) == (409, "condition-failed")
    assert refused.json["details"]["found"] == 1
    body = {"vectors": [], "documents": [{**cursor, "value": 2}], "expect": [cursor]}
    assert books("POST", f"{C}/vectors/upsert", body).data == {"upserted_count": 0, "ids": []}
    assert books("GET", f"{C}/documents/jobs/cursor").data == {"value": 2}


# --- search and points ---


def test_search(books):
    found = books("POST", f"{C}/search", {"vector": [0, 0], "limit": 2})
    assert found.body == (
        b'{"success":true,"data":[{"id":"a","distance":1.0,"metadata":{"n":1}},'
        b'{"id":"b","distance":2.0,"metadata":{"n":2}}],"error":null}'
    )
    last = books("POST", f"{C}/search", {"vector": [0, 0]}).data[2]
    assert last == {"id": "c", "distance": 3.0, "metadata": None}


def test_search_takes_its_parameters_from_body_or_query(books):
    def ids(target, body, **rest):
        return [hit["id"] for hit in books("POST", target, body, **rest).data]

    assert ids(f"{C}/search?limit=1&ef_search=9&x=1", {"query_vector": [0, 0]}) == ["a"]
    assert ids(f"{C}/search?limit=1", {"vector": [0, 0], "limit": 2}) == ["a", "b"]
    assert ids(f"{C}/search", {"vector": [0, 0], "filter": {"n": 2}}) == ["b"]
    assert ids(f"{C}/search", {"vector": [0, 0], "filter": {"n": 2.0}, "ef_search": 3}) == ["b"]
    assert ids(f"{C}/search", {"vector": [0, 0], "filter": {"n": True}}) == []
    assert ids(f"{C}/search", {"vector": [0, 0], "filter": {}}) == ["a", "b", "c"]
    assert ids(f"{C}/search", {"vector": [0, 0], "as_of": 0}) == []
    assert ids(f"{C}/search", {"vector": [0, 0], "limit": 0}) == []
    octets = np.array([9, 0], "<f4").tobytes()
    media = "application/octet-stream"
    assert ids(f"{C}/search?limit=1", octets, media=media) == ["c"]
    assert ids(f"{C}/search?as_of=0", octets, media=media) == []


def test_search_takes_what_other_servers_call_it(books):
    def found(**fields):
        return books("POST", f"{C}/search", {"vector": [0, 0], **fields}).data

    def ids(**fields):
        return [hit["id"] for hit in found(**fields)]

    assert ids(offset=1) == ["b", "c"]
    assert ids(threshold=2) == ids(score_threshold=2) == ["a", "b"]
    assert ids(threshold=1, score_threshold=2) == ["a"]
    assert ids(params={"ef_search": 3, "exact": True}) == ids(search_params={"recall": 1}) == [
        "a", "b", "c",
    ]  # fmt: skip
    assert ids(recall=0.5, ef_search=None, params=None) == ["a", "b", "c"]
    for name in ("with_vector", "with_vectors"):
        hit = found(limit=1, **{name: True})[0]
        assert hit == {"id": "a", "distance": 1.0, "metadata": {"n": 1}, "vector": [1, 0]}
        assert list(hit) == ["id", "distance", "metadata", "vector"]
        assert list(found(limit=1, **{name: False})[0]) == ["id", "distance", "metadata"]
    assert found(limit=1, with_metadata=False)[0] == {"id": "a", "distance": 1, "metadata": None}
    effort = books("POST", f"{C}/search?ef_search=9", {"vector": [0, 0], "recall": 0.5})
    assert effort.status == 200  # the body goes before the query string


def test_distances_of_every_metric_are_small_when_near(server):
    for metric, expected in (("Cosine", 0), ("DotProduct", -14), ("Manhattan", 0)):
        body = {"name": metric, "dimension": 3, "distance_metric": metric}
        server("POST", "/collections", body)
        server("POST", f"/collections/{metric}/vectors", {"id": "a", "data": [1, 2, 3]})
        (hit,) = server("POST", f"/collections/{metric}/search", {"vector": [1, 2, 3]}).data
        assert hit["distance"] == pytest.approx(expected, abs=1e-6)
        assert metric == "DotProduct" or hit["distance"] >= 0


def test_scroll(books):
    first = books("POST", f"{C}/points/scroll", {"collection": "books", "limit": 2}).data
    assert list(first) == ["points", "next_offset"]
    assert first["points"] == [
        {"id": "a", "score": 0, "vector": [1, 0], "payload": {"n": 1}},
        {"id": "b", "score": 0, "vector": [2, 0], "payload": {"n": 2}},
    ]
    books("DELETE", f"{C}/vectors/c")
    body = {"offset": first["next_offset"], "with_vectors": False}
    rest = books("POST", f"{C}/points/scroll", body).data
    assert rest == {"points": [{"id": "c", "score": 0, "payload": None}], "next_offset": None}
    body = {"filter": {"n": 2}, "with_payload": False}
    (point,) = books("POST", f"{C}/points/scroll", body).data["points"]
    assert point == {"id": "b", "score": 0, "vector": [2, 0]}
    refused = books("POST", f"{C}/points/scroll", {"offset": "17"})
    assert (refused.status, refused.code) == (400, "invalid-argument")


def test_count(books):
    assert books("POST", f"{C}/points/count", {"exact": True}).data == {"count": 3}
    assert books("POST", f"{C}/points/count", {"filter": {"n": 1}}).data == {"count": 1}


def test_several_searches_at_once(books):
    body = {"searches": [
        {"vector": [0, 0], "limit": 2, "offset": 1},
        {"vector": [3, 0], "limit": 1},
        {"vector": [0, 0], "filter": {"n": 2}},
    ]}  # fmt: skip
    found = books("POST", f"{C}/points/search/batch", body).data
    assert [[hit["id"] for hit in hits] for hits in found] == [["b", "c"], ["c"], ["b"]]
    assert books("POST", f"{C}/points/search/batch", {"searches": []}).data == []


def test_searches_that_are_alike_are_answered_in_the_order_they_came(books):
    places = [3, 0, 2, 0, 3, 1, 2]
    body = {"searches": [
        {"vector": [place, 0], "limit": 1 + place % 2, "filter": {"n": 2} if place == 2 else None,
         "with_vector": place == 0}
        for place in places
    ]}  # fmt: skip
    found = books("POST", f"{C}/points/search/batch", body).data
    assert [[hit["id"] for hit in hits] for hits in found] == [
        ["c", "b"], ["a"], ["b"], ["a"], ["c", "b"], ["a", "b"], ["b"],
    ]  # fmt: skip
    assert [list(hits[0]) for hits in found][:2] == [
        ["id", "distance", "metadata"], ["id", "distance", "metadata", "vector"],
    ]  # fmt: skip


# --- errors as they were ---


def test_old_errors_on_demand(start):
    server = start(legacy_errors=True)
    for method, path, body in [
        ("GET", C, None),
        ("POST", f"{C}/search", {"vector": [1]}),
        ("DELETE", C, None),
    ]:
        found = server(method, path, body)
        assert found.status == 200
        assert list(found.json) == ["success", "data", "error"]
        assert (found.json["success"], found.json["data"]) == (False, None)
    server("POST", "/collections", {"name": "books", "dimension": 3})
    twice = server("POST", "/collections", {"name": "books", "dimension": 3})
    assert (twice.status, twice.json["success"]) == (200, False)
    wrong = server("POST", f"{C}/vectors", {"data": [1, 2]})
    assert (wrong.status, wrong.json["error"]) == (
        200, "item 0: expected vectors of 3 numbers, found 2")  # fmt: skip
    assert server("POST", f"{C}/vectors", b"{").status == 400
    assert server("POST", f"{C}/vectors", {}).status == 422
    assert server("GET", "/nothing").status == 404
    assert server("POST", f"{C}/query", {"vector": [1]}).status == 400
