"""What is done about a failed request: pure, so every case is small."""

from hypothesis import given
from hypothesis import strategies as st

from dvecdb.embedding.job import FlowSpec
from dvecdb.embedding.model import EmbedError, Reason
from dvecdb.embedding.retry import (
    ASKED_EXTRA,
    RETRY_AFTER_SECONDS_MAX,
    Bury,
    Halve,
    Stop,
    Wait,
    decide,
    wait_seconds,
)

REASONS = st.sampled_from(Reason)
WAITING = {Reason.UNREACHABLE, Reason.TIMEOUT, Reason.OVERLOADED, Reason.WRONG_ANSWER}
FRACTIONS = st.floats(0, 1, exclude_max=True)
ASKED = st.none() | st.floats(-10, 1e9)
SECONDS = st.floats(0.001, 10_000)


@st.composite
def flows(draw):
    return FlowSpec(
        attempts=draw(st.integers(1, 10)),
        jitter=draw(st.floats(0, 1)),
        retry_seconds=draw(SECONDS),
        retry_seconds_max=draw(SECONDS),
    )


@given(flows(), st.integers(1, 10_000), FRACTIONS)
def test_a_wait_lies_between_its_doubled_seconds_and_what_jitter_leaves_of_them(
    flow, attempt, random
):
    most = min(flow.retry_seconds * 2.0 ** min(attempt - 1, 60), flow.retry_seconds_max)
    waited = wait_seconds(attempt, flow, random)
    assert most * (1 - flow.jitter) * 0.999 <= waited <= most


@given(REASONS, st.integers(1, 100), st.integers(1, 50), flows(), FRACTIONS, ASKED)
def test_every_failure_calls_for_one_of_four_steps(reason, texts, attempt, flow, random, asked):
    error = EmbedError(reason, "no", retry_after_seconds=asked)
    step = decide(error, texts, attempt, flow, random)
    if reason is Reason.FORBIDDEN:
        assert step == Stop(error)
    elif reason in WAITING and attempt < flow.attempts:
        assert isinstance(step, Wait)
        assert step.counts
    elif reason is Reason.RATE_LIMITED:
        assert isinstance(step, Wait)
        assert not step.counts
    else:
        assert step == (Halve() if texts > 1 else Bury(error))


@given(st.integers(1, 9), flows(), FRACTIONS, st.floats(0.001, 1e9))
def test_nobody_comes_back_before_the_time_that_the_service_named(attempt, flow, random, asked):
    error = EmbedError(Reason.RATE_LIMITED, "no", retry_after_seconds=asked)
    step = decide(error, 50, attempt, flow, random)
    assert step.seconds >= min(asked, RETRY_AFTER_SECONDS_MAX)
    most = max(asked * (1 + ASKED_EXTRA), flow.retry_seconds_max)
    assert step.seconds <= min(most, max(3_960, flow.retry_seconds_max))


def test_a_service_that_always_says_at_once_is_still_not_asked_at_once():
    flow = FlowSpec(retry_seconds=1, retry_seconds_max=60, jitter=0)
    error = EmbedError(Reason.RATE_LIMITED, "no", retry_after_seconds=0.0)
    waits = [decide(error, 1, attempt, flow, 0.0).seconds for attempt in range(1, 9)]
    assert waits[0] == 0.1
    assert waits == sorted(waits)
    assert waits[-1] == 6.0


def test_the_last_try_of_several_texts_halves_them_and_of_one_buries_it():
    flow = FlowSpec(attempts=3)
    error = EmbedError(Reason.OVERLOADED, "no")
    assert isinstance(decide(error, 2, 2, flow, 0.0), Wait)
    assert decide(error, 2, 3, flow, 0.0) == Halve()
    assert decide(error, 1, 3, flow, 0.0) == Bury(error)
