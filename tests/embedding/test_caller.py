"""The caller over a service that is pretended, in time that the test moves: every wait is instant.

One thread, so every run is the same.
"""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.embedding.misbehaving import vector_of

from dvecdb.embedding.caller import FALLS_MAX, BudgetReached, Caller, Stopped
from dvecdb.embedding.embedders.http import UnsentError
from dvecdb.embedding.events import AttemptFailed, Paused, Reconnected, Resumed, Split
from dvecdb.embedding.job import FlowSpec
from dvecdb.embedding.model import Answer, EmbedError, Reason
from dvecdb.errors import Code, ConflictError, DvecdbError
from dvecdb.testing.clocks import ManualClock

PROBE = "probe"


class Pretended:
    """An embedder and its probe, and all that a caller needs; its stop event moves the clock."""

    def __init__(self, fail=lambda texts, now: None, **flow):
        self.clock = ManualClock()
        self.fail = fail
        self.requests = []
        self.probes = 0
        self.renewed = 0
        self.events = []
        self.model = "pretended"
        world = self

        class Stop(threading.Event):
            def wait(self, timeout=None):
                if not self.is_set():
                    world.clock.advance(timeout)
                return self.is_set()

        self.stop = Stop()
        self.flow = FlowSpec(**{"jitter": 0.5, "batch": 64, **flow})

    def caller(self, price=None, dimension=None):
        return Caller(
            self,
            self.flow,
            probe=self.probe,
            watch=self.events.append,
            stop=self.stop,
            clock=self.clock,
            random=lambda: 0.5,
            price=price,
            dimension=dimension,
        )

    @property
    def now(self):
        return self.clock.monotonic_ns() / 1e9

    def probe(self):
        self.probes += 1
        self._do([PROBE])

    def embed(self, texts):
        self.requests.append(list(texts))
        return self._do(texts)

    def _do(self, texts):
        self.clock.advance(0.01)
        error = self.fail(list(texts), self.now)
        if isinstance(error, BaseException):
            raise error
        if error is not None:
            return error
        vectors = np.stack([vector_of(text) for text in texts])
        return Answer(vectors, 2 * sum(map(len, texts)))

    def renew(self):
        self.renewed += 1

    def close(self):
        pass

    def kinds(self):
        return [type(event) for event in self.events]


def names(count):
    return [f"text {number}" for number in range(count)]


def buried(texts, results):
    """The texts without a vector; every other vector must be the right one."""
    assert len(results) == len(texts)
    lost = []
    for text, result in zip(texts, results, strict=True):
        if isinstance(result, EmbedError):
            lost.append(text)
        else:
            assert np.array_equal(result, vector_of(text))
    return lost


def with_poison(*poison, reason=Reason.OVERLOADED):
    return lambda texts, now: EmbedError(reason, "bad text") if set(poison) & set(texts) else None


# --- who is to blame -------------------------------------------------------------------------

BLAMED = [
    Reason.OVERLOADED,
    Reason.TIMEOUT,
    Reason.UNREACHABLE,
    Reason.WRONG_ANSWER,
    Reason.REFUSED,
    Reason.TOO_LARGE,
]


@pytest.mark.parametrize("reason", BLAMED)
def test_a_poisonous_text_is_buried_alone_with_a_bounded_number_of_requests(reason):
    texts = names(50)
    world = Pretended(with_poison("text 31", reason=reason))
    assert buried(texts, world.caller().embed(texts)) == ["text 31"]
    is_texts = reason in {Reason.REFUSED, Reason.TOO_LARGE}
    assert len(world.requests) <= (13 if is_texts else 38)
    assert world.probes <= (1 if is_texts else 9)
    assert world.now < 60
    assert Paused not in world.kinds()


@given(st.integers(1, 40), st.sets(st.integers(0, 39), max_size=6), st.sampled_from(BLAMED))
def test_exactly_the_poisonous_texts_are_buried(count, numbers, reason):
    texts = names(count)
    poison = [text for number, text in enumerate(texts) if number in numbers]
    world = Pretended(with_poison(*poison, reason=reason))
    assert buried(texts, world.caller().embed(texts)) == poison


