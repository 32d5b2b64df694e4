"""Connections and requests have an end: real sockets, a server in a thread, a tiny application."""

import asyncio
import inspect
import json
import re
import socket
import threading
import time

import pytest
import uvicorn
import uvloop
from uvicorn.protocols.http import httptools_impl

from dvecdb.api.limits import UNHURRIED, LimitedApp, Limits
from dvecdb.node import protocol
from dvecdb.node.protocol import Connections, LimitedProtocol
from dvecdb.node.server import Listener
from dvecdb.node.settings import ServerSettings
from dvecdb.node.sockets import bind


async def echo(scope, receive, send):
    """Answer how many bytes came; /hold waits for `release`, /fail fails, /unread does not read."""
    size = 0
    scope["state"]["operation"] = "echo"
    if scope["path"] == "/fail":
        raise RuntimeError("nobody foresaw this")
    while scope["path"] != "/unread":
        message = await receive()
        if message["type"] != "http.request":
            return
        size += len(message["body"])
        if not message["more_body"]:
            break
    if scope["path"] == "/hold":
        await asyncio.sleep(0.6)
    body = b"x" * 8_000_000 if scope["path"] == "/much" else str(size).encode()
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", str(len(body)).encode())],
        }
    )
    await send({"type": "http.response.body", "body": body})


class Served:
    """A server in a thread. `answered`: what the limits reported."""

    def __init__(self, limits, shared, settings, app=echo):
        self.answered = []
        self.app = LimitedApp(app, limits, on_answered=self.answered.append)
        self.shared = shared
        bound = bind("127.0.0.1", 0, "rest_port")
        self.port = bound.getsockname()[1]
        self.listener = Listener(self.app, bound, shared, settings, setting="rest_port")
        started = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(started,))
        self.thread.start()
        assert started.wait(10)

    def _run(self, started):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self.listener.listen(started.set))

    def stop(self):
        self.listener.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


