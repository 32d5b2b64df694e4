"""What the embedding service does when it is told to fail: every fault, seen from outside."""

import base64
import contextlib
import http.client
import json
import math
import random
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb.embedding.local.fake import FakeModel
from dvecdb.embedding.service_faults import INDEXED_ONLY, Fault, FaultPlan, Faults, parse_faults
from dvecdb.errors import Code, InvalidRequestError
from dvecdb.testing.embedding_service import EmbeddingService

TEXTS = ["Prompt injection", "a second text", "a third text"]
SHARES = sorted(fault for fault in Fault if fault is not Fault.REFUSED)


@pytest.fixture(scope="module")
def running():
    with EmbeddingService() as service:
        yield service


@pytest.fixture
def service(running):
    yield running
    running.set_faults()


def ask(service, path="/embed", **more):
    """Return status, headers and body of a request with TEXTS."""
    field = "texts" if path == "/embed" else "input"
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    with contextlib.closing(connection):
        connection.request("POST", path, json.dumps({field: TEXTS, **more}))
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


def vectors(service, path, **more):
    status, _, body = ask(service, path, **more)
    assert status == 200
    found = json.loads(body)
    if path == "/embed":
        return found["embeddings"]
    return [item["embedding"] for item in found["data"]]


# --- the plan ------------------------------------------------------------------------------------


@given(st.sampled_from(SHARES), st.integers(0, 2**32))
def test_a_share_of_1_is_every_request_and_a_share_of_0_none(fault, seed):
    draw = random.Random(seed).random
    plan = FaultPlan(Faults(**{fault: 1.0}), draw)
    assert {plan.decide(TEXTS, is_indexed=True) for _ in range(20)} == {fault}
    plan.change(Faults())
    assert {plan.decide(TEXTS, is_indexed=True) for _ in range(20)} == {None}
    assert plan.happened == {fault: 20}


@pytest.mark.parametrize("fault", sorted(INDEXED_ONLY))
def test_what_only_an_index_could_show_happens_only_where_there_is_one(fault):
    plan = FaultPlan(Faults(**{fault: 1.0}), lambda: 0.0)
    assert plan.decide(TEXTS, is_indexed=False) is None
    assert plan.decide(TEXTS[:1], is_indexed=True) is None
    assert plan.happened == {}


def test_shares_are_kept_and_a_seed_repeats_them():
    faults = Faults(errors=0.3, timeouts=0.1, half=0.05)

    def run(seed):
        plan = FaultPlan(faults, random.Random(seed).random)
        return [plan.decide(TEXTS, is_indexed=False) for _ in range(10_000)]

    decided = run(7)
    assert decided == run(7) != run(8)
    for fault, share in ((Fault.ERRORS, 0.3), (Fault.TIMEOUTS, 0.1), (Fault.HALF, 0.05)):
        assert abs(decided.count(fault) / 10_000 - share) < 0.02


def test_the_next_requests_fail_before_anything_else_is_decided():
    plan = FaultPlan(Faults(fail_next=2, timeouts=1.0), lambda: 0.0)
    decided = [plan.decide(TEXTS, is_indexed=False) for _ in range(3)]
    assert decided == [Fault.ERRORS, Fault.ERRORS, Fault.TIMEOUTS]
    assert plan.faults.fail_next == 0


def test_a_rate_limit_holds_for_a_burst():
    draws = iter([0.0, *[0.9] * 10])
    plan = FaultPlan(Faults(rate_limits=0.5, rate_limit_burst=3), lambda: next(draws))
    decided = [plan.decide(TEXTS, is_indexed=False) for _ in range(5)]
    assert decided == [Fault.RATE_LIMITS] * 3 + [None] * 2


@pytest.mark.parametrize(
    "values",
    [
        {"errors": 1.5},
        {"errors": "many"},
        {"errors": 0.6, "timeouts": 0.6},
        {"fail_next": -1},
        {"fail_status": 200},
        {"no_such": 1},
    ],
)
def test_faults_that_cannot_be_are_refused_with_their_names(values):
    with pytest.raises(InvalidRequestError) as caught:
        parse_faults(values)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "rate_limits" in caught.value.message


def test_faults_may_be_given_as_text():
    values = {"errors": "0.25", "fail_next": "3", "refuse_marker": "poison"}
    assert parse_faults(values) == Faults(errors=0.25, fail_next=3, refuse_marker="poison")


