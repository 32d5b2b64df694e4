"""Messages: what one side writes the other reads; what cannot be read is named with its place."""

import ast
import base64
import inspect
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dvecdb
from dvecdb import errors
from dvecdb.errors import Code, DamagedDataError, DvecdbError, InvalidRequestError
from dvecdb.records import Metric, Schema, VectorType
from dvecdb.wire import bodies, codec, legacy, searches
from dvecdb.wire.codec import Format, decode, encode
from dvecdb.wire.envelope import (
    ERROR_CLASSES,
    ErrorBody,
    enveloped,
    error_from,
    error_message,
    legacy_error_message,
)
from dvecdb.wire.vectors import matrix_of, vector_bytes, vector_of, vectors_from

SOURCE = Path(dvecdb.__file__).parent
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def refusal(call, *arguments) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        call(*arguments)
    return caught.value


# --- vectors ---


@given(st.lists(FLOATS, min_size=1, max_size=20))
def test_a_vector_reads_the_same_in_every_form(numbers):
    expected = np.array(numbers, np.float32)
    octets = vector_bytes(expected)
    forms = [
        (encode({"vector": numbers}, Format.JSON), Format.JSON),
        (encode({"vector": octets}, Format.JSON), Format.JSON),
        (encode({"vector": numbers}, Format.MSGPACK), Format.MSGPACK),
        (encode({"vector": octets}, Format.MSGPACK), Format.MSGPACK),
    ]
    for data, form in forms:
        found = vector_of(decode(data, searches.QueryRequest, form).vector)
        assert np.array_equal(found.astype(np.float32), expected)
    assert np.array_equal(vectors_from(octets, len(numbers))[0], expected)


@given(st.integers(1, 5), st.integers(0, 6))
def test_a_matrix_reads_the_same_in_every_form(dimension, count):
    expected = np.arange(count * dimension, dtype=np.float32).reshape(count, dimension)
    lists = expected.tolist()
    mixed = [row if index % 2 else vector_bytes(row) for index, row in enumerate(lists)]
    for value in (lists, vector_bytes(expected), mixed):
        for form in (Format.JSON, Format.MSGPACK):
            request = decode(encode({"vectors": value}, form), bodies.Rows, form)
            found = np.array(matrix_of(request.vectors, dimension), np.float32)
            assert np.array_equal(found.reshape(count, dimension), expected)


def test_bytes_that_are_no_whole_vectors_are_refused():
    assert refusal(vector_of, b"abc").code == Code.WRONG_DIMENSION
    assert refusal(matrix_of, b"abcd" * 3, 2).code == Code.WRONG_DIMENSION
    error = refusal(matrix_of, [[1.0], b"abc"], 1)
    assert error.code == Code.WRONG_DIMENSION
    assert "item 1" in error.message


def test_numbers_beyond_float32_are_refused_before_they_are_sent():
    error = refusal(vector_bytes, [[0.0, 1.0], [2.0, 1e39]])
    assert error.code == Code.VECTOR_OUT_OF_RANGE
    assert error.details == {"item": 1, "position": 1}
    assert refusal(vector_bytes, [["a"]]).code == Code.INVALID_ARGUMENT
    assert refusal(vector_bytes, [[1], [1, 2]]).code == Code.INVALID_ARGUMENT


# --- what cannot be read ---


@pytest.mark.parametrize(
    ("data", "position", "text"),
    [
        (b"", 0, "empty"),
        (b'{"limit":', 9, "ends too early"),
        (b'{"vector":[1]} x', 15, "trailing characters"),
        (b'{"vector":[1,NaN]}', 13, "NaN is no JSON"),
        (b'{"vector":[-Infinity]}', 12, "Infinity"),
        (b'\xff{"limit":1}', 0, "invalid character"),
    ],
)
def test_malformed_json_is_refused_with_its_position(data, position, text):
    error = refusal(decode, data, searches.QueryRequest, Format.JSON)
    assert error.code == Code.INVALID_BODY
    assert text in error.message
    assert error.details.get("position") in {position, position + 1}
    assert "path" not in error.details


