"""Rows on their way: parts of a text, the order in which a cursor follows, known texts, ids."""

import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb.embedding.checking import Ids, batched
from dvecdb.embedding.identity import Identity, Made, made_of, refuse_other, row_id
from dvecdb.embedding.job import TextSpec
from dvecdb.embedding.model import SourceRow
from dvecdb.embedding.pending import Outcome, Pending, Window, prepare, split
from dvecdb.embedding.runner import _joined
from dvecdb.embedding.texts import TextIndex
from dvecdb.errors import Code, ConflictError

IDENTITY = Identity("fake", np.array([0.6, 0.8], np.float32))
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)


def row(text, **more):
    return SourceRow("7", 7, text, {"a": 1}, **more)


# --- texts -----------------------------------------------------------------------------------


@given(texts, st.integers(1, 40))
def test_the_parts_of_a_text_lose_nothing_but_blank_parts(text, limit):
    parts = split(text, limit)
    assert all(1 <= len(part) <= limit for part in parts)
    kept = "".join(parts).split()
    assert "".join(kept) == "".join(text.split())


def test_a_long_text_is_cut_split_or_refused_as_told():
    long = "ab " * 20

    def parts(too_long):
        return prepare("s", row(long), TextSpec(length_max=9, too_long=too_long), IDENTITY)

    assert parts("truncate").parts == (long[:9],)
    assert parts("split").parts == ("ab ab ab ",) * 6 + ("ab ab ",)
    refused = parts("dead-letter")
    assert refused.outcome is Outcome.FAILED
    assert refused.problem[0] == "too-long"


def test_an_empty_text_is_a_dead_letter_or_passed_over_and_a_broken_row_is_never_passed_over():
    empty = row(None, problem="title is null", empty=True)
    broken = row(None, problem="no UTF-8")
    letter, skip = TextSpec(), TextSpec(empty="skip")
    assert prepare("s", empty, letter, IDENTITY).problem == ("empty", "title is null")
    assert prepare("s", empty, skip, IDENTITY).outcome is Outcome.SKIPPED
    assert prepare("s", broken, skip, IDENTITY).problem == ("row", "no UTF-8")


@given(st.lists(texts, min_size=1, max_size=4), st.lists(texts, min_size=1, max_size=4))
def test_equal_parts_have_equal_hashes_and_others_have_others(left, right):
    equal = IDENTITY.content_hash(left) == IDENTITY.content_hash(right)
    assert equal == (left == right)


def test_another_model_or_dimension_has_other_hashes():
    others = [Identity("other", IDENTITY.probe), Identity("fake", np.ones(3, np.float32))]
    assert len({one.content_hash(["x"]) for one in (IDENTITY, *others)}) == 3


def test_the_parts_of_a_unit_length_text_give_a_unit_vector_between_theirs():
    vectors = [np.array([1, 0], np.float32), np.array([0, 1], np.float32)]
    joined = _joined(["aaa", "b"], vectors)
    assert np.linalg.norm(joined) == pytest.approx(1)
    assert joined[0] / joined[1] == pytest.approx(3)


# --- identity --------------------------------------------------------------------------------


def test_an_embedder_survives_being_written_down():
    again = Identity.from_json(IDENTITY.to_json())
    assert again.model == IDENTITY.model
    assert again.probe.tobytes() == IDENTITY.probe.tobytes()
    refuse_other(IDENTITY, again, "c")


@pytest.mark.parametrize(
    "other",
    [
        Identity("other", IDENTITY.probe),
        Identity("fake", np.array([0.6, 0.8, 0], np.float32)),
        Identity("fake", np.array([0.8, 0.6], np.float32)),
    ],
    ids=["model", "dimension", "vector"],
)
def test_another_embedder_is_refused(other):
    with pytest.raises(ConflictError) as caught:
        refuse_other(IDENTITY, other, "c")
    assert caught.value.code is Code.EMBEDDER_MISMATCH


def test_noise_of_other_hardware_is_no_other_embedder():
    noisy = IDENTITY.probe + np.float32(1e-3)
    refuse_other(IDENTITY, Identity("fake", noisy), "c")


def test_a_record_says_what_it_was_made_of_and_a_strangers_field_says_nothing():
    made = Made("cyber", "7", "ab" * 16)
    assert made_of(made.into({"a": 1})) == made
    strange = {"_embedded": {"source": "a", "key": 1, "hash": "x"}}
    for value in (None, {}, {"_embedded": 3}, strange):
        assert made_of(value) is None


# --- window ----------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 30)), st.data())
def test_the_cursor_moves_exactly_over_the_durable_rows_in_front(order, data):
    rows = [Pending(SourceRow(str(at), at, "t", {}), str(at)) for at in range(31)]
    window, passed = Window(), 0
    window.extend(rows)
    durable = set()
    for at in order:
        rows[at].durable = True
        durable.add(at)
        if data.draw(st.booleans()):
            rows_passed = window.front()
            count = len(rows_passed)
            window.drop(count)
            passed += count
            front = next(place for place in range(32) if place not in durable)
            assert passed == front
            assert len(window) == 31 - front
            assert [row.row.position for row in rows_passed] == list(range(front - count, front))


# --- known texts -----------------------------------------------------------------------------


def test_known_texts_are_found_before_and_after_they_are_merged(monkeypatch):
    monkeypatch.setattr("dvecdb.embedding.texts._RECENT_MAX", 50)
    index, model = TextIndex(), {}
    for number in range(1_037):
        content_hash = IDENTITY.content_hash([str(number % 700)])
        record_id = row_id("s", str(number))
        index.add(content_hash, record_id, number % 3)
        model[content_hash] = (record_id, number % 3)
    unknown = IDENTITY.content_hash(["never"])
    assert index.find([*model, unknown]) == model


def test_ids_that_no_job_makes_are_not_remembered():
    index = TextIndex()
    index.add("ab" * 16, "not a uuid")
    assert len(index) == 0


@given(st.sets(st.integers(0, 60)), st.lists(st.integers(0, 60)))
def test_exactly_the_ids_that_were_not_seen_are_left(known, seen):
    def name(number):
        return str(uuid.UUID(int=number << 60 | number))

    ids = Ids(map(name, known))
    for some in batched(seen, 7):
        ids.see(map(name, some))
    assert sorted(ids.unseen()) == sorted(map(name, known - set(seen)))
