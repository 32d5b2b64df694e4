"""The caller with many threads against a real service that misbehaves, dies and comes back."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from tests.embedding.misbehaving import DIMENSION, Fault, Service, vector_of

from dvecdb.clock import SystemClock
from dvecdb.embedding.caller import Caller, Stopped
from dvecdb.embedding.embedders.opening import open_embedder
from dvecdb.embedding.events import AttemptFailed, Paused, Reconnected, Resumed
from dvecdb.embedding.job import EmbedderSpec, FlowSpec
from dvecdb.embedding.model import EmbedError, Reason
from dvecdb.errors import DvecdbError

PATIENCE = 30.0


class Watcher:
    """Keeps events, and lets a test wait for one."""

    def __init__(self):
        self.events = []
        self._changed = threading.Condition()

    def __call__(self, event):
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait_for(self, kind, count=1):
        with self._changed:
            is_there = self._changed.wait_for(lambda: self.count(kind) >= count, PATIENCE)
            assert is_there, self.events[-20:]

    def count(self, kind):
        return sum(type(event) is kind for event in self.events)


@contextmanager
def calling(service, *, kind="openai", timeout=2.0, **flow):
    """A caller of a service, its watcher, and the event that stops it."""
    spec = EmbedderSpec(
        kind=kind, model="m", url=service.url, dimensions=DIMENSION, timeout_seconds=timeout
    )
    embedder = open_embedder(spec, {})
    watcher = Watcher()
    stop = threading.Event()
    flow = {"retry_seconds": 0.01, "retry_seconds_max": 0.2, "batch": 10, **flow}
    caller = Caller(
        embedder,
        FlowSpec(**flow),
        probe=lambda: embedder.embed(["probe"]) and None,
        watch=watcher,
        stop=stop,
        clock=SystemClock(),
        random=random.Random(7).random,
        dimension=DIMENSION,
    )
    try:
        yield caller, watcher, stop
    finally:
        stop.set()
        embedder.close()


def names(count):
    return [f"text {number}" for number in range(count)]


def batches(texts, size=10):
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def buried(texts, results):
    assert len(results) == len(texts)
    lost = []
    for text, result in zip(texts, results, strict=True):
        if isinstance(result, EmbedError):
            lost.append(text)
        else:
            assert np.array_equal(result, vector_of(text))
    return lost


def embed_parts(caller, parts, threads, stop):
    """Results of parts, by so many threads; `stop` is set if one of them fails."""
    with ThreadPoolExecutor(threads) as pool:
        try:
            return list(pool.map(caller.embed, parts, timeout=2 * PATIENCE))
        except BaseException:
            stop.set()
            raise


def embed_all(caller, texts, threads, stop):
    parts = embed_parts(caller, batches(texts), threads, stop)
    return [result for part in parts for result in part]


@pytest.mark.parametrize("kind", ["openai", "service"])
def test_every_text_gets_its_vector_from_a_service_that_fails_in_every_way(kind):
    faults = [
        Fault("status", 500),
        Fault("status", 503, b"busy", (("retry-after-ms", "20"),)),
        Fault("status", 429, b"", (("retry-after-ms", "30"),)),
        Fault("status", 408),
        Fault("hang"),
        Fault("reset"),
        Fault("close"),
        Fault("half"),
        Fault("raw", body=b'{"data": [{"em'),
        Fault("raw", body=b"<html>It works!</html>"),
        Fault("count"),
        Fault("extra"),
        Fault("dimension"),
        Fault("ragged"),
        Fault("nan"),
        Fault("huge"),
    ]
    chosen = random.Random(11)

    def fail(request, number):
        return chosen.choice(faults) if chosen.random() < 0.3 else None

    texts = names(1_000)
    with (
        Service(fail) as service,
        calling(service, kind=kind, timeout=0.3, concurrency=8) as (
            caller,
            _,
            stop,
        ),
    ):
        assert buried(texts, embed_all(caller, texts, 8, stop)) == []
        usage = caller.usage
        assert usage.texts == 1_000
        assert usage.failed == sum(usage.reasons.values()) > 10
        assert set(usage.reasons) >= {"timeout", "overloaded", "wrong-answer", "unreachable"}
        # Nothing that was embedded is asked for again, but in a batch that failed later.
        assert usage.requests - usage.failed <= 100 + len(service.requests) // 10


def test_requests_under_way_are_never_more_than_the_job_allows():
    under_way = []
    most = []
    lock = threading.Lock()
    never = threading.Event()

    def fail(request, number):
        with lock:
            under_way.append(number)
            most.append(len(under_way))
        never.wait(0.005)
        with lock:
            under_way.remove(number)

    texts = names(600)
    with Service(fail) as service, calling(service, concurrency=3) as (caller, _, stop):
        assert buried(texts, embed_all(caller, texts, 16, stop)) == []
    assert max(most) == 3


def test_no_text_is_buried_while_the_service_is_dead_and_it_goes_on_by_itself():
    texts = names(2_000)
    quickly = threading.Event()

    def fail(request, number):
        quickly.wait(0.005)

    with (
        Service(fail) as service,
        ThreadPoolExecutor(8) as pool,
        calling(service, concurrency=4, attempts=2) as (caller, watcher, _),
    ):
        running = [pool.submit(caller.embed, part) for part in batches(texts)]
        for death in range(1, 4):
            service.wait_for_requests(len(service.requests) + 10)
            service.stop()
            watcher.wait_for(Paused, death)
            service.start()
            watcher.wait_for(Resumed, death)
        quickly.set()
        results = [result for one in running for result in one.result(PATIENCE)]
        assert buried(texts, results) == []
        assert watcher.count(Paused) == watcher.count(Resumed) == 3
        assert watcher.count(Reconnected) >= 3
        # Paid twice at most: what was under way at each of three deaths.
        paid = len(service.embedded) - service.embedded.count("probe")
        assert paid <= 2_000 + 3 * 4 * 10


def test_while_it_is_dead_only_probes_are_sent():
    is_dead = threading.Event()
    is_dead.set()

    def fail(request, number):
        return Fault("status", 503) if is_dead.is_set() else None

    texts = names(200)
    with (
        Service(fail) as service,
        ThreadPoolExecutor(8) as pool,
        calling(service, concurrency=4, attempts=2) as (caller, watcher, _),
    ):
        running = [pool.submit(caller.embed, part) for part in batches(texts)]
        watcher.wait_for(Paused)
        service.wait_for_requests(len(service.requests) + 6)
        assert [request.texts for request in service.requests][-3:] == [["probe"]] * 3
        is_dead.clear()
        results = [result for one in running for result in one.result(PATIENCE)]
        assert buried(texts, results) == []
        embedding = [request for request in service.requests if request.texts != ["probe"]]
        assert len(embedding) <= 20 + 4 * 8


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", 500),
        Fault("status", 422, b'{"detail": "bad text"}'),
        Fault("status", 413),
        Fault("nan"),
        Fault("reset"),
        Fault("hang"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
def test_a_poisonous_text_is_buried_alone_among_many_threads(fault):
    def fail(request, number):
        return fault if "text 77" in request.texts else None

    texts = names(200)
    with (
        Service(fail) as service,
        calling(service, timeout=0.1, concurrency=4, batch=50) as (
            caller,
            _,
            stop,
        ),
    ):
        parts = embed_parts(caller, batches(texts, 50), 4, stop)
        results = [result for part in parts for result in part]
        assert buried(texts, results) == ["text 77"]
        assert caller.usage.failed <= 6 + 5 * 4 + 6  # all, five times a half, the text itself
        assert len(service.requests) <= 70
        assert len(service.embedded) - service.embedded.count("probe") == 199


def test_told_to_wait_everybody_waits_and_the_time_counts_once():
    told = Fault("status", 429, b"", (("retry-after-ms", "400"),))
    clock = SystemClock()
    came = []
    all_came = threading.Barrier(4)

    def fail(request, number):
        came.append(clock.monotonic_ns())
        if number <= 4:
            all_came.wait(PATIENCE)  # four are under way when they are told
            return told
        return None

    texts = names(200)
    with (
        Service(fail) as service,
        calling(service, concurrency=4, attempts=1) as (
            caller,
            _,
            stop,
        ),
    ):
        assert buried(texts, embed_all(caller, texts, 12, stop)) == []
        assert caller.usage.reasons == {"rate-limited": 4}
        assert 0.39 <= caller.usage.waited_seconds <= 0.9
    # Others were waiting for a slot, and did not take those that became free.
    assert min(came[4:]) - max(came[:4]) >= 0.39 * 1e9


def test_before_the_service_has_counted_tokens_a_budget_lets_one_request_go_alone():
    never = threading.Event()
    came = []

    def fail(request, number):
        came.append(number)
        if number == 1:
            never.wait(0.2)
            assert came == [1]

    texts = names(200)
    with (
        Service(fail) as service,
        calling(service, concurrency=4, budget_tokens=10**6) as (
            caller,
            _,
            stop,
        ),
    ):
        assert buried(texts, embed_all(caller, texts, 8, stop)) == []
        assert caller.usage.failed == 0


@pytest.mark.parametrize("state", ["retry", "told", "dead", "paused", "slot", "limit"])
def test_whatever_it_waits_for_a_stop_ends_it_at_once(state):
    fault = {
        "retry": Fault("status", 500),
        "told": Fault("status", 429, b"", (("retry-after", "3000"),)),
        "dead": Fault("status", 500),
        "slot": Fault("hang"),
    }.get(state)
    flow = {"retry_seconds": 3_000.0, "retry_seconds_max": 3_000.0, "concurrency": 1}
    if state == "dead":
        flow["attempts"] = 1
    if state == "limit":
        flow["requests_per_minute"] = 1
    clock = SystemClock()
    reached = threading.Event()

    def fail(request, number):
        reached.set()
        return fault

    with (
        Service(fail) as service,
        ThreadPoolExecutor(4) as pool,
        calling(service, timeout=20.0, **flow) as (caller, _, stop),
    ):
        if state == "paused":
            caller.pause()
            reached.set()
        running = [pool.submit(caller.embed, names(20)) for _ in range(3)]
        assert reached.wait(PATIENCE)
        start = clock.monotonic_ns()
        stop.set()
        service.hang.set()
        for one in running:
            with pytest.raises(Stopped):
                one.result(PATIENCE)
        assert (clock.monotonic_ns() - start) / 1e9 < 2
        assert len(service.requests) <= 3


def test_paused_no_request_goes_and_resumed_all_go():
    texts = names(100)
    with (
        Service() as service,
        ThreadPoolExecutor(4) as pool,
        calling(service, concurrency=4) as (caller, watcher, _),
    ):
        caller.pause("asked to")
        caller.pause("asked to")
        running = [pool.submit(caller.embed, part) for part in batches(texts)]
        assert not running[0].done()
        assert service.requests == []
        caller.resume()
        results = [result for one in running for result in one.result(PATIENCE)]
        assert buried(texts, results) == []
        assert [type(event) for event in watcher.events] == [Paused, Resumed]
        assert watcher.events[0].why == "asked to"


def test_one_refused_key_ends_all_threads():
    with (
        Service(lambda request, number: Fault("status", 401)) as service,
        ThreadPoolExecutor(8) as pool,
        calling(service, concurrency=2) as (caller, _, _),
    ):
        running = [pool.submit(caller.embed, names(10)) for _ in range(40)]
        for one in running:
            with pytest.raises(DvecdbError) as failure:
                one.result(PATIENCE)
            assert failure.value.code == "embedder-refused"
        assert len(service.requests) <= 2


def test_others_are_asked_for_while_some_wait_for_their_next_try():
    flow = {"concurrency": 2, "retry_seconds": 60.0, "retry_seconds_max": 60.0}
    with (
        Service(lambda request, number: Fault("status", 500)) as service,
        ThreadPoolExecutor(3) as pool,
        calling(service, **flow) as (caller, watcher, stop),
    ):
        assert caller.concurrency() == 2
        running = [pool.submit(caller.embed, [f"{one}"]) for one in range(3)]
        watcher.wait_for(AttemptFailed, 3)
        while caller.concurrency() < 5:
            assert not any(one.done() for one in running)
        assert len(service.requests) == 3
        stop.set()
        for one in running:
            assert isinstance(one.exception(PATIENCE), Stopped)


def test_reasons_are_what_the_service_did():
    faults = {1: Fault("status", 500), 2: Fault("hang"), 3: Fault("close"), 4: Fault("count")}
    with (
        Service(lambda request, number: faults.get(number)) as service,
        calling(service, timeout=0.1) as (caller, _, _),
    ):
        assert buried(names(5), caller.embed(names(5))) == []
        expected = [Reason.OVERLOADED, Reason.TIMEOUT, Reason.UNREACHABLE, Reason.WRONG_ANSWER]
        assert list(caller.usage.reasons) == expected
