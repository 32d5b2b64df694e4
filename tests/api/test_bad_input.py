"""Whatever is sent, the answer is an error that says what is wrong and where, never a 5xx."""

import string

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dvecdb.api.endpoints import ENDPOINTS

C = "/collections/books"
DEEP = b"[" * 100_000 + b"]" * 100_000


def refused(found, status, code, *words):
    assert (found.status, found.code) == (status, code), found.body
    message = found.json["message"]
    for word in words:
        assert word in message, message
    return found.json["details"]


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "words"),
    [
        (f"{C}/search", b"", 400, "invalid-body", ["empty"]),
        (f"{C}/search", b'{"vector":[1,2', 400, "invalid-body", ["byte 14 of 14"]),
        (f"{C}/search", b'{"vector":[1,2}', 400, "invalid-body", ["byte 14"]),
        (f"{C}/search", b'{"vector":[1,NaN]}', 400, "invalid-body", ["NaN is no JSON", "byte 13"]),
        (f"{C}/search", b'{"vector":[1,null]}', 422, "invalid-body", ["$.vector[1]"]),
        (f"{C}/search", b'{"vector":[1,"2"]}', 422, "invalid-body", ["$.vector[1]"]),
        (f"{C}/search", b'{"vector":[1,1e39]}', 400, "vector-out-of-range", ["position 1"]),
        (f"{C}/search", b'{"vector":[1,1e999]}', 400, "vector-out-of-range", ["$.vector[1]"]),
        (f"{C}/search", b'{"vector":[1]}', 400, "wrong-dimension", ["2 numbers, found 1"]),
        (f"{C}/search", b'{"vector":"AAA="}', 400, "wrong-dimension", ["2 bytes"]),
        (f"{C}/search", b'{"vector":[1,2],"query_vector":[1,2]}', 422, "invalid-body", []),
        (f"{C}/search", b'{"limit":3}', 422, "invalid-body", ["vector"]),
        (f"{C}/search", b'{"vector":[1,2],"limit":-1}', 400, "invalid-argument", ["limit"]),
        (f"{C}/search", b'{"vector":[1,2],"limit":10001}', 400, "invalid-argument", ["10000"]),
        (f"{C}/search", b'{"vector":[1,2],"offset":-1}', 400, "invalid-argument", ["offset"]),
        (f"{C}/search", b'{"vector":[1,2],"ef_search":0}', 400, "invalid-argument", ["1 to 1000"]),
        (f"{C}/search", b'{"vector":[1,2],"params":{"ef_search":1001}}', 400, "invalid-argument",
         ["1001"]),
        (f"{C}/search", b'{"vector":[1,2],"recall":1.5}', 400, "invalid-argument", ["0 to 1"]),
        (f"{C}/search", b'{"vector":[1,2],"recall":0.5,"ef_search":5}', 400, "invalid-argument",
         ["not both"]),
        (f"{C}/search", b'{"vector":[1,2],"with_vectors":1}', 422, "invalid-body",
         ["$.with_vectors"]),
        (f"{C}/search", b'{"vector":[1,2],"filter":[1]}', 422, "invalid-body", ["$.filter"]),
        (f"{C}/search", b'{"vector":[1,2],"filter":{"a":' + DEEP + b"}}", 400, "invalid-body",
         ["nested"]),
        (f"{C}/query", b'{"vector":[1,2],"limit":10001}', 400, "invalid-argument", ["10000"]),
        (f"{C}/query", b'{"vector":[1,2],"recall":-1}', 400, "invalid-argument", ["recall"]),
        (f"{C}/query", b'{"vector":[1,2],"recall":"high"}', 422, "invalid-body", ["$.recall"]),
        (f"{C}/query", b'{"vector":[1,2],"ef_search":1001}', 400, "invalid-argument", ["1001"]),
        (f"{C}/query", b'{"vector":[1,2],"ef_search":9,"recall":1}', 400, "invalid-argument",
         ["not both"]),
        (f"{C}/query", b'{"vector":[1,2],"on_damage":"ignore"}', 422, "invalid-body",
         ["$.on_damage"]),
        (f"{C}/query", b'{"vector":[1,2],"with_vector":true}', 400, "unknown-field",
         ["'with_vectors'"]),
        (f"{C}/search/batch", b'{"vectors":[[1,2],[1]]}', 400, "wrong-dimension", ["found 1"]),
        (f"{C}/search/batch", b'{"vectors":[' + b"[1,2]," * 1000 + b"[1,2]]}", 400,
         "invalid-argument", ["number of vectors", "1001"]),
        (f"{C}/search/batch", b'{"searches":[]}', 400, "unknown-field", ["'searches'"]),
        (f"{C}/search/groups", b'{"vector":[1,2]}', 422, "invalid-body", ["by"]),
        (f"{C}/search/groups", b'{"vector":[1,2],"by":"n","group_size":0}', 400,
         "invalid-argument", ["group_size"]),
        (f"{C}/search/groups", b'{"vector":[1,2],"by":"a[0]"}', 400, "invalid-filter", ["by"]),
        (f"{C}/facet", b'{"by":7}', 422, "invalid-body", ["$.by"]),
        (f"{C}/facet", b'{"by":"n","limit":0}', 400, "invalid-argument", ["limit"]),
        (f"{C}/facet", b'{"by":"n","group_size":3}', 400, "unknown-field", []),
        (f"{C}/facet", b"", 400, "invalid-body", ["empty"]),
        (f"{C}/query", b'{"vector":[1,2],"limti":3}', 400, "unknown-field", ["'limit'"]),
        (f"{C}/query", b'{"vector":[1,2],"where":{"a":' + b"[" * 65 + b"]" * 65 + b"}}", 400,
         "invalid-filter", ["where.a[0]", "64"]),
        (f"{C}/query", b'{"vector":[1,2],"where":{"a":' + b"[" * 80 + b"]" * 80 + b"}}", 400,
         "invalid-body", ["nested"]),
        (f"{C}/search", b'{"vector":[1,2],"filter":{"must":[{"key":"a","range":{"gte":true}}]}}',
         400, "invalid-filter", ["where.must[0].range.gte: ", "found true"]),
        (f"{C}/query", DEEP, 422, "invalid-body", ["object"]),
        (f"{C}/vectors", b'{"data":[1,2],"metadata":{"a":' + DEEP + b"}}", 400, "invalid-body", []),
        (f"{C}/vectors", b'{"data":[1,2],"metadata":[1]}', 422, "invalid-body", ["$.metadata"]),
        (f"{C}/vectors", b'{"data":[1,2],"id":7}', 422, "invalid-body", ["$.id"]),
        (f"{C}/vectors", b'{"data":[1,2],"id":""}', 400, "invalid-id", ["item 0"]),
        (f"{C}/vectors", b'{"data":[1,2],"id":"a"}', 409, "id-exists", ["'a'"]),
        (f"{C}/vectors", b'{"data":[]}', 400, "wrong-dimension", ["found 0"]),
        (f"{C}/vectors", b'{"data":[1,2],"metadata":{"a":"\\ud800"}}', 400, "invalid-body", []),
        (f"{C}/vectors", b'{"data":[1,2],"metadata":{"a":' + b"9" * 5000 + b"}}", 422,
         "invalid-body", []),
        (f"{C}/vectors", b'{"data":[1,2],"metadata":{"a":"' + b"x" * 70_000 + b'"}}', 400,
         "metadata-too-large", ["item 0"]),
        (f"{C}/vectors/batch", b'{"vectors":[{"data":[1,2]},{"data":[1]}]}', 400,
         "wrong-dimension", ["item 1"]),
        (f"{C}/vectors/batch", b'{"vectors":[{"data":[1,2]},{"data":[1,1e39]}]}', 400,
         "vector-out-of-range", ["item 1, position 1"]),
        (f"{C}/vectors/batch", b'{"vectors":[{"data":[1,2]},{"data":[1,null]}]}', 422,
         "invalid-body", ["$.vectors[1].data[1]"]),
        (f"{C}/vectors/batch", b'{"vectors":[{"id":"x","data":[1,2]},{"id":"x","data":[1,2]}]}',
         400, "duplicate-id", ["'x'"]),
        (f"{C}/write", b'{"upserts":{"vectors":[[1,2]],"ids":["a","b"]}}', 400,
         "invalid-argument", ["2 ids for 1"]),
        (f"{C}/write", b'{"upserts":{"vectors":[[1,2]],"idz":["a"]}}', 400, "unknown-field",
         ["'ids'"]),
        (f"{C}/write", b'{"upserts":{"ids":["a"]}}', 422, "invalid-body", ["vectors"]),
        (f"{C}/write", b'{"deletes":["a","a"],"upserts":{"ids":["a"],"vectors":[[1,2]]}}', 400,
         "duplicate-id", ["'a'"]),
        (f"{C}/points/search/batch", b'{"searches":[{"vector":[1,2],"offset":-1}]}', 400,
         "invalid-argument", ["offset"]),
        ("/collections", b'{"name":"x","dimension":0}', 400, "invalid-argument", ["dimension"]),
        ("/collections", b'{"name":"x","dimension":1.5}', 422, "invalid-body", ["$.dimension"]),
        ("/collections", b'{"name":"x","dimension":1,"distance_metric":"far"}', 422,
         "invalid-body", ["Cosine"]),
        ("/collections", b'{"name":"x","dimension":1,"vector_type":"Int4"}', 422, "invalid-body",
         ["Float16"]),
        ("/collections", b'{"name":"../x","dimension":1}', 400, "invalid-name", []),
        ("/collections", b'{"name":"deleted","dimension":1}', 400, "invalid-name", ["reserved"]),
        ("/collections", b'{"name":"Books","dimension":1}', 409, "collection-exists", ["'books'"]),
    ],
)  # fmt: skip
def test_bad_bodies(books, path, body, status, code, words):
    refused(books("POST", path, body), status, code, *words)
    assert books("GET", f"{C}/count").data == {"count": 3, "lsn": 1}


