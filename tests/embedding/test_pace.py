"""Limits per minute, budgets, how many at a time: arithmetic over a clock that the test moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb.embedding.budget import Budget
from dvecdb.embedding.job import FlowSpec
from dvecdb.embedding.model import Reason
from dvecdb.embedding.pace import BURST_NS, WINDOW_NS, Bucket, Pace, TokenEstimate
from dvecdb.embedding.throttle import OFTEN, ROUNDS_TO_FORGET, ROUNDS_TO_GROW, Throttle
from dvecdb.errors import DvecdbError

SECOND = 1_000_000_000
WISHES = st.lists(
    st.tuples(st.integers(1, 2_000), st.integers(0, 20 * SECOND), st.integers(0, 2_000)),
    min_size=1,
    max_size=60,
)
"""Amount, time until it is wanted, and what it was in truth."""


def window_sums(log):
    """The sum of every span of 60 seconds that begins with something."""
    for at, _ in log:
        yield [amount for when, amount in log if at <= when < at + WINDOW_NS]


@given(st.integers(1, 1_000), WISHES)
def test_no_window_of_a_minute_has_more_than_the_limit(limit, wishes):
    bucket = Bucket(limit)
    now = 5 * SECOND
    log = []
    for amount, pause, _ in wishes:
        now += pause
        while wait := bucket.wait_ns(amount, now):
            assert 0 < wait <= 40 * WINDOW_NS * max(amount, 2_000) // limit + WINDOW_NS
            now += wait
        bucket.take(amount, now)
        log.append((now, amount))
    for amounts in window_sums(log):
        assert sum(amounts) <= limit or (len(amounts) == 1 and amounts[0] > limit)


@given(st.integers(1, 1_000), WISHES)
def test_a_window_exceeds_the_limit_by_no_more_than_one_estimate_was_wrong(limit, wishes):
    bucket = Bucket(limit)
    now = 0
    log = []
    for amount, pause, truth in wishes:
        now += pause
        while wait := bucket.wait_ns(amount, now):
            now += wait
        bucket.correct(bucket.take(amount, now), truth)
        log.append((now, (amount, truth)))
    for inside in window_sums(log):
        amount, truth = inside[-1]
        over = max(truth - min(amount, limit), 0)
        assert sum(truth for _, truth in inside) <= limit + over


@given(st.integers(20, 5_000))
def test_a_limit_is_used_up_in_a_steady_run_and_a_burst_is_short(limit):
    bucket = Bucket(limit)
    now = 0
    log = []
    while now < 10 * WINDOW_NS and len(log) < 20_000:
        while wait := bucket.wait_ns(1, now):
            now += wait
        bucket.take(1, now)
        log.append(now)
    at_once = sum(when == 0 for when in log)
    assert at_once <= limit * BURST_NS // WINDOW_NS + 1
    minutes = log[-1] / WINDOW_NS
    assert len(log) >= 0.97 * limit * (minutes - 0.1)


def test_what_was_taken_and_cost_less_is_free_again():
    bucket = Bucket(60)
    taken = bucket.take(60, 0)
    assert bucket.wait_ns(1, 0) > 50 * SECOND
    bucket.correct(taken, 0)
    assert bucket.wait_ns(1, 0) == 0


def test_both_limits_hold_and_none_is_no_limit():
    assert Pace(FlowSpec()).wait_ns(10**9, 0) == 0
    pace = Pace(FlowSpec(requests_per_minute=60, tokens_per_minute=6_000))
    assert pace.wait_ns(100, 0) == 0
    taken = pace.take(5_000, 0)
    assert pace.wait_ns(1, 0) > 40 * SECOND
    pace.correct(taken, 0)
    for _ in range(4):
        pace.take(0, 0)
    assert 0 < pace.wait_ns(0, 0) <= 2 * SECOND


# --- estimates -------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=50), min_size=1, max_size=20), st.integers(0, 10_000))
def test_an_estimate_is_at_least_a_token_a_text_and_learns_from_what_is_counted(texts, tokens):
    estimate = TokenEstimate()
    assert not estimate.is_learned
    assert estimate.of(texts) >= len(texts)
    characters = sum(map(len, texts))
    estimate.learn(characters, tokens)
    assert estimate.is_learned
    if characters and tokens:
        assert tokens <= estimate.of(texts) <= tokens + len(texts)


# --- budgets ---------------------------------------------------------------------------------


@given(
    st.integers(0, 20) | st.none(),
    st.integers(0, 20_000) | st.none(),
    st.floats(0, 1) | st.none(),
    st.lists(st.tuples(st.integers(1, 3_000), st.integers(0, 3_000), st.booleans()), max_size=40),
)
def test_a_budget_is_never_exceeded_by_more_than_the_estimates_under_way_were_wrong(
    requests, tokens, money, wishes
):
    flow = FlowSpec(budget_requests=requests, budget_tokens=tokens, budget_money=money)
    budget = Budget(flow, 50.0)
    made = spent = 0
    under_way = []
    for estimate, truth, ends_first in wishes:
        if ends_first:
            for reserved, cost in under_way:
                budget.settle(reserved, cost)
            under_way = []
        if budget.admit(estimate) is None:
            made += 1
            spent += truth
            under_way.append((estimate, truth))
        error = sum(max(cost - reserved, 0) for reserved, cost in under_way)
        if requests is not None:
            assert made <= requests
        # What was overspent by an earlier error is never added to.
        if tokens is not None and spent > tokens:
            assert error or budget.admit(1) is not None
        if money is not None and spent * 50.0 / 1_000_000 > money:
            assert error or budget.admit(1) is not None


def test_exact_estimates_never_exceed_a_budget_and_the_message_says_which():
    budget = Budget(FlowSpec(budget_tokens=100, budget_money=1.0), 20_000.0)  # money: 50 tokens
    assert budget.room() == 50
    assert budget.admit(30) is None
    assert budget.room() == 20
    assert "money" in budget.admit(21)
    budget.settle(30, 10)
    assert budget.room() == 40
    assert budget.admit(40) is None


def test_a_budget_of_money_needs_a_price():
    with pytest.raises(DvecdbError) as failure:
        Budget(FlowSpec(budget_money=1.0), None)
    assert failure.value.code == "invalid-job"
    assert "price_per_million_tokens" in str(failure.value)


# --- how many at a time ----------------------------------------------------------------------

OUTCOMES = st.lists(
    st.tuples(st.sampled_from([None, *Reason]), st.integers(1, 60), st.booleans()), max_size=300
)


@given(st.integers(1, 64), st.integers(1, 100), OUTCOMES)
def test_concurrency_and_batch_stay_between_one_and_the_setting(concurrency, batch, outcomes):
    throttle = Throttle(FlowSpec(concurrency=concurrency, batch=batch))
    for now, (reason, texts, is_large) in enumerate(outcomes):
        if reason is None:
            throttle.succeeded(texts)
        else:
            throttle.failed(reason, now, now)
        if is_large:
            throttle.too_large(min(texts, batch))
        assert 1 <= throttle.concurrency <= concurrency
        assert 1 <= throttle.batch <= batch


def test_concurrency_is_halved_once_for_all_requests_that_were_under_way():
    throttle = Throttle(FlowSpec(concurrency=16))
    for _ in range(10):
        throttle.failed(Reason.RATE_LIMITED, sent_ns=5, now_ns=10)
    assert throttle.concurrency == 8
    throttle.failed(Reason.RATE_LIMITED, sent_ns=11, now_ns=12)
    assert throttle.concurrency == 4
    for _ in range(4 + 5 + 6):
        throttle.succeeded(50)
    assert throttle.concurrency == 7


def test_a_failure_now_and_then_does_not_slow_down_and_many_do():
    throttle = Throttle(FlowSpec(concurrency=16))
    for now in range(50):
        throttle.succeeded(50)
        throttle.succeeded(50)
        throttle.failed(Reason.OVERLOADED, now, now)
    assert throttle.concurrency == 16
    for now in range(100, 100 + OFTEN):
        throttle.failed(Reason.TIMEOUT, now, now)
    assert throttle.concurrency < 16


def test_a_batch_that_is_too_large_shrinks_and_grows_back_to_just_below_it():
    throttle = Throttle(FlowSpec(batch=50))
    throttle.too_large(50)
    assert throttle.batch == 25
    throttle.too_large(25)
    assert throttle.batch == 12
    for _ in range(ROUNDS_TO_GROW * 20):
        throttle.succeeded(throttle.batch)
    assert throttle.batch == 24
    for _ in range(ROUNDS_TO_FORGET):
        throttle.succeeded(throttle.batch)
    assert throttle.batch > 24