# --- what a client sees --------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings"])
def test_it_fails_as_often_as_it_was_told_to_and_embeds_nothing_then(service, path):
    before = service.health()["texts"]
    service.set_faults(fail_next=2, fail_status=503)
    found = [ask(service, path) for _ in range(3)]
    assert [status for status, _, _ in found] == [503, 503, 200]
    assert json.loads(found[0][2])["error"]["type"] == "server_error"
    assert service.health()["texts"] == before + len(TEXTS)


def test_errors_are_500(service):
    service.set_faults(errors=1)
    assert ask(service)[0] == 500


def test_rate_limits_are_429_and_say_when_to_come_back(service):
    service.set_faults(rate_limits=1, retry_after_seconds=2)
    status, headers, body = ask(service)
    assert (status, headers["retry-after"]) == (429, "2")
    assert json.loads(body)["error"]["code"] == "rate_limit_exceeded"


def test_a_marked_text_is_refused_and_others_are_not(service):
    service.set_faults(refuse_marker="second")
    assert ask(service)[0] == 400
    service.set_faults(refuse_marker="fourth")
    assert ask(service)[0] == 200


@pytest.mark.parametrize(
    "faults", [{"timeouts": 1, "timeout_seconds": 0.3}, {"slow_ms": 300}], ids=["held", "slow"]
)
def test_an_answer_is_held_back_and_then_whole(service, faults):
    service.set_faults(**faults)
    begin = time.monotonic()
    found = vectors(service, "/embed")
    assert time.monotonic() - begin >= 0.3
    assert np.array_equal(np.array(found, np.float32), FakeModel().embed(TEXTS).vectors)


def test_others_are_answered_while_an_answer_is_held_back(service):
    service.set_faults(timeouts=1, timeout_seconds=2)
    threads = [threading.Thread(target=ask, args=(service,)) for _ in range(2)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    while service.health()["in_flight"] < 2:
        assert time.monotonic() - begin < 2
    for thread in threads:
        thread.join()
    assert time.monotonic() - begin < 3.9
    assert service.health()["in_flight_max"] >= 2


@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings"])
def test_wrong_count_lacks_the_last_vector(service, path):
    service.set_faults(wrong_count=1)
    assert len(vectors(service, path)) == len(TEXTS) - 1


@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings"])
def test_wrong_dimension_lacks_a_number_of_every_vector(service, path):
    service.set_faults(wrong_dimension=1)
    assert {len(vector) for vector in vectors(service, path)} == {383}


@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings"])
def test_not_finite_has_one_nan(service, path):
    service.set_faults(not_finite=1)
    found = [number for vector in vectors(service, path) for number in vector]
    assert sum(map(math.isnan, found)) == 1


def test_not_finite_shows_in_base64_as_well(service):
    service.set_faults(not_finite=1)
    found = vectors(service, "/v1/embeddings", encoding_format="base64")
    decoded = np.array([np.frombuffer(base64.b64decode(one), "<f4") for one in found])
    assert np.isnan(decoded).sum() == 1


@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings"])
def test_half_an_answer_ends_in_the_middle_of_what_was_promised(service, path):
    service.set_faults(half=1)
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(service, path)
    assert abs(len(caught.value.partial) - caught.value.expected) <= 1
    service.set_faults()
    assert ask(service, path)[0] == 200


def test_a_page_instead_of_json_is_200(service):
    service.set_faults(not_json=1)
    status, headers, body = ask(service)
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    assert body.startswith(b"<html>")


def test_shuffled_items_have_their_right_index(service):
    expected = json.loads(ask(service, "/v1/embeddings")[2])["data"]
    service.set_faults(shuffled=1)
    found = json.loads(ask(service, "/v1/embeddings")[2])["data"]
    assert found != expected
    assert sorted(found, key=lambda item: item["index"]) == expected


def test_wrong_index_says_one_index_twice(service):
    service.set_faults(wrong_index=1)
    found = json.loads(ask(service, "/v1/embeddings")[2])["data"]
    assert [item["index"] for item in found] == [0, 0, 2]


# --- telling it ----------------------------------------------------------------------------------


def test_faults_can_be_looked_at_and_what_happened_is_counted(service):
    before = service.health()["faults"].get("errors", 0)
    service.set_faults(fail_next=5)
    ask(service)
    assert service.ask("/faults")["fail_next"] == 4
    assert service.health()["faults"]["errors"] == before + 1


def test_faults_that_cannot_be_change_nothing(service):
    service.set_faults(fail_next=5)
    with pytest.raises(OSError, match="400"):
        service.set_faults(errors=2)
    assert service.ask("/faults")["fail_next"] == 5


def test_faults_given_as_flags_hold_from_the_first_request():
    with EmbeddingService(faults={"fail_next": 1}) as service:
        assert [ask(service)[0] for _ in range(2)] == [500, 200]