def test_what_is_no_message_is_refused_by_its_type(books):
    body = b'{"vector":[1,2]}'
    for media in ("text/plain", "", "application/xml", "application/octet-stream"):
        found = books("POST", f"{C}/query", body, media=media)
        refused(found, 415, "unsupported-media-type", "application/json")
    for media in ("application/json; charset=utf-8", "Application/JSON", "application/x+json"):
        assert books("POST", f"{C}/query", body, media=media).status == 200
    refused(books("POST", f"{C}/query", b"\xc1", media="application/msgpack"), 400, "invalid-body")


def test_octets_that_are_no_vector(books):
    media = "application/octet-stream"
    refused(books("POST", f"{C}/search", b"abc", media=media), 400, "wrong-dimension")
    nan = np.array([1, np.nan], "<f4").tobytes()
    details = refused(books("POST", f"{C}/search", nan, media=media), 400, "not-finite")
    assert details["position"] == 1
    refused(books("PUT", f"{C}/vectors/x", nan, media=media), 400, "not-finite", "position 1")
    body = msgspec.msgpack.encode({"upserts": {"vectors": [[1.0, 2.0], [float("inf"), 1.0]]}})
    found = books("POST", f"{C}/write", body, media="application/msgpack")
    assert refused(found, 400, "not-finite")["item"] == 1


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/nothing", 404, "unknown-path"),
        ("/", 404, "unknown-path"),
        ("/collections/", 404, "unknown-path"),
        ("/collections/books/", 404, "unknown-path"),
        ("/collections/none", 404, "collection-not-found"),
        ("/collections/..", 400, "invalid-name"),
        ("/collections/%2e%2e", 400, "invalid-name"),
        ("/collections/..%2f..%2fetc%2fpasswd", 400, "invalid-name"),
        ("/collections/books%2Fvectors", 400, "invalid-name"),
        ("/collections/books%00", 400, "invalid-name"),
        ("/collections/%ff", 400, "invalid-argument"),
        ("/collections/restore", 400, "invalid-name"),
        ("/collections/%252e%252e", 400, "invalid-name"),
        (f"{C}/vectors/..", 404, "id-not-found"),
        (f"{C}/vectors/a%2Fb", 404, "id-not-found"),
        (f"{C}/vectors/{'x' * 257}", 400, "invalid-id"),
        (f"{C}/count?as_of=yesterday", 422, "invalid-body"),
        (f"{C}/count?as_of=2024-01-01T00:00:00", 422, "invalid-body"),
        (f"{C}/count?asof=1", 400, "unknown-field"),
        (f"{C}/count?as_of=%ff", 400, "invalid-body"),
        (f"{C}/info?x=1", 400, "unknown-field"),
        (f"{C}/scroll?limit=0", 400, "invalid-argument"),
        (f"{C}/scroll?limit=ten", 422, "invalid-body"),
        (f"{C}/scroll?after=-1", 400, "invalid-argument"),
        (f"{C}/history?limit=0", 400, "invalid-argument"),
        (f"{C}/scroll?" + "&".join(f"x{i}=1" for i in range(200)), 400, "invalid-body"),
    ],
)
def test_bad_targets(books, target, status, code):
    found = books("GET", target)
    assert (found.status, found.code) == (status, code), found.body