@pytest.mark.parametrize(
    ("data", "code", "path"),
    [
        (b'{"vector":[1,null]}', Code.INVALID_BODY, "$.vector[1]"),
        (b'{"vector":[1,"2"]}', Code.INVALID_BODY, "$.vector[1]"),
        (b'{"vector":[true]}', Code.INVALID_BODY, "$.vector[0]"),
        (b'{"vector":[1e400]}', Code.VECTOR_OUT_OF_RANGE, "$.vector[0]"),
        (b'{"vector":"???"}', Code.INVALID_BODY, "$.vector"),
        (b'{"vector":[1],"limit":"ten"}', Code.INVALID_BODY, "$.limit"),
        (b'{"vector":[1],"as_of":"2024-01-01T00:00:00"}', Code.INVALID_BODY, "$.as_of"),
        (b"{}", Code.INVALID_BODY, "$"),
        (b"[]", Code.INVALID_BODY, "$"),
        (b"[" * 100_000, Code.INVALID_BODY, "$"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_its_path(data, code, path):
    error = refusal(decode, data, searches.QueryRequest, Format.JSON)
    assert (error.code, error.details["path"]) == (code, path)


def test_an_unknown_field_names_the_nearest_known_one():
    error = refusal(decode, b'{"vector":[1],"limt":3}', searches.QueryRequest, Format.JSON)
    assert error.code == Code.UNKNOWN_FIELD
    assert error.details["nearest"] == "limit"
    assert refusal(codec.convert, {"aftr": "3"}, bodies.ScrollQuery).details["nearest"] == "after"


def test_old_endpoints_ignore_unknown_fields():
    found = decode(b'{"vector":[1],"limt":3}', legacy.SearchRequest, Format.JSON)
    assert found == legacy.SearchRequest(vector=[1.0])


def test_deep_nesting_is_refused():
    bomb = b'{"vector":[1],"where":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
    assert refusal(decode, bomb, searches.QueryRequest, Format.JSON).code == Code.INVALID_BODY
    value = []
    for _ in range(codec.DEPTH_MAX - 1):
        value = [value]
    assert codec.check_depth(value, "it") is value
    assert refusal(codec.check_depth, [value], "it").code == Code.INVALID_BODY


@given(st.binary(max_size=64), st.sampled_from([Format.JSON, Format.MSGPACK]))
def test_any_bytes_are_read_or_refused(data, form):
    def outcome(kind):
        try:
            decode(data, kind, form)
        except InvalidRequestError as error:
            return error.code
        return None

    for kind in (bodies.WriteRequest, legacy.UpsertRequest, searches.QueryRequest):
        assert outcome(kind) in {
            None, Code.INVALID_BODY, Code.UNKNOWN_FIELD, Code.VECTOR_OUT_OF_RANGE}  # fmt: skip


# --- errors ---


def test_every_code_has_the_class_that_the_code_raises_it_with():
    assert set(ERROR_CLASSES) == set(Code)
    kinds = {name for name, kind in vars(errors).items() if inspect.isclass(kind)}
    raised = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                code = node.args[0]
                if (
                    node.func.id in kinds
                    and isinstance(code, ast.Attribute)
                    and ast.unparse(code.value) == "Code"
                ):
                    raised.add((Code[code.attr], node.func.id))
    assert [(code, kind) for code, kind in raised if ERROR_CLASSES[code].__name__ != kind] == []


@pytest.mark.parametrize("code", list(Code))
@pytest.mark.parametrize("form", [Format.JSON, Format.MSGPACK])
def test_an_error_comes_back_as_it_was(code, form):
    error = ERROR_CLASSES[code](code, "what happened", item=3, ids=["a"], found=None)
    back = error_from(decode(error_message(error, form), ErrorBody, form))
    assert type(back) is type(error)
    assert (back.code, back.message, back.details) == (code, error.message, error.details)
    assert back.advice == error.advice


def test_an_error_of_a_newer_server_keeps_its_advice():
    body = ErrorBody("text", "text", "not-known-yet", "restore", {"code": 1, "a b": 2, "x": 3})
    back = error_from(body)
    assert isinstance(back, DamagedDataError)
    assert back.details == {"x": 3, "code": "not-known-yet"}


def test_envelopes_have_their_keys_in_order():
    assert enveloped("OK", Format.JSON) == b'{"success":true,"data":"OK","error":null}'
    assert msgspec.msgpack.decode(enveloped("OK", Format.MSGPACK)) == {
        "success": True, "data": "OK", "error": None}  # fmt: skip
    error = DvecdbError(Code.SERVER_ERROR, "no")
    assert legacy_error_message(error) == b'{"success":false,"data":null,"error":"no"}'
    keys = list(msgspec.json.decode(error_message(error)))
    assert keys == ["success", "data", "error", "message", "code", "advice", "details"]


# --- old forms ---


@pytest.mark.parametrize("text", ["Cosine", "cosine", "COSINE"])
@pytest.mark.parametrize("kind", ["Float16", "float16", None])
def test_enum_values_are_taken_in_any_case_and_answered_in_capitals(text, kind):
    request = legacy.CreateRequest("c", 3, text, kind)
    schema = legacy.schema_of(request)
    answer = legacy.config_of("c", schema, None)
    assert answer.distance_metric == "Cosine"
    assert answer.vector_type == (kind.capitalize() if kind else "Float32")
    index = {"max_connections": 16, "ef_construction": 200, "ef_search": 50, "max_layer": 16}
    assert msgspec.to_builtins(answer)["index_config"] == index


@pytest.mark.parametrize("text", ["DotProduct", "dot_product", "dotproduct", "dot-product"])
def test_the_dot_product_has_many_names(text):
    if text == "dot-product":
        error = refusal(legacy.schema_of, legacy.CreateRequest("c", 3, text))
        assert (error.code, error.details["path"]) == (Code.INVALID_BODY, "$.distance_metric")
        return
    assert legacy.schema_of(legacy.CreateRequest("c", 3, text)).metric is Metric.DOT_PRODUCT


def test_every_metric_and_type_has_a_capital_name():
    for metric in Metric:
        for kind in VectorType:
            config = legacy.config_of("c", Schema(1, metric, kind), {"max_layer": 3, "x": 1})
            assert re.fullmatch(r"[A-Z]\w+", config.distance_metric)
            assert re.fullmatch(r"[A-Z]\w+", config.vector_type)
            assert config.index_config.max_layer == 3


def test_both_names_of_the_query_at_once_are_refused():
    assert legacy.query_of(legacy.SearchRequest(query_vector=[1.0])) == [1.0]
    for request in (legacy.SearchRequest(), legacy.SearchRequest([1.0], [1.0])):
        assert refusal(legacy.query_of, request).code == Code.INVALID_BODY


def test_base64_is_that_of_the_standard():
    octets = np.array([1.5, -2.0], "<f4").tobytes()
    data = b'{"vector":"' + base64.b64encode(octets) + b'"}'
    assert decode(data, searches.QueryRequest, Format.JSON).vector == octets
