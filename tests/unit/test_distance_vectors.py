"""What users pass as vectors is stored exactly as the type says, or refused with item and code."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvecdb.errors import Code, InvalidRequestError
from dvecdb.records import Metric, Schema, VectorType
from dvecdb.search import vectors as module
from dvecdb.search.vectors import check_query, check_vectors

if TYPE_CHECKING:
    from collections.abc import Iterator

FLOATS = (np.float16, np.float32, np.float64, np.longdouble)
INTEGERS = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)


def schema(dimension: int, kind: VectorType = VectorType.FLOAT32) -> Schema:
    """Return a schema; the metric does not matter."""
    return Schema(dimension, Metric.COSINE, kind)


def refusal(vectors: Any, dimension: int, kind: VectorType = VectorType.FLOAT32) -> Any:
    """Return the error that refuses `vectors`."""
    with pytest.raises(InvalidRequestError) as caught:
        check_vectors(vectors, schema(dimension, kind))
    return caught.value


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    """numpy warnings about casts must not reach the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@settings(deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([*FLOATS, *INTEGERS]), st.sampled_from(VectorType))
def test_any_number_type_and_memory_order_is_stored_alike(
    seed: int, dtype: Any, kind: VectorType
) -> None:
    rng = np.random.default_rng(seed)
    count, dimension = int(rng.integers(1, 40)), int(rng.integers(1, 20))
    values = rng.integers(0, 127, (count, dimension)).astype(dtype)
    if dtype in FLOATS and kind is not VectorType.INT8:
        values = values + rng.uniform(-1, 1, values.shape).astype(dtype)
    expected = values.astype(kind.dtype)
    wide = np.zeros((count * 2, dimension * 3), dtype)
    wide[::2, 1::3] = values
    swapped = values.astype(values.dtype.newbyteorder()) if dtype is not np.longdouble else values
    for given_ in (values, np.asfortranarray(values), wide[::2, 1::3], values[::-1][::-1],
                   swapped, list(values), values.view(np.matrix)):  # fmt: skip
        rows = check_vectors(given_, schema(dimension, kind))
        assert rows.dtype == kind.dtype
        assert rows.dtype.isnative
        assert rows.flags.c_contiguous
        assert rows.flags.owndata
        assert rows.flags.writeable
        assert type(rows) is np.ndarray
        assert np.array_equal(rows, expected)
        assert not np.shares_memory(rows, values)
    if dtype is not np.longdouble:
        assert np.array_equal(check_vectors(values.tolist(), schema(dimension, kind)), expected)
        assert np.array_equal(
            check_query(values[0].tolist(), dimension), values[0].astype(np.float32)
        )


def test_sequences_of_mixed_rows_are_taken() -> None:
    rows = check_vectors([[1, 2.5], (3, 4), np.array([5, 6], np.int16)], schema(2))
    assert rows.tolist() == [[1, 2.5], [3, 4], [5, 6]]
    assert check_vectors((range(3), range(3, 6)), schema(3)).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert check_vectors([], schema(3)).shape == (0, 3)
    assert check_vectors(np.empty((0, 3)), schema(3)).shape == (0, 3)


@pytest.mark.parametrize(
    ("vectors", "item", "found"),
    [
        ([[1, 2], [3]], 1, 1),
        ([[1, 2], [3, 4, 5]], 1, 3),
        ([[1, 2], []], 1, 0),
        ([np.zeros(2), np.zeros(3)], 1, 3),
        ([[1, 2, 3]], 0, 3),
        (np.zeros((4, 3)), 0, 3),
        (np.zeros((0, 3)), 0, 3),
        ([[]], 0, 0),
    ],
)
def test_a_wrong_length_is_refused_naming_the_item(vectors: Any, item: int, found: int) -> None:
    error = refusal(vectors, 2)
    assert error.code is Code.WRONG_DIMENSION
    assert error.details == {"item": item, "expected": 2, "found": found}
    assert f"item {item}: expected" in error.message


@pytest.mark.parametrize("vectors", [[1.0, 2.0], np.zeros(2), np.zeros((1, 2, 1)), np.zeros(())])
def test_other_shapes_than_rows_are_refused(vectors: Any) -> None:
    assert refusal(vectors, 2).code is Code.WRONG_DIMENSION


