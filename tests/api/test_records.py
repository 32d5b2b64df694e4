"""dvecdb's own calls: one general write, reads of one state, the past, documents, history."""

import json
from urllib.parse import quote

import msgspec
import numpy as np
import pytest

from dvecdb.clock import to_datetime

C = "/collections/books"
MSGPACK = "application/msgpack"
BINARY = {"accept": MSGPACK}


def octets(rows):
    return np.array(rows, "<f4").tobytes()


def packed(server, method, target, body=None):
    """Call with MessagePack both ways."""
    data = None if body is None else msgspec.msgpack.encode(body)
    found = server(method, target, data, headers=BINARY, **({"media": MSGPACK} if data else {}))
    assert found.headers["content-type"] == MSGPACK
    assert found.status == 200, found.msgpack
    answer = found.msgpack
    assert list(answer) == ["success", "data", "error"]
    return answer["data"]


# --- writes ---


def test_one_atomic_write(books):
    body = {
        "upserts": {"ids": ["a", "d"], "vectors": [[7, 7], [8, 8]], "metadata": [{"x": 1}, None]},
        "deletes": ["b", "none"],
        "documents": [{"namespace": "jobs", "key": "k", "value": {"at": 5}}],
        "expect": [{"namespace": "jobs", "key": "k", "value": None}],
    }
    found = books("POST", f"{C}/write", body)
    assert found.data == {"lsn": 2, "ids": ["a", "d"], "count": 3}
    assert found.lsn == 2
    assert books("GET", f"{C}/count").data == {"count": 3, "lsn": 2}
    assert books("POST", f"{C}/write", body).code == "condition-failed"


def test_inserts_refuse_what_exists(books):
    body = {"inserts": {"ids": ["x", "a"], "vectors": [[1, 1], [2, 2]]}}
    refused = books("POST", f"{C}/write", body)
    assert (refused.status, refused.code) == (409, "id-exists")
    assert refused.json["details"]["ids"] == ["a"]
    assert books("GET", f"{C}/count").data["count"] == 3
    body = {"inserts": {"vectors": [[1, 1]]}, "upserts": {"vectors": [[1, 1]]}}
    assert books("POST", f"{C}/write", body).code == "invalid-argument"


def test_vectors_are_taken_in_every_form(books):
    import base64

    rows = [[1.5, 2.5], [-3.5, 4.25]]
    forms = [
        ({"vectors": rows}, None),
        ({"vectors": base64.b64encode(octets(rows)).decode()}, None),
        ({"vectors": [base64.b64encode(octets(row)).decode() for row in rows]}, None),
        ({"vectors": octets(rows)}, MSGPACK),
        ({"vectors": [octets(rows[0]), rows[1]]}, MSGPACK),
        ({"vectors": rows}, MSGPACK),
    ]
    for index, (upserts, media) in enumerate(forms):
        body = {"upserts": {**upserts, "ids": [f"{index}-0", f"{index}-1"]}}
        if media:
            found = books("POST", f"{C}/write", msgspec.msgpack.encode(body), media=media)
        else:
            found = books("POST", f"{C}/write", body)
        assert found.data["count"] == 2
        ids = {"ids": [f"{index}-0", f"{index}-1"]}
        records = books("POST", f"{C}/vectors/get", ids).data["records"]
        assert [record["vector"] for record in records] == rows
    put = books("PUT", f"{C}/vectors/o", octets([9, 8]), media="application/octet-stream")
    assert put.data["id"] == "o"
    assert books("GET", f"{C}/vectors/o").data["data"] == [9, 8]


def test_metadata_is_changed_without_its_vector(books):
    body = {"ids": ["a", "c"], "metadata": [{"m": 1}, {"m": 2}]}
    assert books("POST", f"{C}/vectors/metadata", body).data == {"lsn": 2, "count": 2}
    assert books("GET", f"{C}/vectors/a").data == {
        "id": "a", "data": [1, 0], "metadata": {"n": 1, "m": 1}}  # fmt: skip
    body = {"ids": ["a"], "metadata": [{"z": 1}], "mode": "replace"}
    books("POST", f"{C}/vectors/metadata", body)
    assert books("GET", f"{C}/vectors/a").data["metadata"] == {"z": 1}
    body = {"ids": ["none"], "metadata": [{}]}
    refused = books("POST", f"{C}/vectors/metadata", body)
    assert (refused.status, refused.code) == (404, "id-not-found")
    body = {"ids": ["a"], "metadata": [{}], "if_lsn": 1}
    assert books("POST", f"{C}/vectors/metadata", body).code == "condition-failed"


