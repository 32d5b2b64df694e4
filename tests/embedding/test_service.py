"""The embedding service as a process: what it answers, what it refuses, how it starts and stops."""

import asyncio
import base64
import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from dvecdb.cli.main import run
from dvecdb.embedding.embedders.opening import open_embedder
from dvecdb.embedding.job import EmbedderSpec
from dvecdb.embedding.local.fake import FakeModel
from dvecdb.embedding.local.models import open_model
from dvecdb.embedding.model import EmbedError, Reason
from dvecdb.embedding.service import make_app, text_hash
from dvecdb.errors import Code, InvalidRequestError
from dvecdb.testing.embedding_service import EmbeddingService

TEXTS = ["Prompt injection", "a second text", "ünïcode, 🙂"]
KEY = "a key that nobody guesses"


@pytest.fixture(scope="module")
def service():
    with EmbeddingService() as running:
        yield running


@pytest.fixture(scope="module")
def guarded():
    with EmbeddingService(api_key=KEY, arguments=("--texts-max", "3")) as running:
        yield running


def ask(service, method, path, body=None, **headers):
    """Return status, headers by lower-case name, and decoded body."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode() if body else None
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, data, {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, found, json.loads(answer.read())


def refusal(service, path, body, **headers):
    """Return the status of an error, and the error, which has the form of OpenAI's."""
    status, _, found = ask(service, "POST", path, body, **headers)
    assert status >= 400
    assert set(found) == {"error"}
    assert set(found["error"]) == {"message", "type", "param", "code"}
    return status, found["error"]


# --- /embed --------------------------------------------------------------------------------------


def test_embed_answers_the_vectors_of_the_texts_in_their_order(service):
    status, _, found = ask(service, "POST", "/embed", {"texts": TEXTS})
    assert status == 200
    assert found["model"] == "fake-384"
    assert found["dimension"] == 384
    expected = FakeModel().embed(TEXTS)
    assert found["tokens"] == expected.tokens
    assert np.array_equal(np.array(found["embeddings"], np.float32), expected.vectors)


def test_embed_takes_a_single_text(service):
    one = ask(service, "POST", "/embed", {"text": TEXTS[0]})[2]
    several = ask(service, "POST", "/embed", {"texts": TEXTS})[2]
    assert one["embeddings"] == several["embeddings"][:1]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"texts": []},
        {"texts": ["fine", ""]},
        {"text": ""},
        {"texts": ["a"], "text": "b"},
        {"texts": "a"},
        {"texts": [1]},
        {"words": ["a"]},
        b"no json",
        b'{"text": "\\ud800"}',
        b"[]",
    ],
)
def test_embed_refuses_a_body_that_it_cannot_use(service, body):
    before = service.health()["texts"]
    status, error = refusal(service, "/embed", body or b"{}")
    assert status == 400
    assert error["type"] == "invalid_request_error"
    assert service.health()["texts"] == before


# --- /v1/embeddings ------------------------------------------------------------------------------


def test_our_own_embedder_names_model_and_dimensions_to_it(service):
    spec = EmbedderSpec(url=service.url, model="fake", dimensions=384)
    with contextlib.closing(open_embedder(spec, {})) as embedder:
        assert embedder.embed(["alpha", "beta"]).vectors.shape == (2, 384)
    assert refusal(service, "/embed", {"text": "a", "model": "other"})[0] == 404
    assert refusal(service, "/embed", {"text": "a", "dimensions": 12})[0] == 400


def test_openai_answers_have_the_official_form(service):
    body = {"input": TEXTS, "model": "fake", "user": "somebody"}
    status, _, found = ask(service, "POST", "/v1/embeddings", body)
    assert status == 200
    assert set(found) == {"object", "data", "model", "usage"}
    assert found["object"] == "list"
    assert [item["index"] for item in found["data"]] == [0, 1, 2]
    assert {item["object"] for item in found["data"]} == {"embedding"}
    assert found["usage"]["prompt_tokens"] == found["usage"]["total_tokens"] > 0
    vectors = np.array([item["embedding"] for item in found["data"]], np.float32)
    assert np.array_equal(vectors, FakeModel().embed(TEXTS).vectors)


def test_base64_and_float_are_the_same_vectors(service):
    bodies = [{"input": TEXTS, "encoding_format": kind} for kind in ("float", "base64")]
    as_float, as_base64 = (ask(service, "POST", "/v1/embeddings", body)[2] for body in bodies)
    for one, other in zip(as_float["data"], as_base64["data"], strict=True):
        decoded = np.frombuffer(base64.b64decode(other["embedding"]), "<f4")
        assert np.array_equal(np.array(one["embedding"], np.float32), decoded)


