"""Embedders against a real service that fails in every way a service can."""

import json
import socket
import threading

import numpy as np
import pytest
from tests.embedding.misbehaving import DIMENSION, Fault, Service, vector_of

from dvecdb.embedding.embedders.address import parse_address, proxy_of
from dvecdb.embedding.embedders.http import UnsentError
from dvecdb.embedding.embedders.opening import open_embedder
from dvecdb.embedding.job import EmbedderSpec
from dvecdb.embedding.model import EmbedError, Reason
from dvecdb.errors import DvecdbError

TEXTS = [f"text {number}" for number in range(7)]


@pytest.fixture
def service():
    with Service() as found:
        yield found


@pytest.fixture
def opened():
    """Opens embedders of a service, and closes them."""
    embedders = []

    def open_one(url, environment=None, **fields):
        fields = {"kind": "openai", "model": "m", "url": url, "timeout_seconds": 10.0, **fields}
        embedders.append(open_embedder(EmbedderSpec(**fields), environment or {}))
        return embedders[-1]

    yield open_one
    for embedder in embedders:
        embedder.close()


def failure_of(embedder, texts=TEXTS):
    with pytest.raises(EmbedError) as failure:
        embedder.embed(texts)
    return failure.value


def are_right(vectors, texts=TEXTS):
    return np.array_equal(vectors, np.stack([vector_of(text) for text in texts]))


# --- requests and answers --------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["base64", "float"])
def test_openai_gets_its_form_and_gives_vectors_and_tokens(service, opened, encoding):
    key = {"KEY": "sk-secret-of-mine"}
    embedder = opened(service.url, key, encoding=encoding, api_key_env="KEY", dimensions=DIMENSION)
    answer = embedder.embed(TEXTS)
    assert are_right(answer.vectors)
    assert answer.tokens == sum(map(len, TEXTS)) // 4 + 1
    request = service.requests[0]
    assert request.path == "/v1/embeddings"
    assert request.headers["authorization"] == "Bearer sk-secret-of-mine"
    assert request.body == {
        "input": TEXTS,
        "model": "m",
        "dimensions": DIMENSION,
        "encoding_format": encoding,
    }
    assert embedder.model == f"openai:m@{DIMENSION}"


def test_a_service_gets_its_form_and_gives_vectors(service, opened):
    embedder = opened(service.url, kind="service", model=None, headers={"X-Team": "red"})
    answer = embedder.embed(TEXTS)
    assert are_right(answer.vectors)
    assert answer.tokens is None
    assert service.requests[0].path == "/embed"
    assert service.requests[0].body == {"texts": TEXTS}
    assert service.requests[0].headers["x-team"] == "red"
    assert embedder.model == "service"


def test_fields_of_a_service_may_be_nested(service, opened):
    rows = [[1.0, 2.0], [3.0, 4.0]]
    body = json.dumps({"result": {"items": [{"v": rows[0]}, {"v": rows[1]}]}}).encode()
    service.fail = lambda request, number: Fault("raw", body=body)
    embedder = opened(
        service.url,
        kind="service",
        path="/make",
        texts_field="data.texts",
        vectors_field="result.items.v",
        dimensions=2,
    )
    assert embedder.embed(["a", "b"]).vectors.tolist() == rows
    assert service.requests[0].path == "/make"
    assert service.requests[0].body == {
        "data": {"texts": ["a", "b"]},
        "model": "m",
        "dimensions": 2,
    }


SHAPES = {
    "list": [[1, 2], [3, 4]],
    "vectors": {"vectors": [[1, 2], [3, 4]], "usage": {"total_tokens": 5}},
    "data": {"data": [{"embedding": [3, 4], "index": 1}, {"embedding": [1, 2], "index": 0}]},
    "rows": {"data": [[1, 2], [3, 4]]},
    "items": [{"embedding": [1, 2]}, {"embedding": [3, 4]}],
}


@pytest.mark.parametrize("name", SHAPES)
def test_other_obvious_shapes_are_understood_only_if_none_was_named(service, opened, name):
    service.fail = lambda request, number: Fault("raw", body=json.dumps(SHAPES[name]).encode())
    assert opened(service.url, kind="service").embed(["a", "b"]).vectors.tolist() == [
        [1.0, 2.0],
        [3.0, 4.0],
    ]
    named = opened(service.url, kind="service", vectors_field="result")
    assert failure_of(named, ["a", "b"]).reason is Reason.WRONG_ANSWER


@pytest.mark.parametrize("kind", ["shuffled", "unnumbered"])
def test_the_index_of_an_answer_is_honoured_and_may_be_absent(service, opened, kind):
    service.fail = lambda request, number: Fault(kind)
    assert are_right(opened(service.url).embed(TEXTS).vectors)


def test_a_text_that_is_no_unicode_is_refused_before_it_is_sent(service, opened):
    assert failure_of(opened(service.url), ["a", "\ud800"]).reason is Reason.REFUSED
    assert service.requests == []