def test_a_condition_may_stand_in_the_header_or_in_the_body(books):
    body = {"upserts": {"ids": ["a"], "vectors": [[1, 1]]}}
    assert books("POST", f"{C}/write", body, headers={"Dvecdb-If-LSN": "0"}).status == 409
    assert books("POST", f"{C}/write", {**body, "if_lsn": 0}).status == 409
    both = {**body, "if_lsn": 1}
    assert books("POST", f"{C}/write", both, headers={"Dvecdb-If-LSN": "2"}).status == 400
    assert books("POST", f"{C}/write", both, headers={"Dvecdb-If-LSN": "x"}).status == 400
    assert books("POST", f"{C}/write", both, headers={"Dvecdb-If-LSN": "1"}).status == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", f"{C}/write", {"upserts": {"vectors": [[1, 1]]}}),
        ("POST", f"{C}/vectors", {"data": [1, 1]}),
        (
            "POST",
            f"{C}/vectors/batch",
            {"vectors": [{"data": [1, 1]}, {"id": "k", "data": [1, 1]}]},
        ),
        (
            "POST",
            f"{C}/vectors/upsert",
            {"vectors": [{"data": [1, 1]}, {"id": "k", "data": [1, 1]}]},
        ),
        ("PUT", f"{C}/vectors/k", {"data": [1, 1]}),
        ("DELETE", f"{C}/vectors/a", None),
        ("POST", f"{C}/vectors/batch-delete", {"ids": ["a", "b"]}),
        ("POST", f"{C}/vectors/metadata", {"ids": ["a"], "metadata": [{"x": 1}]}),
    ],
)
def test_a_key_makes_a_write_happen_once_also_after_a_restart(books, method, path, body):
    key = {"Idempotency-Key": "k%C3%A4"}
    first = books(method, path, body, headers=key)
    assert first.status == 200, first.body
    books.reopen()
    again = books(method, path, body, headers=key)
    assert (again.body, again.lsn) == (first.body, first.lsn)
    assert books("GET", f"{C}/info").data["last_lsn"] == first.lsn
    assert "kä" in books("GET", f"{C}/documents/_idempotency").data
    other = books("POST", f"{C}/vectors", {"data": [4, 4]}, headers=key)
    assert (other.status, other.code) == (409, "idempotency-key-reused")


# --- reads ---


def test_records_by_id(books):
    body = {"ids": ["b", "none", "a"]}
    found = books("POST", f"{C}/vectors/get", body).data
    assert found == {"records": [
        {"id": "b", "metadata": {"n": 2}, "lsn": 1, "vector": [2, 0]},
        None,
        {"id": "a", "metadata": {"n": 1}, "lsn": 1, "vector": [1, 0]},
    ]}  # fmt: skip
    found = books("POST", f"{C}/vectors/get", {**body, "with_vectors": False}).data
    assert "vector" not in found["records"][0]
    found = packed(books, "POST", f"{C}/vectors/get", body)
    assert (found["vectors"], found["dimension"]) == (octets([[2, 0], [1, 0]]), 2)
    assert found["records"][1] is None
    assert "vector" not in found["records"][0]


def test_a_record_in_binary(books):
    found = packed(books, "GET", f"{C}/vectors/b")
    assert found == {"id": "b", "data": octets([2, 0]), "metadata": {"n": 2}}
    (point, *_) = packed(books, "POST", f"{C}/points/scroll", {"limit": 1})["points"]
    assert point["vector"] == octets([1, 0])
    hits = packed(books, "POST", f"{C}/search", {"vector": octets([0, 0]), "limit": 1})
    assert hits == [{"id": "a", "distance": 1.0, "metadata": {"n": 1}}]


def test_query(books):
    body = {"vector": [0, 0], "limit": 2, "where": {"n": 2}}
    assert books("POST", f"{C}/query", body).data == {
        "hits": [{"id": "b", "distance": 2.0, "metadata": {"n": 2}}], "excluded": [], "lsn": 1,
    }  # fmt: skip
    body = {"vector": octets([0, 0]), "with_metadata": False, "limit": 1, "on_damage": "exclude"}
    found = packed(books, "POST", f"{C}/query", body)
    assert found["hits"] == [{"id": "a", "distance": 1.0, "metadata": None}]


def test_a_filter_of_conditions_goes_in_everywhere(books):
    where = {"must": [{"key": "n", "range": {"gte": 2}}]}
    text = quote(json.dumps(where))
    body = {"vector": [0, 0], "where": where}
    assert [hit["id"] for hit in books("POST", f"{C}/query", body).data["hits"]] == ["b"]
    assert books("GET", f"{C}/count?where={text}").data["count"] == 1
    assert [one["id"] for one in books("GET", f"{C}/scroll?where={text}").data["records"]] == ["b"]
    found = books("POST", f"{C}/vectors/get", {"ids": ["a", "b"], "where": where}).data["records"]
    assert [one and one["id"] for one in found] == [None, "b"]
    assert books("POST", f"{C}/points/count", {"filter": where}).data["count"] == 1
    deleted = books("POST", f"{C}/vectors/delete", {"filter": where})
    assert deleted.data["deleted_count"] == 1
    undone = books("POST", f"{C}/undo", {"to_lsn": 1, "filter": where})
    assert undone.data["restored"] == 1


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "query", {"vector": [0, 0], "where": "FILTER"}),
        ("POST", "search", {"vector": [0, 0], "filter": "FILTER"}),
        ("POST", "points/search/batch", {"searches": [{"vector": [0, 0], "filter": "FILTER"}]}),
        ("POST", "points/scroll", {"filter": "FILTER"}),
        ("POST", "points/count", {"filter": "FILTER"}),
        ("POST", "vectors/get", {"ids": ["a"], "where": "FILTER"}),
        ("POST", "vectors/delete", {"filter": "FILTER"}),
        ("POST", "undo", {"to_lsn": 1, "filter": "FILTER"}),
        ("GET", "count?where=FILTER", None),
        ("GET", "scroll?where=FILTER", None),
    ],
)
def test_a_bad_filter_is_named_by_its_path(books, method, path, body):
    text = json.dumps({"must": [{"key": "n", "match": {"is": 1}}]})
    given = body and json.loads(json.dumps(body).replace('"FILTER"', text))
    answer = books(method, f"{C}/{path.replace('FILTER', quote(text))}", given)
    assert (answer.status, answer.code) == (400, "invalid-filter")
    assert answer.json["details"]["path"] == "where.must[0].match.is"