def test_openai_takes_a_single_text_and_dimensions_that_the_model_has(service):
    body = {"input": TEXTS[0], "model": "fake-384", "dimensions": 384}
    status, _, found = ask(service, "POST", "/v1/embeddings", body)
    assert status == 200
    assert len(found["data"]) == 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"input": TEXTS, "model": "text-embedding-3-small"}, 404, "model_not_found"),
        ({"input": TEXTS, "dimensions": 1_536}, 400, None),
        ({"input": []}, 400, None),
        ({"input": ""}, 400, None),
        ({"input": [[1, 2, 3]]}, 400, None),
        ({"input": TEXTS, "encoding_format": "hex"}, 400, None),
        ({"model": "fake"}, 400, None),
    ],
)
def test_openai_refuses_what_it_cannot_do(service, body, status, code):
    found, error = refusal(service, "/v1/embeddings", body)
    assert (found, error["code"]) == (status, code)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/embed", 405), ("POST", "/embeddings", 404)]
)
def test_unknown_paths_and_methods_are_errors_of_the_same_form(service, method, path, status):
    found, _, body = ask(service, method, path)
    assert found == status
    assert set(body["error"]) == {"message", "type", "param", "code"}


# --- limits and keys -----------------------------------------------------------------------------


def test_too_many_texts_are_413_and_none_is_embedded(guarded):
    key = {"authorization": f"Bearer {KEY}"}
    for path, field in (("/embed", "texts"), ("/v1/embeddings", "input")):
        assert ask(guarded, "POST", path, {field: ["a"] * 3}, **key)[0] == 200
        before = guarded.health()["texts"]
        status, error = refusal(guarded, path, {field: ["a"] * 4}, **key)
        assert (status, error["code"]) == (413, "too_many_texts")
        assert guarded.health()["texts"] == before


def test_too_large_a_body_is_413_and_the_connection_goes_on(service):
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    with contextlib.closing(connection):
        connection.request("POST", "/embed", json.dumps({"text": "a" * 9 * 2**20}).encode())
        answer = connection.getresponse()
        assert answer.status == 413
        assert json.loads(answer.read())["error"]["code"] == "body_too_large"
        connection.request("POST", "/embed", json.dumps({"text": "a"}).encode())
        assert connection.getresponse().status == 200


@pytest.mark.parametrize(
    "given", [{}, {"authorization": "Bearer no"}, {"authorization": f"Basic {KEY}"}]
)
@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings", "/faults"])
def test_without_the_key_nothing_is_done(guarded, path, given):
    status, error = refusal(guarded, path, {"texts": ["a"], "input": "a"}, **given)
    assert (status, error["code"]) == (401, "invalid_api_key")
    assert KEY not in error["message"]


def test_health_needs_no_key_and_tells_none(guarded):
    status, _, found = ask(guarded, "GET", "/health")
    assert status == 200
    assert found["status"] == "ok"
    assert KEY not in json.dumps(found)


# --- figures -------------------------------------------------------------------------------------


def test_every_text_is_counted_in_all_and_by_itself():
    with EmbeddingService(dimensions=8) as service:
        for _ in range(2):
            service.ask("/embed", {"texts": ["a", "b"]})
        service.ask("/v1/embeddings", {"input": "b"})
        health = service.health()
        assert (health["texts"], health["requests"], health["distinct_texts"]) == (5, 3, 2)
        assert (health["model"], health["dimension"]) == ("fake-8", 8)
        assert service.texts() == {text_hash("a"): 2, text_hash("b"): 3}


def test_faults_and_texts_are_only_there_where_that_was_allowed():
    with started("--port", "0") as process:
        port = int(process.stdout.readline().split("http://", 1)[1].split()[0].rpartition(":")[2])
        for path in ("/faults", "/texts"):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            with contextlib.closing(connection):
                connection.request("GET", path)
                assert connection.getresponse().status == 404


# --- starting and stopping -----------------------------------------------------------------------


