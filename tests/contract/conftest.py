from contextlib import ExitStack

import pytest
from tests.contract.doors import open_door

KINDS = ["open", "connect", "connect_async"]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def start(kind, tmp_path):
    """Open the test's directory by this door; what is open is closed at the end."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(
            open_door(kind, str(tmp_path / "data"), **settings)
        )


@pytest.fixture
def door(start):
    return start()


@pytest.fixture
def database(door):
    return door.database


@pytest.fixture(scope="module", params=KINDS)
def shared(request, tmp_path_factory):
    """One door for the tests of a module that leave nothing behind: small limits, one collection.

    Three dimensions, three rows, one document, one used key.
    """
    path = str(tmp_path_factory.mktemp("shared") / "data")
    with open_door(request.param, path, metadata_bytes_max=100, batch_bytes_max=4096) as door:
        books = door.database.create_collection("books", dimension=3)
        books.upsert(["a", "b"], [[1, 2, 3], [4, 5, 6]], [{"n": 1}, None])
        books.write(documents={("jobs", "cursor"): 7})
        books.upsert(["c"], [[7, 8, 9]], idempotency_key="used")
        yield door