def test_a_name_with_a_slash_is_a_name(books):
    assert books("PUT", f"{C}/vectors/a%2Fb", {"data": [1, 1]}).data["id"] == "a/b"
    assert books("GET", f"{C}/vectors/a%2fb").data["id"] == "a/b"
    assert books("PUT", f"{C}/vectors/..", {"data": [1, 1]}).data["id"] == ".."
    for word in ("batch", "get", "upsert"):
        books("PUT", f"{C}/vectors/{word}", {"data": [1, 1]})
        assert books("GET", f"{C}/vectors/{word}").data["id"] == word


def test_a_wrong_method_names_the_right_ones(books):
    found = books("PATCH", f"{C}/vectors/batch")
    refused(found, 405, "method-not-allowed", "DELETE, GET, POST, PUT")
    assert found.headers["allow"] == "DELETE, GET, POST, PUT"
    assert books("POST", "/health").status == 405


def test_bad_headers(books):
    for headers in (
        {"Idempotency-Key": "%ff"},
        {"Dvecdb-Actor": "x" * 2000},
        {"Dvecdb-Reason": "%00"},
        {"Dvecdb-If-LSN": "-1"},
        {"Dvecdb-If-LSN": "9" * 30},
    ):
        found = books("DELETE", f"{C}/vectors/a", headers=headers)
        assert (found.status, found.code) == (400, "invalid-argument")
    assert books("GET", f"{C}/count").data["count"] == 3


