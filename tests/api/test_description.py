"""Random calls made from the OpenAPI description: no 5xx, no status and no answer it does not name.

`DVECDB_SOAK=1` runs 5,000 and more calls; otherwise the run takes some tens of seconds.
"""

import os

import hypothesis
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.python import asgi
from schemathesis.specs.openapi import checks
from schemathesis.transport.asgi import ASGI_TRANSPORT

from dvecdb.api.endpoints import ENDPOINTS
from dvecdb.formats.server_file import ImportReportFile
from dvecdb.reports import Doubt, ImportReport

CALLS = 130 if os.environ.get("DVECDB_SOAK") else 10
"""For each endpoint and way of making them; there are two ways and 40 endpoints and more."""

CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


@ASGI_TRANSPORT.serializer("application/msgpack")
def _packed(ctx, value):
    try:
        return {"data": msgspec.msgpack.encode(value, enc_hook=repr)}
    except OverflowError:  # MessagePack has no such numbers
        return {"data": b"\xc1"}


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """The application, its description and a client for it; calls change what is stored."""
    from tests.api.conftest import Server

    server = Server(tmp_path_factory.mktemp("api"))
    server.imported = False
    with asgi.get_client(server.app) as client:
        schema = schemathesis.openapi.from_asgi("/openapi.json", server.app)
        yield server, schema, client
    server.close()


def prepare(server):
    """See to it that there are a collection and a task; return what is there."""
    if "books" not in server.database.collections():
        books = server.database.create_collection("books", dimension=1, metric="euclidean")
        books.upsert(["a", "b"], [[1], [2]], [{"n": 1}, None])
        books.write(documents={("jobs", "cursor"): 7})
    if not server.database.trash():
        server.database.create_collection("gone", dimension=1).upsert(["a"], [[1]])
        server.database.delete_collection("gone")
    if not server.database.backups():
        server.database.collection("books").backup()
    if "t" not in server.database.collection("books").tags():
        server.database.collection("books").tag("t")
    if not server.tasks.list():
        server.tasks.start("verify", "books", lambda _: {"ok": True})
    if not server.imported:
        report = ImportReport(source="/old", doubtful=[Doubt(
            id="a", file="vectors.bin", offset=0, why="ambiguous", text="2 readings", raw="00",
        )])  # fmt: skip
        server.imports.keep(ImportReportFile(
            id="0000000001", owner="books", name="books", seconds=0.5, finished_ns=1, report=report,
        ))  # fmt: skip
        server.imported = True
    return {
        "collection": "books",
        "import": "0000000001",
        "id": "a",
        "namespace": "jobs",
        "key": "cursor",
        "task": server.tasks.list()[0].id,
        "entry": server.database.trash()[0].name,
        "backup": server.database.backups()[0].name,
        "snapshot": server.database.backups()[0].name,
        "tag": "t",
    }


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda row: f"{row.method} {row.path}")
def test_calls_made_from_the_description_are_answered_as_it_says(described, endpoint, mode):
    server, schema, client = described
    operation = schema[endpoint.path][endpoint.method]
    if mode is GenerationMode.NEGATIVE and not (endpoint.query or endpoint.request):
        pytest.skip("there is nothing to get wrong")

    # schemathesis 4.32 rewrites prefixItems into a form that it then refuses; the answer of the one
    # endpoint that has them is compared to the letter in test_legacy.
    is_pair = endpoint.path == "/collections/{collection}" and endpoint.method == "GET"
    judged = [check for check in CHECKS if not (is_pair and "schema" in check.__name__)]

    @hypothesis.settings(
        max_examples=CALLS,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
    def run(case, known):
        there = prepare(server)
        if known:
            for name in endpoint.parameters:
                case.path_parameters[name] = there[name]
        response = case.call(session=client)
        case.validate_response(response, checks=judged)

    run()
