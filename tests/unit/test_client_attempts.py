"""What is tried again, when, and what is said in the end, without a network or a clock."""

import uuid

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb.api.status import STATUSES
from dvecdb.client.attempts import (
    RETRY_AFTER_SECONDS_MAX,
    WAIT_SECONDS_MAX,
    Call,
    Repeat,
    Send,
    Terms,
    Wait,
    play,
)
from dvecdb.client.exchange import Answer, ExchangeError
from dvecdb.errors import Code, DvecdbError, OutcomeUnknownError
from dvecdb.wire.envelope import ERROR_CLASSES, error_message

UNSENT = ExchangeError("cannot be reached", sent=False)
LASTING = ExchangeError("has a certificate that is not trusted", sent=False, is_lasting=True)
LOST = ExchangeError("gave no whole answer", sent=True)
DONE = Answer(200, {}, b"7")


def refusal(code, status, **headers):
    error = ERROR_CLASSES[code](code, f"this is {code}", fact=1)
    return Answer(status, headers, error_message(error))


BUSY = refusal(Code.TOO_MANY_REQUESTS, 429)
LATE = refusal(Code.DEADLINE_EXCEEDED, 503)
UNCLEAR = refusal(Code.OUTCOME_UNKNOWN, 503)
STOPPED = refusal(Code.WRITES_STOPPED, 503)
FULL = refusal(Code.DISK_FULL, 507)
BROKEN = refusal(Code.SERVER_ERROR, 500)
EXISTS = refusal(Code.ID_EXISTS, 409)
FORBIDDEN = refusal(Code.FORBIDDEN, 403)
GONE = refusal(Code.COLLECTION_NOT_FOUND, 404)
GATEWAY = Answer(502, {"content-type": "text/html"}, b"<html>bad gateway</html>")

NOT_DONE = [UNSENT, BUSY]  # refused before anything was done; worth another attempt
MAYBE_DONE = [LOST, LATE, UNCLEAR, GATEWAY]  # likewise, but it may have been done
FINAL = [EXISTS, FORBIDDEN, GONE, FULL, STOPPED, BROKEN, LASTING]  # not tried again


def run(repeat, *outcomes, attempts=5, key=None):
    """Play a call; return the result or error, the calls that were sent, the seconds waited."""
    draws = iter(uuid.UUID(int=number * 0x9E3779B97F4A7C15) for number in range(1, 100))
    call = Call("POST", "/x", {}, b"body", msgspec.json.decode, repeat, key)
    steps = play(call, Terms("h:1", attempts, lambda: next(draws)))
    sent, waited, todo = [], [], list(outcomes)
    try:
        step = next(steps)
        while True:
            if isinstance(step, Wait):
                waited.append(step.seconds)
                step = steps.send(None)
                continue
            assert isinstance(step, Send)
            sent.append(step)
            outcome = todo.pop(0)
            if isinstance(outcome, ExchangeError):
                step = steps.throw(outcome)
            else:
                step = steps.send(outcome)
    except StopIteration as end:
        assert todo == []
        return end.value, sent, waited
    except DvecdbError as error:
        assert todo == []
        return error, sent, waited


@pytest.mark.parametrize("repeat", Repeat)
@pytest.mark.parametrize("outcome", NOT_DONE)
def test_what_was_surely_not_done_is_tried_again(repeat, outcome):
    result, sent, waited = run(repeat, *[outcome] * 4, DONE)
    assert (result, len(sent), len(waited)) == (7, 5, 4)


@pytest.mark.parametrize("outcome", MAYBE_DONE)
def test_what_may_have_been_done_is_tried_again_with_the_same_key_or_not_at_all(outcome):
    for repeat in (Repeat.READ, Repeat.KEYED):
        result, sent, _ = run(repeat, *[outcome] * 4, DONE)
        assert result == 7
        keys = {item.call.headers.get("idempotency-key") for item in sent}
        assert len(keys) == 1
        assert (keys == {None}) is (repeat is Repeat.READ)
    error, sent, _ = run(Repeat.ONCE, outcome)
    assert "may or may not" in error.message
    assert [item.fresh for item in sent] == [True]
    assert "idempotency_key" not in error.details


