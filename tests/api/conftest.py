"""A server in process: the real application over a real database, called by ASGI messages."""

import asyncio
from dataclasses import dataclass

import msgspec
import pytest

from dvecdb import Database, Settings
from dvecdb.api.app import ApiSettings, make_app
from dvecdb.api.audit import Audit
from dvecdb.api.auth import Guard
from dvecdb.api.import_reports import ImportReports
from dvecdb.api.keys import KeyStore
from dvecdb.api.metrics import Metrics
from dvecdb.api.server_directory import make_server_directory
from dvecdb.api.tasks import Tasks
from dvecdb.clock import SystemClock
from dvecdb.formats import names
from dvecdb.media.files import OsFiles


@dataclass
class Response:
    """An answer. `json`: decoded; `data`: of the envelope."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return msgspec.json.decode(self.body)

    @property
    def msgpack(self):
        return msgspec.msgpack.decode(self.body)

    @property
    def data(self):
        assert self.status in {200, 202}, self.body
        found = self.json
        assert list(found) == ["success", "data", "error"]
        assert (found["success"], found["error"]) == (True, None)
        return found["data"]

    @property
    def code(self):
        found = self.json
        assert list(found) == ["success", "data", "error", "message", "code", "advice", "details"]
        assert found["error"] == found["message"] != ""
        assert (found["success"], found["data"]) == (False, None)
        return found["code"]

    @property
    def lsn(self):
        return int(self.headers["dvecdb-lsn"])


class Server:
    """The application, and how to call it."""

    def __init__(self, path, *, keys=False, engine=None, **settings):
        self.engine = {"ballast_bytes": 0, "low_water_bytes": 0, **(engine or {})}
        self.path = str(path)
        self.keys = None
        if keys:
            directory = make_server_directory(OsFiles(), self.path, names.KEYS)
            self.keys = KeyStore(OsFiles(), directory)
        self.settings = ApiSettings(**settings)
        self.runner = asyncio.Runner()
        self.open()

    def open(self):
        self.database = Database(self.path, settings=Settings(**self.engine))
        files = OsFiles()
        self.audit = Audit(files, make_server_directory(files, self.path, names.AUDIT))
        self.tasks = Tasks(files, make_server_directory(files, self.path, names.TASKS))
        directory = make_server_directory(files, self.path, names.IMPORTS)
        self.imports = ImportReports(files, directory)
        self.metrics = Metrics(self.path)
        self.app = make_app(
            self.database, guard=Guard(self.keys), audit=self.audit, tasks=self.tasks,
            imports=self.imports, metrics=self.metrics, clock=SystemClock(),
            settings=self.settings,
        )  # fmt: skip

    def reopen(self):
        self.close()
        self.open()

    def close(self):
        self.tasks.stop()
        self.app.close()
        self.tasks.close()
        self.imports.close()
        self.audit.close()
        self.database.close()

    def __call__(self, method, target, body=None, *, headers=None, **given):
        """Call; `body`: bytes as they are, else a value sent as JSON."""
        path, _, query = target.partition("?")
        sent = {"host": "here"}
        if isinstance(body, bytes):
            sent["content-type"] = given.pop("media", "application/json")
        elif body is not None:
            body = msgspec.json.encode(body)
            sent["content-type"] = "application/json"
        assert not given
        sent |= headers or {}
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(),
            "query_string": query.encode(), "client": ("127.0.0.9", 1), "state": {},
            "headers": [(name.lower().encode(), value.encode("latin-1"))
                        for name, value in sent.items() if value is not None],
        }  # fmt: skip
        return self.runner.run(self._call(scope, body or b""))

    async def _call(self, scope, body):
        half = len(body) // 2  # in two pieces, as a socket may give it
        parts = [
            {"type": "http.request", "body": body[:half], "more_body": True},
            {"type": "http.request", "body": body[half:], "more_body": False},
        ]
        sent = []

        async def receive():
            return parts.pop(0)

        async def send(message):
            sent.append(message)

        await self.app(scope, receive, send)
        start, *rest = sent
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        whole = b"".join(message["body"] for message in rest)
        assert int(headers["content-length"]) == len(whole)
        return Response(start["status"], headers, whole)


@pytest.fixture
def start(tmp_path):
    """Start servers over the test's directory; they are closed at its end."""
    started = []

    def begin(**settings):
        started.append(Server(tmp_path / "data", **settings))
        return started[-1]

    yield begin
    for server in started:
        server.close()
        server.runner.close()


@pytest.fixture
def server(start):
    return start()


@pytest.fixture
def books(server):
    """The server with a collection of two dimensions and three records."""
    server(
        "POST", "/collections", {"name": "books", "dimension": 2, "distance_metric": "Euclidean"}
    )
    vectors = [
        {"id": "a", "data": [1, 0], "metadata": {"n": 1}},
        {"id": "b", "data": [2, 0], "metadata": {"n": 2}},
        {"id": "c", "data": [3, 0]},
    ]
    server("POST", "/collections/books/vectors/batch", {"vectors": vectors})
    return server
