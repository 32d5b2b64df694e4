"""An embedding service on a free port that fails as a test says, request by request."""

import base64
import json
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

DIMENSION = 8


def vector_of(text, dimension=DIMENSION):
    """The right vector of a text."""
    seed = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)


@dataclass(frozen=True)
class Fault:
    """What happens instead of the right answer.

    kind: status, hang, reset (mid-body), close (no answer), half (less than announced), raw (a
    body as it is), or a change of the answer: count, extra, dimension, ragged, nan, huge, shuffled
    (right, in another order), twice (an index), unnumbered (no index).
    """

    kind: str
    status: int = 200
    body: bytes = b""
    headers: tuple = ()


@dataclass
class Request:
    texts: list
    path: str
    headers: dict
    body: dict


@dataclass
class Service:
    """fail: given a `Request` and its number from 1, returns a Fault or None."""

    fail: object = lambda request, number: None
    dimension: int = DIMENSION
    requests: list = field(default_factory=list)
    embedded: list = field(default_factory=list)  # texts of right answers
    hang: threading.Event = field(default_factory=threading.Event)  # set: those that hang go on
    port: int = 0

    def __post_init__(self):
        self._lock = threading.Condition()
        self._sockets = set()
        self._server = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        """Listen, on the port of before if there was one."""
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self):
                super().setup()
                with service._lock:
                    service._sockets.add(self.connection)

            def finish(self):
                with service._lock:
                    service._sockets.discard(self.connection)
                with suppress(OSError):
                    super().finish()

            def log_message(self, *_):
                pass

            def do_POST(self):
                service._answer(self)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request, address):
                pass  # the client went away, or the test did

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self):
        """Die: nobody listens any more, every connection is reset."""
        if self._server is None:
            return
        self.hang.set()
        self._server.shutdown()
        self._thread.join()
        self._server.socket.close()
        with self._lock:
            sockets = list(self._sockets)
        for one in sockets:
            _reset(one)
        self._server = None

    def wait_for_requests(self, count):
        with self._lock:
            assert self._lock.wait_for(lambda: len(self.requests) >= count, 30)

    @property
    def connections(self):
        with self._lock:
            return len(self._sockets)

    def _answer(self, handler):
        length = int(handler.headers["content-length"])
        body = json.loads(handler.rfile.read(length))
        texts = body.get("input") or body.get("texts") or body["data"]["texts"]
        headers = {name.lower(): value for name, value in handler.headers.items()}
        request = Request(texts, handler.path, headers, body)
        with self._lock:
            self.requests.append(request)
            number = len(self.requests)
            self._lock.notify_all()
        fault = self.fail(request, number)
        if fault is None:
            reply = json.dumps(self._right(request)).encode()
            with self._lock:
                self.embedded += texts
            self._send(handler, 200, reply)
            return
        getattr(self, f"_do_{fault.kind}", self._changed)(handler, request, fault)

    def _right(self, request):
        rows = [vector_of(text, self.dimension) for text in request.texts]
        if "input" not in request.body:
            return {"embeddings": [[float(number) for number in row] for row in rows]}
        as_text = request.body.get("encoding_format") == "base64"
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(row.astype("<f4").tobytes()).decode()
                if as_text
                else [float(number) for number in row],
            }
            for index, row in enumerate(rows)
        ]
        usage = {"total_tokens": sum(map(len, request.texts)) // 4 + 1}
        return {"object": "list", "data": data, "model": request.body["model"], "usage": usage}

    def _send(self, handler, status, body, headers=()):
        handler.send_response(status)
        handler.send_header("content-length", str(len(body)))
        for name, value in headers:
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    def _do_status(self, handler, request, fault):
        self._send(handler, fault.status, fault.body, fault.headers)

    def _do_raw(self, handler, request, fault):
        self._send(handler, 200, fault.body, fault.headers)

    def _do_hang(self, handler, request, fault):
        self.hang.wait(30)
        handler.close_connection = True

    def _do_close(self, handler, request, fault):
        handler.close_connection = True

    def _do_reset(self, handler, request, fault):
        self._begin(handler, request)
        _reset(handler.connection)
        handler.close_connection = True

    def _do_half(self, handler, request, fault):
        self._begin(handler, request)
        handler.close_connection = True

    def _begin(self, handler, request):
        reply = json.dumps(self._right(request)).encode()
        handler.send_response(200)
        handler.send_header("content-length", str(len(reply)))
        handler.end_headers()
        handler.wfile.write(reply[: len(reply) // 2])
        handler.wfile.flush()

    def _changed(self, handler, request, fault):
        reply = self._right(request)
        rows = reply.get("data", reply.get("embeddings"))
        wrong = {
            "dimension": [0.5] * (self.dimension + 1),
            "ragged": [0.5] * (self.dimension + 1),
            "nan": [float("nan")] * self.dimension,
            "huge": [1e300] * self.dimension,
        }.get(fault.kind)
        if wrong is not None:
            for position in range(len(rows) if fault.kind == "dimension" else 1):
                if "data" in reply:
                    rows[position]["embedding"] = wrong
                else:
                    rows[position] = wrong
        elif fault.kind == "count":
            rows.pop()
        elif fault.kind == "extra":
            rows.append(rows[0])
        elif fault.kind == "shuffled":
            rows.reverse()
        elif fault.kind == "twice":
            rows[0]["index"] = 1
        else:
            assert fault.kind == "unnumbered"
            for row in rows:
                del row["index"]
        self._send(handler, 200, json.dumps(reply).encode())


def _reset(connection):
    try:
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