# --- failures --------------------------------------------------------------------------------


WRONG = ["count", "extra", "dimension", "ragged", "nan", "huge", "raw"]


@pytest.mark.parametrize(
    ("kind", "fault"),
    [("openai", "twice"), *((kind, fault) for kind in ("openai", "service") for fault in WRONG)],
)
def test_what_was_not_asked_for_is_a_wrong_answer(service, opened, kind, fault):
    embedder = opened(service.url, kind=kind, dimensions=DIMENSION)
    whole = Fault(fault, body=b'{"data": [{"embedd')
    service.fail = lambda request, number: whole if number == 1 else None
    error = failure_of(embedder)
    assert error.reason is Reason.WRONG_ANSWER
    assert error.message.startswith(f"{service.url}/")
    assert are_right(embedder.embed(TEXTS).vectors)


@pytest.mark.parametrize("fault", ["close", "half", "reset"])
def test_a_connection_that_breaks_is_told_and_the_next_request_gets_a_fresh_one(
    service, opened, fault
):
    embedder = opened(service.url)
    service.fail = lambda request, number: Fault(fault) if number == 1 else None
    error = failure_of(embedder)
    assert error.reason is Reason.UNREACHABLE
    assert not isinstance(error, UnsentError)
    assert are_right(embedder.embed(TEXTS).vectors)


def test_a_service_that_is_not_there_has_seen_nothing_of_the_request(service, opened):
    embedder = opened(service.url)
    service.stop()
    error = failure_of(embedder)
    assert isinstance(error, UnsentError)
    assert error.reason is Reason.UNREACHABLE
    assert "refused" in error.message


def test_no_answer_in_time_is_a_timeout(service, opened):
    service.fail = lambda request, number: Fault("hang") if number == 1 else None
    embedder = opened(service.url, timeout_seconds=0.2)
    assert failure_of(embedder).reason is Reason.TIMEOUT
    assert are_right(embedder.embed(TEXTS).vectors)


def test_an_answer_that_drips_is_a_timeout_too(opened):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        is_over = threading.Event()

        def drip():
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
                while not is_over.wait(0.05):
                    try:
                        connection.sendall(b" ")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        error = failure_of(opened(url, timeout_seconds=0.4))
        is_over.set()
        thread.join()
    assert error.reason is Reason.TIMEOUT
    assert "did not finish" in error.message


def test_a_service_that_answers_without_end_is_cut_off(opened):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"

        def pour():
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                try:
                    while True:
                        connection.sendall(b" " * 65_536)
                except OSError:
                    return

        thread = threading.Thread(target=pour)
        thread.start()
        error = failure_of(opened(url, dimensions=4))
        thread.join()
    assert error.reason is Reason.WRONG_ANSWER
    assert "more than" in error.message


def test_what_is_no_http_is_no_connection(opened):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"

        def chat():
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(b"220 mail ready\r\n\r\n")

        thread = threading.Thread(target=chat)
        thread.start()
        error = failure_of(opened(url))
        thread.join()
    assert error.reason is Reason.UNREACHABLE


def test_a_refusal_is_quoted_without_the_key(service, opened):
    said = b'{"error": {"message": "Incorrect API key provided: my-own-key-1234. Sorry"}}'
    service.fail = lambda request, number: Fault("status", 401, said)
    error = failure_of(opened(service.url, {"KEY": "my-own-key-1234"}, api_key_env="KEY"))
    assert error.reason is Reason.FORBIDDEN
    assert "my-own-key" not in error.message
    assert "Sorry" in error.message
    assert service.url in error.message
    assert "api_key_env" in error.message


def test_a_redirect_is_not_followed_and_says_where_it_leads(service, opened):
    to = (("location", "https://elsewhere.example/login?token=abc"),)
    service.fail = lambda request, number: Fault("status", 307, b"", to)
    error = failure_of(opened(service.url))
    assert error.reason is Reason.FORBIDDEN
    assert "https://elsewhere.example/login" in error.message
    assert "token" not in error.message
    assert len(service.requests) == 1


def test_told_to_wait_it_says_how_long(service, opened):
    service.fail = lambda request, number: Fault("status", 429, b"", (("retry-after", "7"),))
    error = failure_of(opened(service.url))
    assert error.reason is Reason.RATE_LIMITED
    assert error.retry_after_seconds == 7.0


def test_a_connection_is_used_again_and_renewed_on_demand(service, opened):
    embedder = opened(service.url)
    for _ in range(3):
        embedder.embed(TEXTS)
    assert service.connections == 1
    embedder.renew()
    assert are_right(embedder.embed(TEXTS).vectors)
    service.stop()
    service.start()
    assert are_right(embedder.embed(TEXTS).vectors)  # the old connection is seen to be gone


