"""What an answer must be, what a refusal means: pure."""

import base64
import json
from email.utils import format_datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dvecdb.clock import to_datetime
from dvecdb.embedding.embedders.answers import Expected, in_order, vectors_of
from dvecdb.embedding.embedders.refusals import complaint, refusal, retry_after
from dvecdb.embedding.model import EmbedError, Reason

NOW_NS = 1_700_000_000 * 1_000_000_000
MATRICES = st.tuples(st.integers(1, 6), st.integers(1, 9)).flatmap(
    lambda shape: arrays(
        np.float32, shape, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
    )
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


def expected(texts, dimension=None):
    return Expected(texts, dimension, "http://127.0.0.1/embed")


def refused(rows, texts=2, dimension=None):
    with pytest.raises(EmbedError) as failure:
        vectors_of(rows, expected(texts, dimension))
    assert failure.value.reason is Reason.WRONG_ANSWER
    assert "expected" in failure.value.message
    return failure.value.message


@given(MATRICES)
def test_vectors_come_through_both_forms_bit_for_bit(matrix):
    want = expected(len(matrix), matrix.shape[1])
    as_lists = [[float(number) for number in row] for row in matrix]
    as_text = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in matrix]
    for rows in (json.loads(json.dumps(as_lists)), as_text):
        found = vectors_of(rows, want)
        assert found.dtype == np.float32
        assert found.tobytes() == matrix.tobytes()


@given(JSON)
def test_anything_else_in_the_place_of_vectors_is_a_wrong_answer_and_nothing_worse(value):
    reason = Reason.WRONG_ANSWER
    found = np.ones((2, 1), np.float32)
    try:
        found = vectors_of(value, expected(2))
    except EmbedError as error:
        reason = error.reason
    assert reason is Reason.WRONG_ANSWER
    assert found.shape[0] == 2
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[1.0, 2.0]], "found 1"),
        ([[1.0]] * 3, "found 3"),
        ([[1.0], [1.0, 2.0]], "different dimensions, 1 to 2"),
        ([[], []], "0 dimensions"),
        ([[1.0], [float("nan")]], "vector 1"),
        ([[1e300], [1.0]], "vector 0"),
        ([[1.0], ["2.0"]], "no number"),
        ([[1.0], [None]], "no number"),
        ([[True], [False]], "no number"),
        ([[10**400], [1.0]], "no number"),
        ([[[1.0]], [[2.0]]], "no number"),
        ([[1.0], 2.0], "a number in the place"),
        (["AAAA", "AAAA"], "3 bytes"),
        (["AAAAAA==", "AAAAAAAAAAA="], "different lengths"),
        (["AAAAAA==", "AAAA*A=="], "no base64"),
        (["AAAAAA==", [1.0]], "a text in the place"),
        ({"a": 1}, "an object with 'a'"),
        (None, "null"),
    ],
)
def test_a_wrong_answer_says_what_was_found(rows, words):
    assert words in refused(rows)


def test_another_dimension_than_the_one_asked_for_is_wrong():
    assert "of 3 dimensions, found 2 dimensions" in refused([[1.0, 2.0]] * 2, dimension=3)


@given(st.permutations(range(7)))
def test_items_are_put_in_the_order_of_their_indexes(indexes):
    assert list(in_order(list(indexes), indexes, expected(7))) == list(range(7))


@pytest.mark.parametrize("indexes", [[0, 0], [1, 2], [0, None], [0, "1"], [True, False], [-1, 0]])
def test_indexes_that_are_not_each_once_are_wrong(indexes):
    with pytest.raises(EmbedError) as failure:
        in_order(["a", "b"], indexes, expected(2))
    assert failure.value.reason is Reason.WRONG_ANSWER


def test_items_without_indexes_stay_as_they_are():
    assert in_order(["b", "a"], [None, None], expected(2)) == ["b", "a"]


# --- refusals --------------------------------------------------------------------------------


def reason_of(status, said="", headers=None):
    body = json.dumps({"error": {"message": said}}).encode()
    return refusal(status, headers or {}, body, "http://x", lambda text: text, NOW_NS)


@pytest.mark.parametrize(
    ("status", "said", "reason"),
    [
        (301, "", Reason.FORBIDDEN),
        (400, "unknown field", Reason.REFUSED),
        (400, "This model's maximum context length is 8192 tokens", Reason.TOO_LARGE),
        (400, "Requested 350000 tokens, max 300000 tokens per request", Reason.TOO_LARGE),
        (401, "", Reason.FORBIDDEN),
        (402, "", Reason.FORBIDDEN),
        (403, "", Reason.FORBIDDEN),
        (404, "", Reason.FORBIDDEN),
        (405, "", Reason.FORBIDDEN),
        (408, "", Reason.OVERLOADED),
        (413, "", Reason.TOO_LARGE),
        (415, "", Reason.REFUSED),
        (422, "batch size 50 > maximum allowed batch size 32", Reason.TOO_LARGE),
        (422, "List should have at most 32 items after validation, not 50", Reason.TOO_LARGE),
        (422, "input contains a forbidden word", Reason.REFUSED),
        (429, "slow down", Reason.RATE_LIMITED),
        (500, "", Reason.OVERLOADED),
        (503, "", Reason.OVERLOADED),
    ],
)
def test_a_status_and_its_words_have_a_reason(status, said, reason):
    assert reason_of(status, said).reason is reason


def test_an_account_without_money_is_not_waited_for():
    body = b'{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}'
    error = refusal(429, {}, body, "http://x", lambda text: text, NOW_NS)
    assert error.reason is Reason.FORBIDDEN
    assert "pay" in error.message


def test_texts_that_a_refusal_repeats_are_not_taken_for_its_words():
    detail = [{"loc": ["body", "texts", 0], "msg": "bad", "input": "the maximum is too long"}]
    body = json.dumps({"detail": detail}).encode()
    assert complaint(body) == "bad"
    assert refusal(422, {}, body, "x", lambda text: text, NOW_NS).reason is Reason.REFUSED


@given(st.binary(max_size=300), st.integers(300, 599))
def test_any_body_makes_a_message_of_one_line_and_bounded_length(body, status):
    error = refusal(status, {}, body, "http://x", lambda text: text, NOW_NS)
    assert len(error.message) < 600
    assert "\n" not in error.message


@given(JSON)
def test_any_json_makes_a_message(value):
    complaint(json.dumps(value).encode())


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": format_datetime(to_datetime(NOW_NS + 30 * 10**9), usegmt=True)}, 30.0),
        ({"retry-after": format_datetime(to_datetime(NOW_NS - 30 * 10**9), usegmt=True)}, 0.0),
        (
            {  # a service whose clock is a day ahead
                "retry-after": format_datetime(to_datetime(NOW_NS + 86_405 * 10**9), usegmt=True),
                "date": format_datetime(to_datetime(NOW_NS + 86_400 * 10**9), usegmt=True),
            },
            5.0,
        ),
    ],
)
def test_the_time_to_come_back_is_understood_in_every_form(headers, seconds):
    assert retry_after(headers, NOW_NS) == seconds