@pytest.mark.parametrize(
    "vectors",
    ["ab", b"cd", None, 5, object(), {1: 2}, {1.0}, iter([[1, 2]]), [None], [[None, 1]],
     [["1", "2"]], ["ef"], [[1, "x"]], [[True, False]], [[1j, 2]], [[10**30, 1]], [[{}, {}]],
     [[1, 2], 5], [[[1], 2]], [{}, {}], np.array([["a", "b"]]), np.array([[1, None]]),
     np.ones((1, 2), np.bool_), np.ones((1, 2), np.complex64), np.ma.ones((1, 2)),
     np.array([["2020-01-01", "2020-01-02"]], "M8[D]")],
)  # fmt: skip
def test_what_is_not_numbers_is_refused(vectors: Any) -> None:
    for kind in VectorType:
        assert refusal(vectors, 2, kind).code is Code.INVALID_ARGUMENT
    with pytest.raises(InvalidRequestError) as caught:
        check_query(vectors, 2)
    assert caught.value.code in {Code.INVALID_ARGUMENT, Code.WRONG_DIMENSION}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", list(VectorType))
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_value_that_is_not_finite_is_refused_naming_item_and_position(
    value: float, kind: VectorType, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 64)
    for item in (0, 7, 8, 9, 49):
        vectors = np.ones((50, 8), dtype)
        vectors[item, 5] = value
        vectors[49, 7] = value
        error = refusal(vectors, 8, kind)
        assert error.code is Code.NOT_FINITE
        assert error.details == {"item": item, "position": 5, "found": str(value)}
        assert f"item {item}, position 5" in error.message
        assert refusal(vectors.tolist(), 8, kind).details["item"] == item


@pytest.mark.parametrize(
    ("kind", "value", "dtype"),
    [
        (VectorType.FLOAT32, 1e39, np.float64),
        (VectorType.FLOAT32, -3.4028236e38, np.float64),
        (VectorType.FLOAT16, 65520.0, np.float32),
        (VectorType.FLOAT16, -1e30, np.float64),
        (VectorType.FLOAT16, 65520, np.int32),
        (VectorType.FLOAT16, 2**64 - 1, np.uint64),
        (VectorType.INT8, 0.5, np.float32),
        (VectorType.INT8, 127.00001, np.float32),
        (VectorType.INT8, 128, np.int64),
        (VectorType.INT8, -129.0, np.float64),
        (VectorType.INT8, 255, np.uint8),
        (VectorType.INT8, 256, np.int16),
        (VectorType.INT8, 2**32, np.int64),
        (VectorType.INT8, 2.0**32, np.float64),
        (VectorType.INT8, 1e300, np.float64),
        (VectorType.INT8, 1e-300, np.float64),
    ],
)
def test_a_value_outside_the_stored_type_is_refused_naming_it(
    kind: VectorType, value: float, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 12)
    vectors = np.ones((20, 3), dtype)
    vectors[13, 2] = value
    error = refusal(vectors, 3, kind)
    assert error.code is Code.VECTOR_OUT_OF_RANGE
    assert error.details == {"item": 13, "position": 2, "found": vectors[13, 2].item()}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (VectorType.FLOAT32, 3.4028235e38),
        (VectorType.FLOAT32, 1e-45),
        (VectorType.FLOAT32, 1e-300),
        (VectorType.FLOAT16, 65519.99),
        (VectorType.FLOAT16, 1e-9),
        (VectorType.INT8, -128.0),
        (VectorType.INT8, 127),
        (VectorType.INT8, -0.0),
    ],
)
def test_the_last_values_inside_are_taken_and_rounded_once(kind: VectorType, value: float) -> None:
    rows = check_vectors([[value, 1]], schema(2, kind))
    assert rows[0, 0] == np.float64(value).astype(kind.dtype)


def test_many_huge_finite_values_are_not_mistaken_for_infinities() -> None:
    vectors = np.full((500, 700), -3.4e38, np.float32)
    assert np.array_equal(check_vectors(vectors, schema(700)), vectors)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ([1, 2], Code.WRONG_DIMENSION),
        ([[1, 2, 3]], Code.WRONG_DIMENSION),
        ([], Code.WRONG_DIMENSION),
        ([1, np.nan, 2], Code.NOT_FINITE),
        ([1, 2, -np.inf], Code.NOT_FINITE),
        ([1, 2, 1e39], Code.VECTOR_OUT_OF_RANGE),
        ([1, 2, None], Code.INVALID_ARGUMENT),
        ([1, [2], 3], Code.INVALID_ARGUMENT),
        ("abc", Code.INVALID_ARGUMENT),
    ],
)
def test_a_query_that_cannot_be_asked_is_refused(query: Any, code: Code) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_query(query, 3)
    assert caught.value.code is code


def test_a_query_is_a_private_copy() -> None:
    mine = np.array([1, 2, 3], np.float32)
    query = check_query(mine, 3)
    mine[:] = 0
    assert query.tolist() == [1, 2, 3]
    assert query.dtype == np.float32
    assert query.flags.c_contiguous