@contextlib.contextmanager
def started(*arguments):
    """Run the command as it is."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dvecdb", "embedding-service", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_sigterm_ends_it_in_order_and_nothing_but_the_ready_line_was_said():
    with started("--port", "0") as process:
        assert process.stdout.readline().startswith("Embedding service ready: http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        out, error = process.communicate(timeout=30)
        assert (process.returncode, out, error) == (0, "", "")


def test_it_stops_while_answers_are_held_back():
    body = b'{"text": "a"}'
    with (
        EmbeddingService(faults={"timeouts": 1, "timeout_seconds": 600}) as service,
        socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection,
    ):
        connection.sendall(b"POST /embed HTTP/1.1\r\nhost: x\r\n")
        connection.sendall(b"content-length: %d\r\n\r\n%s" % (len(body), body))
        wait_for(lambda: service.health()["in_flight"] == 1)
        assert service.stop() == 0


def test_a_port_in_use_is_one_line_and_exit_code_2(service):
    with started("--port", str(service.port)) as process:
        out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert error.startswith(
        f"error: {Code.PORT_IN_USE}: port {service.port} of 127.0.0.1 is in use"
    )
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--host", "0.0.0.0"), Code.UNSAFE_ADDRESS),
        (("--api-key-env", "NO_SUCH_VARIABLE"), Code.INVALID_SETTINGS),
        (("--faults", "errors=2"), Code.INVALID_ARGUMENT),
        (("--faults", "no_such=1"), Code.INVALID_ARGUMENT),
        (("--faults", "errors"), "usage"),
        (("--dimensions", "1"), Code.INVALID_ARGUMENT),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(arguments, code, capsys):
    assert run(["embedding-service", "--port", "0", *arguments]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith(f"error: {code}: ")
    assert error.count("\n") == 1


def test_after_kill_9_it_is_back_on_the_same_port():
    with EmbeddingService() as service:
        port = service.port
        service.ask("/embed", {"text": "a"})
        service.kill()
        with pytest.raises(OSError, match="refused"):
            service.health()
        service.start()
        assert service.port == port
        assert service.health()["texts"] == 0
        service.restart()
        assert service.port == port


def test_a_start_that_fails_says_what_the_service_said(service):
    with pytest.raises(RuntimeError, match="exit code 2: error: port-in-use"):
        EmbeddingService(port=service.port)


# --- a model that takes its time -----------------------------------------------------------------


class GatedModel(FakeModel):
    """Embeds only while its gate is open, and remembers what."""

    def __init__(self):
        super().__init__()
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.embedded = []

    def embed(self, texts):
        self.entered.set()
        assert self.gate.wait(30)
        self.embedded += texts
        return super().embed(texts)


async def call(app, body, *, leaves=False, sent=None):
    """Return the status of a request whose client leaves at once, or stays. sent: the messages."""
    messages = [{"type": "http.request", "body": json.dumps(body).encode()}]
    messages += [{"type": "http.disconnect"}] if leaves else []
    status = []

    async def receive():
        return messages.pop(0) if messages else await asyncio.Event().wait()

    async def send(message):
        status.append(message.get("status"))
        if sent is not None:
            sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/embed", "query_string": b"", "headers": []}
    await app(scope, receive, send)
    return status[0]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (EmbedError(Reason.REFUSED, "not this"), 400),
        (EmbedError(Reason.UNREACHABLE, "closed"), 503),
        (ZeroDivisionError(), 500),
    ],
)
def test_whatever_a_model_raises_is_an_error_of_the_same_form(error, status):
    model = GatedModel()
    model.gate.set()
    app = make_app(model)
    model.embed = raising(error)
    sent = []
    with contextlib.suppress(ZeroDivisionError):  # which goes to the log of the server
        asyncio.run(call(app, {"text": "a"}, sent=sent))
    assert sent[0]["status"] == status
    assert set(json.loads(sent[1]["body"])["error"]) == {"message", "type", "param", "code"}


def raising(error):
    def embed(texts):
        raise error

    return embed


def test_nothing_is_embedded_for_clients_that_left_while_they_waited():
    """A client that gives up and asks again must not make a slow model work twice as much."""
    model = GatedModel()
    model.gate.set()
    app = make_app(model)  # which embeds a text to learn the dimension
    model.gate.clear()
    model.entered.clear()
    model.embedded.clear()

    async def play():
        first = asyncio.create_task(call(app, {"text": "first"}, leaves=False))
        await asyncio.to_thread(model.entered.wait)
        waiting = [
            asyncio.create_task(call(app, {"text": "left"}, leaves=True)),
            asyncio.create_task(call(app, {"text": "stayed"}, leaves=False)),
        ]
        await asyncio.sleep(0)  # both wait for the model now
        model.gate.set()
        return [await task for task in (first, *waiting)]

    assert asyncio.run(play())[::2] == [200, 200]
    assert model.embedded == ["first", "stayed"]


def test_minilm_is_served_with_the_vectors_that_it_has_in_this_process():
    try:
        model = open_model("minilm")
    except InvalidRequestError as error:
        if error.code is not Code.EXTRA_MISSING:
            raise
        pytest.skip(f"NOT TESTED, the model is not installed: {error.message}")
    expected = model.embed(TEXTS)
    model.close()
    with EmbeddingService("minilm") as service:
        found = service.ask("/embed", {"texts": TEXTS})
        assert found["model"] == "all-MiniLM-L6-v2-int8"
        assert found["tokens"] == expected.tokens
        assert np.array_equal(np.array(found["embeddings"], np.float32), expected.vectors)
        assert service.ask("/v1/embeddings", {"input": TEXTS, "model": "minilm"})["data"]
        assert service.stop() == 0


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