@given(
    count=st.integers(1, 20),
    numbers=st.sets(st.integers(0, 19), max_size=2),
    outages=st.lists(st.tuples(st.floats(0, 200), st.floats(0.01, 400)), max_size=FALLS_MAX - 1),
    batch=st.integers(1, 20),
    attempts=st.integers(1, 6),
)
def test_no_good_text_is_buried_however_a_service_comes_and_goes(
    count, numbers, outages, batch, attempts
):
    texts = names(count)
    poison = [text for number, text in enumerate(texts) if number in numbers]

    def fail(sent, now):
        if any(start <= now < start + length for start, length in outages):
            return EmbedError(Reason.UNREACHABLE, "gone")
        return EmbedError(Reason.OVERLOADED, "bad text") if set(poison) & set(sent) else None

    world = Pretended(fail, batch=batch, attempts=attempts, retry_seconds_max=20.0)
    assert buried(texts, world.caller().embed(texts)) == poison
    assert world.kinds().count(Paused) == world.kinds().count(Resumed) <= len(outages)


@pytest.mark.parametrize(
    "story",
    [
        # Away during all tries and at the first probe: its tries begin anew.
        ["text no", "text no", "probe no", "probe", "text no", "text no", "probe", "text"],
        # Away again after a good probe: the failed try in between says nothing.
        ["text no", "text no", "probe", "text no", "probe no", "probe", "text no", "text"],
        # Away during all tries, and back just before the probe.
        ["text no", "text no", "probe", "text"],
    ],
)
def test_a_single_text_is_not_buried_for_what_may_be_the_fault_of_the_service(story):
    told = []

    def fail(texts, now):
        told.append("probe" if texts == [PROBE] else "text")
        is_bad = story[len(told) - 1].endswith("no")
        return EmbedError(Reason.UNREACHABLE, "gone") if is_bad else None

    world = Pretended(fail, attempts=2)
    assert buried(["a"], world.caller().embed(["a"])) == []
    assert told == [step.removesuffix(" no") for step in story]


@pytest.mark.parametrize("count", [1, 50])
def test_a_text_that_takes_the_service_down_is_buried_in_the_end(count):
    down = [0.0]

    def fail(texts, now):
        if now < down[0]:
            return EmbedError(Reason.UNREACHABLE, "connection refused")
        if "text 0" in texts:
            down[0] = now + 30
            return EmbedError(Reason.UNREACHABLE, "connection reset")
        return None

    texts = names(count)
    world = Pretended(fail)
    assert buried(texts, world.caller().embed(texts)) == ["text 0"]
    assert len(world.requests) < 60


def test_while_the_service_is_away_one_probe_asks_at_growing_intervals_and_texts_wait():
    probed = []

    def fail(texts, now):
        if texts == [PROBE]:
            probed.append(now)
        return EmbedError(Reason.UNREACHABLE, "gone") if now < 1_000 else None

    world = Pretended(fail, attempts=3, jitter=0.0, retry_seconds_max=60.0)
    assert buried(names(50), world.caller().embed(names(50))) == []
    assert len(world.requests) == 4
    gaps = np.diff(probed)
    assert all(gaps[:-1] <= gaps[1:] + 0.001)
    assert 1 <= gaps[0] <= 1.1
    assert 60 <= gaps[-1] <= 60.1
    assert world.kinds() == [*[AttemptFailed] * 3, Paused, Resumed, Reconnected]
    assert [event.attempt for event in world.events[:3]] == [1, 2, 3]
    assert [event.wait_seconds for event in world.events[:3]] == [1.0, 2.0, 0.0]
    assert world.events[0].attempts == 3
    assert "gone" in world.events[3].why


def test_a_connection_is_renewed_before_the_next_try():
    failed = [EmbedError(Reason.UNREACHABLE, "reset")]
    seen = []

    def fail(texts, now):
        seen.append(world.renewed)
        return failed.pop() if failed else None

    world = Pretended(fail)
    world.caller().embed(["a"])
    assert seen == [0, 1]
    assert world.kinds() == [AttemptFailed, Reconnected]


def test_a_service_that_refuses_even_the_probe_ends_the_job_and_buries_nothing():
    world = Pretended(lambda texts, now: EmbedError(Reason.REFUSED, "unknown field texts"))
    caller = world.caller()
    with pytest.raises(DvecdbError) as failure:
        caller.embed(names(50))
    assert failure.value.code == "embedder-refused"
    assert "unknown field texts" in str(failure.value)
    assert len(world.requests) < 8


# --- told to wait ----------------------------------------------------------------------------