def test_the_deepest_filter_that_is_allowed_is_read(books):
    tree = {"must": [{"key": "n", "match": {"any": [1]}}]}
    for _ in range(31):
        tree = {"should": [tree]}
    assert books("POST", f"{C}/points/count", {"filter": tree}).data["count"] == 1
    answer = books("POST", f"{C}/points/count", {"filter": {"must": [tree]}})
    assert (answer.status, answer.code) == (400, "invalid-filter")


def test_scroll_stays_in_one_state(books):
    first = books("GET", f"{C}/scroll?limit=2&with_vectors=true").data
    assert [record["vector"] for record in first["records"]] == [[1, 0], [2, 0]]
    assert first["lsn"] == 1
    books("DELETE", f"{C}/vectors/c")
    rest = f"{C}/scroll?limit=2&after={first['next']}"
    assert books("GET", rest).data["records"] == []
    page = books("GET", f"{rest}&as_of={first['lsn']}").data
    assert [record["id"] for record in page["records"]] == ["c"]
    assert (page["next"], page["lsn"]) == (None, 1)
    found = packed(books, "GET", f"{C}/scroll?with_vectors=1")
    assert (found["vectors"], found["dimension"]) == (octets([[1, 0], [2, 0]]), 2)


def test_the_past(books):
    written_ns = books.database.collection("books").history()[0].hlc
    moment = to_datetime(written_ns + 1_000).isoformat().replace("+00:00", "Z")
    books("DELETE", f"{C}/vectors/a")
    for as_of in (1, moment):
        assert books("GET", f"{C}/count?as_of={as_of}").data == {"count": 3, "lsn": 1}
        body = {"ids": ["a"], "as_of": as_of}
        assert books("POST", f"{C}/vectors/get", body).data["records"][0]["id"] == "a"
        body = {"vector": [0, 0], "as_of": as_of, "limit": 1}
        for call in ("query", "search"):
            data = books("POST", f"{C}/{call}", body).data
            assert (data["hits"] if call == "query" else data)[0]["id"] == "a"
        body = {"as_of": as_of}
        assert len(books("POST", f"{C}/points/scroll", body).data["points"]) == 3
    for as_of in (99, "1999-01-01T00:00:00Z"):
        refused = books("GET", f"{C}/count?as_of={as_of}")
        assert (refused.status, refused.code) == (400, "as-of-unreadable")


def test_documents(books):
    body = {"documents": [{"namespace": "jobs", "key": "a/b", "value": 1}]}
    books("POST", f"{C}/write", body)
    body["documents"][0]["value"] = {"x": [None]}
    books("POST", f"{C}/write", body)
    assert books("GET", f"{C}/documents/jobs").data == {"a/b": {"x": [None]}}
    assert books("GET", f"{C}/documents/jobs/a%2Fb?as_of=2").data == {"value": 1}
    assert books("GET", f"{C}/documents/jobs/none").data == {"value": None}
    assert books("GET", f"{C}/documents/none").data == {}
    body = {"documents": [{"namespace": "jobs", "key": "a", "value": 1}] * 2}
    assert books("POST", f"{C}/write", body).code == "invalid-argument"
    body = {"documents": [{"namespace": "_config", "key": "a", "value": 1}]}
    assert books("POST", f"{C}/write", body).code == "invalid-argument"


def test_history_says_who_and_why(books):
    headers = {"Dvecdb-Actor": "ann%20%C3%A4", "Dvecdb-Reason": "a%20mistake"}
    books("DELETE", f"{C}/vectors/a", headers=headers)
    last, first = books("GET", f"{C}/history").data["commits"]
    assert (last["lsn"], last["actor"], last["reason"]) == (2, "ann ä", "a mistake")
    assert (last["operation"], last["rows"], last["ended"]) == ("delete", 0, 1)
    assert first["request_id"]
    assert first["actor"] is None
    (only,) = books("GET", f"{C}/history?limit=5&before=2").data["commits"]
    assert only == first


def test_every_figure(books):
    info = books("GET", f"{C}/info").data
    assert (info["count"], info["rows"], info["last_lsn"]) == (3, 3, 1)
    assert (info["dimension"], info["metric"], info["vector_type"]) == (2, "euclidean", "float32")