def test_many_threads_may_send_while_others_renew(service, opened):
    embedder = opened(service.url)
    wrong = []

    def work():
        for _ in range(20):
            if not are_right(embedder.embed(TEXTS).vectors):
                wrong.append(1)
            embedder.renew()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(service.requests) == 160


# --- opening ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "base", "path", "found"),
    [
        ("openai", "", None, "/v1/embeddings"),
        ("openai", "/", None, "/v1/embeddings"),
        ("openai", "/v1", None, "/v1/embeddings"),
        ("openai", "/v1/", None, "/v1/embeddings"),
        ("openai", "/api/v3", None, "/api/v3/embeddings"),
        ("openai", "/v1beta/openai/", None, "/v1beta/openai/embeddings"),
        ("openai", "/proxy", None, "/proxy/v1/embeddings"),
        ("openai", "/v1/embeddings", None, "/v1/embeddings"),
        ("openai", "/x?api-version=2", "/own", "/x/own?api-version=2"),
        ("service", "", None, "/embed"),
        ("service", "/", None, "/embed"),
        ("service", "/embed", None, "/embed"),
        ("service", "/api", None, "/api/embed"),
        ("service", "/api/", "vectors", "/api/vectors"),
    ],
)
def test_a_url_is_completed_sensibly(service, opened, kind, base, path, found):
    opened(service.url + base, kind=kind, path=path).embed(TEXTS)
    assert service.requests[0].path == found


@pytest.mark.parametrize(
    ("fields", "environment", "words"),
    [
        ({}, {}, "FASTAPI_URL"),
        ({"url_env": "MY_URL"}, {"FASTAPI_URL": "http://x"}, "MY_URL"),
        ({"url": "ftp://x"}, {}, "embedder.url"),
        ({"url": "http://"}, {}, "embedder.url"),
        ({"url": "http://x y"}, {}, "embedder.url"),
        ({"url": "http://x:notaport"}, {}, "embedder.url"),
        ({"url": "http://x", "api_key_env": "MY_KEY"}, {}, "MY_KEY"),
        ({"url": "http://x", "api_key_env": "K"}, {"K": "a\nb"}, "authorization"),
        ({"url": "http://x", "headers": {"a b": "c"}}, {}, "'a b'"),
        ({"kind": "openai", "url": "http://x"}, {}, "embedder.model"),
        ({"kind": "local"}, {}, "embedder.model"),
        ({"url": "http://x"}, {"HTTP_PROXY": "socks5://y"}, "http_proxy"),
    ],
)
def test_what_is_missing_or_wrong_is_named(fields, environment, words):
    with pytest.raises(DvecdbError) as failure:
        open_embedder(EmbedderSpec(**fields), environment)
    assert failure.value.code == "invalid-job"
    assert words in str(failure.value)


def test_a_url_with_a_password_is_used_and_never_shown(service, opened):
    url = service.url.replace("http://", "http://me:swordfish@")
    embedder = opened("", {"FASTAPI_URL": url}, kind="service")
    assert are_right(embedder.embed(TEXTS).vectors)
    assert service.requests[0].headers["authorization"].startswith("Basic ")
    service.fail = lambda request, number: Fault("status", 500, b"swordfish")
    assert "swordfish" not in failure_of(embedder).message


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        ("http://far.example/x", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("https://far.example/x", {"HTTP_PROXY": "http://p:1"}, None),
        ("https://far.example/x", {"https_proxy": "p:2"}, "http://p:2"),
        ("https://far.example/x", {"ALL_PROXY": "http://p:3"}, "http://p:3"),
        ("http://far.example", {"http_proxy": "http://p:1", "NO_PROXY": "*"}, None),
        ("http://far.example", {"http_proxy": "http://p:1", "NO_PROXY": "a, .example"}, None),
        (
            "http://far.example",
            {"http_proxy": "http://p:1", "NO_PROXY": "ar.example"},
            "http://p:1",
        ),
        ("http://far.example:8", {"http_proxy": "http://p:1", "NO_PROXY": "far.example:8"}, None),
        ("http://10.1.2.3", {"http_proxy": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, None),
        ("http://localhost:8", {"HTTP_PROXY": "http://p:1"}, None),
        ("http://127.9.9.9:8", {"HTTP_PROXY": "http://p:1"}, None),
        ("http://[::1]:8", {"HTTP_PROXY": "http://p:1"}, None),
    ],
)
def test_proxies_come_from_the_environment_and_never_stand_before_this_machine(
    url, environment, proxy
):
    found = proxy_of(parse_address(url, "here"), environment)
    assert (found and found.url) == proxy


def test_a_proxy_is_used_with_its_password(service, opened):
    environment = {"HTTP_PROXY": service.url.replace("http://", "http://me:swordfish@")}
    answer = opened("http://far.example", environment).embed(TEXTS)
    assert are_right(answer.vectors)
    assert service.requests[0].path == "http://far.example/v1/embeddings"
    assert service.requests[0].headers["proxy-authorization"].startswith("Basic ")