def test_being_told_to_wait_uses_up_no_try_and_is_counted():
    def fail(texts, now):
        if now < 500:
            left = 500 - now
            return EmbedError(Reason.RATE_LIMITED, "slow down", retry_after_seconds=left)
        return None

    world = Pretended(fail, attempts=1)
    caller = world.caller()
    assert buried(names(3), caller.embed(names(3))) == []
    assert caller.usage.waited_seconds == pytest.approx(500, rel=0.06)
    failed = world.events[0]
    assert (failed.attempt, failed.attempts, failed.reason) == (None, None, "rate-limited")
    assert failed.wait_seconds >= 499
    assert world.probes == 0


def test_without_a_time_it_waits_longer_and_longer():
    left = [EmbedError(Reason.RATE_LIMITED, "no")] * 12
    world = Pretended(lambda texts, now: left.pop() if left else None, jitter=0.0)
    world.caller().embed(["a"])
    waits = [event.wait_seconds for event in world.events[:-1]]
    assert waits[:7] == [1, 2, 4, 8, 16, 32, 60]
    assert waits[-1] == 60


def test_an_own_wait_is_not_counted_as_told():
    left = [EmbedError(Reason.OVERLOADED, "no")] * 2
    world = Pretended(lambda texts, now: left.pop() if left else None)
    caller = world.caller()
    caller.embed(["a"])
    assert caller.usage.waited_seconds == 0
    assert caller.usage.reasons == {"overloaded": 2}
    assert (caller.usage.requests, caller.usage.failed, caller.usage.texts) == (3, 2, 1)


# --- sizes and limits ------------------------------------------------------------------------


def test_a_batch_above_what_the_service_takes_is_split_and_the_next_ones_are_smaller():
    def fail(texts, now):
        return EmbedError(Reason.TOO_LARGE, "at most 20 texts") if len(texts) > 20 else None

    world = Pretended(fail, batch=50)
    caller = world.caller()
    texts = names(1_000)
    assert buried(texts, caller.embed(texts)) == []
    sizes = [len(texts) for texts in world.requests]
    assert sizes[:3] == [50, 25, 13]
    assert sum(size > 20 for size in sizes) <= 4
    assert 12 <= caller.batch_max() <= 24
    assert [event.texts for event in world.events if type(event) is Split][:2] == [50, 25]


def test_one_long_text_does_not_make_the_batches_of_the_others_small():
    world = Pretended(with_poison("text 7", reason=Reason.TOO_LARGE), batch=50)
    caller = world.caller()
    assert buried(names(50), caller.embed(names(50))) == ["text 7"]
    assert caller.batch_max() == 50


def test_requests_keep_to_the_tokens_of_a_request_by_what_the_service_counts():
    world = Pretended(tokens_per_request=120)  # it counts two a character
    caller = world.caller()
    texts = ["x" * 10] * 100 + ["y" * 500]
    assert buried(texts, caller.embed(texts)) == []
    assert all(sum(map(len, sent)) <= 60 for sent in world.requests[1:-1])
    assert world.requests[-1] == ["y" * 500]  # alone, and the service may say no
    assert len(world.requests) < 25


def test_the_limits_per_minute_hold_over_a_whole_run():
    sent = []
    world = Pretended(
        lambda texts, now: sent.append((now, 2 * sum(map(len, texts)))),
        batch=10,
        requests_per_minute=50,
        tokens_per_minute=2_000,
    )
    caller = world.caller()
    caller.embed(["x" * 10])  # from here on the estimate is right
    sent.clear()
    caller.embed(["x" * 10] * 2_000)
    assert len(sent) == 200
    for start, _ in sent:
        inside = [tokens for now, tokens in sent if start <= now < start + 59.9]
        assert len(inside) <= 50
        assert sum(inside) <= 2_000
    assert sent[-1][0] <= 40_000 / 2_000 * 60 * 1.06


@given(
    st.integers(0, 2_000) | st.none(),
    st.integers(0, 12) | st.none(),
    st.floats(0, 0.01) | st.none(),
)
def test_a_run_stops_before_a_budget_and_hands_over_what_is_paid(tokens, requests, money):
    world = Pretended(batch=5, budget_tokens=tokens, budget_requests=requests, budget_money=money)
    caller = world.caller(price=10.0)
    texts = [f"{number:010}" for number in range(40)]  # 20 tokens each, 800 together
    first_error = 20  # before the service has counted any, an estimate is too small
    try:
        done = caller.embed(texts)
        why = None
    except BudgetReached as end:
        done, why = end.done, end.why
    assert (why is None) == (len(done) == len(texts))
    assert why is None or "budget" in why
    assert buried(texts[: len(done)], done) == []
    usage = caller.usage
    assert usage.texts == len(done)
    if requests is not None:
        assert usage.requests <= requests
    limits = [limit for limit in (tokens, money and money / 10 * 1e6) if limit is not None]
    if limits:
        error = 5 * (first_error - 3)
        assert usage.tokens <= min(limits) + error
        if len(done) < len(texts) and requests is None:
            assert usage.tokens > min(limits) - 20


