"""Vectors that are read from JSON as arrays are those that the ordinary way reads."""

import threading

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb.errors import InvalidRequestError
from dvecdb.wire import bodies, legacy, numbers, searches
from dvecdb.wire.codec import Format, decode
from dvecdb.wire.numbers import read_request

NUMBER = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(width=32, allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(2**70), 2**70).map(str),
    st.from_regex(r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,24})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
)
ODD = st.sampled_from(
    ["null", "true", '"1"', "[1]", "[]", "{}", "NaN", "Infinity", "1.", "01", "+1", "-", "",
     "1e999", "-1e999", "1e-400", "-0", "-0.0", '"["', "\u00e9", "1 2"]
)  # fmt: skip
SPACE = st.sampled_from(["", "", "", " ", "\n", "\t "])
KINDS = {
    legacy.VectorBody: ('{"data": %s, "id": "a", "extra": [1, {"b": 2}]}', False),
    legacy.PutRequest: ('{"data": %s, "metadata": {"data": [1, 2]}}', False),
    legacy.SearchRequest: ('{"vector": %s, "limit": 3, "filter": {"a": 1.5}}', False),
    searches.QueryRequest: ('{"vector": %s, "recall": 0.5, "as_of": 7}', False),
    searches.GroupsRequest: ('{"by": "a.b", "vector": %s}', False),
    searches.QueryBatchRequest: ('{"vectors": %s, "limit": 2}', True),
    bodies.Rows: ('{"ids": ["a"], "vectors": %s, "metadata": [null, {"a": [1]}]}', True),
}


def plain(value):
    """Return a request with its arrays as lists, to be compared."""
    if isinstance(value, np.ndarray):
        return ["float64" if value.dtype == np.float64 else value.dtype, *map(repr, value.tolist())]
    if isinstance(value, list) and value and all(type(item) is float for item in value):
        return ["float64", *map(repr, value)]
    if value == []:
        return ["float64"]
    if isinstance(value, list):
        return list(map(plain, value))
    if isinstance(value, msgspec.Struct):
        return [
            type(value),
            {name: plain(getattr(value, name)) for name in value.__struct_fields__},
        ]
    return value


def ordinary(kind, data):
    """Return the request, or what is wrong with it."""
    try:
        return plain(decode(data, kind, Format.JSON)), None
    except InvalidRequestError as error:
        return None, error.code


@st.composite
def lists(draw, item):
    spaced = st.tuples(SPACE, item, SPACE).map("".join)
    return f"[{','.join(draw(st.lists(spaced, max_size=6)))}]"


VECTOR = lists(NUMBER) | lists(NUMBER | ODD) | ODD | st.sampled_from(['"AACAPwAAAEA="', '"!"'])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_is_read_is_what_the_ordinary_way_reads(kind):
    template, is_matrix = KINDS[kind]

    @given(lists(VECTOR) | VECTOR if is_matrix else VECTOR)
    def same(text):
        data = (template % text).encode()
        found = read_request(kind, data)
        expected, _ = ordinary(kind, data)
        assert found is None or plain(found) == expected

    same()


@pytest.mark.parametrize("kind", [legacy.BatchRequest, legacy.UpsertRequest])
@given(records=st.lists(VECTOR, max_size=4))
def test_so_are_the_vectors_of_many_records(kind, records):
    items = ",".join(f'{{"data": {text}, "metadata": {{"n": 1}}}}' for text in records)
    data = f'{{"vectors": [{items}]}}'.encode()
    found = read_request(kind, data)
    assert found is None or plain(found) == ordinary(kind, data)[0]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_good_requests_are_read_so(kind):
    template, is_matrix = KINDS[kind]
    text = "[[1, 2.5], [-3e2, 0.1]]" if is_matrix else "[1, 2.5, -3e2, 0.1]"
    found = read_request(kind, (template % text).encode())
    arrays = [
        getattr(found, name) for name in ("vector", "vectors", "data") if hasattr(found, name)
    ]
    assert all(isinstance(one, np.ndarray) for one in (arrays[0] if is_matrix else arrays))


def test_so_is_base64():
    found = read_request(legacy.SearchRequest, b'{"vector": "AACAPwAAAEA="}')
    assert np.frombuffer(found.vector, "<f4").tolist() == [1, 2]


def test_rows_within_a_request_are_read_so():
    data = b'{"upserts": {"vectors": [[1, 2], [3, 4]]}, "deletes": ["a"]}'
    found = read_request(bodies.WriteRequest, data)
    assert plain(found) == ordinary(bodies.WriteRequest, data)[0]
    assert isinstance(found.upserts.vectors[0], np.ndarray)
    assert read_request(bodies.WriteRequest, b'{"deletes": ["a"]}').upserts is None


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b'{"vector": [1}', b'{"vector": [1], "unknown": 2}', b'{"limit": 3}', b"[1]",
     b'{"vector": [1], "limit": "x"}', b'{"vector": [1]} x', b'{"vector": [\xff]}',
     b'{"vector": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"],
)  # fmt: skip
def test_what_is_wrong_is_left_to_the_ordinary_way(data):
    assert read_request(searches.QueryRequest, data) is None
    assert ordinary(searches.QueryRequest, data)[1] is not None


def test_requests_without_vectors_are_not_read_here():
    assert read_request(bodies.GetRequest, b'{"ids": ["a"]}') is None


def test_an_array_stays_as_it_is_when_the_next_one_is_read():
    first = read_request(searches.QueryRequest, b'{"vector": [1, 2, 3]}').vector
    for number in range(50):
        read_request(searches.QueryRequest, b'{"vector": [%d, 7, 8]}' % number)
        read_request(searches.QueryRequest, b'{"vector": [1, nul]}')
    assert first.tolist() == [1, 2, 3]


def test_a_long_text_is_read_by_a_parser_of_its_own():
    count = numbers.KEPT_BYTES // 2
    data = b'{"vector": [' + b"1," * count + b"2]}"
    assert read_request(searches.QueryRequest, data).vector.tolist() == [1.0] * count + [2.0]


def test_threads_do_not_share_a_parser():
    def read(number):
        for _ in range(300):
            found = read_request(
                searches.QueryRequest, b'{"vector": [%s]}' % b",".join([number] * 99)
            )
            wrong.extend(value for value in found.vector.tolist() if value != int(number))

    wrong = []
    threads = [threading.Thread(target=read, args=(b"%d" % n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