def everything(connection):
    """Read until the server closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def answer(connection):
    """Read one answer with a Content-Length; return status, headers, body."""
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(65536)
        assert part, f"closed after {head!r}"
        head += part
    head, _, body = head.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return int(lines[0].split()[1]), headers, body


def code(body):
    error = json.loads(body)
    assert list(error) == ["success", "data", "error", "message", "code", "advice", "details"]
    return error["code"]


@pytest.fixture
def serve():
    running = []

    def start(*, app=echo, connections=None, settings=None, **limits):
        served = Served(
            Limits(**limits), connections or Connections(), settings or ServerSettings(), app
        )
        running.append(served)
        return served

    yield start
    for served in running:
        served.stop()


GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


# --- the protocol ---------------------------------------------------------------------------


def test_what_we_use_of_uvicorn_is_still_there():
    """The protocol overrides what uvicorn does not promise: a new minor version is looked at."""
    assert uvicorn.__version__.split(".")[:2] == ["0", "54"], "look at node/protocol.py again"
    parameters = inspect.signature(httptools_impl.HttpToolsProtocol.__init__).parameters
    assert list(parameters) == ["self", "config", "server_state", "app_state", "_loop"]
    for name in (
        "connection_made", "connection_lost", "data_received", "send_400_response", "shutdown",
        "on_message_begin", "on_headers_complete", "on_body", "on_message_complete",
        "on_response_complete", "pause_writing", "timeout_keep_alive_handler",
        "_unset_keepalive_if_required",
    ):  # fmt: skip
        assert callable(getattr(httptools_impl.HttpToolsProtocol, name)), name
    source = inspect.getsource(httptools_impl)
    for used in (
        "self.transport.close()", "self.timeout_keep_alive_task", "self.connections.add(self)",
        "cycle.more_body = False", "self.response_complete = True", "self.keep_alive",
    ):  # fmt: skip
        assert used in source, used
    transport = set(re.findall(r"self\.transport\.(\w+)\(", source))
    assert transport <= {"close", "write", "is_closing", "set_protocol"}, (
        "the transport is used in new ways"
    )
    server = inspect.getsource(uvicorn.Server)
    for used in ("async def startup(self, sockets", "async def shutdown(self, sockets",
                 "def capture_signals(self)", "self.server_state.tasks"):  # fmt: skip
        assert used in server, used


def test_requests_on_one_connection_are_answered_one_after_the_other(serve):
    with serve().connect() as connection:
        for _ in range(3):
            connection.sendall(GET)
            assert answer(connection)[0] == 200
        connection.sendall(GET + GET)
        assert answer_count(connection, 2) == 2


def answer_count(connection, count):
    data = b""
    while data.count(b"HTTP/1.1 200") < count or not data.endswith(b"0"):
        data += connection.recv(65536)
    return data.count(b"HTTP/1.1 200")


def test_headers_that_never_end_are_answered_408(serve):
    served = serve(connections=Connections(header_timeout_seconds=0.3))
    with served.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n")
        status, headers, body = answer(connection)
        assert (status, code(body)) == (408, "request-timeout")
        assert headers["connection"] == "close"
        assert connection.recv(1) == b""
    assert served.shared.refused == {"408": 1}


def test_a_header_timeout_counts_from_the_first_byte_of_each_request(serve):
    served = serve(connections=Connections(header_timeout_seconds=0.5))
    with served.connect() as connection:
        time.sleep(0.7)
        connection.sendall(GET)
        assert answer(connection)[0] == 200
        connection.sendall(b"GET /")
        assert answer(connection)[0] == 408


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"v" * 3000 + b"\r\n\r\n",
        b"GET /" + b"p" * 3000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 600 + b"\r\n",
    ],
    ids=["value", "path", "many"],
)
def test_large_headers_are_answered_431(serve, head):
    served = serve(connections=Connections(header_bytes_max=2048))
    with served.connect() as connection:
        connection.sendall(head)
        status, _, body = answer(connection)
        assert (status, code(body)) == (431, "headers-too-large")
        assert connection.recv(1) == b""


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\na: ", b"GET /", b"", b"\r\n"])
def test_headers_without_end_are_not_collected(serve, start):
    served = serve(connections=Connections(header_bytes_max=2048))
    with served.connect() as connection:
        connection.sendall(start)
        sent = 0
        try:
            while sent < 50_000_000:
                sent += connection.send((b"\r\n" if start == b"\r\n" else b"vv") * 1000)
        except OSError:
            pass
        assert sent < 50_000_000


def test_trailers_without_end_are_not_collected(serve):
    served = serve(connections=Connections(header_bytes_max=2048))
    with served.connect() as connection:
        head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        connection.sendall(head + b"3\r\nabc\r\n0\r\ntrailer: ")
        sent = 0
        try:
            while sent < 50_000_000:
                sent += connection.send(b"v" * 2000)
        except OSError:
            pass
        assert sent < 50_000_000


def test_a_large_body_is_no_large_header(serve):
    served = serve(connections=Connections(header_bytes_max=2048))
    with served.connect() as connection:
        size = 3_000_000
        connection.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size)
        connection.sendall(b"b" * size)
        assert answer(connection)[2] == str(size).encode()


def test_what_is_not_http_is_answered_400(serve):
    with serve().connect() as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")
        status, _, body = answer(connection)
        assert (status, code(body)) == (400, "invalid-argument")


@pytest.mark.parametrize("name", [b"Upgrade", b"upgrade", b"UPGRADE"])
def test_a_wish_for_another_protocol_is_ignored_and_costs_no_body(serve, name):
    with serve().connect() as connection:
        head = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings\r\n" + name
        connection.sendall(head + b": h2c\r\ncontent-length: 9\r\n\r\nupgrade: ")
        assert answer(connection)[2] == b"9"
        connection.sendall(GET)
        assert answer(connection)[0] == 200


def test_an_idle_connection_is_closed_after_its_time_without_a_word(serve):
    settings = ServerSettings(keep_alive_seconds=0.3)
    with serve(settings=settings).connect() as connection:
        assert connection.recv(1) == b""
    with serve(settings=settings).connect() as connection:
        connection.sendall(GET)
        assert answer(connection)[0] == 200
        assert connection.recv(1) == b""


def test_beyond_the_maximum_the_longest_idle_connection_makes_room(serve):
    served = serve(connections=Connections(connections_max=3))
    first, second, third = (served.connect() for _ in range(3))
    for connection in (second, third, first):
        connection.sendall(GET)
        assert answer(connection)[0] == 200
    with served.connect() as fourth:
        fourth.sendall(GET)
        assert answer(fourth)[0] == 200
        assert second.recv(1) == b""
        for connection in (third, first):
            connection.sendall(GET)
            assert answer(connection)[0] == 200
    for connection in (first, second, third):
        connection.close()


def test_beyond_the_maximum_busy_connections_are_not_closed(serve):
    served = serve(connections=Connections(connections_max=2))
    busy = [served.connect() for _ in range(2)]
    for connection in busy:
        connection.sendall(b"GET /hold HTTP/1.1\r\nhost: x\r\n\r\n")
    time.sleep(0.2)
    with served.connect() as more:
        status, _, body = answer(more)
        assert (status, code(body)) == (503, "too-many-requests")
    for connection in busy:
        assert answer(connection)[0] == 200
        connection.close()


def test_an_answer_that_nobody_reads_is_dropped(serve, monkeypatch):
    monkeypatch.setattr(protocol, "WRITE_LOOK_SECONDS", 0.2)
    served = serve()
    with served.connect() as connection:
        connection.sendall(b"GET /much HTTP/1.1\r\nhost: x\r\n\r\n")
        wait_until(lambda: len(served.listener.server_state.connections) == 1)
        wait_until(lambda: len(served.listener.server_state.connections) == 0)


def wait_until(holds, seconds=10):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


# --- stopping -------------------------------------------------------------------------------


def test_stopping_answers_what_was_asked_and_closes_what_is_idle(serve):
    served = serve()
    with served.connect() as idle, served.connect() as busy:
        busy.sendall(b"GET /hold HTTP/1.1\r\nhost: x\r\n\r\n")
        time.sleep(0.2)
        began = time.monotonic()
        served.listener.should_exit = True
        status, headers, _ = answer(busy)
        assert (status, headers.get("connection")) == (200, "close")
        assert busy.recv(1) == idle.recv(1) == b""
    served.stop()
    assert time.monotonic() - began < 3
    with pytest.raises(ConnectionError):
        served.connect()


def test_stopping_gives_up_what_takes_too_long_with_an_answer(serve):
    async def slow(scope, receive, send):
        await asyncio.sleep(60)

    served = serve(app=slow, settings=ServerSettings(shutdown_seconds=0.2))
    with served.connect() as connection:
        connection.sendall(GET)
        time.sleep(0.1)
        served.listener.should_exit = True
        status, _, body = answer(connection)
        assert (status, code(body)) == (503, "deadline-exceeded")


def test_a_request_sent_just_before_the_stop_is_answered(serve):
    served = serve()
    connections = [served.connect() for _ in range(20)]
    served.listener.should_exit = True
    for connection in connections:
        connection.sendall(GET)
    for connection in connections:
        assert answer(connection)[0] == 200
        connection.close()


# --- the limits -----------------------------------------------------------------------------


def test_a_body_declared_too_large_is_refused_before_it_is_read(serve):
    served = serve(body_bytes_max=1000)
    with served.connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1073741824\r\n\r\nabc")
        status, headers, body = answer(connection)
        assert (status, code(body)) == (413, "body-too-large")
        assert headers["connection"] == "close"
        assert connection.recv(1) == b""
    assert served.answered[0].body_bytes == 0


@pytest.mark.parametrize("chunked", [True, False])
def test_a_refused_body_is_not_swallowed(serve, chunked):
    served = serve(body_bytes_max=100_000)
    with served.connect() as connection:
        length = b"transfer-encoding: chunked" if chunked else b"content-length: 1073741824"
        connection.sendall(b"POST / HTTP/1.1\r\nhost: x\r\n" + length + b"\r\n\r\n")
        part = b"x" * 65536
        part = b"%x\r\n%s\r\n" % (len(part), part) if chunked else part
        sent = 0
        try:
            while sent < 2**30:
                sent += connection.send(part)
        except OSError:
            pass
        assert sent < 64 * 2**20, "the server took it"
        status, _, body = answer(connection)
        assert (status, code(body)) == (413, "body-too-large")


def test_a_body_of_the_largest_size_is_taken(serve):
    served = serve(body_bytes_max=1000)
    with served.connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        connection.sendall(b"x" * 1000)
        assert answer(connection)[2] == b"1000"
        chunked = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        connection.sendall(chunked + b"3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n")
        assert answer(connection)[2] == b"1000"


def test_a_slow_body_is_answered_408(serve):
    served = serve(body_grace_seconds=0.3, body_rate_bytes_min=1000)
    with served.connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        for _ in range(5):
            time.sleep(0.05)
            connection.sendall(b"x")
        status, headers, body = answer(connection)
        assert (status, code(body)) == (408, "request-timeout")
        assert headers["connection"] == "close"
    wait_until(lambda: served.app.in_flight == 0)


def test_a_body_that_keeps_its_rate_may_take_longer_than_the_grace(serve):
    served = serve(body_grace_seconds=0.3, body_rate_bytes_min=1000)
    with served.connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2000\r\n\r\n")
        for _ in range(4):
            connection.sendall(b"x" * 500)
            time.sleep(0.2)
        assert answer(connection)[2] == b"2000"


def test_an_encoded_body_is_answered_415(serve):
    with serve().connect() as connection:
        connection.sendall(
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc"
        )
        status, _, body = answer(connection)
        assert (status, code(body)) == (415, "unsupported-media-type")
    with serve().connect() as connection:
        connection.sendall(
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-encoding: identity\r\n"
            b"content-length: 3\r\n\r\nabc"
        )
        assert answer(connection)[0] == 200


def test_too_many_requests_in_flight_are_answered_429_but_not_the_probes(serve):
    served = serve(requests_in_flight_max=2)
    busy = [served.connect() for _ in range(2)]
    for connection in busy:
        connection.sendall(b"GET /hold HTTP/1.1\r\nhost: x\r\n\r\n")
    wait_until(lambda: served.app.in_flight == 2)
    with served.connect() as more:
        more.sendall(GET)
        status, headers, body = answer(more)
        assert (status, code(body), headers["retry-after"]) == (429, "too-many-requests", "1")
        more.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert answer(more)[0] == 200
    for connection in busy:
        assert answer(connection)[0] == 200
        connection.close()
    wait_until(lambda: served.app.in_flight == 0)


def test_bodies_together_are_bounded(serve):
    served = serve(body_bytes_max=1_000_000, bodies_max=2)
    busy = [served.connect() for _ in range(2)]
    for connection in busy:
        connection.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
        connection.sendall(b"x" * 999_999)
    wait_until(lambda: served.app.body_bytes == 2 * 999_999)
    with served.connect() as more:
        more.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n" + b"x" * 10)
        status, _, body = answer(more)
        assert (status, code(body)) == (429, "too-many-requests")
    for connection in busy:
        connection.sendall(b"x")
        assert answer(connection)[0] == 200
        connection.close()
    wait_until(lambda: served.app.body_bytes == 0)


def test_a_deadline_ends_the_waiting_and_the_work_keeps_its_place(serve):
    served = serve(request_timeout_seconds=0.2)
    with served.connect() as connection:
        connection.sendall(b"GET /hold HTTP/1.1\r\nhost: x\r\n\r\n")
        status, _, body = answer(connection)
        assert (status, code(body)) == (503, "deadline-exceeded")
        assert "may still" in json.loads(body)["message"]
        assert served.app.in_flight == 1
        connection.sendall(GET)
        assert answer(connection)[0] == 200
    wait_until(lambda: served.app.in_flight == 0)
    assert [(item.status, item.code) for item in served.answered] == [
        (503, "deadline-exceeded"),
        (200, None),
    ]


def test_the_deadline_is_not_for_what_the_application_calls_unhurried(serve):
    async def patient(scope, receive, send):
        scope["state"][UNHURRIED] = scope["path"] == "/hold"
        await asyncio.sleep(0.5)
        await echo({**scope, "path": "/"}, receive, send)

    served = serve(app=patient, request_timeout_seconds=0.1)
    for method in (b"GET /hold HTTP/1.1\r\nhost: x\r\n\r\n",
                   b"POST /hold HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx"):  # fmt: skip
        with served.connect() as connection:
            connection.sendall(method)
            assert answer(connection)[0] == 200
    with served.connect() as connection:
        connection.sendall(GET)
        status, _, body = answer(connection)
        assert (status, code(body)) == (503, "deadline-exceeded")


def test_what_nobody_foresaw_is_answered_500_with_the_request_id_only(serve):
    with serve().connect() as connection:
        connection.sendall(b"GET /fail HTTP/1.1\r\nhost: x\r\nx-request-id: abc-1\r\n\r\n")
        status, headers, body = answer(connection)
        assert (status, code(body)) == (500, "server-error")
        assert headers["x-request-id"] == "abc-1"
        assert json.loads(body)["details"] == {"request_id": "abc-1"}
        assert b"foresaw" not in body


def test_an_answer_before_the_body_was_read_closes_the_connection(serve):
    with serve().connect() as connection:
        connection.sendall(b"POST /unread HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n")
        status, headers, _ = answer(connection)
        assert (status, headers["connection"]) == (200, "close")


@pytest.mark.parametrize(
    ("sent", "kept"),
    [(b"abc.DEF_1-2", True), (b"a b", False), (b"x" * 65, False), (b"\xc3\xa4", False)],
)
def test_a_sane_request_id_is_kept_and_another_is_made(serve, sent, kept):
    with serve().connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nx-request-id: " + sent + b"\r\n\r\n")
        _, headers, _ = answer(connection)
        if kept:
            assert headers["x-request-id"] == sent.decode().lower()
        else:
            assert len(headers["x-request-id"]) == 32


def test_a_client_that_leaves_gives_its_place_back(serve):
    served = serve()
    connection = served.connect()
    connection.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nabc")
    wait_until(lambda: served.app.in_flight == 1)
    connection.close()
    wait_until(lambda: served.app.in_flight == 0)


def test_idle_connections_are_cheap(serve):
    """Not a leak test: one connection costs no timer of its own beyond the one that ends it."""
    served = serve()
    connections = [served.connect() for _ in range(200)]
    wait_until(lambda: len(served.shared.idle) == 200)
    assert all(isinstance(item, LimitedProtocol) for item in served.shared.idle)
    for connection in connections:
        connection.close()
    wait_until(lambda: len(served.shared.idle) == 0)