def test_a_failure_for_which_nothing_is_owed_costs_no_budget_and_another_does():
    text = "x" * 50  # 15 tokens, as long as nobody has counted

    def embed(error):
        left = [error] * 4
        world = Pretended(lambda texts, now: left.pop() if left else None, budget_tokens=20)
        return world.caller().embed([text])

    assert buried([text], embed(EmbedError(Reason.OVERLOADED, "no"))) == []
    assert buried([text], embed(UnsentError(Reason.UNREACHABLE, "refused"))) == []
    for reason in (Reason.TIMEOUT, Reason.UNREACHABLE, Reason.WRONG_ANSWER):
        with pytest.raises(BudgetReached):
            embed(EmbedError(reason, "no"))


# --- answers ---------------------------------------------------------------------------------


def test_a_vector_without_a_direction_is_the_error_of_its_text_alone_and_paid_once():
    def fail(texts, now):
        vectors = np.stack([vector_of(text) for text in texts])
        vectors[[text == "text 3" for text in texts]] = 0
        return Answer(vectors)

    world = Pretended(fail)
    results = world.caller().embed(names(8))
    assert buried(names(8), results) == ["text 3"]
    assert "zeros" in results[3].message
    assert len(world.requests) == 1


def test_an_answer_of_another_dimension_than_the_known_one_is_wrong():
    left = [Answer(np.ones((3, 5), np.float32)), Answer(np.ones((2, 8), np.float32))]
    world = Pretended(lambda texts, now: left.pop() if left else None)
    caller = world.caller(dimension=8)
    assert buried(names(3), caller.embed(names(3))) == []
    assert caller.usage.reasons == {"wrong-answer": 2}
    assert caller.usage.texts == 3


def test_no_texts_need_no_request():
    world = Pretended()
    assert world.caller().embed([]) == []
    assert world.requests == []


# --- endings ---------------------------------------------------------------------------------


def test_a_wrong_key_ends_this_call_and_every_later_one_without_a_request():
    world = Pretended(lambda texts, now: EmbedError(Reason.FORBIDDEN, "401"))
    caller = world.caller()
    for _ in range(3):
        with pytest.raises(DvecdbError) as failure:
            caller.embed(names(3))
        assert failure.value.code == "embedder-refused"
        assert failure.value.advice == "fix-request"
    assert len(world.requests) == 1


def test_a_dead_service_is_given_up_when_the_job_says_so():
    world = Pretended(
        lambda texts, now: EmbedError(Reason.UNREACHABLE, "gone"), give_up_seconds=100.0
    )
    caller = world.caller()
    for _ in range(2):
        with pytest.raises(DvecdbError) as failure:
            caller.embed(names(3))
        assert failure.value.code == "embedder-unreachable"
        assert failure.value.advice == "retry"
    assert 100 <= world.now <= 140
    assert world.kinds()[-1] is Paused


def test_another_model_that_a_probe_finds_ends_every_call():
    mismatch = ConflictError(Code.EMBEDDER_MISMATCH, "another model")

    def fail(texts, now):
        if texts == [PROBE] and now > 50:
            return mismatch
        return EmbedError(Reason.UNREACHABLE, "gone")

    world = Pretended(fail)
    caller = world.caller()
    for _ in range(2):
        with pytest.raises(ConflictError) as failure:
            caller.embed(names(3))
        assert failure.value is mismatch


def test_stopped_it_hands_over_what_is_paid():
    def fail(texts, now):
        if len(world.requests) == 3:
            world.stop.set()

    world = Pretended(fail, batch=10)
    with pytest.raises(Stopped) as end:
        world.caller().embed(names(50))
    assert buried(names(30), end.value.done) == []


def test_an_error_that_nobody_foresaw_passes_and_leaves_the_way_free():
    left = [ZeroDivisionError()]
    world = Pretended(lambda texts, now: left.pop() if left else None, concurrency=1)
    caller = world.caller()
    with pytest.raises(ZeroDivisionError):
        caller.embed(["a"])
    assert buried(["a"], caller.embed(["a"])) == []


def test_money_without_a_price_is_refused():
    with pytest.raises(DvecdbError) as failure:
        Pretended(budget_money=1.0).caller()
    assert failure.value.code == "invalid-job"