@pytest.mark.parametrize("repeat", Repeat)
@pytest.mark.parametrize("outcome", FINAL)
def test_what_would_end_the_same_is_not_tried_again(repeat, outcome):
    error, sent, waited = run(repeat, outcome)
    assert isinstance(error, DvecdbError)
    assert (len(sent), waited) == (1, [])
    in_doubt = outcome is BROKEN and repeat is not Repeat.READ
    assert ("may or may not" in error.message) is in_doubt


@pytest.mark.parametrize("first", MAYBE_DONE)
@pytest.mark.parametrize("then", [FORBIDDEN, FULL, STOPPED, BROKEN, GONE, LASTING])
def test_doubt_is_not_ended_by_an_answer_that_proves_nothing(first, then):
    error, sent, _ = run(Repeat.KEYED, first, then)
    assert "may or may not" in error.message
    key = sent[0].call.headers["idempotency-key"]
    assert error.details["idempotency_key"] == key
    assert repr(key) in error.message
    assert error.details["attempts"] == 2
    if first is UNCLEAR and then is not BROKEN:
        assert type(error) is OutcomeUnknownError
        assert error.code is Code.OUTCOME_UNKNOWN


@pytest.mark.parametrize("first", MAYBE_DONE)
def test_doubt_is_ended_by_an_answer_that_proves_it_was_not_done(first):
    error, _, _ = run(Repeat.KEYED, first, EXISTS)
    assert error.code is Code.ID_EXISTS
    assert "may or may not" not in error.message
    assert error.details["fact"] == 1


def test_a_key_that_is_given_is_kept_and_one_attempt_makes_none():
    call, (first,), _ = run(Repeat.KEYED, DONE, key="mine")
    assert (call, first.call.key) == (7, "mine")
    _, (first,), _ = run(Repeat.KEYED, DONE, attempts=1)
    assert first.call.headers == {}


@given(attempts=st.integers(1, 40), seconds=st.integers(0, 10**6))
def test_waits_grow_to_a_limit_and_heed_the_server(attempts, seconds):
    _, sent, waited = run(Repeat.READ, *[UNSENT] * attempts, attempts=attempts)
    assert (len(sent), len(waited)) == (attempts, attempts - 1)
    for number, wait in enumerate(waited):
        longest = min(0.1 * 2**number, WAIT_SECONDS_MAX)
        assert longest / 2 <= wait <= longest
    told = refusal(Code.TOO_MANY_REQUESTS, 429, **{"retry-after": str(seconds)})
    _, _, (wait,) = run(Repeat.READ, told, DONE)
    assert min(seconds, RETRY_AFTER_SECONDS_MAX) <= wait <= max(0.1, RETRY_AFTER_SECONDS_MAX)


@pytest.mark.parametrize("code", Code)
def test_every_error_comes_back_as_it_was(code):
    error, *_ = run(Repeat.READ, refusal(code, STATUSES[code]), attempts=1)
    assert (type(error), error.code) == (ERROR_CLASSES[code], code)
    assert error.message == f"this is {code}"
    assert error.details == {"fact": 1}


@pytest.mark.parametrize("body", [b"", b"null", b"<html>", b"\xff", b'{"data": 1}'])
@pytest.mark.parametrize("status", [200, 301, 401, 404, 418, 500, 502])
def test_an_answer_of_somebody_else_is_an_error_of_ours(status, body):
    if status == 200:
        call = Call("GET", "/x", {}, b"", msgspec.json.Decoder(int).decode)
        steps = play(call, Terms("h:1", 1, uuid.uuid4))
        next(steps)
        with pytest.raises(DvecdbError) as caught:
            steps.send(Answer(200, {"x-request-id": "r"}, body))
        assert caught.value.code is Code.SERVER_ERROR
        assert caught.value.details["request_id"] == "r"
    else:
        error, *_ = run(Repeat.READ, Answer(status, {}, body), attempts=1)
        assert isinstance(error, DvecdbError)
        assert str(status) in error.message