def test_what_nobody_foresaw_is_told_without_its_inside(books, caplog):
    def fail(*_, **__):
        raise RuntimeError("inside /data/secret")

    books.database.collections = fail
    found = books("GET", "/collections")
    assert (found.status, found.code) == (500, "server-error")
    assert "secret" not in found.body.decode()
    assert list(found.json["details"]) == ["request_id"]


def test_half_a_body_is_not_done(books):
    sent = []

    async def receive():
        return parts.pop(0)

    async def send(message):
        sent.append(message)

    parts = [
        {"type": "http.request", "body": np.array([1, 1], "<f4").tobytes(), "more_body": True},
        {"type": "http.disconnect"},
    ]
    scope = {
        "type": "http", "method": "PUT", "path": "/collections/books/vectors/x",
        "raw_path": b"/collections/books/vectors/x", "query_string": b"",
        "headers": [(b"content-type", b"application/octet-stream")],
    }  # fmt: skip
    books.runner.run(books.app(scope, receive, send))
    assert sent == []
    assert books("GET", f"{C}/vectors/x").status == 404


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["vector", "vectors", "ids", "data", "id", "limit", "filter", "metadata",
                         "upserts", "as_of", "documents", "expect", "namespace", "key", "to_lsn",
                         "before", "to_time", "new_name", "backup_path", "retention_hours",
                         "dry_run", "names", "name", "lsn", "confirm", "background"]),
        inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
CALLS = [
    (row.method, row.path.format(collection="books", id="a", namespace="jobs", key="k", task="1",
                                 tag="t", **dict.fromkeys(["entry", "backup", "snapshot"],
                                                          "books_20240101_000000")))
    for row in ENDPOINTS
    if row.request is not None
]  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(call=st.sampled_from(CALLS), body=JSON, is_binary=st.booleans())
def test_no_body_makes_the_server_fail(books, call, body, is_binary):
    try:
        data = (msgspec.msgpack if is_binary else msgspec.json).encode(body)
    except OverflowError:
        return
    media = "application/msgpack" if is_binary else "application/json"
    found = books(*call, data, media=media)
    assert found.status < 500, (call, body, found.body)
    assert found.status < 300 or found.code


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    target=st.text(string.printable, max_size=30).map(lambda text: "/" + text.replace("#", "")),
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "X"]),
    prefix=st.sampled_from(["", C, f"{C}/vectors", "/tasks", "/trash", "/backups"]),
)
def test_no_target_makes_the_server_fail(books, target, method, prefix):
    found = books(method, prefix + target)
    assert found.status < 500, found.body
